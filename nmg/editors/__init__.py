"""What the target rows take from the source: one paper, one file."""

from nmg.editors.base import Editor
from nmg.editors.prompt_to_prompt import LocalBlend, PromptToPrompt

__all__ = ["Editor", "LocalBlend", "PromptToPrompt"]
