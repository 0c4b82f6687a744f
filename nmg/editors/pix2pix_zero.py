"""pix2pix-zero: Parmar, Singh, Zhang, Li, Lu & Zhu, "Zero-shot Image-to-Image Translation", SIGGRAPH 2023,
arXiv 2302.03027.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from nmg import rows
from nmg.attention import Attend, Site
from nmg.backbones import Backbone
from nmg.backbones.checks import check_gradient
from nmg.conditioning import Conditioning
from nmg.editors.base import Editor
from nmg.editors.directions import EditDirection, Side, exchanged, is_word
from nmg.levels import Step
from nmg.run import PUBLISHED_STEPS, Asked, Run
from nmg.types import Doubled, Heads, KeyMask, Latents

AMOUNT = 0.15
"""Noise Map Guidance's own size of the gradient step."""
FITS = 0.5
"""Cosine to the move from the source prompt to the target prompt from which on a direction is said to fit."""
Direction = EditDirection | str | os.PathLike | tuple[Side, Side] | None


@dataclass(frozen=True)
class Pix2PixZero(Editor):
    """Targets whose text is the source's moved along a direction, with cross-attention maps near the source's.

    Before a target's noise is predicted, its latent takes a gradient step on the squared distance of its
    cross-attention maps to the source's in the same step (section 3.2, cross-attention guidance). The null and the text
    copy of the latent take different steps; the null copy is kept. Where no negative prompt is given, the source prompt
    is used, as in Noise Map Guidance's code: the source row then follows its prompt alone, at every text scale.

    Args:
        direction: an `EditDirection`, the path of a saved one, or the two sides that `EditDirection.between` takes: two
            words, of which the source prompt holds the first, fit it best. The only target then needs no prompt; one
            that is given is only a name, and a warning says so. Another warning says where the direction does not fit
            the source prompt. Without a direction, targets follow their own prompts: the direction is the difference of
            two prompts' embeddings.
        amount: size of the one gradient step on the latent in each of 50 steps: 0.15 with Noise Map Guidance, 0.1 in
            the original; 0 for none. Fewer steps are larger, so that they come to as much in all. If not given, 0.15 in
            a UNet and 0 elsewhere, where nobody has shown that it helps.

    Raises:
        ValueError: for an amount that is not finite. For a request: for a direction whose shape is not the text
            encoder's, or several targets of one direction.
    """

    direction: Direction = None
    amount: float | None = None

    def __post_init__(self) -> None:
        amount = 0 if self.amount is None else self.amount
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not math.isfinite(amount):
            raise ValueError(f"Pix2PixZero: amount={self.amount!r} must be a finite number, such as 0.15")
        if not isinstance(self.direction, EditDirection | str | os.PathLike | tuple | list | None):
            raise TypeError(
                f"Pix2PixZero: direction is a {type(self.direction).__name__}; give two sides, such as "
                "direction=('cat', 'dog'), the path of a saved direction, or an EditDirection"
            )
        if isinstance(self.direction, tuple | list) and len(self.direction) != 2:
            raise ValueError(
                f"Pix2PixZero: direction has {len(self.direction)} sides; give two, such as direction=('cat', 'dog')"
            )

    def opened(self) -> Pix2PixZero:
        if not isinstance(self.direction, str | os.PathLike):
            return self
        return dataclasses.replace(self, direction=EditDirection.load(self.direction))

    def check(self, backbone: Backbone, request: Asked) -> None:
        """Raise for a direction that can't be found or does not fit."""
        if self.amount_for(backbone) != 0:
            backbone.check_word_maps("Pix2PixZero", "give Pix2PixZero(amount=0)")
            check_gradient(backbone.network, "Pix2PixZero", "Pix2PixZero(amount=0)")
        self.resolved(backbone, request.prompts)

    def amount_for(self, backbone: Backbone) -> float:
        """The amount that is given, or the one for a model's family."""
        usual = 0.0 if backbone.is_joint else AMOUNT
        return usual if self.amount is None else self.amount

    @property
    def edits_alone(self) -> bool:
        return self.direction is not None

    def negative(self, source: str) -> str:
        return source

    def targets(self, source: str) -> tuple[str, ...]:
        """Where the direction is two words or phrases, the source prompt with the one exchanged for the other."""
        if self.direction is None:
            return ()
        if words := self._words():
            source = exchanged(source, *words)
        return (source or "edited",)

    def _words(self) -> tuple[str, str] | None:
        """The direction's two words or phrases, if it is two."""
        sides = self.direction if isinstance(self.direction, tuple | list) else ()
        named = [str(side) for side in sides if is_word(side)]
        return (named[0], named[1]) if len(named) == 2 else None

    def prepare(self, run: Run) -> Editor:
        if len(run.prompts) < 2:
            return Editor()
        direction, amount = self.resolved(run.backbone, run.prompts), self.amount_for(run.backbone)
        if direction is None:
            return _Running(amount, run.text)
        source = rows.source(run.text)
        for warning in self._misfits(direction, run.prompts, rows.targets(run.text).tokens - source.tokens):
            warnings.warn(warning, stacklevel=2)
        return _Running(amount, rows.with_targets(source.moved(direction.embedding, direction.pooled), run.text))

    def _misfits(self, direction: EditDirection, prompts: tuple[str, ...], move: Tensor) -> Iterator[str]:
        """What to say of a direction that is not the move from the source prompt to the target prompt."""
        source, target = prompts
        (own,), words = self.targets(source), self._words()
        if words and own == source:
            yield f"the source prompt {source!r} does not hold {words[0]!r}, so that its direction fits it badly"
        if words and target != own:
            yield (
                f"pix2pix-zero edits along its direction, to {own!r}; the target prompt {target!r} is only a name: "
                "leave it out, or leave the direction out to follow the prompt"
            )
        elif not words and (fit := direction.fit(move)) < FITS:
            yield (
                f"the direction leads elsewhere than from {source!r} to {target!r} (cosine {fit:.2f}): give two words, "
                "such as direction=('cat', 'dog'), or leave it out to follow the target prompt"
            )

    def resolved(self, backbone: Backbone, prompts: Sequence[str] = ("", "")) -> EditDirection | None:
        """The direction for a source prompt and its targets, or None where targets follow their prompts."""
        if self.direction is None:
            return None
        if len(prompts) > 2:
            raise ValueError(
                f"Pix2PixZero: one direction gives one picture, and there are {len(prompts) - 1} targets; give one "
                "target, or leave the direction out, so that each follows its own prompt"
            )
        found = self.opened().direction
        if not isinstance(found, EditDirection):
            return EditDirection.between(backbone, *found, prompt=prompts[0])
        found.check(backbone)
        return found


