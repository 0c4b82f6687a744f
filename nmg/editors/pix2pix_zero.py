"""pix2pix-zero: Parmar, Singh, Zhang, Li, Lu & Zhu, "Zero-shot Image-to-Image Translation", SIGGRAPH 2023,
arXiv 2302.03027.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from nmg import rows
from nmg._types import Doubled, Heads, Latents, TextEmbeddings
from nmg.attention import Attend, Site, probabilities
from nmg.backbone import Backbone
from nmg.ddim import Step
from nmg.editors.base import Editor
from nmg.editors.templates import sentences
from nmg.guidance import Plan
from nmg.run import Run
from nmg.tensors import load, save

FORMAT = "nmg-direction-2"
BATCH = 32
"""Sentences encoded at once."""


# ---------------------------------------------------------------- directions


@dataclass(frozen=True, eq=False)
class EditDirection:
    """What turns one content into another, in the space of text embeddings (section 3.1).

    Attributes:
        embedding: mean embedding of the target sentences minus that of the source sentences, [1, tokens, features].
        source, target: the sentences.
        separation: how well the direction tells its two sides apart, from 0.5 (not at all) to 1 (every target sentence lies
            farther along it than every source sentence), on sentences that the direction was not made of.
    """

    embedding: Float[Tensor, "1 tokens features"]
    source: tuple[str, ...]
    target: tuple[str, ...]
    separation: float

    @classmethod
    def between(
        cls, pipe: Any, source: str | os.PathLike | Sequence[str], target: str | os.PathLike | Sequence[str]
    ) -> EditDirection:
        """The direction from one content to another.

        Args:
            pipe: a loaded Stable Diffusion pipeline, or a `Backbone`.
            source, target: each a word or phrase such as "cat" or "a sleeping cat", which templates make sentences of; a
                path of a text file with a sentence per line; or a list of sentences.

        Raises:
            ValueError: for a side without sentences, one that the text encoder can't read, or two equal sides.
        """
        backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
        first, second = (_sentences(side, backbone) for side in (source, target))
        if first == second:
            raise ValueError(f"a direction from {source!r} to {target!r} leads nowhere; give two different contents")
        known = _KNOWN.setdefault(backbone.pipe.text_encoder, {})
        key = (first, second, len(backbone.tokenizer), _fingerprint(backbone, (first[0], second[0])))
        if key not in known:
            here, there = _encoded(backbone, first), _encoded(backbone, second)
            move = there.mean(0, keepdim=True) - here.mean(0, keepdim=True)
            known[key] = cls(move, first, second, _separation(here, there))
        return known[key]

    def described(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The sentences that it can be found from again."""
        return self.source, self.target

    def save(self, path: str | os.PathLike) -> None:
        """Write the direction and its sentences to one safetensors file."""
        described = {"source": self.source, "target": self.target, "separation": self.separation}
        save(path, FORMAT, {"embedding": self.embedding}, described)

    @classmethod
    def load(cls, path: str | os.PathLike) -> EditDirection:
        """Read a direction that `save` wrote.

        Raises:
            FileNotFoundError: without a file at `path`.
            ValueError: for a file that holds no direction.
        """
        held, described = load(path, FORMAT, "direction", "make one with EditDirection.between")
        return cls(held["embedding"], tuple(described["source"]), tuple(described["target"]), described["separation"])


_KNOWN: WeakKeyDictionary[Any, dict[tuple, EditDirection]] = WeakKeyDictionary()
"""The directions found so far, for each text encoder that is still loaded."""


def _fingerprint(backbone: Backbone, probes: Sequence[str]) -> bytes:
    """What the text encoder makes of two sentences: other weights in the same module, by LoRA say, are noticed."""
    return hashlib.sha256(backbone.text(probes).float().cpu().numpy().tobytes()).digest()


Side = str | os.PathLike | Sequence[str]
"""A word or phrase, a path of a file of sentences, or sentences."""


