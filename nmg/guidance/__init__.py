"""How the source row stays on its noise maps: one paper, one file."""

from nmg.guidance.base import CFG, Guidance, Stack
from nmg.guidance.direct import Direct
from nmg.guidance.negative_prompt import NegativePrompt, ProxNegativePrompt
from nmg.guidance.noise_map import NoiseMap, default_guidance
from nmg.guidance.null_text import NullText, NullTexts

__all__ = [
    "CFG",
    "Direct",
    "Guidance",
    "NegativePrompt",
    "NoiseMap",
    "NullText",
    "NullTexts",
    "ProxNegativePrompt",
    "Stack",
    "default_guidance",
]
