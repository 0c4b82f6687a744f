"""Noise Map Guidance: inversion with spatial context for real image editing (Cho et al., ICLR 2024).

Invert a photograph, guide its reconstruction along the noise maps, and let Prompt-to-Prompt, MasaCtrl
or pix2pix-zero carry the edit, on Stable Diffusion or on the bundled model.
"""

import importlib
from typing import Any

from nmg.backbone import Backbone
from nmg.ddim import Step, steps, transfer
from nmg.editors import EditDirection, Editor, LocalBlend, MasaCtrl, Pix2PixZero, PromptToPrompt
from nmg.guidance import CFG, Direct, NegativePrompt, NoiseMap, NullText, NullTexts, ProxNegativePrompt
from nmg.inversion import DDIM, EditFriendly, FixedPoint, Regularised, Trajectory, invert
from nmg.presets import suited
from nmg.sampling import Edit, denoise, edit, find_null_texts, prepare
from nmg.watching import Watching

__version__ = "0.1.0"
LATER = ("bench", "captioning", "examples", "figures", "metrics", "pipelines", "widgets")
"""Modules that are imported when they are first asked for: the panel needs ipywidgets, a figure Matplotlib."""

__all__ = [
    # load and edit
    "load", "suited", "invert", "edit", "Edit", "Trajectory", "NoiseMapGuidancePipeline",
    # inversion: how the noise is predicted on the way up
    "DDIM", "Regularised", "FixedPoint", "EditFriendly",
    # guidance: how the source is kept on its path
    "CFG", "NoiseMap", "NullText", "NullTexts", "find_null_texts", "NegativePrompt", "ProxNegativePrompt", "Direct",
    # editors: what the targets take from the source
    "Editor", "PromptToPrompt", "LocalBlend", "MasaCtrl", "Pix2PixZero", "EditDirection", "Watching",
    # the parts, to build on
    "Backbone", "Step", "denoise", "prepare", "steps", "transfer",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """diffusers' pipelines take seconds to import: only who asks for them waits."""
    if name in LATER:
        return importlib.import_module(f"nmg.{name}")
    if name in ("load", "NoiseMapGuidancePipeline"):
        from nmg import pipelines

        return getattr(pipelines, name)
    raise AttributeError(f"module 'nmg' has no attribute {name!r}")
