"""PIE-Bench: 700 pictures with prompts, kinds of edit and masks. Ju, Zeng, Bian, Liu & Xu, "PnP Inversion: Boosting
Diffusion-based Editing with 3 Lines of Code", ICLR 2024, arXiv 2310.01506.

Pictures, prompts, masks, metrics and the editors' settings are those of the published runs. What differs from them:

- Prompt-to-Prompt and MasaCtrl were run on timesteps 0, 20, …, 980; here they take the model's own, which for Stable
  Diffusion 1.4 are one higher.
- pix2pix-zero was run with a caption by BLIP where the source prompt stands here, as the negative prompt and as what
  the direction from the source to the target prompt is added to; with an inverse scheduler of its own, whose noise
  levels lie one timestep below the sampler's; and, for Direct, with the source's offset added to the target too, which
  `Direct` leaves alone.
- Proximal negative-prompt inversion was run as `ProxNegativePrompt(quantile=0.75, threshold="soft", pooled=True)`, by
  its authors' code; "ProxNPI" in `METHODS` has the paper's settings. A `Method` of one's own can be given to `run`.
- A blend word is looked up as published, but all its occurrences are taken, with punctuation or another case too, once
  the prompt holds it as it stands.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nmg import images
from nmg.backbones import Backbone
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
from nmg.lab import metrics
from nmg.lab.bench import judges
from nmg.lab.bench.annotations import MAPPING, PICTURES, TYPES, Entry, decode, read
from nmg.lab.bench.suites import Case, Scores, Suite
from nmg.lab.scoring import EMPTY, finite

EDITED_WEIGHT = 2.0
"""On the attention of the word that the edit is about, in the published runs of Prompt-to-Prompt."""
OUTSIDE = ("psnr_outside", "lpips_outside", "mse_outside", "ssim_outside")
"""Metrics of the background."""
TRIAL = 64
"""Side of the pictures on which it is tried what can be measured."""
GUIDANCE_AMOUNT = 0.1
"""Of pix2pix-zero in the published runs; Noise Map Guidance has 0.15."""


def prompt_to_prompt(entry: Entry) -> PromptToPrompt:
    """As published: refinement for all prompts; where the edit is about a word, blended by it, and twice its attention.

    A word that its prompt doesn't hold marks no place, and where neither prompt holds its word the target becomes the
    source, as in the published runs.
    """
    options: dict[str, Any] = {}
    if entry.words:
        options = {"local_blend": LocalBlend(entry.held), "weights": dict.fromkeys(entry.held[1], EDITED_WEIGHT)}
    return PromptToPrompt(mode="refine", cross_replace=0.4, self_replace=0.6, **options)


EDITORS: dict[str, Callable[[Entry], Editor]] = {
    "Prompt-to-Prompt": prompt_to_prompt,
    "MasaCtrl": lambda entry: MasaCtrl(),
    "pix2pix-zero": lambda entry: Pix2PixZero(amount=GUIDANCE_AMOUNT),
}
"""The editors of the published tables that this package has."""
ALSO: dict[str, Callable[[Entry], Editor]] = {
    "Plug-and-Play": lambda entry: PlugAndPlay(),
    "FlowEdit": lambda entry: FlowEdit(),
    "Uni-Edit": lambda entry: UniEdit(),
    "Guide-and-Rescale": lambda entry: GuideAndRescale(),
}
"""Editors that are measured where they are named, with their papers' settings."""
UNPROMPTED = ("MasaCtrl", "Plug-and-Play")
"""Editors whose published runs have the empty source prompt, in the inversion and in the edit."""


# ---------------------------------------------------------------- scores


