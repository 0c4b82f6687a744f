"""How the source row is kept on its inverted path: one paper, one file."""

from nmg.guidance.base import CFG, Stack
from nmg.guidance.direct import Direct
from nmg.guidance.negative_prompt import NegativePrompt, ProxNegativePrompt
from nmg.guidance.noise_map import NoiseMap, default_guidance
from nmg.guidance.null_text import NullText, NullTexts

__all__ = [
    "CFG",
    "Direct",
    "NegativePrompt",
    "NoiseMap",
    "NullText",
    "NullTexts",
    "ProxNegativePrompt",
    "Stack",
    "default_guidance",
]
