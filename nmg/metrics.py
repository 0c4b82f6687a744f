"""How close two pictures are: mean squared error, peak signal-to-noise ratio, structural similarity.

Pictures are floats in 0…1, [rows, 3, height, width]; a value is returned per row.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from nmg._types import Image

Region = Bool[Tensor, "#rows 1 height width"]
PerRow = Float[Tensor, " rows"]


def mse(a: Image, b: Image, region: Region | None = None) -> PerRow:
    """Mean squared error over the picture, or over the pixels of `region`.

    Raises:
        ValueError: if the region is empty.
    """
    squared = (a.float() - b.float()).square()
    if region is None:
        return squared.mean((1, 2, 3))
    inside = region.expand(len(a), -1, -1, -1).float()
    if (inside.sum((1, 2, 3)) == 0).any():
        raise ValueError("the region holds no pixel, so nothing can be measured in it")
    return (squared.mean(1, keepdim=True) * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3))


def psnr(a: Image, b: Image, region: Region | None = None) -> PerRow:
    """Peak signal-to-noise ratio in dB for a peak of 1; infinite for equal pictures."""
    return -10 * mse(a, b, region).log10()


def ssim(a: Image, b: Image, sigma: float = 1.5) -> PerRow:
    """Structural similarity with a Gaussian window of `sigma` pixels, cut at 3.5 sigma.

    Wang, Bovik, Sheikh & Simoncelli 2004, equation 13, with K1 = 0.01, K2 = 0.03; the mean over channels
    and over the pixels whose window lies inside the picture.
    """
    radius = int(3.5 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=a.device)
    window = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (window / window.sum())[None, None]

    def blur(x: Tensor) -> Tensor:
        x = x.flatten(0, 1)[:, None]
        return F.conv2d(F.conv2d(x, kernel[..., None]), kernel[..., None, :]).unflatten(0, (a.shape[0], a.shape[1]))[
            :, :, 0
        ]

    a, b = a.float(), b.float()
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, covariance = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return similarity.mean((1, 2, 3))
