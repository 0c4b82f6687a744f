"""The interactive panel without its widgets, which are in `nmg.lab.panel.widgets`: everything here works by itself."""

from nmg.lab.panel.controller import Controller, Ended, Failed, Made
from nmg.lab.panel.desk import Desk
from nmg.lab.panel.engine import Cancelled, Doing, Engine, Tried
from nmg.lab.panel.keeping import code, save
from nmg.lab.panel.origin import Origin
from nmg.lab.panel.preview import LatentPreview, predicted
from nmg.lab.panel.worker import Worker
from nmg.lab.presets import Preset

__all__ = [
    "Cancelled",
    "Controller",
    "Desk",
    "Doing",
    "Ended",
    "Engine",
    "Failed",
    "LatentPreview",
    "Made",
    "Origin",
    "Preset",
    "Tried",
    "Worker",
    "code",
    "predicted",
    "save",
]
