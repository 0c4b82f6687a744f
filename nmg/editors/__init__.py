"""What the target rows take from the source: one paper, one file."""

from nmg.editors.base import Editor
from nmg.editors.directions import EditDirection
from nmg.editors.masactrl import MasaCtrl
from nmg.editors.pix2pix_zero import Pix2PixZero
from nmg.editors.prompt_to_prompt import LocalBlend, PromptToPrompt

__all__ = ["EditDirection", "Editor", "LocalBlend", "MasaCtrl", "Pix2PixZero", "PromptToPrompt"]
