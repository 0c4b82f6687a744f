"""Settings that suit a model: scales of noise map guidance, and presets by kind of edit,
with a line on when to use each."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nmg.backbones import ModelSettings, settings_of
from nmg.editors import Editor, LocalBlend, MasaCtrl, Pix2PixZero, PromptToPrompt
from nmg.guidance import NoiseMap
from nmg.menagerie import model as menagerie
from nmg.menagerie.scene import FACTORS
from nmg.menagerie.tasks import TASKS

SCALES: dict[str, Any] = ModelSettings.read(menagerie.NAME).scales
"""Scales of the bundled model, chosen on validation scenes (see its card);
the paper's belong to Stable Diffusion 1.4."""
WHEN = {
    "object swap": "Another object in the same place. The source's attention is let go early, so that the new object "
    "finds its own shape.",
    "contextual change": "New surroundings, the same subject. The less of the layout is taken over, the freer the "
    "place.",
    "face attribute": "An expression or something worn. The prompt gains a word, and everything else stays.",
    "colour change": "Another colour or material of the same shape. The layout is held for long.",
    "global editing": "The style of the whole picture, such as an oil painting. Every pixel may change.",
    "viewpoint alteration": "The same subject seen from another side. The target lays itself out and takes the "
    "source's look.",
    "pose modification": "The same subject in another pose. The target lays itself out and takes the source's look.",
    "cat to dog": "One word becomes another along a direction in the text, and the source's words hold the layout.",
    "dog to cat": "One word becomes another along a direction in the text, and the source's words hold the layout.",
}
"""When to use the preset of each of the paper's tasks."""
SMALL_WORDS = frozenset(["a", "an", "the", "of", "in", "on", "at", "to", "with", "and", "wearing"])


@dataclass(frozen=True)
class Preset:
    """The editor that suits a kind of edit.

    Attributes:
        name: of the kind of edit.
        when: one line on when to use it.
        build: makes the editor for a source and a target prompt.
        words: that such an edit exchanges, where they are known.
    """

    name: str
    when: str
    build: Callable[[str, str], Editor]
    words: frozenset[str] = frozenset()


def in_menagerie(pipe: Any) -> bool:
    """Whether a pipeline, or a `Backbone` over it, knows the bundled world: the bundled model,
    or another trained on it."""
    return settings_of(pipe).profile == menagerie.NAME


def presets_for(pipe: Any) -> dict[str, Preset]:
    """The presets that suit a model, by name: those that the bundled model was measured with,
    or those for photographs."""
    if in_menagerie(pipe):
        return {
            name: Preset(name, WHEN[name], _constant(SCENES[name]), frozenset(map(str, FACTORS[task.factor])))
            for name, task in TASKS.items()
        }
    return {name: Preset(name, WHEN[name], build) for name, build in PHOTOGRAPHS.items()}


def _constant(editor: Editor) -> Callable[[str, str], Editor]:
    return lambda source, target: editor


def changed_words(source: str, target: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words or phrases of each prompt that the other does not have in that place; without leading small words."""
    old, new = (re.findall(r"[\w'’-]+", prompt) for prompt in (source, target))
    gone, come = [], []
    for _, a, b, c, d in _changes(old, new):
        gone.append(_phrase(old[a:b]))
        come.append(_phrase(new[c:d]))
    return tuple(filter(None, gone)), tuple(filter(None, come))


def _changes(old: list[str], new: list[str]) -> list[tuple[str, int, int, int, int]]:
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return [change for change in matcher.get_opcodes() if change[0] != "equal"]


def _phrase(words: list[str]) -> str:
    return " ".join(itertools.dropwhile(SMALL_WORDS.__contains__, words))


# ---------------------------------------------------------------- photographs: as `nmg.lab.examples`, for any prompts


def _swapped(source: str, target: str) -> LocalBlend | None:
    """A blend of the places of the words that change, if both prompts have some."""
    gone, come = changed_words(source, target)
    return LocalBlend((_one(gone), _one(come))) if gone and come else None


def _coloured(source: str, target: str) -> LocalBlend | None:
    """A blend of the thing whose colour changes: of the word after the colour, in both prompts."""
    old, new = (re.findall(r"[\w'’-]+", prompt) for prompt in (source, target))
    after = [(old[b], new[d]) for _, _, b, _, d in _changes(old, new) if b < len(old) and d < len(new)]
    return LocalBlend(after[0]) if after else _swapped(source, target)


def _stronger(factor: float, source: str, target: str) -> dict[str, float]:
    """The words that come are given more weight."""
    return dict.fromkeys(changed_words(source, target)[1], factor)


def _direction(source: str, target: str) -> Pix2PixZero:
    """From the word that goes to the one that comes; along the prompts' own difference if there are several."""
    gone, come = changed_words(source, target)
    return Pix2PixZero((gone[0], come[0]) if len(gone) == len(come) == 1 else None)


def _one(words: tuple[str, ...]) -> str | tuple[str, ...]:
    return words[0] if len(words) == 1 else words


PHOTOGRAPHS: dict[str, Callable[[str, str], Editor]] = {
    "object swap": lambda a, b: PromptToPrompt(self_replace=0.4, local_blend=_swapped(a, b)),
    "contextual change": lambda a, b: PromptToPrompt(self_replace=0.5),
    "face attribute": lambda a, b: PromptToPrompt(self_replace=0.5, weights=_stronger(2.0, a, b)),
    "colour change": lambda a, b: PromptToPrompt(local_blend=_coloured(a, b)),
    "global editing": lambda a, b: PromptToPrompt(weights=_stronger(3.0, a, b)),
    "viewpoint alteration": lambda a, b: MasaCtrl(),
    "pose modification": lambda a, b: MasaCtrl(),
    "cat to dog": _direction,
    "dog to cat": _direction,
}
"""The editor that suits each kind of edit of a photograph, from its source and target prompts; the papers' settings."""

SCENES: dict[str, Editor] = {
    "object swap": PromptToPrompt(cross_replace=0.3, self_replace=0.4),
    "contextual change": PromptToPrompt(cross_replace=0.5, self_replace=0.3),
    "face attribute": PromptToPrompt(cross_replace=0.6, self_replace=0.4),
    "colour change": PromptToPrompt(cross_replace=1.0, self_replace=0.6),
    "global editing": PromptToPrompt(cross_replace=0.8, self_replace=0.6),
    "viewpoint alteration": MasaCtrl(start_step=0.4, start_layer=3),
    "pose modification": MasaCtrl(start_step=0.4, start_layer=3),
    "cat to dog": Pix2PixZero(("cat", "dog")),
    "dog to cat": Pix2PixZero(("dog", "cat")),
}
"""The editor that suits each of the bundled world's tasks."""


def noise_map(text_scale: float | None = None) -> NoiseMap:
    """Noise map guidance with the scales that suit the bundled model."""
    return NoiseMap(**SCALES | ({} if text_scale is None else {"text_scale": text_scale}))
