"""Inversion: from a picture to the noise maps that guide its edits.

A trajectory holds the latent of every noise level, from the picture itself (map 0) to the
noisiest (map T). It is a value: save it, load it, edit it as often as you like.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from nmg import images
from nmg._types import Latents
from nmg.backbone import Backbone
from nmg.ddim import Step, steps, transfer

FORMAT = "nmg-trajectory-1"


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The noise maps of one inverted picture, and what they were made with.

    Attributes:
        maps: z*_0 … z*_T, [T + 1, channels, height, width] in fp32; map 0 is the picture.
        levels: ᾱ of each map, T + 1 numbers, falling.
        steps: the T denoising steps that lead back, noisiest first.
        prompt: the source prompt.
        model: hub id or folder of the model.
        convention: name of the inversion (see `CONVENTIONS`).
    """

    maps: Float[Tensor, "levels channels height width"]
    levels: tuple[float, ...]
    steps: tuple[Step, ...]
    prompt: str
    model: str
    convention: str = "aligned"

    @property
    def start(self) -> Latents:
        """The noisiest latent, where sampling begins."""
        return self.maps[-1:]

    def target(self, step: Step) -> Latents:
        """The noise map that the source row should reach by `step`: z*_{t-1} if aligned."""
        k = len(self.steps) - 1 - step.index
        return self.maps[k : k + 1]

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latent."""
        return self.maps.shape[-2], self.maps.shape[-1]

    def to(self, device: torch.device | str) -> Trajectory:
        return dataclasses.replace(self, maps=self.maps.to(device))

    def save(self, path: str | os.PathLike) -> None:
        """Write the maps and all that describes them to one safetensors file."""
        described = {name: getattr(self, name) for name in ("levels", "prompt", "model", "convention")}
        described["steps"] = [dataclasses.astuple(step) for step in self.steps]
        part = f"{os.fspath(path)}.part"
        save_file(
            {"maps": self.maps.float().cpu().contiguous()},
            part,
            metadata={"format": FORMAT, "trajectory": json.dumps(described)},
        )
        os.replace(part, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Trajectory:
        """Read a trajectory that `save` wrote.

        Raises:
            FileNotFoundError: without a file at `path`.
            ValueError: for a file that holds no trajectory.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no trajectory at {os.fspath(path)!r}; make one with `nmg invert`")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError(
                        f"{os.fspath(path)!r} holds no trajectory of this version; make one with `nmg invert`"
                    )
                described = json.loads(metadata["trajectory"])
                maps = file.get_tensor("maps")
        except SafetensorError as error:
            raise ValueError(f"{os.fspath(path)!r} can't be read ({error}); make it again with `nmg invert`") from error
        described["steps"] = tuple(Step(*fields) for fields in described["steps"])
        described["levels"] = tuple(described["levels"])
        return cls(maps, **described)


@dataclass(frozen=True)
class Rise:
    """One inversion step: evaluate at `timestep` (where ᾱ is `alpha`), go from level `a_from` up to `a_to`."""

    timestep: int
    alpha: float
    a_from: float
    a_to: float


def aligned(down: tuple[Step, ...], scheduler: Any) -> list[Rise]:
    """Going up from z_{k-1} to z_k, ask the network at t_k: the mirror of the sampling step.

    Mokady et al. 2022 (arXiv 2211.09794), section 3.1. Map k lies at the level where step T - k starts.
    """
    return [Rise(s.timestep, s.alpha, s.alpha_prev, s.alpha) for s in reversed(down)]


def diffusers_018(down: tuple[Step, ...], scheduler: Any) -> list[Rise]:
    """The inverse scheduler of diffusers up to 0.21, which the authors' notebooks run on.

    It evaluates at t_k on the latent of level t_k and steps to t_{k+1}, so that every map lies one
    level above its index, and the last at the end of the schedule.
    """
    alphas = scheduler.alphas_cumprod
    ratio = len(alphas) // len(down)
    rises = []
    for step in reversed(down):
        above = min(step.timestep + ratio, len(alphas) - 1)
        rises.append(Rise(step.timestep, step.alpha, step.alpha, float(alphas[above])))
    return rises


CONVENTIONS: dict[str, Callable[[tuple[Step, ...], Any], list[Rise]]] = {
    "aligned": aligned,
    "diffusers-0.18": diffusers_018,
}
"""Inversions by name. With "diffusers-0.18" give `offset=0` too, to reproduce the authors' notebooks."""


def invert(
    pipe: Any,
    image: Any,
    prompt: str = "",
    *,
    steps: int = 50,
    size: tuple[int, int] | None = None,
    convention: str = "aligned",
    offset: int | None = None,
    progress: bool = True,
) -> Trajectory:
    """Invert a picture by DDIM at guidance 1 and keep the latent of every level.

    Args:
        pipe: a loaded Stable Diffusion pipeline, or a `Backbone`.
        image: whatever `images.load` reads.
        prompt: the source prompt, what the picture shows.
        steps: T, the number of DDIM steps.
        size: width and height in pixels; the model's own if not given.
        convention: a name in `CONVENTIONS`.
        offset: overrides the scheduler's `steps_offset`.
        progress: whether to show a bar.

    Raises:
        ValueError, TypeError: for a prompt, size, number of steps or convention that can't be used.
    """
    backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
    picture = backbone.prepare(image, size)
    latents = backbone.encode(images.to_tensor(picture))
    try:
        return rise(backbone, latents, prompt, steps, convention, offset, progress)
    finally:
        backbone.release()


@torch.no_grad()
def rise(
    backbone: Backbone,
    latents: Latents,
    prompt: str,
    count: int,
    convention: str = "aligned",
    offset: int | None = None,
    progress: bool = False,
) -> Trajectory:
    """The trajectory that starts from a latent [1, channels, height, width]; see `invert`."""
    if convention not in CONVENTIONS:
        raise ValueError(f"convention={convention!r} is unknown; {', '.join(CONVENTIONS)} work")
    down = steps(backbone.scheduler, count, offset)
    rises = CONVENTIONS[convention](down, backbone.scheduler)
    text = backbone.text([prompt])
    x = latents.to(backbone.device).float()

    maps = [x]
    for i, up in enumerate(bar(rises, "invert", progress)):
        eps = backbone.eps(x, Step(i, up.timestep, up.alpha, up.a_to), text)
        x = transfer(x, eps, up.a_from, up.a_to)
        if not x.isfinite().all():
            raise FloatingPointError(
                f"inversion step {i} (t = {up.timestep}) gave values that are not finite; "
                "load the pipeline in float32 or bfloat16"
            )
        maps.append(x)
    levels = (rises[0].a_from, *(up.a_to for up in rises))
    return Trajectory(torch.cat(maps), levels, down, prompt, backbone.name, convention)


def bar(items: Iterable, what: str, shown: bool, total: int | None = None) -> Iterable:
    """`items` behind a progress bar that leaves no line when it is done."""
    return tqdm(items, what, total, leave=False, disable=not shown, unit="step")
