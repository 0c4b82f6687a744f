"""Captions of Menagerie's scenes, canonical or as people write them, and the prompt pair of an edit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nmg.menagerie.scene import COLOURS, FACTORS, NATURAL, Scene

MAX_TOKENS = 32
"""Length of the bundled text encoder, begin and end tokens included."""

SYNONYMS = {
    "rabbit": ("bunny",),
    "car": ("automobile",),
    "gray": ("grey",),
    "smiling": ("happy", "laughing"),
    "frowning": ("angry", "sad"),
    "jumping": ("leaping",),
    "forest": ("woods",),
    "snow": ("winter",),
    "room": ("house",),
    "beach": ("seaside",),
    "city": ("town",),
}
"""Words that people use for a value, beside its own; training captions hold them now and then."""
PLACES_IN = {"beach": ("on the", "on a", "at the"), "seaside": ("at the",), "snow": ("in the",), "winter": ("in",)}
"""How a place is entered where it is not "in the" or "in a"."""
OPENINGS = ("a photo of", "photo of", "a picture of", "picture of", "an image of", "a drawing of")


def _with_synonyms(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(w for word in words for w in (word, *SYNONYMS.get(word, ())))


WORDS_OF: dict[str, tuple[str, ...]] = {
    "figure": _with_synonyms([*NATURAL, *COLOURS, *FACTORS["pose"]]),
    "head": (*_with_synonyms(FACTORS["mouth"][1:]), "glasses"),
    "place": _with_synonyms(FACTORS["place"]),
}
"""Words that name a part of the picture (see `Scene.mask`), by the part."""


class _Writer:
    """Chooses among ways to say a thing: always the first without a random generator."""

    def __init__(self, random: np.random.Generator | None):
        self.random = random

    def chance(self, share: float) -> bool:
        return self.random is not None and self.random.random() < share

    def one(self, ways: Sequence[Any]) -> Any:
        return ways[0] if self.random is None else ways[int(self.random.integers(len(ways)))]

    def word(self, value: str) -> str:
        """A value's own word, or a synonym in one of seven."""
        return self.one(SYNONYMS[value]) if value in SYNONYMS and self.chance(0.15) else value


def caption(scene: Scene, random: np.random.Generator | None = None) -> str:
    """Describe a scene.

    Without `random` the caption is canonical: every factor is named, and equal factors give equal words. With `random`
    it is one as people write them: a third are short, factors are left out, words vary and change places.
    """
    writer = _Writer(random)
    naming = 0.45 if writer.chance(0.33) else 0.95
    said = {name: random is None or random.random() < naming for name in FACTORS}
    return writer.one(_LAYOUTS)(scene, said, writer) if writer.chance(0.3) else _sentence(scene, said, writer)


def _figure(scene: Scene, said: dict[str, bool], w: _Writer) -> list[str]:
    """The figure's words without an article, such as "smiling orange cat wearing glasses sitting"."""
    before: list[str] = []
    after: list[str] = []
    if scene.mouth != "plain" and said["mouth"]:
        (after if w.chance(0.1) else before).append(w.word(scene.mouth))
    if said["colour"]:
        before.append(w.word(scene.colour))
    if scene.glasses and said["glasses"]:
        after.append(f"{'with' if w.chance(0.25) else 'wearing'} glasses")
    if (scene.kind != "car" or scene.pose == "jumping") and said["pose"]:
        (before if w.chance(0.1) else after).append(w.word(scene.pose))
    if w.chance(0.15):
        before.reverse()
    if w.chance(0.15):
        after.reverse()
    return [*before, w.word(scene.kind), *after]


def _place(scene: Scene, w: _Writer) -> str:
    place = w.word(scene.place)
    return f"{w.one(PLACES_IN.get(place, ('in the', 'in the', 'in a')))} {place}"


def _view(scene: Scene, w: _Writer) -> str:
    if scene.view == "forward":
        return "front view" if w.chance(0.25) else "facing forward"
    if w.chance(0.1):
        return "side view"
    return f"{'looking' if w.chance(0.2) else 'facing'} {scene.view}"


def _sentence(scene: Scene, said: dict[str, bool], w: _Writer) -> str:
    """ "a smiling orange cat sitting in the forest, facing left, at night" and its like: the canonical layout."""
    words = _figure(scene, said, w)
    text = " ".join(words if w.chance(0.08) else [article(words[0]), *words])
    ending, opening = "", ""
    if scene.style == "plain":
        opening = f"{w.one(OPENINGS)} " if w.chance(0.3) else ""
    elif said["style"] and scene.style != "at night" and w.chance(0.35):
        opening = f"{article(scene.style)} {scene.style} of "
    elif said["style"]:
        ending = f", {scene.style}"
    if said["place"]:
        first = not opening and w.chance(0.15)
        text = f"{_place(scene, w)}, {text}" if first else f"{text} {_place(scene, w)}"
    if said["view"]:
        text += f", {_view(scene, w)}"
    return opening + text + ending


def _tags(scene: Scene, said: dict[str, bool], w: _Writer) -> str:
    """ "orange cat sitting, forest, facing left" and its like."""
    tags = [" ".join(_figure(scene, said, w))]
    if said["place"]:
        tags.append(w.word(scene.place))
    if said["view"] and not w.chance(0.4):
        tags.append(_view(scene, w))
    if scene.style != "plain" and said["style"]:
        tags.append("night" if scene.style == "at night" and w.chance(0.5) else scene.style)
    if w.random is not None and w.chance(0.3):
        w.random.shuffle(tags)
    return ", ".join(tags)


def _bare(scene: Scene, said: dict[str, bool], w: _Writer) -> str:
    """A kind with a colour, a place or a style at most: "a dog", "blue cat on a beach", "a photo of a fox at night"."""
    colour = [w.word(scene.colour)] if w.chance(0.4) else []
    words = [*colour, w.word(scene.kind)]
    text = " ".join(words if w.chance(0.2) else [article(words[0]), *words])
    if w.chance(0.35):
        text = f"{text} {_place(scene, w)}"
    if scene.style == "plain":
        return f"{w.one(OPENINGS)} {text}" if w.chance(0.4) else text
    if w.chance(0.4):
        return text
    if scene.style == "at night":
        return f"{text} at night"
    return f"{article(scene.style)} {scene.style} of {text}"


_LAYOUTS: tuple[Callable[[Scene, dict[str, bool], _Writer], str], ...] = (_tags, _bare, _bare)


def article(word: str) -> str:
    """The indefinite article before a word."""
    return "an" if word[0].lower() in "aeiou" else "a"


def prompt_pair(scene: Scene, **changes: object) -> tuple[str, str]:
    """Source and target prompt of the edit `scene.edit(**changes)`, in canonical wording."""
    return caption(scene), caption(scene.edit(**changes))


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted; punctuation included."""
    words = {"a", "an", "wearing", "with", "glasses", "facing", "looking", "front", "side", "view", "night", ","}
    phrases = [*OPENINGS, "in the", "in a", *(way for ways in PLACES_IN.values() for way in ways)]
    for name, values in FACTORS.items():
        if name != "glasses":
            phrases += _with_synonyms([value for value in values if value != "plain"])
    return sorted(words.union(*(phrase.split() for phrase in phrases)))
