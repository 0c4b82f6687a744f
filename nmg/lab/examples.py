"""Ready examples for the notebooks: photographs for Stable Diffusion, scenes for the bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nmg.editors import MasaCtrl, Pix2PixZero, PromptToPrompt
from nmg.lab.presets import Example
from nmg.lab.profile import profile_of

__all__ = ["Example", "masactrl", "pix2pix_zero", "prompt_to_prompt"]


def prompt_to_prompt(pipe: Any, folder: str | Path = "images") -> dict[str, Example]:
    """An example of each of the paper's five tasks of Prompt-to-Prompt, for the loaded model.

    Args:
        pipe: a loaded pipeline, whose profile brings the examples.
        folder: where the photographs lie.
    """
    return profile_of(pipe).examples(PromptToPrompt, Path(folder))


def masactrl(pipe: Any, folder: str | Path = "images") -> dict[str, Example]:
    """An example of viewpoint alteration and of pose modification; see `prompt_to_prompt`."""
    return profile_of(pipe).examples(MasaCtrl, Path(folder))


def pix2pix_zero(pipe: Any, folder: str | Path = "images", dog: Any = None) -> dict[str, Example]:
    """An example of cat → dog and of dog → cat; see `prompt_to_prompt`.

    Args:
        dog: a photograph of a dog; if not given, `dog.png` in the folder, or a picture that the model draws.

    Raises:
        ValueError: for a photograph on the bundled model, which draws its own dogs.
    """
    return profile_of(pipe).examples(Pix2PixZero, Path(folder), pipe, dog)
