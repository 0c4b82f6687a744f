"""Words and tokens: where a word stands in a prompt, and how the tokens of two prompts correspond.

Pure functions of prompts and a tokenizer; no network is asked.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nmg.threads import alone_with
from nmg.types import TokenMap

Span = tuple[int, int]
WORD = r"<[^<>\s]+>|\w+(?:[-’']\w+)*"
"""A word, or the name of a textual inversion in its brackets."""
PARTS = re.compile(r"(\S+?)((?: \1_\d+)+)")
"""A word of several vectors as diffusers writes it out: "<thing> <thing>_1 <thing>_2"."""


@dataclass(frozen=True)
class Tokens:
    """A prompt as the text encoder reads it.

    Attributes:
        prompt: the text.
        ids: token ids without padding, begin and end tokens included.
        spans: for each token the characters [start, end) that it stands for; empty at begin and end.
        length: the encoder's padded length.
        then: the same prompt as another encoder reads it, whose embeddings follow those of this one.
    """

    prompt: str
    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    length: int
    then: Tokens | None = None

    @property
    def width(self) -> int:
        """The length of all embeddings."""
        return self.length + (self.then.width if self.then else 0)

    @property
    def begin(self) -> int:
        """The first token that stands for characters; 0 for none."""
        return next((i for i, (start, end) in enumerate(self.spans) if end > start), 0)

    @property
    def end(self) -> int:
        """One past the last token that stands for characters; 0 for none."""
        return max((i + 1 for i, (start, end) in enumerate(self.spans) if end > start), default=0)

    def within(self, part: str, start: int, dropped: int) -> Tokens:
        """The tokens from number `dropped` on, in which those of a part of the prompt, which begins at a character,
        stand for its characters, and all others for none."""
        end = start + len(part)
        clipped = ((max(a, start) - start, min(b, end) - start) for a, b in self.spans[dropped:])
        spans = tuple((a, b) if a < b else (0, 0) for a, b in clipped)
        return dataclasses.replace(self, prompt=part, ids=self.ids[dropped:], spans=spans)

    def inside(self, span: Span) -> list[int]:
        """Positions of the tokens that overlap the characters of `span`."""
        return [i for i, (start, end) in enumerate(self.spans) if start < span[1] and end > span[0] and end > start]

    @property
    def words(self) -> list[tuple[str, list[int]]]:
        """The whitespace-separated words with their token positions, in order."""
        return [(match.group(), self.inside(match.span())) for match in re.finditer(r"\S+", self.prompt)]


def tokenize(prompt: str, tokenizer: Any, written: str | None = None, length: int | None = None) -> Tokens:
    """Tokens of a prompt with their characters, by any fast tokenizer of transformers, or a slow one of CLIP or Qwen.

    Args:
        length: the encoder's padded length; the tokenizer's longest if not given.
        written: the prompt as the text encoder reads it, where it is another: a textual inversion of several vectors is
            written out, and all its tokens stand for the word as it was typed.
    """
    text = prompt if written is None else written
    if getattr(tokenizer, "is_fast", False):
        with alone_with(tokenizer):
            encoded = tokenizer(text, return_offsets_mapping=True)
        spans = _tightened(text, encoded["offset_mapping"])
    else:
        encoded = tokenizer(text)
        pieces = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
        spans = (_without_offsets if encoded["input_ids"][:1] == [tokenizer.bos_token_id] else _by_bytes)(text, pieces)
    if text != prompt:
        prompt, spans = _as_typed(prompt, text, spans)
    return Tokens(prompt, tuple(encoded["input_ids"]), tuple(spans), length or tokenizer.model_max_length)


def _as_typed(prompt: str, written: str, spans: Sequence[Span]) -> tuple[str, list[Span]]:
    """The prompt as it was typed, and the tokens' spans in it; both as they were written where they don't match."""
    typed = ""
    owners: list[Span] = []

    def add(text: str) -> None:
        nonlocal typed
        owners.extend((len(typed) + i, len(typed) + i + 1) for i in range(len(text)))
        typed += text

    end = 0
    for match in PARTS.finditer(written):
        add(written[end : match.end(1)])
        owners += [(len(typed) - len(match[1]), len(typed))] * len(match[2])
        end = match.end()
    add(written[end:])
    if typed != prompt:
        return written, list(spans)
    return prompt, [(owners[a][0], owners[b - 1][1]) if a < b else (0, 0) for a, b in spans]


def _tightened(prompt: str, offsets: Sequence[Span]) -> list[Span]:
    """Offsets without the white space that some tokenizers count in."""
    spans = []
    for start, end in offsets:
        while start < end and prompt[start].isspace():
            start += 1
        while end > start and prompt[end - 1].isspace():
            end -= 1
        spans.append((start, end))
    return spans


def _without_offsets(prompt: str, pieces: Sequence[str]) -> list[Span]:
    """Offsets for a tokenizer without them: its pieces spell the text's bytes, one after the other."""
    owner = [i for i, letter in enumerate(prompt) for _ in letter.lower().encode()]
    spans: list[Span] = [(0, 0)]
    position = 0
    for piece in pieces[1:-1]:
        while position < len(owner) and prompt[owner[position]].isspace():
            position += 1
        end = min(len(owner), position + len(piece.removesuffix("</w>")))
        spans.append((owner[position], owner[end - 1] + 1) if position < end else (len(prompt), len(prompt)))
        position = end
    return [*spans, (0, 0)]


