"""How close two pictures are: mean squared error, peak signal-to-noise ratio, structural similarity.

Pictures are floats in 0…1, [rows, 3, height, width]; a value is returned per row. A region, [rows or 1, 1, height,
width], is true where to measure. There are two ways to leave the rest out, and they give different numbers: the
region of `mse`, `psnr` and `ssim` averages over its own pixels only; `masked` blackens the rest of both pictures,
as PIE-Bench's published tables do, and the whole is averaged.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from nmg.types import Image

Region = Bool[Tensor, "#rows 1 region_height region_width"]
PerRow = Float[Tensor, " rows"]


def mse(a: Image, b: Image, region: Region | None = None) -> PerRow:
    """Mean squared error over the picture, or over the pixels of `region`.

    Raises:
        ValueError: if the region is empty, or of another size than the pictures.
    """
    squared = (a.float() - b.float()).square()
    return _mean(squared, None if region is None else _inside(region, a))


def psnr(a: Image, b: Image, region: Region | None = None) -> PerRow:
    """Peak signal-to-noise ratio in dB for a peak of 1, from `mse`; infinite for equal pictures."""
    return -10 * mse(a, b, region).log10()


def ssim(a: Image, b: Image, region: Region | None = None, sigma: float = 1.5) -> PerRow:
    """Structural similarity with a Gaussian window of `sigma` pixels, cut at 3.5 sigma: 11×11 pixels for 1.5.

    Wang, Bovik, Sheikh & Simoncelli 2004, equation 13, with K1 = 0.01, K2 = 0.03; the mean over channels
    and over the pixels whose window lies inside the picture.

    Args:
        region: average over the window centres in it only; their windows still look up to 3.5 sigma out of it.

    Raises:
        ValueError: if the picture is smaller than the window, or no window centre lies in the region.
    """
    radius = int(3.5 * sigma + 0.5)
    if min(a.shape[-2:]) <= 2 * radius:
        raise ValueError(
            f"SSIM's window is {2 * radius + 1} pixels wide and the picture {a.shape[-1]}×{a.shape[-2]}; "
            "enlarge the picture or give a smaller sigma"
        )
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=a.device)
    window = torch.exp(-0.5 * (offsets / sigma) ** 2)
    window = window / window.sum()

    # Local means of both pictures, their squares and their product, by two one-dimensional passes.
    a, b = a.float(), b.float()
    moments = torch.stack([a, b, a * a, b * b, a * b])
    blurred = F.conv2d(F.conv2d(moments.flatten(0, 2)[:, None], window[None, None, :, None]), window[None, None, None])
    mean_a, mean_b, square_a, square_b, product = blurred.unflatten(0, moments.shape[:3])[:, :, :, 0]

    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    var_a, var_b, covariance = square_a - mean_a**2, square_b - mean_b**2, product - mean_a * mean_b
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return _mean(luminance * structure, None if region is None else _inside(region, a, margin=radius))


def masked(picture: Image, region: Region) -> Image:
    """The picture, black outside the region.

    So does PIE-Bench measure (Ju et al., "PnP Inversion", ICLR 2024, arXiv 2310.01506): `psnr(masked(a, background),
    masked(b, background))`. The black pixels are equal and count, so that `mse` comes out as the region's own times
    the region's share of the picture, `psnr` above the region's own, and `ssim` and LPIPS nearer to equality.

    Raises:
        ValueError: if the region is empty, or of another size than the picture.
    """
    return picture * _inside(region, picture)


def _inside(region: Tensor, picture: Tensor, margin: int = 0) -> Tensor:
    """The region for every row of the picture, without a margin of pixels at the border."""
    if region.shape[-2:] != picture.shape[-2:]:
        raise ValueError(
            f"the region is {region.shape[-1]}×{region.shape[-2]} pixels and the picture {picture.shape[-1]}×"
            f"{picture.shape[-2]}; resize the region with F.interpolate(region.float(), size, mode='nearest').bool()"
        )
    height, width = region.shape[-2:]
    inside = region[..., margin : height - margin, margin : width - margin].expand(len(picture), -1, -1, -1)
    if not inside.flatten(1).any(1).all():
        where = f" that is {margin} pixels from the border" if margin else ""
        raise ValueError(f"the region holds no pixel{where}, so nothing can be measured in it")
    return inside.to(picture.device)


def _mean(values: Tensor, inside: Tensor | None) -> Tensor:
    """The mean over channels and pixels, or over channels and the pixels inside."""
    if inside is None:
        return values.mean((1, 2, 3))
    return (values.mean(1, keepdim=True) * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3))
