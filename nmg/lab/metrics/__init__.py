"""How close two pictures are, and how well a picture fits its prompt; a value per row."""

from nmg.lab.metrics.learned import ClipScore, Lpips, Missing, StructureDistance, Tifa
from nmg.lab.metrics.pixel import masked, mse, psnr, ssim

__all__ = [
    # by pixels
    "mse", "psnr", "ssim", "masked",
    # by networks
    "ClipScore", "StructureDistance", "Lpips", "Tifa", "Missing",
]  # fmt: skip
