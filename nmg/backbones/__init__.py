"""A loaded model as the few functions that editing needs."""

from nmg.backbones.mmdit import Flux, QwenImage, StableDiffusion3
from nmg.backbones.settings import ModelSettings
from nmg.backbones.unet import Backbone, StableDiffusionXL, settings_of

__all__ = ["Backbone", "Flux", "ModelSettings", "QwenImage", "StableDiffusion3", "StableDiffusionXL", "settings_of"]
