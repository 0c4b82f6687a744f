"""Ready examples for the notebooks: photographs for Stable Diffusion, scenes for the bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nmg import images
from nmg.editors import MasaCtrl, Pix2PixZero, PromptToPrompt
from nmg.lab.presets import Example
from nmg.lab.profile import profile_of
from nmg.menagerie.captions import prompt_pair
from nmg.menagerie.scene import Scene

__all__ = ["Example", "masactrl", "pick", "pix2pix_zero", "prompt_to_prompt"]


def pick(pipe: Any, scene: tuple[Scene, dict[str, Any]], photograph: tuple[str | Path, str, str]) -> Example:
    """An example for the loaded model.

    Args:
        pipe: a loaded pipeline.
        scene: of the bundled world with the factors that its edit changes, for a model that knows this world; the
            captions are its prompts, and the edit has an exact truth.
        photograph: path, source prompt and target prompt, for any other model.
    """
    if not profile_of(pipe).knows_scenes:
        image, source, target = photograph
        return Example(images.load(image), source, target)
    drawn, change = scene
    source, target = prompt_pair(drawn, **change)
    return Example(drawn.render(), source, target, truth=drawn.edit(**change).render(), subject=drawn.kind)


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
