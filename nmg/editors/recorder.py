"""Attention maps of the prompts' words, recorded step by step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from nmg import rows
from nmg.alignment import Tokens, find
from nmg.attention import Attend, Site
from nmg.editors.base import Editor
from nmg.levels import Step
from nmg.run import Run, delegating
from nmg.types import Heads, KeyMask


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """The maps of the picture's attention to the words in one run.

    Attributes:
        steps: mean over layers and heads in each step, [steps, rows, height, width, tokens].
        tokens: that each row reads, the source's first.
    """

    steps: Float[Tensor, "steps rows height width tokens"]
    tokens: tuple[Tokens, ...]

    def of(self, word: str, row: int = 0) -> Float[Tensor, "height width"]:
        """The map of a word or phrase of a row's prompt, mean over the steps.

        Raises:
            ValueError: for a word that the prompt does not hold.
        """
        return self.steps[:, row].mean(0)[..., find(word, self.tokens[row])].sum(-1)


@delegating(Editor, "editor")
@dataclass(frozen=True, eq=False)
class AttentionRecorder(Editor):
    """Another editor, whose run's maps of attention to the words are recorded: those of the text half, before the
    editor changes them, at the layers where the model's words are read. `edit(…, attention=True)` returns them.

    Args:
        editor: the editor that edits.
    """

    editor: Editor
    recorded: list[Tensor] = field(default_factory=list, repr=False)

    @property
    def edits_alone(self) -> bool:
        return self.editor.edits_alone

    def maps(self, run: Run) -> AttentionMaps:
        """What a run, which is over, recorded."""
        backbone = run.backbone
        # Along an edit direction every row reads the source prompt, moved.
        own = self.editor.text(run, run.steps[0]) is run.text
        prompts = run.prompts if own else run.prompts[:1] * len(run.prompts)
        tokens = tuple(backbone.tokens(prompt) for prompt in prompts)
        return AttentionMaps(torch.stack(self.recorded).cpu(), tokens)

    def copies(self, run: Run, step: Step) -> rows.Copies:
        # The source's maps are recorded too: the network has to see it.
        return rows.most("text", self.editor.copies(run, step))

    def source_noise(self, run: Run, step: Step) -> None:
        """None: the source takes part in the step's call."""

    def attend(self, run: Run, step: Step) -> Attend:
        inner = self.editor.attend(run, step)
        layers: list[Tensor] = []

        def attend(site: Site, q: Heads, k: Heads, v: Heads, mask: KeyMask | None = None) -> Heads | None:
            if (maps := run.word_maps(site, q, k, mask)) is not None:
                layers.append(maps)
                # The mean of the layers so far stands for the step.
                self.recorded[step.index :] = [torch.stack(layers).mean(0)]
            return None if inner is None else inner(site, q, k, v, mask)

        return attend
