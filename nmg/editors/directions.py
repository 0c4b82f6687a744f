"""Edit directions: what turns one content into another, in the space of text embeddings.

Parmar, Singh, Zhang, Li, Lu & Zhu, "Zero-shot Image-to-Image Translation", SIGGRAPH 2023, arXiv 2302.03027,
section 3.1.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity

from nmg.alignment import occurrences
from nmg.backbones import Backbone
from nmg.identity import Identity
from nmg.schema import Form, Share, Text
from nmg.serialize import load, save

FORMAT = "nmg-direction-2"
BATCH = 32
"""Sentences encoded at once."""
MOST = 48
"""Variations of a prompt that a direction is the mean over."""
WORD = "\0"
"""Stands for the word that is exchanged."""
FUNCTION_WORDS = frozenset(
    ["a", "an", "the", "this", "that", "of", "in", "on", "at", "to", "by", "for", "from", "with", "without"]
    + ["and", "or", "as", "is", "are", "its", "it", "be", "being"]
)
"""Words that no variation moves: in another's place they make no sentence."""


AXES = {"embedding": "1 tokens features", "pooled": "1 width", "encoder": "1 tokens features"}
"""The tensors of a saved direction."""
Sentences = Annotated[list[Text], Field(min_length=1, max_length=10_000)]


class _Fields(Form):
    """What a saved direction says of its tensor."""

    source: Sentences
    target: Sentences
    separation: Share | None
    rounding: Share | None = None