def measures(
    edited: Tensor, source: Tensor, prompt: str, region: Tensor, before: str = ""
) -> dict[str, Callable[[], Tensor]]:
    """The published protocol: distances of both pictures black inside the mask, taken over the whole picture; CLIP's
    similarity to the target prompt, of the whole and of the picture black outside the mask;
    structure distance of the whole. Beside it what papers have added since: whether the picture changed as its prompt
    did, how much it still shows the source, and how different it looks.

    The networks run on the CPU, so that an edit's peak of GPU memory is its own; what an edit on the CPU takes at most
    holds them.

    Args:
        edited, source: pictures [1, 3, height, width] in 0…1.
        prompt: the target prompt; `before` is the source's.
        region: true inside the mask, [1, 1, height, width].
    """
    clip = metrics.ClipScore(device="cpu")

    def outside(distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return distance(metrics.masked(edited, ~region), metrics.masked(source, ~region))

    return {
        "structure": lambda: metrics.StructureDistance(device="cpu", peak=255)(edited, source),
        "psnr_outside": lambda: outside(metrics.psnr),
        "lpips_outside": lambda: outside(metrics.Lpips("squeeze", device="cpu")),
        "mse_outside": lambda: outside(metrics.mse),
        "ssim_outside": lambda: outside(metrics.ssim),
        "clip": lambda: clip(edited, [prompt]),
        "clip_edited": lambda: clip(edited, [prompt], region),
        "clip_direction": lambda: metrics.ClipDirection(device="cpu")(edited, source, [prompt], [before]),
        "dino": lambda: metrics.DinoSimilarity(device="cpu")(edited, source),
        "dreamsim": lambda: metrics.DreamSim(device="cpu")(edited, source),
        "black": lambda: black(edited),
    }


def black(picture: Tensor) -> Tensor:
    """1 for a picture whose bytes are all 0, else 0."""
    return (picture.amax((1, 2, 3)) < 0.5 / 255).float()


# ---------------------------------------------------------------- the suite


@dataclass(frozen=True)
class PieBench(Suite):
    """PIE-Bench from the folder that its authors give out; a task is a kind of edit by an editor.

    Args:
        folder: with mapping_file.json and annotation_images.
        border: see `annotations.decode`.

    Raises:
        FileNotFoundError, ValueError: for a folder that is no PIE-Bench.
    """

    folder: Path
    border: bool = True

    name: ClassVar[str] = "pie"
    text_scale: ClassVar[float] = 7.5

    def __post_init__(self) -> None:
        if not (self.folder / MAPPING).is_file() or not (self.folder / PICTURES).is_dir():
            raise FileNotFoundError(
                f"{self.folder} is no PIE-Bench; give the folder that holds {MAPPING} and {PICTURES}, which its "
                "authors give out at github.com/cure-lab/PnPInversion"
            )
        if not self.entries:
            raise ValueError(f"{self.folder / MAPPING} names no picture")

    @property
    def entries(self) -> dict[str, Entry]:
        """The pictures by their names."""
        return read(self.folder / MAPPING)

    @property
    def tasks(self) -> tuple[str, ...]:
        kinds = {entry.kind for entry in self.entries.values()}
        return tuple(f"{TYPES[kind]} by {editor}" for editor in EDITORS for kind in sorted(kinds))

    @property
    def further(self) -> tuple[str, ...]:
        kinds = {entry.kind for entry in self.entries.values()}
        return tuple(f"{TYPES[kind]} by {editor}" for editor in ALSO for kind in sorted(kinds))

    def editor(self, task: str, item: int | str | None = None) -> Editor:
        entries = self.entries
        name = next(iter(entries)) if item is None else str(item)
        return {**EDITORS, **ALSO}[task.rpartition(" by ")[2]](entries[name])

    def items(self, task: str, split: str, count: int | None) -> Sequence[str]:
        kind = TYPES.index(task.rpartition(" by ")[0])
        return [name for name, entry in self.entries.items() if entry.kind == kind][:count]

    def case(self, task: str, item: int | str, backbone: Backbone) -> Case:
        entry = self.entries[str(item)]
        picture = images.load(self.folder / PICTURES / entry.path)
        mask = Image.fromarray(decode(entry.runs, picture.size, self.border))
        prepared = backbone.prepare(picture)
        region = torch.from_numpy(np.array(images.fit(mask.convert("RGB"), *prepared.size))[..., 0] > 127)[None, None]
        source = "" if task.rpartition(" by ")[2] in UNPROMPTED else entry.source
        return Case(task, item, prepared, source, entry.target, self.editor(task, item), region)

    @functools.cached_property
    def absent(self) -> dict[str, str]:
        """Why metrics can't be measured here, by their names; each is tried once, on black pictures. VIEScore is given
        afterwards, by a judge."""
        empty, region = torch.zeros(1, 3, TRIAL, TRIAL), torch.zeros(1, 1, TRIAL, TRIAL, dtype=torch.bool)
        region[..., : TRIAL // 2] = True
        reasons = {judges.VIESCORE: judges.UNASKED}
        for name, measure in measures(empty, empty, "black", region).items():
            try:
                measure()
            except metrics.Missing as error:
                reasons[name] = str(error)
        return reasons

    def score(self, case: Case, edited: Tensor, backbone: Backbone) -> Scores:
        """See `measures`."""
        region: Tensor = case.truth
        missing = dict(self.absent)
        if not region.any():
            missing["clip_edited"] = EMPTY
        if region.all():
            missing.update(dict.fromkeys(OUTSIDE, EMPTY))
        before = self.entries[str(case.item)].source
        wanted = measures(edited, images.to_tensor(case.picture), case.target, region, before)
        return finite({name: f().item() for name, f in wanted.items() if name not in missing}, missing)

    def described(self) -> dict[str, Any]:
        digest = hashlib.sha256((self.folder / MAPPING).read_bytes()).hexdigest()[:12]
        return {"suite": self.name, "mapping": digest, "border": self.border, "unprompted": list(UNPROMPTED)}
