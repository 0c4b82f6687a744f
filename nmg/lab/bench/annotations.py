"""PIE-Bench's annotations: what its mapping file says of each picture, and masks from their run lengths."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool
from pydantic import ConfigDict, Field

from nmg.schema import Form, Text, checked, parsed

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


class _Fields(Form):
    """An entry of the mapping file; it holds more, which is not used."""

    model_config = ConfigDict(extra="ignore", strict=True)
    image_path: Annotated[Text, Field(pattern=r"^[^/\\:][^\\:\n]*$")]
    original_prompt: Text
    editing_prompt: Text
    blended_word: Text
    editing_type_id: Annotated[int, Field(ge=0, le=9)] | Annotated[str, Field(pattern="^[0-9]$")]
    mask: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=2_000_000)]


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
        """An entry of the mapping file. Square brackets in the prompts mark the change; they are no part of them.

        Raises:
            ValueError: for a field that is missing, or not of its type and range.
        """
        held = checked(values, _Fields)
        source, target = (re.sub(r"[\[\]]", "", text).strip() for text in (held.original_prompt, held.editing_prompt))
        words, path = tuple(held.blended_word.split()[:2]), held.image_path
        if len(words) == 1:
            raise ValueError(f"blended_word={held.blended_word!r} is for one prompt; two words or none are needed")
        if ".." in path.split("/"):
            raise ValueError(f"image_path={path!r} leaves the folder")
        return cls(path, source, target, int(held.editing_type_id), words, tuple(held.mask))

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
        return {name: Entry.read(values) for name, values in parsed(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} can't be read as PIE-Bench's mapping file ({error})") from error
