"""The interactive panel without its widgets, which are in `nmg.widgets`: everything here works by itself."""

from nmg.panel.controller import Controller, Ended, Failed, Made
from nmg.panel.engine import Cancelled, Doing, Engine, Tried
from nmg.panel.keeping import code, save
from nmg.panel.origin import Origin
from nmg.panel.preview import LatentPreview, predicted
from nmg.panel.settings import Settings
from nmg.panel.worker import Worker
from nmg.presets import Preset, presets_for

__all__ = [
    "Cancelled",
    "Doing",
    "Ended",
    "Engine",
    "Failed",
    "LatentPreview",
    "Made",
    "Origin",
    "Preset",
    "Controller",
    "Settings",
    "Tried",
    "Worker",
    "code",
    "predicted",
    "presets_for",
    "save",
]
