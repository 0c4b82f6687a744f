"""Noise Map Guidance: inversion with spatial context for real image editing (Cho et al., ICLR 2024).

Invert a photograph, guide its reconstruction along the noise maps, and let Prompt-to-Prompt carry
the edit, on Stable Diffusion or on the bundled model.
"""

from nmg.backbone import Backbone
from nmg.ddim import Step, steps, transfer
from nmg.editors import Editor, LocalBlend, PromptToPrompt
from nmg.guidance import CFG, NoiseMap
from nmg.inversion import Trajectory, invert
from nmg.sampling import Edit, denoise, edit, prepare

__version__ = "0.1.0"

__all__ = [
    "CFG",
    "Backbone",
    "Edit",
    "Editor",
    "LocalBlend",
    "NoiseMap",
    "PromptToPrompt",
    "Step",
    "Trajectory",
    "denoise",
    "edit",
    "invert",
    "prepare",
    "steps",
    "transfer",
]
