"""Edit directions: what turns one content into another, in the space of text embeddings.

Parmar, Singh, Zhang, Li, Lu & Zhu, "Zero-shot Image-to-Image Translation", SIGGRAPH 2023, arXiv 2302.03027,
section 3.1.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from nmg.backbones import Backbone, ModelSettings
from nmg.serialize import load, save

FORMAT = "nmg-direction-2"
BATCH = 32
"""Sentences encoded at once."""
FRAMES = (
    "{}",
    "a photo of {}",
    "a close-up of {}",
    "a snapshot of {}",
    "a professional photograph of {}",
    "a picture in which one sees {}",
)
SETTINGS = (
    "",
    "in a sunny garden",
    "by the window of a quiet room",
    "on a busy street at noon",
    "in front of a white wall",
    "on green grass after the rain",
    "in deep snow",
    "near the sea at dusk",
    "under a grey sky",
    "in soft morning light",
    "seen from the side",
    "with mountains far behind",
)
DETERMINERS = ("a", "an", "the", "some", "two", "three", "many", "several", "my", "your", "his", "her", "their", "our")


@dataclass(frozen=True, eq=False)
class EditDirection:
    """What turns one content into another, in the space of text embeddings (section 3.1).

    Attributes:
        embedding: mean embedding of the target sentences minus that of the source sentences, [1, tokens, features].
        source, target: the sentences.
        separation: how well the direction tells its two sides apart, from 0.5 (not at all) to 1 (every target sentence
            lies farther along it than every source sentence), on sentences that the direction was not made of.
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
            source, target: each a word or phrase such as "cat" or "a sleeping cat", which templates make sentences of;
                a path of a text file with a sentence per line; or a list of sentences.

        Raises:
            ValueError: for a side without sentences, one that the text encoder can't read, or two equal sides.
        """
        backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
        first, second = (_sentences(side, backbone) for side in (source, target))
        if first == second:
            raise ValueError(f"a direction from {source!r} to {target!r} leads nowhere; give two different contents")
        known = _KNOWN.setdefault(backbone.pipe.text_encoder, {})
        backbone.check([first[0], second[0]])
        key = (first, second, len(backbone.tokenizer), _fingerprint(backbone, (first[0], second[0])))
        if key not in known:
            backbone.check([*first, *second])
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

    The direction of every second sentence orders the others, and the other way round, so that the order is no artefact
    of the fit; where the sides match sentence by sentence, partners are on the same side of the fold. NaN for fewer
    than two sentences a side.
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


# ---------------------------------------------------------------- sentences


def sentences(phrase: str, backbone: Backbone) -> tuple[str, ...]:
    """Sentences about a word or phrase, always the same and in the same order; the two sides of a direction match
    sentence by sentence.

    A model that knows few words has sentences of its own (see `ModelSettings`).

    Raises:
        ValueError: for an empty phrase.
    """
    phrase = " ".join(phrase.split())
    if not phrase:
        raise ValueError('the phrase is empty; give a word or a phrase, such as "cat" or "a sleeping cat"')
    if backbone.settings.sentences:
        return _own_sentences(phrase, backbone.settings)
    named = phrase if phrase.split()[0].lower() in DETERMINERS else _with_article(phrase)
    return tuple(f"{frame.format(named)} {setting}".strip() for setting in SETTINGS for frame in FRAMES)


def _own_sentences(phrase: str, settings: ModelSettings) -> tuple[str, ...]:
    """The model's sentences about a phrase, whose own colour takes the place of the one that a sentence names."""
    words = phrase.split()
    words = words[words[0].lower() in ("a", "an", "the") and len(words) > 1 :]
    phrase = " ".join(words)
    if set(words) & set(settings.colours):
        found = [_with_article(phrase) + template.split("{}", 1)[1] for template in settings.sentences]
    else:
        found = [template.format(phrase) for template in settings.sentences]
    return tuple(dict.fromkeys(found))


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0].lower() in 'aeiou' else 'a'} {phrase}"