@dataclass(frozen=True, eq=False)
class _Running(Editor):
    """One run of pix2pix-zero.

    Attributes:
        amount: see `Pix2PixZero`.
        embeddings: the text that the rows follow.
        noise: of the source's null and text copy, by the step that it was computed in last.
    """

    amount: float
    embeddings: Conditioning
    noise: dict[int, Doubled] = field(default_factory=dict)

    def text(self, run: Run, step: Step) -> Conditioning:
        return self.embeddings

    def steer(self, run: Run, step: Step, x: Latents, text: Conditioning) -> Latents:
        """Move the targets towards the source's cross-attention, null and text copies each on their own."""
        if self.amount == 0:
            return x
        (null, content), (null_text, content_text) = rows.halves(x), rows.halves(text)

        # The maps that the source has in this step, once for both copies where they read the same.
        maps: list[Tensor] = []
        texts = rows.cat([rows.source(null_text), rows.source(content_text)])
        copies: rows.Copies = "text" if texts[:1].same(texts[1:]) else "both"
        self.noise.clear()
        self.noise[step.index] = run.predict(rows.doubled(rows.source(x)), step, texts, _keeping(run, maps), copies)

        # One gradient step of every target.
        gradients = []
        for row in range(1, len(null)):
            pair = torch.cat([null[row : row + 1], content[row : row + 1]])
            pair_text = rows.cat([null_text[row : row + 1], content_text[row : row + 1]])
            gradients.append(self.gradient(run, step, pair, pair_text, maps))
        down = self.amount * PUBLISHED_STEPS / len(run.steps) * torch.stack(gradients, 1)
        null, content = (
            rows.with_targets(rows.targets(half) - move, half) for half, move in zip((null, content), down, strict=True)
        )
        return torch.cat([null, content])

    def needs_null(self) -> bool:
        return self.amount != 0

    def source_noise(self, run: Run, step: Step) -> Doubled | None:
        return self.noise.get(step.index)

    @staticmethod
    def gradient(run: Run, step: Step, pair: Latents, text: Conditioning, maps: list[Tensor]) -> Latents:
        """∂/∂x of the distance of a target's maps, null and text copy, to the source's."""
        # Half precision sees the sum over rows and heads, whose gradients are larger.
        own: list[Tensor] = []
        scale = len(pair) * maps[0].shape[1]
        gradient, _ = run.gradient(pair, step, text, lambda z, eps: scale * distance(own, maps), _keeping(run, own))
        return gradient / scale


def distance(maps: Sequence[Tensor], others: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Squared distance of attention maps, each [rows, heads, positions, words] (section 3.2, equation 4): summed over
    layers, positions and words, mean over rows and heads."""
    return torch.stack([(a - b).float().square().sum((-2, -1)).mean() for a, b in zip(maps, others, strict=True)]).sum()


def _keeping(run: Run, maps: list[Tensor]) -> Attend:
    """An attention that keeps every map of the call in which the picture attends to the text."""

    def attend(site: Site, q: Heads, k: Heads, v: Heads, mask: KeyMask | None = None) -> Heads | None:
        if not (site.is_cross or site.is_joint):
            return None
        maps.append(run.backbone.word_maps(site, q, k, mask, run.latent_size))
        return maps[-1] @ v if site.is_cross else None

    return attend