def _sentences(side: Side, backbone: Backbone) -> tuple[str, ...]:
    """The sentences of one side of a direction."""
    if isinstance(side, os.PathLike) or (isinstance(side, str) and side.endswith(".txt")):
        if not os.path.isfile(side):
            raise FileNotFoundError(
                f"there is no file of sentences at {os.fspath(side)!r}; give one with a sentence per line"
            )
        with open(side, encoding="utf-8") as file:
            found = tuple(line.strip() for line in file if line.strip())
    else:
        found = sentences(side, backbone) if isinstance(side, str) else tuple(side)
    if not found:
        raise ValueError(f"{side!r} gives no sentence; give a word, a file with a sentence per line, or a list of them")
    return found


def _encoded(backbone: Backbone, texts: Sequence[str]) -> Float[Tensor, "sentences tokens features"]:
    """Embeddings of sentences, in fp32."""
    batches = (list(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH))
    return torch.cat([backbone.text(batch).float() for batch in batches])


def _separation(source: Tensor, target: Tensor) -> float:
    """Share of the pairs of a source and a target sentence that lie in the right order along the direction.

    The direction of every second sentence orders the others, and the other way round, so that the order is no artefact of
    the fit; where the sides match sentence by sentence, partners are on the same side of the fold. NaN for fewer than
    two sentences a side.
    """
    if min(len(source), len(target)) < 2:
        return math.nan
    source, target = source.flatten(1).double(), target.flatten(1).double()
    shares = []
    for fold in (0, 1):
        move = target[fold::2].mean(0) - source[fold::2].mean(0)
        margins = (target[1 - fold :: 2] @ move)[:, None] - source[1 - fold :: 2] @ move
        shares.append(((margins > 0).double() + 0.5 * (margins == 0).double()).mean().item())
    return sum(shares) / 2


# ---------------------------------------------------------------- the editor

Direction = EditDirection | str | os.PathLike | tuple[Side, Side] | None


@dataclass(frozen=True)
class Pix2PixZero(Editor):
    """Targets whose text is the source's, moved along a direction, and whose words look where the source's look.

    Before a target's noise is predicted, its latent descends on the squared distance of its cross-attention maps to
    those that the source has in the same step (section 3.2, cross-attention guidance). The descent moves the null and the
    text copy of the latent apart; the null copy goes on. Where no negative prompt is given, the source prompt is it, as
    Noise Map Guidance runs the method: the source then follows its prompt alone, at every text scale.

    Args:
        direction: an `EditDirection`, the path of a saved one, or the two sides that `EditDirection.between` takes; the
            only target needs no prompt then, and one that is given is only a name (a warning says so). If not given, targets follow their own
            prompts: the direction is the difference of two prompts' embeddings.
        amount: size of the one gradient step on the latent: 0.15 with Noise Map Guidance, 0.1 in the original; 0 for none.

    Raises:
        ValueError: for an amount that is not finite; when a run is prepared, for a direction whose shape is not the text
            encoder's, or several targets of one direction.
    """

    direction: Direction = None
    amount: float = 0.15

    def __post_init__(self) -> None:
        if isinstance(self.amount, bool) or not isinstance(self.amount, int | float) or not math.isfinite(self.amount):
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

    def check(self, backbone: Backbone, prompts: Sequence[str], plan: Plan) -> None:
        """Find the direction."""
        self.resolved(backbone, len(prompts) - 1)

    def negative(self, source: str) -> str:
        return source

    def targets(self, source: str) -> tuple[str, ...]:
        """Where the direction is two words or phrases, the source prompt with the one exchanged for the other."""
        if self.direction is None:
            return ()
        if words := self._words():
            source = re.sub(rf"\b{re.escape(words[0])}\b", lambda match: words[1], source, count=1)
        return (source or "edited",)

    def _words(self) -> tuple[str, str] | None:
        """The direction's two words or phrases, if it is two."""
        sides = self.direction if isinstance(self.direction, tuple | list) else ()
        named = [side for side in sides if isinstance(side, str)]
        return (named[0], named[1]) if len(named) == 2 else None

    def prepare(self, run: Run) -> Editor:
        if len(run.prompts) < 2:
            return Editor()
        move = self.resolved(run.backbone, len(run.prompts) - 1)
        if move is None:
            return _Running(self, run.text)
        own = self.targets(run.prompts[0])
        if self._words() and run.prompts[1:] != own:
            warnings.warn(
                f"pix2pix-zero follows its direction, to {own[0]!r}; the target prompt {run.prompts[1]!r} is only a name: leave "
                "it out, or leave the direction out to follow the prompt",
                stacklevel=2,
            )
        source = rows.source(run.text)
        return _Running(self, rows.with_targets(source + move.embedding.to(source), run.text))

    def resolved(self, backbone: Backbone, targets: int = 1) -> EditDirection | None:
        """The direction itself, or None where targets follow their prompts."""
        if self.direction is None:
            return None
        if targets > 1:
            raise ValueError(
                f"Pix2PixZero: one direction gives one picture, and there are {targets} targets; give one target, or leave "
                "the direction out, so that each follows its own prompt"
            )
        if isinstance(self.direction, EditDirection):
            found = self.direction
        elif isinstance(self.direction, str | os.PathLike):
            found = EditDirection.load(self.direction)
        else:
            found = EditDirection.between(backbone, *self.direction)
        expected = backbone.text([""]).shape[1:]
        if found.embedding.shape[1:] != expected:
            raise ValueError(
                f"the direction has the shape {list(found.embedding.shape[1:])} and the text encoder gives "
                f"{list(expected)}; make it again with this pipeline by EditDirection.between"
            )
        return found