def _by_bytes(text: str, pieces: Sequence[str]) -> list[Span]:
    """Offsets for a tokenizer without them that has a letter for every byte, and writes spaces too."""
    owner = [i for i, letter in enumerate(text) for _ in letter.encode()]
    ends = list(itertools.accumulate(map(len, pieces)))
    places = zip([0, *ends], ends, strict=False)
    spans = [(owner[a], owner[b - 1] + 1) if a < b <= len(owner) else (len(text), len(text)) for a, b in places]
    return _tightened(text, spans)


def occurrences(words: str, prompt: str) -> list[Span]:
    """Where a word or phrase stands in a prompt: the characters of each occurrence, whatever their case."""
    pattern = r"\s+".join(map(re.escape, words.split()))
    return [match.span() for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", prompt, re.I)] if pattern else []


def find(words: str, tokens: Tokens) -> list[int]:
    """Token positions of a word or phrase, at each of its occurrences.

    Raises:
        ValueError: if the prompt does not hold it, with the words that it holds.
    """
    found, offset, part = occurrences(words, tokens.prompt), 0, tokens
    positions: list[int] = []
    while part is not None:
        positions += sorted({offset + i for span in found for i in part.inside(span)})
        offset, part = offset + part.length, part.then  # type: ignore[assignment]
    if not positions:
        held = ", ".join(re.findall(WORD, tokens.prompt)) or "(none)"
        raise ValueError(f"{words!r} does not occur in the prompt {tokens.prompt!r}; its words are {held}")
    return positions


@dataclass(frozen=True, eq=False)
class Correspondence:
    """How a target prompt's tokens take the attention of a source prompt's.

    new[:, j] = kept[j] · Σ_i source[:, i] · weights[i, j]  +  (1 - kept[j]) · target[:, j]

    Attributes:
        weights: [source tokens, target tokens].
        kept: [target tokens], 1 where the target token takes the source's attention, 0 where it keeps its own.
    """

    weights: TokenMap
    kept: Float[Tensor, " target_tokens"]


def by_encoder(align: Callable[[Tokens, Tokens], Correspondence]) -> Callable[[Tokens, Tokens], Correspondence]:
    """A decorator: where several encoders read the prompts, the tokens of each are aligned by themselves."""

    @functools.wraps(align)
    def aligned(source: Tokens, target: Tokens) -> Correspondence:
        first = align(source, target)
        if source.then is None or target.then is None:
            return first
        rest = aligned(source.then, target.then)
        return Correspondence(torch.block_diag(first.weights, rest.weights), torch.cat([first.kept, rest.kept]))

    return aligned


@by_encoder
def replacement(source: Tokens, target: Tokens) -> Correspondence:
    """Word for word: every target word takes the attention of the word in its place.

    A source token's attention is kept whole, so every row of the map sums to one: a word of one token
    spreads evenly over the tokens that replace it, and everything after it moves along.

    Raises:
        ValueError: if the prompts have different numbers of words.
    """
    old, new = source.words, target.words
    _same_count(old, new, source, target)
    heads = min(source.begin, target.begin)
    groups = [([i], [i]) for i in range(heads)]
    groups += list(zip(_joined(old, source.end), _joined(new, target.end), strict=True))
    tails = [list(range(tokens.end, tokens.length)) for tokens in (source, target)]
    shared = min(map(len, tails))
    groups += [([tails[0][i]], [tails[1][i]]) for i in range(shared)]
    # A longer source has more padding left over: its last padding takes it.
    groups += [([i], [tails[1][-1]]) for i in tails[0][shared:]]
    return Correspondence(_map(groups, source.length, target.length), torch.ones(target.length))


@by_encoder
def replacement_by_authors(source: Tokens, target: Tokens) -> Correspondence:
    """The map of Prompt-to-Prompt's code, for reproduction.

    After the last replaced word every target token reads the source token of its own position, though
    a change in length has moved it; some source tokens then feed nothing.

    Raises:
        ValueError: if the prompts have different numbers of words.
    """
    old, new = source.words, target.words
    _same_count(old, new, source, target)
    changed = [(a, b) for (word, a), (other, b) in zip(old, new, strict=True) if word != other]
    groups, i, j = [], 0, 0
    for a, b in changed:
        groups += [([i + k], [j + k]) for k in range(a[0] - i)]
        groups.append((a, b))
        i, j = a[0] + len(a), b[0] + len(b)
    weights = _map(groups, source.length, target.length)
    rest = torch.arange(j, target.length - max(0, i - j))
    weights[rest, rest] = 1
    return Correspondence(weights, torch.ones(target.length))


@by_encoder
def refinement(source: Tokens, target: Tokens) -> Correspondence:
    """The best alignment of two token sequences: tokens without a partner keep their own attention.

    Needleman & Wunsch 1970 with match 1, mismatch -1 and gap 0, as in Prompt-to-Prompt.
    """
    partners = _needleman_wunsch(source.ids, target.ids)
    partners += list(range(len(target.ids), target.length))
    weights = torch.zeros(source.length, target.length)
    for j, i in enumerate(partners):
        if i is not None:
            weights[i, j] = 1
    kept = torch.tensor([0.0 if i is None else 1.0 for i in partners])
    return Correspondence(weights, kept)


def _needleman_wunsch(source: Sequence[int], target: Sequence[int]) -> list[int | None]:
    """For each target token the position of its source token, or None."""
    score = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    move = [["left"] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i in range(1, len(source) + 1):
        move[i][0] = "up"
        for j in range(1, len(target) + 1):
            left, up = score[i][j - 1], score[i - 1][j]
            diagonal = score[i - 1][j - 1] + (1 if source[i - 1] == target[j - 1] else -1)
            score[i][j] = max(left, up, diagonal)
            move[i][j] = "left" if left == score[i][j] else "up" if up == score[i][j] else "diagonal"

    partners: list[int | None] = [None] * len(target)
    i, j = len(source), len(target)
    while i or j:
        if move[i][j] == "diagonal":
            i, j = i - 1, j - 1
            partners[j] = i
        elif move[i][j] == "left":
            j -= 1
        else:
            i -= 1
    return partners


def _joined(words: Sequence[tuple[str, list[int]]], end: int) -> list[list[int]]:
    """The tokens of each word, and those behind it that stand for white space alone, up to token `end`."""
    begins = [end]
    for _, positions in reversed(words):
        begins.append(positions[0] if positions else begins[-1])
    return [list(range(*ends)) for ends in itertools.pairwise(reversed(begins))]


def _map(groups: Sequence[tuple[list[int], list[int]]], source_length: int, target_length: int) -> Tensor:
    """Weights in which each group of source tokens feeds a group of target tokens, rows summing to one."""
    weights = torch.zeros(source_length, target_length)
    for a, b in groups:
        if len(a) == len(b):
            weights[a, b] = 1.0
        else:
            for i in a:
                weights[i, b] = 1 / len(b)
    return weights


def _same_count(old: list, new: list, source: Tokens, target: Tokens) -> None:
    if len(old) != len(new):
        raise ValueError(
            f"replacing words needs prompts of equally many words, got {len(old)} in {source.prompt!r} and "
            f'{len(new)} in {target.prompt!r}; use mode="refine"'
        )
