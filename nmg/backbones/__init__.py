"""A loaded model as the few functions that editing needs."""

from nmg.backbones.settings import ModelSettings, settings_of
from nmg.backbones.unet import Backbone, StableDiffusionXL

__all__ = ["Backbone", "ModelSettings", "StableDiffusionXL", "settings_of"]
