"""PIE-Bench: 700 pictures with prompts, kinds of edit and masks. Ju, Zeng, Bian, Liu & Xu, "PnP Inversion: Boosting
Diffusion-based Editing with 3 Lines of Code", ICLR 2024, arXiv 2310.01506.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from nmg import images, metrics
from nmg.backbone import Backbone
from nmg.bench.suites import Case, Scores, Suite
from nmg.editors import Editor, LocalBlend, MasaCtrl, Pix2PixZero, PromptToPrompt
from nmg.menagerie.scoring import EMPTY, finite

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
EDITED_WEIGHT = 2.0
"""On the attention of the word that the edit is about, in the published runs of Prompt-to-Prompt."""


@dataclass(frozen=True)
class Entry:
    """One picture and what is asked for.

    Attributes:
        path: of the picture, below `annotation_images`.
        source, target: the prompts.
        kind: number of the kind of edit, 0…9.
        words: a word of the source prompt and one of the target prompt that the edit is about, or none.
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
        return cls(values["image_path"], source, target, kind, words, tuple(values["mask"]))

    @property
    def blended(self) -> bool:
        """Whether the edit is about a word that each prompt holds."""
        prompts = (re.findall(r"\w+", prompt.lower()) for prompt in (self.source, self.target))
        return len(self.words) == 2 and all(w.lower() in prompt for w, prompt in zip(self.words, prompts, strict=True))


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


# ---------------------------------------------------------------- editors


def prompt_to_prompt(entry: Entry) -> PromptToPrompt:
    """As published: refinement for all prompts; where the edit is about a word, blended by it, and twice its attention.

    A word that its prompt doesn't hold is left out, as the published look-up leaves it out.
    """
    options: dict[str, Any] = {}
    if entry.blended:
        options = {"local_blend": LocalBlend(entry.words), "weights": {entry.words[1]: EDITED_WEIGHT}}
    return PromptToPrompt(mode="refine", cross_replace=0.4, self_replace=0.6, **options)


EDITORS: dict[str, Callable[[Entry], Editor]] = {
    "Prompt-to-Prompt": prompt_to_prompt,
    "MasaCtrl": lambda entry: MasaCtrl(),
    "pix2pix-zero": lambda entry: Pix2PixZero(),
}
"""The editors of the published tables that this package has."""


# ---------------------------------------------------------------- the suite


@dataclass(frozen=True)
class PieBench(Suite):
    """PIE-Bench from the folder that its authors give out; a task is a kind of edit by an editor.

    Args:
        folder: with mapping_file.json and annotation_images.
        border: see `decode`.

    Raises:
        FileNotFoundError, ValueError: for a folder that is no PIE-Bench.
    """

    folder: Path
    border: bool = True
    absent: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    name: ClassVar[str] = "pie"
    text_scale: ClassVar[float] = 7.5
    noise_map_scale: ClassVar[float] = 10.0

    def __post_init__(self) -> None:
        if not (self.folder / MAPPING).is_file() or not (self.folder / PICTURES).is_dir():
            raise FileNotFoundError(
                f"{self.folder} is no PIE-Bench; give the folder that holds {MAPPING} and {PICTURES}, which its authors "
                "give out at github.com/cure-lab/PnPInversion"
            )
        if not self.entries:
            raise ValueError(f"{self.folder / MAPPING} names no picture")

    @property
    def entries(self) -> dict[str, Entry]:
        """The pictures by their names."""
        return _entries(self.folder / MAPPING)

    @property
    def tasks(self) -> tuple[str, ...]:
        kinds = {entry.kind for entry in self.entries.values()}
        return tuple(f"{TYPES[kind]} by {editor}" for editor in EDITORS for kind in sorted(kinds))

    def editor(self, task: str, item: int | str | None = None) -> Editor:
        entries = self.entries
        name = next(iter(entries)) if item is None else str(item)
        return EDITORS[task.rpartition(" by ")[2]](entries[name])

    def items(self, task: str, split: str, count: int | None) -> Sequence[str]:
        kind = TYPES.index(task.rpartition(" by ")[0])
        return [name for name, entry in self.entries.items() if entry.kind == kind][:count]

    def case(self, task: str, item: int | str, backbone: Backbone) -> Case:
        entry = self.entries[str(item)]
        picture = images.load(self.folder / PICTURES / entry.path)
        mask = Image.fromarray(decode(entry.runs, picture.size, self.border))
        prepared = backbone.prepare(picture)
        region = torch.from_numpy(np.array(images.fit(mask.convert("RGB"), *prepared.size))[..., 0] > 127)[None, None]
        return Case(task, item, prepared, entry.source, entry.target, self.editor(task, item), region)

    def score(self, case: Case, edited: Tensor, backbone: Backbone) -> Scores:
        """The published protocol: distances of both pictures black inside the mask, taken over the whole picture; CLIP's
        similarity to the target prompt, of the whole and of the picture black outside the mask; structure distance of the whole.
        """
        source, device = images.to_tensor(case.picture), backbone.device
        region: Tensor = case.truth
        clip = metrics.ClipScore(device=device)
        measures: dict[str, Callable[[], Tensor]] = {
            "structure": lambda: metrics.StructureDistance(device=device, peak=255)(edited, source),
            "clip": lambda: clip(edited, [case.target]),
        }
        empty: dict[str, str] = {}
        if region.any():
            measures["clip_edited"] = lambda: clip(edited, [case.target], region)
        else:
            empty["clip_edited"] = EMPTY
        if region.all():
            empty.update(dict.fromkeys(("psnr_outside", "mse_outside", "ssim_outside", "lpips_outside"), EMPTY))
        else:
            a, b = (metrics.masked(picture, ~region) for picture in (edited, source))
            measures |= {
                "psnr_outside": lambda: metrics.psnr(a, b),
                "mse_outside": lambda: metrics.mse(a, b),
                "ssim_outside": lambda: metrics.ssim(a, b),
                "lpips_outside": lambda: metrics.Lpips("squeeze", device=device)(a, b),
            }
        values, missing = self.measured(measures)
        return finite(values, {**empty, **missing})

    def measured(self, measures: Mapping[str, Callable[[], Tensor]]) -> Scores:
        """The metrics that can be measured here, and why the others can't; those are not tried again."""
        values: dict[str, float] = {}
        for name, measure in measures.items():
            if name not in self.absent:
                try:
                    values[name] = measure().item()
                except metrics.Missing as error:
                    self.absent[name] = str(error)
        return values, {name: self.absent[name] for name in measures if name in self.absent}

    def described(self) -> dict[str, Any]:
        digest = hashlib.sha256((self.folder / MAPPING).read_bytes()).hexdigest()[:12]
        return {"suite": self.name, "mapping": digest, "border": self.border}


@functools.cache
def _entries(path: Path) -> dict[str, Entry]:
    """What the mapping file holds.

    Raises:
        ValueError: for a file of another form.
    """
    try:
        return {name: Entry.read(values) for name, values in json.loads(path.read_text(encoding="utf-8")).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} can't be read as PIE-Bench's mapping file ({error!r})") from error
