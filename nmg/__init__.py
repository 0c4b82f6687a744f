"""Noise Map Guidance: inversion with spatial context for real image editing (Cho et al., ICLR 2024).

Invert a photograph, guide its reconstruction along the noise maps, and let Prompt-to-Prompt, MasaCtrl
or pix2pix-zero carry the edit, on Stable Diffusion or on the bundled model. Examples, figures, metrics, the benchmark
and the notebooks' panel are in `nmg.lab`.
"""

from typing import Any

from nmg.backbones import Backbone
from nmg.editors import EditDirection, Editor, LocalBlend, MasaCtrl, Pix2PixZero, PromptToPrompt
from nmg.editors.recorder import AttentionMaps, AttentionRecorder
from nmg.guidance import (
    CFG,
    Direct,
    Guidance,
    NegativePrompt,
    NoiseMap,
    NullText,
    NullTexts,
    ProxNegativePrompt,
    default_guidance,
)
from nmg.inversion import DDIM, EditFriendly, FixedPoint, Inversion, Regularised, Trajectory, invert
from nmg.levels import Step, steps, transfer
from nmg.request import Request
from nmg.sampling import Edit, denoise, edit, find_null_texts, prepare
from nmg.version import __version__ as __version__

__all__ = [
    # load and edit
    "load", "default_guidance", "invert", "edit", "Edit", "Request", "Trajectory", "NoiseMapGuidancePipeline",
    # inversion: how the noise maps are made
    "Inversion", "DDIM", "Regularised", "FixedPoint", "EditFriendly",
    # guidance: how the source row stays on its noise maps
    "Guidance", "CFG", "NoiseMap", "NullText", "NullTexts", "find_null_texts", "NegativePrompt", "ProxNegativePrompt",
    "Direct",
    # editors: what the targets take from the source
    "Editor", "PromptToPrompt", "LocalBlend", "MasaCtrl", "Pix2PixZero", "EditDirection", "AttentionMaps",
    "AttentionRecorder",
    # the parts, to build on
    "Backbone", "Step", "denoise", "prepare", "steps", "transfer",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """diffusers' pipelines take seconds to import: only who asks for them waits."""
    if name in ("load", "NoiseMapGuidancePipeline"):
        from nmg import pipelines

        return getattr(pipelines, name)
    raise AttributeError(f"module 'nmg' has no attribute {name!r}")
