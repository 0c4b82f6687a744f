"""A loaded model as the few functions that editing needs."""

from nmg.backbones.mmdit import StableDiffusion3
from nmg.backbones.settings import ModelSettings, settings_of
from nmg.backbones.unet import Backbone, StableDiffusionXL

__all__ = ["Backbone", "ModelSettings", "StableDiffusion3", "StableDiffusionXL", "settings_of"]
