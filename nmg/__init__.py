"""Noise Map Guidance: inversion with spatial context for real image editing (Cho et al., ICLR 2024).

Invert a photograph, guide its reconstruction along the noise maps, and let Prompt-to-Prompt, MasaCtrl
or pix2pix-zero carry the edit, on Stable Diffusion or on the bundled model. Examples, figures, metrics, the benchmark
and the notebooks' panel are in `nmg.lab`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nmg.version import __version__ as __version__

if TYPE_CHECKING:
    from nmg.backbones import Backbone
    from nmg.editors import (
        EditDirection,
        Editor,
        FlowEdit,
        GuideAndRescale,
        LocalBlend,
        MasaCtrl,
        Pix2PixZero,
        PlugAndPlay,
        PromptToPrompt,
        UniEdit,
    )
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
    from nmg.identity import Identity
    from nmg.inversion import DDIM, Drawn, EditFriendly, FixedPoint, Inversion, Regularised, Trajectory, UniInv, invert
    from nmg.levels import Step, steps, transfer
    from nmg.pipelines import NoiseMapGuidancePipeline, load
    from nmg.request import Request
    from nmg.sampling import Edit, denoise, edit, find_null_texts, prepare

__all__ = [
    # load and edit
    "load", "default_guidance", "invert", "edit", "Edit", "Request", "Trajectory", "Identity",
    "NoiseMapGuidancePipeline",
    # inversion: how the noise maps are made
    "Inversion", "DDIM", "Regularised", "FixedPoint", "EditFriendly", "UniInv", "Drawn",
    # guidance: how the source row stays on its noise maps
    "Guidance", "CFG", "NoiseMap", "NullText", "NullTexts", "find_null_texts", "NegativePrompt", "ProxNegativePrompt",
    "Direct",
    # editors: what the targets take from the source
    "Editor", "PromptToPrompt", "LocalBlend", "MasaCtrl", "Pix2PixZero", "EditDirection", "PlugAndPlay", "FlowEdit",
    "UniEdit", "GuideAndRescale", "AttentionMaps", "AttentionRecorder",
    # the parts, to build on
    "Backbone", "Step", "denoise", "prepare", "steps", "transfer",
]  # fmt: skip


_HOMES = {
    "backbones": ("Backbone",),
    "editors": (
        "EditDirection", "Editor", "FlowEdit", "GuideAndRescale", "LocalBlend", "MasaCtrl", "Pix2PixZero",
        "PlugAndPlay", "PromptToPrompt", "UniEdit",
    ),
    "editors.recorder": ("AttentionMaps", "AttentionRecorder"),
    "guidance": (
        "CFG", "Direct", "Guidance", "NegativePrompt", "NoiseMap", "NullText", "NullTexts", "ProxNegativePrompt",
        "default_guidance",
    ),
    "identity": ("Identity",),
    "inversion": (
        "DDIM", "Drawn", "EditFriendly", "FixedPoint", "Inversion", "Regularised", "Trajectory", "UniInv", "invert",
    ),
    "levels": ("Step", "steps", "transfer"),
    "request": ("Request",),
    "sampling": ("Edit", "denoise", "edit", "find_null_texts", "prepare"),
    "pipelines": ("NoiseMapGuidancePipeline", "load"),
}  # fmt: skip
"""The modules of the public names. torch and diffusers take seconds to import: only who asks for a name waits."""


def __getattr__(name: str) -> Any:
    if home := next((home for home, names in _HOMES.items() if name in names), None):
        value = globals()[name] = getattr(import_module(f"nmg.{home}"), name)
        return value
    try:
        if not name.startswith("_"):
            return import_module(f"nmg.{name}")
    except ModuleNotFoundError:
        pass
    raise AttributeError(f"module 'nmg' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What the package offers, the names that are imported late among them."""
    return sorted([*__all__, "__version__"])
