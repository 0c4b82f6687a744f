"""Presets: which editor suits which kind of edit, when to use it, and ready examples of each."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nmg import editors
from nmg.editors import (
    Editor,
    FlowEdit,
    GuideAndRescale,
    LocalBlend,
    MasaCtrl,
    Pix2PixZero,
    PlugAndPlay,
    PromptToPrompt,
    UniEdit,
)
from nmg.menagerie.model import FOLDER
from nmg.serialize import methods_of, unpacked

WHEN = {
    "object swap": "Another object in the same place. The earlier the source's attention is let go, the freer its "
    "shape.",
    "contextual change": "New surroundings, the same subject. The less of the layout is taken over, the freer the "
    "place.",
    "face attribute": "An expression or something worn. The prompt gains a word, and everything else stays.",
    "colour change": "Another colour or material. The longer the layout is held, the more of the shape stays.",
    "global editing": "The style of the whole picture, such as an oil painting. Every pixel may change.",
    "viewpoint alteration": "The same subject seen from another side. The target makes its own layout and keeps the "
    "source's appearance.",
    "pose modification": "The same subject in another pose. The target makes its own layout and keeps the source's "
    "appearance.",
    "cat to dog": "One word becomes another along a direction in the text, and the source's words hold the layout.",
    "dog to cat": "One word becomes another along a direction in the text, and the source's words hold the layout.",
}
"""When to use the preset of each of the paper's tasks."""
ANY = {
    "Plug-and-Play": "Any change that leaves the layout alone. The target keeps the source's features and layout.",
    "FlowEdit": "Any change, poses and views too, without an inversion. The target moves by the prompts' difference.",
    "Uni-Edit": "Any change. The target is moved where the two prompts differ.",
    "Guide-and-Rescale": "Any change that leaves the layout alone. A gradient leads to the source's features.",
}
"""When to use the editors that take every task."""
SMALL_WORDS = frozenset(["a", "an", "the", "of", "in", "on", "at", "to", "with", "and", "wearing"])


@dataclass(frozen=True)
class Preset:
    """The editor that suits a kind of edit.

    Attributes:
        name: of the kind of edit.
        when: one line on when to use it.
        build: makes the editor for a source and a target prompt.
        words: the words that such an edit exchanges, where they are known.
    """

    name: str
    when: str
    build: Callable[[str, str], Editor]
    words: frozenset[str] = frozenset()

    def fits(self, source: str, target: str, editor: Editor) -> bool:
        """Whether the preset makes this editor for these prompts."""
        try:
            return self.build(source, target) == editor
        except (TypeError, ValueError):
            return False


@dataclass(frozen=True)
class Example:
    """A picture, what it shows, and what its edit should show.

    Attributes:
        image: whatever `images.load` reads.
        source, target: the two prompts.
        editor: the preset that suits this kind of edit; Prompt-to-Prompt's defaults where none is given.
        truth: the exact counterfactual, which only drawn scenes have.
        subject: the word of both prompts that the picture is about, if there is one.
        words: words of the source prompt whose attention maps are interesting.
    """

    image: Any
    source: str
    target: str
    editor: Editor = PromptToPrompt()
    truth: Image.Image | None = None
    subject: str = ""
    words: tuple[str, ...] = ()


# ---------------------------------------------------------------- the words that change


def changed_words(source: str, target: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words or phrases of each prompt that the other does not have in that place; without leading small words."""
    old, new = (words_of(prompt) for prompt in (source, target))
    gone = [_phrase(old[a:b]) for _, a, b, _, _ in changes(old, new)]
    come = [_phrase(new[c:d]) for _, _, _, c, d in changes(old, new)]
    return tuple(filter(None, gone)), tuple(filter(None, come))


def words_of(prompt: str) -> list[str]:
    """The words of a prompt, without marks."""
    return re.findall(r"[\w'’-]+", prompt)


def changes(old: list[str], new: list[str]) -> list[tuple[str, int, int, int, int]]:
    """Where two lists of words differ, as `difflib` says it: what is done, and the ends in the one and the other."""
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return [change for change in matcher.get_opcodes() if change[0] != "equal"]


def _phrase(words: list[str]) -> str:
    return " ".join(itertools.dropwhile(SMALL_WORDS.__contains__, words))


# ---------------------------------------------------------------- photographs: the papers' settings, for any prompts


def _swapped(source: str, target: str) -> LocalBlend | None:
    """A blend of the places of the words that change, if both prompts have some."""
    gone, come = changed_words(source, target)
    return LocalBlend((_one(gone), _one(come))) if gone and come else None


def _coloured(source: str, target: str) -> LocalBlend | None:
    """A blend of the thing whose colour changes: of the word after the colour, in both prompts."""
    old, new = (words_of(prompt) for prompt in (source, target))
    after = [(old[b], new[d]) for _, _, b, _, d in changes(old, new) if b < len(old) and d < len(new)]
    return LocalBlend(after[0]) if after else _swapped(source, target)


def _stronger(factor: float, source: str, target: str) -> dict[str, float]:
    """The new words get more weight."""
    return dict.fromkeys(changed_words(source, target)[1], factor)


def _direction(source: str, target: str) -> Pix2PixZero:
    """From the old word to the new one; along the prompts' own difference if several change."""
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
"""The editor that suits each kind of edit of a photograph, from its source and target prompts."""

FILE = "presets.json"
"""The presets that were chosen for a model, in its folder."""
BY = " by "
"""Between a task and one of `FURTHER`."""
UNCHOSEN: dict[str, Editor] = {
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

FURTHER: dict[str, Editor] = {
    "Plug-and-Play": PlugAndPlay(),
    # The text scale that scenes are edited at is low: the source's is 1.
    "FlowEdit": FlowEdit(source_scale=1.0),
    "Uni-Edit": UniEdit(),
    "Guide-and-Rescale": GuideAndRescale(),
}
"""Editors that any of the bundled world's tasks can be given to, by the name that tables give them."""
UNCHOSEN |= {f"{task}{BY}{name}": editor for name, editor in FURTHER.items() for task in WHEN}
"""The editor of each of the bundled world's tasks, and of each by one of `FURTHER`, for a model without presets of its
own."""


def chosen(folder: Path = FOLDER) -> dict[str, Editor]:
    """The editor that suits each of the bundled world's tasks, as `python -m scripts.presets` chose it for a model."""
    path = folder / FILE
    held = json.loads(path.read_text()) if path.is_file() else {}
    return {**UNCHOSEN, **{task: unpacked(values, methods_of(editors)) for task, values in held.items()}}


SCENES = chosen()
"""The editor that suits each of the tasks on the bundled model, and each of them by one of `FURTHER`."""
