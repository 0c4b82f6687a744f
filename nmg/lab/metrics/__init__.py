"""How close two pictures are, and how well a picture fits its prompt; a value per row, on the pictures' device.

Pictures are floats in 0…1, [rows, 3, height, width]. A metric whose weights or package are absent raises `Missing`,
which says how to get them; nothing is put in its place.
"""

from nmg.lab.metrics.clip import ClipDirection, ClipScore
from nmg.lab.metrics.dino import DinoSimilarity
from nmg.lab.metrics.dreamsim import DreamSim
from nmg.lab.metrics.lpips import Lpips
from nmg.lab.metrics.pixel import masked, mse, psnr, ssim
from nmg.lab.metrics.safety import SafetyChecker
from nmg.lab.metrics.structure import StructureDistance
from nmg.lab.metrics.tifa import Tifa
from nmg.lab.metrics.viescore import Unreadable, VieScore
from nmg.lab.metrics.weights import Missing

__all__ = [
    # by pixels
    "mse", "psnr", "ssim", "masked",
    # by networks
    "ClipScore", "ClipDirection", "StructureDistance", "Lpips", "DinoSimilarity", "DreamSim", "Tifa", "VieScore",
    "SafetyChecker", "Missing", "Unreadable",
]  # fmt: skip