@dataclass(frozen=True, eq=False)
class _Running(Editor):
    """One run of pix2pix-zero.

    Attributes:
        embeddings: the text that the rows follow.
        noise: of the source's null and text copy, by the step that it was asked for last.
    """

    config: Pix2PixZero
    embeddings: TextEmbeddings
    noise: dict[int, Doubled] = field(default_factory=dict)

    def text(self, run: Run, step: Step) -> TextEmbeddings:
        return self.embeddings

    def steer(self, run: Run, step: Step, x: Latents, text: TextEmbeddings) -> Latents:
        """Move the targets towards the source's cross-attention, null and text copies each on their own."""
        if self.config.amount == 0:
            return x
        (null, content), (null_text, content_text) = rows.halves(x), rows.halves(text)

        # The maps that the source has in this step, once for both copies where they read the same.
        looks: list[Tensor] = []
        texts = torch.cat([rows.source(null_text), rows.source(content_text)])
        copies: rows.Copies = "text" if torch.equal(*texts.split(1)) else "both"
        self.noise.clear()
        self.noise[step.index] = run.eps(rows.doubled(rows.source(x)), step, texts, _watching(looks), copies)

        # One gradient step of every target.
        gradients = []
        for row in range(1, len(null)):
            pair = torch.cat([null[row : row + 1], content[row : row + 1]])
            pair_text = torch.cat([null_text[row : row + 1], content_text[row : row + 1]])
            gradients.append(self.gradient(run, step, pair, pair_text, looks))
        down = self.config.amount * torch.stack(gradients, 1)
        null, content = (
            rows.with_targets(rows.targets(half) - move, half) for half, move in zip((null, content), down, strict=True)
        )
        return torch.cat([null, content])

    def known(self, run: Run, step: Step) -> Doubled | None:
        return self.noise.get(step.index)

    @staticmethod
    def gradient(run: Run, step: Step, pair: Latents, text: TextEmbeddings, looks: list[Tensor]) -> Latents:
        """∂/∂x of the distance of a target's maps, null and text copy, to the source's."""
        # Half precision sees the sum over rows and heads, whose gradients are larger.
        own: list[Tensor] = []
        scale = len(pair) * looks[0].shape[1]
        gradient, _ = run.gradient(pair, step, text, lambda z, eps: scale * distance(own, looks), _watching(own))
        return gradient / scale


def distance(maps: Sequence[Tensor], others: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Squared distance of attention maps, each [rows, heads, positions, words] (section 3.2, equation 4): summed over layers,
    positions and words, mean over rows and heads."""
    return torch.stack([(a - b).float().square().sum((-2, -1)).mean() for a, b in zip(maps, others, strict=True)]).sum()


def _watching(maps: list[Tensor]) -> Attend:
    """An attention that keeps every cross-attention map of the call."""

    def attend(site: Site, q: Heads, k: Heads, v: Heads) -> Heads | None:
        if not site.is_cross:
            return None
        looks = probabilities(q, k)
        maps.append(looks)
        return looks @ v

    return attend
