"""Which pictures Stable Diffusion's safety checker would blacken."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from nmg import images
from nmg.lab.metrics.weights import Device, complete, cure, device_of, loading
from nmg.types import Image


@dataclass(frozen=True)
class SafetyChecker:
    """Whether Stable Diffusion's safety checker, which the package leaves out, would return a picture black.

    Args:
        model: hub id of the checker, or a folder in diffusers' layout.
        device: where the network runs; CUDA where there is one, if not given.
    """

    model: str = "CompVis/stable-diffusion-safety-checker"
    device: Device = None

    @torch.no_grad()
    def __call__(self, pictures: Image) -> Bool[Tensor, " rows"]:
        """One answer per picture.

        Raises:
            Missing: if the checker can't be loaded.
        """
        network, processor = _checker(self.model, device_of(self.device))
        seen = processor(images=images.to_pil(pictures), return_tensors="pt")["pixel_values"].to(network.device)
        # It blackens what it is given.
        _, flagged = network(images=pictures.detach().clone().permute(0, 2, 3, 1).cpu().numpy(), clip_input=seen)
        return torch.tensor(flagged)


@functools.cache
def _checker(model: str, device: torch.device) -> tuple[Any, Any]:
    with loading("the safety checker", cure(model)):
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        from transformers import CLIPImageProcessor

        network = complete(StableDiffusionSafetyChecker, model)
        processor = CLIPImageProcessor.from_pretrained(model)
    return network.to(device, torch.float32).eval(), processor