@dataclass(frozen=True, eq=False)
class EditDirection:
    """What turns one content into another, in the space of text embeddings (section 3.1).

    Attributes:
        embedding: mean embedding of the target sentences minus that of the source sentences, [1, tokens, features].
        source, target: the sentences.
        separation: how well the direction tells its two sides apart, from 0.5 (not at all) to 1 (every target sentence
            lies farther along it than every source sentence), on sentences that the direction was not made of. NaN for
            fewer than two sentences a side.
        pooled: the same of the pooled embedding, [1, width], where the model reads one.
        encoder: what the text encoder is known by: its embedding of the first source sentence.
    """

    embedding: Float[Tensor, "1 tokens features"]
    source: tuple[str, ...]
    target: tuple[str, ...]
    separation: float
    pooled: Float[Tensor, "1 width"] | None = None
    encoder: Identity | None = None

    @classmethod
    def between(cls, pipe: Any, source: Side, target: Side, prompt: str = "") -> EditDirection:
        """The direction from one content to another.

        Two words or phrases are exchanged in the prompt, in whose layout the direction then lies: the mean is over the
        prompt and those with two of its other content words in each other's place. Sentences are taken as they are, as
        in the paper, whose mean has every layout and fits no single prompt closely.

        Args:
            pipe: a loaded Stable Diffusion pipeline, or a `Backbone`.
            source, target: two words or phrases such as "cat" and "sleeping dog"; or for each side a list of sentences,
                or the path of a text file with a sentence per line.
            prompt: what the picture shows. If it does not name the source, the two words alone are the sentences.

        Raises:
            ValueError: for a side without sentences, one that the text encoder can't read, or two equal sides; for a
                word on one side and sentences on the other.
        """
        backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
        first, second = _sentences(source, target, prompt, backbone)
        if first == second:
            raise ValueError(f"a direction from {source!r} to {target!r} leads nowhere; give two different contents")
        known = _KNOWN.setdefault(backbone.pipe.text_encoder, {})
        backbone.check([first[0], second[0]])
        key = (first, second, len(backbone.tokenizer), _fingerprint(backbone, (first[0], second[0])))
        if key not in known:
            backbone.check([*first, *second])
            both = _encoded(backbone, [*first, *second])
            here = {name: tensor[: len(first)] for name, tensor in both.items()}
            there = {name: tensor[len(first) :] for name, tensor in both.items()}
            move = {name: there[name].mean(0, keepdim=True) - here[name].mean(0, keepdim=True) for name in here}
            separation = _separation(here["tokens"], there["tokens"])
            encoder = Identity.of_text(backbone, first[0])
            known[key] = cls(move["tokens"], first, second, separation, move.get("pooled"), encoder)
        return known[key]

    def check(self, backbone: Backbone) -> None:
        """Raise for a direction in the space of another text encoder.

        Raises:
            ValueError: with what to do.
        """
        cure = "make it again with this pipeline by EditDirection.between"
        own, expected = list(self.embedding.shape[1:]), list(backbone.text([""]).shape[1:])
        # Where a text is padded to the longest beside it only, its length says nothing.
        if own[backbone.MASKS_TEXT :] != expected[backbone.MASKS_TEXT :]:
            raise ValueError(f"the direction has the shape {own} and the text encoder gives {expected}; {cure}")
        if self.encoder is None:
            return
        now = Identity.of_text(backbone, self.source[0])
        if not self.encoder.is_same(now):
            raise ValueError(
                "the direction was made by another text encoder than the pipeline's: what the two say of "
                f"{self.source[0]!r} is {100 * self.encoder.apart(now):.2g} % apart; {cure}"
            )

    def fit(self, move: Float[Tensor, "1 tokens features"]) -> float:
        """Cosine, -1…1, of the direction and the move from a source prompt's embedding to its target prompt's; NaN
        where that is none."""
        if not move.any():
            return math.nan
        shared = min(self.embedding.shape[1], move.shape[1])
        own, other = (x[:, :shared].flatten().to(move) for x in (self.embedding, move))
        return cosine_similarity(own, other, 0).item()

    def described(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The sentences that it can be found from again."""
        return self.source, self.target

    def save(self, path: str | os.PathLike) -> None:
        """Write the direction and its sentences to one safetensors file."""
        separation = None if math.isnan(self.separation) else self.separation
        described = {"source": self.source, "target": self.target, "separation": separation}
        held = {"embedding": self.embedding} | ({} if self.pooled is None else {"pooled": self.pooled})
        if self.encoder is not None:
            held["encoder"], described["rounding"] = self.encoder.answer, self.encoder.rounding
        save(path, FORMAT, held, described)

    @classmethod
    def load(cls, path: str | os.PathLike) -> EditDirection:
        """Read a direction that `save` wrote.

        Raises:
            FileNotFoundError: without a file at `path`.
            ValueError: for a file that holds no direction.
        """
        cure = "make one with EditDirection.between"
        held, fields = load(path, FORMAT, _Fields, AXES, "direction", cure)
        if "embedding" not in held or not held["embedding"].any():
            raise ValueError(f"{os.fspath(path)!r} is damaged: its direction leads nowhere; {cure}")
        separation = math.nan if fields.separation is None else fields.separation
        try:
            encoder = Identity.read(held.get("encoder"), fields.rounding)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)!r} is damaged: {error}; {cure}") from error
        sides = tuple(fields.source), tuple(fields.target)
        return cls(held["embedding"], *sides, separation, held.get("pooled"), encoder)


Side = str | os.PathLike | Sequence[str]
"""A word or phrase, a path of a file of sentences, or sentences."""
_KNOWN: WeakKeyDictionary[Any, dict[tuple, EditDirection]] = WeakKeyDictionary()
"""The directions found so far, for each text encoder that is still loaded."""


def _fingerprint(backbone: Backbone, probes: Sequence[str]) -> bytes:
    """What the text encoder makes of two sentences: other weights in the same module, by LoRA say, are noticed."""
    return hashlib.sha256(backbone.text(probes).tokens.float().cpu().numpy().tobytes()).digest()


def _sentences(source: Side, target: Side, prompt: str, backbone: Backbone) -> tuple[tuple[str, ...], ...]:
    """The sentences of both sides of a direction."""
    if is_word(source) != is_word(target):
        raise ValueError(
            f"a direction from {source!r} to {target!r} has words on one side only; give two words, or two "
            "lists or files of sentences"
        )
    if not is_word(source):
        return tuple(map(_listed, (source, target)))
    words = [" ".join(str(side).split()) for side in (source, target)]
    if not all(words):
        raise ValueError('the phrase is empty; give a word or a phrase, such as "cat" or "a sleeping cat"')
    masked = exchanged(prompt, words[0], WORD)
    layouts = variations(masked, backbone) if WORD in masked else (WORD,)
    return tuple(tuple(layout.replace(WORD, word) for layout in layouts) for word in words)


def _listed(side: Side) -> tuple[str, ...]:
    """The sentences of a list or a file."""
    if isinstance(side, str | os.PathLike):
        if not os.path.isfile(side):
            raise FileNotFoundError(
                f"there is no file of sentences at {os.fspath(side)!r}; give one with a sentence per line"
            )
        with open(side, encoding="utf-8") as file:
            found = tuple(line.strip() for line in file if line.strip())
    else:
        found = tuple(side)
    if not found:
        raise ValueError(f"{side!r} gives no sentence; give a word, a file with a sentence per line, or a list of them")
    return found


def _encoded(backbone: Backbone, texts: Sequence[str]) -> dict[str, Tensor]:
    """Embeddings of sentences, in fp32, by the names in `Conditioning`."""
    batches = [backbone.text(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
    held = torch.cat(batches).tensors()  # type: ignore[arg-type, attr-defined]
    return {name: tensor.float() for name, tensor in held.items() if name in ("tokens", "pooled")}


def _separation(source: Tensor, target: Tensor) -> float:
    """Share of the pairs of a source and a target sentence that lie in the right order along the direction.

    The direction of every second sentence orders the others, and the other way round, so that the order is no artefact
    of the fit; where the sides match sentence by sentence, partners are on the same side of the fold.
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


# ---------------------------------------------------------------- the prompt and its variations


def is_word(side: Side) -> bool:
    """Whether a side of a direction is a word or phrase, not sentences or their file."""
    return isinstance(side, str) and not side.endswith(".txt")


def exchanged(prompt: str, source: str, target: str) -> str:
    """The prompt with the first occurrence of a word or phrase exchanged for another; as it is without one."""
    found = occurrences(source, prompt)
    return f"{prompt[: found[0][0]]}{target}{prompt[found[0][1] :]}" if found else prompt


def variations(prompt: str, backbone: Backbone) -> tuple[str, ...]:
    """The prompt first, then up to `MOST` - 1 in which two content words of equally many tokens stand in each other's
    place, so that all other words stay where they are."""
    found_words = re.finditer(r"<[^<>\s]+>|\w+", prompt)
    places = [match.span() for match in found_words if match[0].lower() not in FUNCTION_WORDS]
    lengths = {(a, b): len(backbone.tokens(prompt[a:b]).ids) for a, b in places}
    pairs = [(one, other) for one, other in itertools.combinations(places, 2) if lengths[one] == lengths[other]]
    found = dict.fromkeys(
        [prompt, *(prompt[:a] + prompt[c:d] + prompt[b:c] + prompt[a:b] + prompt[d:] for (a, b), (c, d) in pairs)]
    )
    return tuple(found)[:: -(-len(found) // MOST)]
