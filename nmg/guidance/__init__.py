"""How the source row is kept on its inverted path: one paper, one file."""

from nmg.guidance.base import CFG
from nmg.guidance.noise_map import NoiseMap

__all__ = ["CFG", "NoiseMap"]
