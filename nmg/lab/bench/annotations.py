"""PIE-Bench's annotations: what its mapping file says of each picture, and masks from their run lengths."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

MAPPING, PICTURES = "mapping_file.json", "annotation_images"
TYPES = (
    "random",
    "change object",
    "add object",
    "delete object",
    "change content",
    "change pose",
    "change colour",
    "change material",
    "change background",
    "change style",
)
"""Kinds of edit by their number."""


@dataclass(frozen=True)
class Entry:
    """One picture and what is asked for.

    Attributes:
        path: of the picture, below `annotation_images`.
        source, target: the prompts.
        kind: number of the kind of edit, 0…9.
        words: what the edit is about, a word for the source prompt and one for the target prompt, or none; either may
            be absent from its prompt.
        runs: start and length, by turns, of the mask's runs over the pixels row by row.
    """

    path: str
    source: str
    target: str
    kind: int
    words: tuple[str, ...]
    runs: tuple[int, ...]

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Entry:
        """An entry of the mapping file. Square brackets in the prompts mark the change; they are no part of them."""
        source, target = (re.sub(r"[\[\]]", "", values[name]).strip() for name in ("original_prompt", "editing_prompt"))
        words, kind = tuple(values["blended_word"].split()[:2]), int(values["editing_type_id"])
        if len(words) == 1:
            raise ValueError(f"blended_word={values['blended_word']!r} is for one prompt; two words or none are needed")
        return cls(values["image_path"], source, target, kind, words, tuple(values["mask"]))

    @property
    def held(self) -> tuple[tuple[str, ...], ...]:
        """For each prompt the word that it holds, between spaces and letter by letter, or none;
        empty without `words`."""
        prompts = (self.source.split(" "), self.target.split(" "))
        return tuple((word,) if word in prompt else () for word, prompt in zip(self.words, prompts, strict=False))


def decode(
    runs: Sequence[int], size: tuple[int, int] = (512, 512), border: bool = True
) -> Bool[np.ndarray, "height width"]:
    """A mask from its run lengths: true where the edit belongs.

    Args:
        runs: start and length, by turns, over the pixels row by row; what lies beyond the last pixel is cut off.
        size: width and height in pixels.
        border: mark the outermost pixels too, as the published protocol does against annotations that stop short of
            them. Without it the numbers are not the published ones' measure.

    Raises:
        ValueError: for an odd number of them.
    """
    if len(runs) % 2:
        raise ValueError(f"the mask has {len(runs)} numbers; run lengths come in pairs of start and length")
    mask = np.zeros(size[0] * size[1], bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        mask[start : start + length] = True
    mask = mask.reshape(size[::-1])
    if border:
        mask[[0, -1], :] = mask[:, [0, -1]] = True
    return mask


@functools.cache
def read(path: Path) -> dict[str, Entry]:
    """What a mapping file holds, by the names of the pictures.

    Raises:
        ValueError: for a file of another form.
    """
    try:
        return {name: Entry.read(values) for name, values in json.loads(path.read_text(encoding="utf-8")).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} can't be read as PIE-Bench's mapping file ({error!r})") from error
