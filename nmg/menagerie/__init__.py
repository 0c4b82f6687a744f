"""Menagerie: a drawn world whose edits have an exact ground truth, and the model trained on it."""

from nmg.menagerie.captions import caption, prompt_pair
from nmg.menagerie.scene import FACTORS, Scene

__all__ = ["FACTORS", "Scene", "caption", "prompt_pair"]
