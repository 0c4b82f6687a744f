"""What the target rows take from the source: one paper, one file."""

from nmg.editors.base import Editor
from nmg.editors.directions import EditDirection
from nmg.editors.flow_edit import FlowEdit
from nmg.editors.guide_and_rescale import GuideAndRescale
from nmg.editors.masactrl import MasaCtrl
from nmg.editors.pix2pix_zero import Pix2PixZero
from nmg.editors.plug_and_play import PlugAndPlay
from nmg.editors.prompt_to_prompt import LocalBlend, PromptToPrompt
from nmg.editors.uni_edit import UniEdit

__all__ = [
    "EditDirection", "Editor", "FlowEdit", "GuideAndRescale", "LocalBlend", "MasaCtrl", "Pix2PixZero", "PlugAndPlay",
    "PromptToPrompt", "UniEdit",
]  # fmt: skip
