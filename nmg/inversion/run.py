"""Inversion: from a picture to its trajectory."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from tqdm.auto import tqdm

from nmg import images, rows
from nmg.backbones import Backbone
from nmg.conditioning import Conditioning
from nmg.identity import Identity
from nmg.inversion.base import CONVENTIONS, DDIM, Ask, Inversion
from nmg.inversion.trajectory import Trajectory
from nmg.levels import Step
from nmg.types import Latents
from nmg.undo import gradients_kept

Callback = Callable[[Step, Latents], object]


@gradients_kept
def invert(
    pipe: Any,
    image: Any,
    prompt: str = "",
    *,
    steps: int = 50,
    size: tuple[int, int] | None = None,
    inversion: Inversion | None = None,
    convention: str = "aligned",
    offset: int | None = None,
    callback: Callback | None = None,
    progress: bool = True,
) -> Trajectory:
    """Invert a picture by DDIM at guidance 1 and keep the latent of every level.

    Args:
        pipe: a loaded Stable Diffusion pipeline, or a `Backbone`.
        image: whatever `images.load` reads.
        prompt: the source prompt, what the picture shows.
        steps: T, the number of DDIM steps.
        size: width and height in pixels; the model's own if not given.
        inversion: how the maps are made, `DDIM()` if not given; `Regularised()` is pix2pix-zero's.
        convention: which level each map lies at: a name in `CONVENTIONS`.
        offset: overrides the scheduler's `steps_offset`.
        callback: called after each step up with the step, whose index counts from 0, and the latent that it ended at.
        progress: whether to show a bar.

    Raises:
        ValueError, TypeError: for a prompt, size, number of steps or convention that can't be used.
    """
    backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
    backbone.check([prompt])
    check(inversion or DDIM(), convention)
    for said in backbone.remarks([prompt]):
        warnings.warn(said, stacklevel=2)
    picture = backbone.prepare(image, size)
    latents = backbone.encode(images.to_tensor(picture))
    try:
        return rise(backbone, latents, prompt, steps, convention, offset, progress, inversion, callback)
    finally:
        backbone.release()


def check(inversion: Inversion, convention: str) -> None:
    """Raise for a convention that is unknown, or that the inversion can't follow.

    Raises:
        ValueError: with the reason.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention={convention!r} is unknown; {', '.join(CONVENTIONS)} work")
    inversion.check(convention)


@torch.no_grad()
def rise(
    backbone: Backbone,
    latents: Latents,
    prompt: str,
    count: int,
    convention: str = "aligned",
    offset: int | None = None,
    progress: bool = False,
    inversion: Inversion | None = None,
    callback: Callback | None = None,
) -> Trajectory:
    """The trajectory of a latent [1, channels, height, width], whose settings are checked; see `invert`."""
    inversion = inversion or DDIM()
    down = backbone.steps(count, (latents.shape[-2], latents.shape[-1]), offset)
    rises = CONVENTIONS[convention](down, backbone.scheduler)
    text, null = backbone.texts([prompt], "")
    x = latents.to(backbone.device).float()
    generator = torch.Generator().manual_seed(getattr(inversion, "seed", 0))

    running = inversion.prepare()
    maps, lacks = [x], []
    for i, up in enumerate(bar(rises, "invert", progress)):
        step = Step(i, up.timestep, up.asked, up.there)
        x, lack = running.rise(_asking(backbone, step, text, null), maps[0], x, up, generator)
        if not x.isfinite().all():
            raise FloatingPointError(
                f"inversion step {i} (t = {up.timestep}) gave values that are not finite; "
                "load the pipeline in float32 or bfloat16"
            )
        maps.append(x)
        lacks += [] if lack is None else [lack]
        if callback is not None:
            callback(step, x)
    levels = (rises[0].here, *(up.there for up in rises))
    residuals = torch.cat(lacks[::-1]) if lacks else None
    found = Trajectory(torch.cat(maps), levels, down, prompt, backbone.name, convention, inversion, residuals)
    return dataclasses.replace(found, network=Identity.of(backbone, prompt))


def _asking(backbone: Backbone, step: Step, text: Conditioning, null: Conditioning) -> Ask:
    """The network at one step, under the source prompt."""

    def ask(x: Latents, scale: float = 1.0) -> Latents:
        if scale == 1:
            return backbone.predict(x, step, text)
        without, under = rows.halves(backbone.predict(rows.doubled(x), step, rows.cat([null, text])))
        return backbone.rescaled(without + scale * (under - without), under)

    return ask


def bar(items: Iterable, what: str, shown: bool, total: int | None = None) -> Iterable:
    """`items` behind a progress bar that leaves no line when it is done."""
    return tqdm(items, what, total, leave=False, disable=not shown, unit="step")
