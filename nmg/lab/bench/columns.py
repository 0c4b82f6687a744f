"""The columns of tables: what they are called, which side is better, and how a value is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nmg.lab.bench import published
from nmg.lab.bench.groups import BASELINE, RATIO
from nmg.lab.bench.statistics import Estimate


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        metric: as records name it.
        heading: what it is, with an arrow to its better side.
        best: max or min; None where no side is better.
        digits: after the point.
        factor: what a value is multiplied by.
        interval: whether a cell shows the interval.
        median: whether a cell shows the median, which says little where every value is 0 or 1.
    """

    metric: str
    heading: str
    best: Callable[..., Any] | None = max
    digits: int = 2
    factor: float = 1.0
    interval: bool = True
    median: bool = True


COLUMNS: dict[str, Column] = {
    column.metric: column
    for column in (
        Column("psnr", "PSNR ↑"),
        Column("ssim", "SSIM ↑", digits=3),
        Column("mse", "MSE ×10³ ↓", min, factor=1e3),
        Column("psnr_inside", "PSNR inside ↑"),
        Column("psnr_outside", "PSNR outside ↑"),
        Column("success", "success ↑", median=False),
        Column("kept", "kept ↑"),
        Column("reconstruction_psnr", "reconstruction PSNR ↑"),
        Column("reconstruction_mse", "reconstruction MSE ×10³ ↓", min, factor=1e3),
        Column("reconstruction_ssim", "reconstruction SSIM ↑", digits=3),
        Column("reconstruction_lpips", "reconstruction LPIPS ↓", min, digits=3),
        Column("structure", "structure ×10³ ↓", min, factor=1e3),
        Column("lpips_outside", "LPIPS ×10³ ↓", min, factor=1e3),
        Column("mse_outside", "MSE ×10⁴ ↓", min, factor=1e4),
        Column("ssim_outside", "SSIM ×10² ↑", factor=1e2),
        Column("clip", "CLIP ↑"),
        Column("clip_edited", "CLIP edited ↑"),
        Column("clip_direction", "CLIP direction ↑", digits=3),
        Column("dino", "DINOv2 ↑", digits=3),
        Column("dreamsim", "DreamSim ↓", min, digits=3),
        Column("viescore", "VIEScore ↑"),
        Column("black", "black ×10² ↓", None, factor=1e2, interval=False, median=False),
        Column("tifa", "TIFA ↑", digits=3),
        Column("seconds", "seconds ↓", min, interval=False),
        Column("inversion_seconds", "inversion seconds", None, interval=False),
        Column(RATIO, "seconds / NTI ↓", min, digits=3, interval=False),
        Column("peak_mib", "peak MiB ↓", min, digits=0, interval=False),
    )
}
TIME = ("seconds", RATIO, "peak_mib")
SUITES: dict[str, tuple[str, ...]] = {
    "menagerie": ("psnr", "ssim", "mse", "psnr_outside", "success", "kept", "reconstruction_psnr", "viescore", *TIME),
    "pie": (*published.UNITS, "clip_direction", "dino", "dreamsim", "viescore", "black", *TIME),
    "pictures": ("psnr", "ssim", "reconstruction_psnr", "reconstruction_ssim", "clip", *TIME),
}
"""The columns of a suite's table."""

LEGEND = """\
A cell is the mean over the items, (their median, where there are several), [the mean's 95 % percentile bootstrap
interval, 2000 resamples]. Resampled are scenes, or pictures: the tasks of an editor share them, so that a scene's
items of all tasks are drawn together. Such intervals are too narrow where scenes are few; a single one has none, and
that of a share that is 0 or 1 on every item has no width, which does not make it certain. ∞ (exact): the pictures are
equal on every item, to the last bit. Bold: the best mean among the methods with a guidance and a result on every item,
whether or not it differs from the next. *identity* returns the source; *ceiling* is the autoencoder's picture of the
truth."""
COMPARED = (
    f"Mean paired differences to {BASELINE}; * where the interval excludes 0, without a correction for the number of "
    "comparisons: of twenty true zeros one is marked on average, and more where scenes are few."
)
NEGATIVE = (
    "pix2pix-zero takes the source prompt as its negative prompt, so that plain DDIM is negative-prompt inversion "
    "here: this row and NPI are the same edit"
)
EXPLAINED = {
    "psnr": "PSNR, SSIM and MSE are to the true counterfactual; outside: over the pixels that it leaves as they are.",
    "success": "Success: the changed factor reads as the target's; kept: the share of the others that read as the "
    "source's.",
    "reconstruction_psnr": "Reconstruction: the source row against the autoencoder's own picture of the source.",
    "structure": "The published protocol: pictures are multiplied by the background's mask, and measured as a whole.",
    "black": "Black: the share of pictures without a single bright pixel, as Stable Diffusion's safety checker leaves "
    "them; a few move a mean far and its median hardly.",
    "seconds": "Seconds are of an edit without its inversion, on {device}, which several processes may have shared; "
    "seconds / NTI is the mean of the ratio to null-text inversion on the same item.",
    "peak_mib": "Peak MiB: the most memory held while an edit was made, the model included: allocated on a GPU; "
    "resident of the whole process on a CPU, Python and the libraries too.",
}
"""What the columns are, by the first metric of those that a sentence is about."""


def cell(column: Column, estimate: Estimate, bold: bool = False, median: bool = True) -> str:
    """An estimate as a table shows it: mean, median unless it is not asked for, and interval."""
    mean, low, high = (number(v * column.factor, column.digits) for v in (estimate.mean, estimate.low, estimate.high))
    parts = [f"**{mean}**" if bold else mean]
    if median and column.median and estimate.n > 1 and estimate.exact < estimate.n:
        parts.append(f"({number(estimate.median * column.factor, column.digits)})")
    # An infinite mean of every resample has no interval to show.
    bare = math.isnan(estimate.low) or (math.isinf(estimate.low) and estimate.low == estimate.high)
    if column.interval and not bare:
        parts.append(f"[{low}, {high}]")
    return " ".join(parts)


def number(value: float, digits: int) -> str:
    """A number as it is written in a cell."""
    # Python rounds to "-0.00"; adding 0 drops the sign.
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
