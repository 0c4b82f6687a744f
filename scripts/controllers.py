"""The published code's controllers of attention, for `scripts.baseline`: Prompt-to-Prompt's and MasaCtrl's.

Every layer's attention is softmax(q kᵀ) v with the matrix in memory, in every network call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nmg import Backbone, Editor, LocalBlend, MasaCtrl, PromptToPrompt, Trajectory
from nmg.alignment import Tokens, find
from nmg.attention import Attend, Site
from nmg.levels import Step


def scores(q: Tensor, k: Tensor) -> Tensor:
    """q kᵀ / √dim, [rows, heads, queries, keys]."""
    return (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)


def matrix(q: Tensor, k: Tensor) -> Tensor:
    """Attention probabilities [rows, heads, queries, keys]."""
    return scores(q, k).softmax(-1)


def by_matrix(site: Site, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of a layer whose controller is off."""
    return matrix(q, k) @ v


class Controller:
    """The controller that does nothing."""

    def attend(self, step: Step) -> Attend:
        return by_matrix

    def blend(self, step: Step, x: Tensor) -> Tensor:
        return x


def controller_of(editor: Editor, backbone: Backbone, trajectory: Trajectory, prompts: Sequence[str]) -> Controller:
    """The published code's counterpart of an editor.

    Raises:
        NotImplementedError: for one that is not written here.
    """
    if type(editor) is Editor:
        return Controller()
    if isinstance(editor, PromptToPrompt) and not editor.weights:
        return WordSwap.prepare(editor, backbone, trajectory, prompts)
    if isinstance(editor, MasaCtrl) and editor.words is None and editor.source_mask is None:
        return Mutual(editor.first_step(len(trajectory.steps)), editor.first_layer(backbone))
    raise NotImplementedError(f"the published code's {editor} is not written here")


@dataclass
class WordSwap(Controller):
    """Prompt-to-Prompt's word replacement, with its store of attention maps and its local blend.

    Attributes:
        word_map: source tokens to target tokens, [tokens, tokens].
        active: whether each target token's attention is replaced, [steps, tokens] of 0 and 1.
        self_steps: the steps in which self-attention is replaced.
        marks: 1 at the tokens of the blend's words, [2, tokens]; None without a blend.
        threshold, blend_from: of the blend: a share of the maximum, and its first step.
        largest, watched: positions of the largest layer that is stored, and of those that the blend reads.
        step_maps, sums: the stored maps, [2, heads, positions, tokens] each: of this step, and over the steps so far.
    """

    word_map: Tensor
    active: Tensor
    self_steps: range
    marks: Tensor | None
    threshold: Any
    blend_from: int
    largest: int
    watched: tuple[int, int]
    step_maps: list[tuple[Site, Tensor]] = field(default_factory=list)
    sums: list[tuple[Site, Tensor]] = field(default_factory=list)

    @classmethod
    def prepare(
        cls, editor: PromptToPrompt, backbone: Backbone, trajectory: Trajectory, prompts: Sequence[str]
    ) -> WordSwap:
        device, count, size = backbone.device, len(trajectory.steps), trajectory.latent_size
        source, target = tokens = editor.tokens(backbone, prompts)
        blend = editor.local_blend or LocalBlend(())
        window = editor.self_replace if isinstance(editor.self_replace, tuple) else (0.0, editor.self_replace)
        return cls(
            word_map=editor.correspondence(source, target).weights.to(device),
            active=editor.schedule([target], count)[:, 0].to(device),
            self_steps=range(*(int(share * count) for share in window)),
            marks=_marks(blend, tokens).to(device) if editor.local_blend else None,
            threshold=0.3 if blend.threshold is None else blend.threshold,
            blend_from=int(blend.start * count),
            largest=backbone.layout_positions(size),
            watched=backbone.word_map_size(size),
        )

    def attend(self, step: Step) -> Attend:
        self.step_maps = []

        def attend(site: Site, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            maps = matrix(q, k)
            self.replace(site, step, maps[len(maps) // 2 :])
            return maps @ v

        return attend

    def replace(self, site: Site, step: Step, maps: Tensor) -> None:
        """Store the text half's maps, and write the source's over the target's."""
        if maps.shape[2] <= self.largest:
            self.step_maps.append((site, maps))
        if site.is_cross:
            active = self.active[step.index].to(maps.dtype)
            taken = torch.einsum("hps,st->hpt", maps[0], self.word_map.to(maps.dtype))
            maps[1] = taken * active + maps[1] * (1 - active)
        elif step.index in self.self_steps and maps.shape[2] <= self.largest:
            maps[1] = maps[0]

    def blend(self, step: Step, x: Tensor) -> Tensor:
        """Add this step's maps up, and put the source back outside the mask of both prompts' words."""
        for (_, total), (_, maps) in zip(self.sums, self.step_maps, strict=False):
            total += maps
        self.sums = self.sums or self.step_maps
        if self.marks is None or step.index < self.blend_from:
            return x
        positions = math.prod(self.watched)
        watched = [maps.float() for site, maps in self.sums if site.is_cross and maps.shape[2] == positions]
        seen = (torch.cat(watched, 1) * self.marks[:, None, None]).sum(-1).mean(1).unflatten(1, self.watched)[:, None]
        grown = F.interpolate(F.max_pool2d(seen, 3, stride=1, padding=1), x.shape[2:])
        mask = grown / grown.amax((2, 3), keepdim=True) > self.threshold
        return x[:1] + (mask[:1] | mask) * (x - x[:1])


def _marks(blend: LocalBlend, tokens: list[Tokens]) -> Tensor:
    marks = torch.zeros(len(tokens), tokens[0].length)
    for row, (word, prompt) in enumerate(zip(blend.words, tokens, strict=True)):
        marks[row, find(str(word), prompt)] = 1
    return marks


@dataclass
class Mutual(Controller):
    """MasaCtrl's mutual self-attention, without masks, from a step and a layer on."""

    first_step: int
    first_layer: int

    def attend(self, step: Step) -> Attend:
        def attend(site: Site, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            # Computed before the controller is asked, and both held while it works.
            before = scores(q, k)
            maps = before.softmax(-1)
            if site.is_cross or step.index < self.first_step or site.layer < self.first_layer:
                return maps @ v
            halves = zip(q.chunk(2), k.chunk(2), v.chunk(2), strict=True)
            return torch.cat([matrix(queries, keys[:1]) @ values[:1] for queries, keys, values in halves])

        return attend
