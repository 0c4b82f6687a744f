"""Captions of Menagerie's scenes by template, and the prompt pair of an edit."""

from __future__ import annotations

import numpy as np

from nmg.menagerie.scene import FACTORS, Scene

MAX_TOKENS = 24
"""Length of the bundled text encoder, begin and end tokens included."""

_PREPOSITION = {"beach": "on the"}


def caption(scene: Scene, random: np.random.Generator | None = None) -> str:
    """Describe a scene.

    Without `random` the caption is canonical: every factor is named, and equal factors give equal
    words. With `random` (for training) factors are left out and styles phrased in several ways.
    """

    def named(chance: float) -> bool:
        return random is None or random.random() < chance

    words = []
    if scene.mouth != "plain" and named(0.94):
        words.append(scene.mouth)
    if named(0.94):
        words.append(scene.colour)
    words.append(scene.kind)
    if scene.glasses and named(0.94):
        words.append("wearing glasses")
    if (scene.kind != "car" or scene.pose == "jumping") and named(0.9):
        words.append(scene.pose)
    if named(0.94):
        words.append(f"{_PREPOSITION.get(scene.place, 'in the')} {scene.place}")
    text = f"{article(words[0])} {' '.join(words)}"
    if named(0.9):
        text += f", {scene.view} view"
    return _styled(text, scene.style, random)


def _styled(text: str, style: str, random: np.random.Generator | None) -> str:
    roll = 1.0 if random is None else random.random()
    if style == "plain":
        return f"a photo of {text}" if roll < 0.2 else text
    if roll < 0.04:
        return text
    if roll < 0.3 and style != "at night":
        return f"{article(style)} {style} of {text}"
    return f"{text}, {style}"


def article(word: str) -> str:
    """The indefinite article before a word."""
    return "an" if word[0].lower() in "aeiou" else "a"


def prompt_pair(scene: Scene, **changes: object) -> tuple[str, str]:
    """Source and target prompt of the edit `scene.edit(**changes)`, in canonical wording."""
    return caption(scene), caption(scene.edit(**changes))


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted; punctuation included."""
    words = {"a", "an", "photo", "of", "wearing", "glasses", "in", "on", "the", "view", ","}
    for name, values in FACTORS.items():
        if name != "glasses":
            words.update(word for value in values for word in value.split() if value != "plain")
    return sorted(words)
