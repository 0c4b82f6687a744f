"""A picture of a latent without its decoder, good enough to watch a run by."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from nmg import images
from nmg.backbones import Backbone
from nmg.inversion import Trajectory
from nmg.levels import Step, spread
from nmg.types import Latents


def predicted(before: Latents, after: Latents, step: Step, residual: Latents | None = None) -> Latents:
    """The clean latent that a step went towards, from the latents that it began and ended at.

    The step is linear in the clean latent x and the noise e that it followed,

        z_t     = a_t x     + s_t e
        z_{t-1} = a_{t-1} x + √(s_{t-1}² - σ²) e,

    so that both can be solved for (Song, Meng & Ermon 2021, arXiv 2010.02502, equation 12).

    Args:
        before, after: of rows that nothing but the step moves, or nothing much: the targets'.
        residual: what was added after a stochastic step (σ > 0); None for DDIM (σ = 0).
    """
    sigma = 0.0 if residual is None else spread(step.here, step.there)
    end = after if residual is None else after - residual
    noise_before, noise_after = step.here.s, max(0.0, step.there.s**2 - sigma**2) ** 0.5
    determinant = step.there.a * noise_before - step.here.a * noise_after
    # A step that moves nothing says nothing about the noise.
    if abs(determinant) < 1e-6:
        return end / step.there.a
    return (noise_before * end - noise_after * before) / determinant


def guessing(trajectory: Trajectory) -> Callable[[Step, Latents], Latents]:
    """A function that guesses a row's clean latent from its latents, step by step."""
    before: Latents | None = None
    guesses: list[Latents] = []

    def guess(step: Step, row: Latents) -> Latents:
        nonlocal before
        before = trajectory.origin(step) if before is None else before
        residuals = trajectory.residuals
        residual = None if residuals is None else residuals[step.index, None].to(row.device)
        guesses[:] = [*guesses[-1:], predicted(before.to(row.device), row, step, residual)]
        before = row.clone()
        # A source row that swings about its noise maps shakes the targets, too: two steps even that out.
        return torch.stack(guesses).mean(0)

    return guess


@dataclass(frozen=True, eq=False)
class LatentPreview:
    """A linear map from the channels of a latent to the mean colour of the pixels that it stands for.

    Attributes:
        weights: [channels + 1, 3]; the last row is the bias.
    """

    weights: Float[Tensor, "inputs 3"]

    @classmethod
    def fit(cls, backbone: Backbone, picture: Image.Image) -> LatentPreview:
        """Least squares over what the loaded VAE makes of a picture and of many colours.

        Args:
            picture: of a size that fits the latent; its own colours count as much as all others together.
        """
        latents, colours = [], []
        for shown in (picture, swatches(picture.size)):
            pixels = images.to_tensor(shown)
            latent = backbone.encode(pixels)[0].cpu()
            mean = torch.nn.functional.adaptive_avg_pool2d(pixels, (latent.shape[1], latent.shape[2]))[0]
            latents.append(latent.flatten(1).T.double())
            colours.append(mean.flatten(1).T.double())
        inputs = _with_one(torch.cat(latents))
        # Flat latents of a poor decoder have no single solution: the smallest is taken.
        solution = torch.linalg.lstsq(inputs, torch.cat(colours), driver="gelsd").solution
        return cls(solution.float())

    def __call__(self, latents: Latents, size: tuple[int, int]) -> Image.Image:
        """The first row as a picture of that width and height."""
        row = latents[0].float().cpu()
        pixels = _with_one(row.flatten(1).T) @ self.weights
        shown = images.to_pil(pixels.T.unflatten(1, row.shape[1:])[None])[0]
        return shown.resize(size, Image.Resampling.BICUBIC)


def swatches(size: tuple[int, int]) -> Image.Image:
    """The colours of a 4×4×4 cube, in a grid of 8×8 fields, shuffled the same way every time."""
    cube = np.array(list(itertools.product((0, 85, 170, 255), repeat=3)), np.uint8)
    fields = np.random.default_rng(0).permutation(cube).reshape(8, 8, 3)
    return Image.fromarray(fields).resize(size, Image.Resampling.NEAREST)


def _with_one(values: Tensor) -> Tensor:
    return torch.cat([values, values.new_ones(len(values), 1)], 1)
