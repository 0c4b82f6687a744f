"""Where words look, step by step: an editor that watches another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from nmg import rows
from nmg.alignment import Tokens, find, tokenize
from nmg.attention import Attend, Site, probabilities
from nmg.backbones import Backbone
from nmg.editors.base import Editor
from nmg.levels import Step
from nmg.run import Plan, Run
from nmg.types import Heads, Latents, Mask, TextEmbeddings


@dataclass(frozen=True, eq=False)
class Watching(Editor):
    """Another editor, whose rows' cross-attention is kept: at the layers nearest to a quarter of the latent's size, of
    the text half, before the editor changes it.

    Args:
        editor: the editor that edits.
        seen: filled by a run: one tensor per step, [rows, height, width, tokens], mean over layers and heads.
        prompts: filled by a run: the tokens that each row reads.
        regions: filled by a run: where each row could differ from the source after the last step, if the editor
            restricts that (`LocalBlend`), [rows, 1, height, width].
    """

    editor: Editor
    seen: list[Float[Tensor, "rows height width tokens"]] = field(default_factory=list)
    prompts: list[Tokens] = field(default_factory=list)
    regions: list[Mask] = field(default_factory=list)

    @property
    def region(self) -> Mask | None:
        """The mask of the last run's last step, or None where the edit was not restricted."""
        return self.regions[-1] if self.regions else None

    def looks(self, word: str, row: int = 0) -> Float[Tensor, "height width"]:
        """Where a word or phrase of a row's prompt looks, mean over the steps.

        Raises:
            RuntimeError: before a run.
            ValueError: for a word that the prompt does not hold.
        """
        if not self.seen:
            raise RuntimeError("nothing was watched yet; give this editor to nmg.edit first")
        return torch.stack([maps[row] for maps in self.seen]).mean(0)[..., find(word, self.prompts[row])].sum(-1)

    def check(self, backbone: Backbone, prompts: Sequence[str], plan: Plan) -> None:
        self.editor.check(backbone, prompts, plan)

    def negative(self, source: str) -> str:
        return self.editor.negative(source)

    def targets(self, source: str) -> tuple[str, ...]:
        return self.editor.targets(source)

    def prepare(self, run: Run) -> Editor:
        backbone = run.backbone
        self.seen.clear()
        self.regions.clear()
        inner = self.editor.prepare(run)
        # Along an edit direction every row reads the source prompt, moved.
        follows = inner.text(run, run.steps[0]) is run.text
        prompts = run.prompts if follows else run.prompts[:1] * len(run.prompts)
        self.prompts[:] = [tokenize(backbone.readable(prompt), backbone.tokenizer) for prompt in prompts]
        return _Running(inner, self.seen, self.regions)


@dataclass(frozen=True, eq=False)
class _Running(Editor):
    """One watched run."""

    editor: Editor
    seen: list[Tensor]
    regions: list[Mask]

    def text(self, run: Run, step: Step) -> TextEmbeddings:
        return self.editor.text(run, step)

    def steer(self, run: Run, step: Step, x: Latents, text: TextEmbeddings) -> Latents:
        return self.editor.steer(run, step, x, text)

    def blend(self, run: Run, step: Step, x: Latents) -> Latents:
        x, region = self.editor.blend(run, step, x), self.editor.mask(run)
        self.regions[:] = [] if region is None else [region.cpu()]
        return x

    def mask(self, run: Run) -> Mask | None:
        return self.editor.mask(run)

    def copies(self, run: Run, step: Step) -> rows.Copies:
        # The source is watched too: it takes part in the call, whatever the editor knows of it (`Editor.known`).
        return rows.most("text", self.editor.copies(run, step))

    def attend(self, run: Run, step: Step) -> Attend:
        inner, size = self.editor.attend(run, step), run.backbone.word_map_size(run.latent_size)
        layers: list[Tensor] = []

        def attend(site: Site, q: Heads, k: Heads, v: Heads) -> Heads | None:
            if site.is_cross and q.shape[2] == size[0] * size[1]:
                maps = probabilities(rows.halves(q)[1], rows.halves(k)[1]).float().mean(1)
                layers.append(maps.unflatten(1, size).cpu())
                # The mean so far stands for the step.
                mean = torch.stack(layers).mean(0)
                self.seen[step.index :] = [mean]
            return None if inner is None else inner(site, q, k, v)

        return attend
