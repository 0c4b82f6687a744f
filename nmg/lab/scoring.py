"""How good an edit of a scene is: against the picture of its exact counterfactual,
and as the factor classifier reads it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nmg import images
from nmg.lab import metrics
from nmg.menagerie.networks import FactorClassifier
from nmg.menagerie.scene import FACTORS, SIZE, Scene
from nmg.types import Image

EMPTY = "the region holds no pixel"
INFINITE = "the pictures are equal there"
"""Why a PSNR is absent that is infinite; `Record.value` and the tables give it as such."""


def pixels(scenes: list[Scene], size: int = SIZE) -> Tensor:
    """The scenes' pictures, [scenes, 3, size, size] in 0…1."""
    return torch.cat([images.to_tensor(scene.render(size)) for scene in scenes])


def read(classifier: FactorClassifier, pictures: Image) -> list[dict[str, object]]:
    """The factors that the classifier reads off pictures in 0…1 of any size."""
    own = (SIZE, SIZE)
    small = pictures if pictures.shape[-2:] == own else F.interpolate(pictures, own, mode="area")
    return classifier.read(2 * small - 1)


def accuracy(classifier: FactorClassifier, pictures: Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Share of the pictures in which each factor reads as the scene's."""
    found = read(classifier, pictures)
    return {
        name: sum(r[name] == getattr(s, name) for r, s in zip(found, scenes, strict=True)) / len(scenes)
        for name in FACTORS
    }


def score(
    edited: Image, scene: Scene, target: Scene, factor: str, classifier: FactorClassifier
) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics of one edit, and why others have no value.

    Args:
        edited: the edited picture, [1, 3, size, size] in 0…1.
        scene, target: the source and its exact counterfactual.
        factor: what the edit was to change.

    Returns:
        psnr (dB), mse and ssim to the counterfactual; psnr_inside and psnr_outside of the pixels that it changes;
        success, 1 if the factor reads as the target's; kept, the share of the other factors that read as the source's.
    """
    size = edited.shape[-1]
    truth = pixels([target], size)
    changed = torch.from_numpy(scene.changed(target, size))[None, None]
    values = {
        "psnr": metrics.psnr(edited, truth).item(),
        "mse": metrics.mse(edited, truth).item(),
        "ssim": metrics.ssim(edited, truth).item(),
    }
    missing = {}
    for name, region in (("psnr_inside", changed), ("psnr_outside", ~changed)):
        if region.any():
            values[name] = metrics.psnr(edited, truth, region).item()
        else:
            missing[name] = EMPTY
    (found,) = read(classifier, edited)
    others = [name for name in FACTORS if name != factor]
    values["success"] = float(found[factor] == getattr(target, factor))
    values["kept"] = sum(found[name] == getattr(scene, name) for name in others) / len(others)
    return finite(values, missing)


def finite(values: dict[str, float], missing: dict[str, str]) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics without those that are infinite, which JSON can't hold: `INFINITE` stands for them."""
    infinite = {name: INFINITE for name, value in values.items() if math.isinf(value)}
    return {name: value for name, value in values.items() if name not in infinite}, {**missing, **infinite}
