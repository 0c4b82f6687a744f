"""Prompt-to-Prompt: Hertz, Mokady, Tenenbaum, Aberman, Pritch & Cohen-Or, "Prompt-to-Prompt Image Editing with
Cross Attention Control", 2022, arXiv 2208.01626.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nmg import rows
from nmg.alignment import Correspondence, Tokens, find, refinement, replacement, replacement_by_authors
from nmg.attention import Attend, Site, attention, probabilities, word_columns
from nmg.backbones import Backbone
from nmg.editors.base import Editor, first_sampled, unsampled
from nmg.levels import Step
from nmg.run import Asked, Run
from nmg.types import Heads, KeyMask, Latents, Mask, WordMaps

Window = float | tuple[float, float]
"""A share of the steps: until a fraction, or from one to another."""
Words = str | Sequence[str]
"""One word or phrase, or several."""
Threshold = float | str
"""A share of an attention map's maximum, or "otsu"."""
MODES = ("replace", "refine")


@dataclass(frozen=True)
class LocalBlend:
    """Keep the source outside the places of chosen words, by their attention maps (section 4, "Local Editing").

    Args:
        words: for every prompt, the source's first, a word or phrase or several of them.
        subtract: likewise, words whose places are taken out of the mask.
        threshold: share of the map's maximum above which a position belongs to the mask; "otsu" finds it from each map
            itself (Otsu 1979). A second one, if given, is for the subtracted words. The model's own if not given: 0.3,
            the paper's, for Stable Diffusion.
        start: fraction of the steps before blending begins.
    """

    words: Sequence[Words]
    subtract: Sequence[Words] | None = None
    threshold: Threshold | tuple[Threshold, Threshold] | None = None
    start: float = 0.2

    def __post_init__(self) -> None:
        given = self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)
        numbers = [t for t in given if t is not None and t != "otsu"]
        if len(given) > 2 or not all(isinstance(t, int | float) and 0 <= t <= 1 for t in numbers):
            raise ValueError(
                f'threshold={self.threshold!r} must be a share of the maximum, 0…1, such as 0.3, or "otsu", or two of '
                "them"
            )
        _window((self.start, 1.0), 1, "start")

    def check(self, tokens: Sequence[Tokens], count: int) -> None:
        """Raise for a word that its prompt does not hold, or a blend that acts in none of `count` steps, or nowhere."""
        for words in (self.words, self.subtract):
            if words is not None:
                _marked(words, tokens)
        if int(self.start * count) >= count:
            raise ValueError(f"LocalBlend: start={self.start!r} leaves none of the {count} steps; give an earlier one")
        if 1 in (self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)):
            raise ValueError(
                f"LocalBlend: no position lies above threshold={self.threshold!r}, a share of the map's maximum, so "
                "that nothing would be edited; give a smaller one, such as 0.3"
            )


@dataclass(frozen=True)
class PromptToPrompt(Editor):
    """The targets take the source's attention maps: cross-attention for words, self-attention for the layout.

    Args:
        mode: "replace" (prompts of equally many words) or "refine" (words added or dropped). None chooses for each
            target by the numbers of words.
        cross_replace: the steps in which cross-attention is replaced. Where text and picture share one sequence, it is
            the picture's attention to the text; in FLUX, whose text changes with the picture, none is. A mapping gives
            windows to words of the target prompt, and to all others by the key "default_" (all steps without it).
        self_replace: the steps in which self-attention is replaced; in a joint sequence, the picture's queries and keys
            are.
        weights: factors on the attention of words of the target prompt (re-weighting), within `cross_replace`.
        local_blend: restricts the edit to the places of words.
        word_map: "aligned", or "authors" for the replacement map of the published code.
        self_positions: the most positions of a layer whose self-attention is replaced; the model's own if not given:
            the paper's 32×32 at 512×512.
        layers: the layers in which text and picture share one sequence that are edited, counted from 0 among the
            self-attention layers in the order they run; all if not given (Shin et al. 2025, arXiv 2508.07519).

    Raises:
        ValueError: for an unknown mode or word map, a window outside 0…1, or no positions. For a request: for a word
            that its prompt does not hold.
    """

    mode: str | None = None
    cross_replace: Window | Mapping[str, Window] = 0.8
    self_replace: Window = 0.6
    weights: Mapping[str, float] = field(default_factory=dict)
    local_blend: LocalBlend | None = None
    word_map: str = "aligned"
    self_positions: int | None = None
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.mode not in (*MODES, None):
            raise ValueError(f"mode={self.mode!r} is unknown; replace, refine and None work")
        if self.word_map not in ("aligned", "authors"):
            raise ValueError(f"word_map={self.word_map!r} is unknown; aligned and authors work")
        windows = (
            self.cross_replace if isinstance(self.cross_replace, Mapping) else {"cross_replace": self.cross_replace}
        )
        for name, window in {**windows, "self_replace": self.self_replace}.items():
            _window(window, 1, name)
        if self.self_positions is not None and self.self_positions < 1:
            raise ValueError(
                f"self_positions={self.self_positions!r} leaves no self-attention; give a number of positions, such as "
                "1024, or self_replace=0"
            )
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
        for word, factor in self.weights.items():
            if not math.isfinite(factor):
                raise ValueError(f"the weight of {word!r} is {factor}; give a finite number")

    def check(self, backbone: Backbone, request: Asked) -> None:
        """Raise for prompts that can't be aligned, or a word that its prompt does not hold."""
        if self.weights or self.local_blend or isinstance(self.cross_replace, Mapping):
            what = "Prompt-to-Prompt with weights, windows or places of words"
            backbone.check_word_maps(what, "leave them out: the layout alone is then taken over")
        self.edited_layers(backbone)
        source, *targets = tokens = self.tokens(backbone, request.prompts)
        for target in targets:
            self.correspondence(source, target)
        if targets:
            self._check_positions(backbone, request)
            self._check_weights(targets, request.steps)
            if self.local_blend is not None:
                self.local_blend.check(tokens, request.steps)

    def _check_positions(self, backbone: Backbone, request: Asked) -> None:
        """Raise for `self_positions` that no layer has so few of."""
        if self.self_positions is None:
            return
        if any(site.is_joint for site in backbone.sites.values()):
            raise ValueError(
                "PromptToPrompt: self_positions chooses layers by their positions, and here all have the same, since "
                "text and picture share one sequence; give layers instead"
            )
        fewest = min(backbone.cross_positions(backbone.latent_size(request.size)))
        if self.self_positions < fewest:
            raise ValueError(
                f"PromptToPrompt: self_positions={self.self_positions!r} is less than the {fewest} of the smallest "
                f"layer, so that no layout is taken over; give {fewest} at least, or self_replace=0"
            )

    def _check_weights(self, targets: Sequence[Tokens], count: int) -> None:
        """Raise for a weight that acts in none of `count` steps: weights act where cross-attention is replaced."""
        active = self.schedule(targets, count).any(0)
        self.factors(targets)
        for word in self.weights:
            if not any(active[row, positions].any() for row, positions in _found(word, targets)):
                raise ValueError(
                    f"PromptToPrompt: the weight of {word!r} acts where cross-attention is replaced, and "
                    f"cross_replace={self.cross_replace!r} leaves none of the {count} steps; give a larger share, or "
                    "no weight"
                )

    def remarks(self, backbone: Backbone, request: Asked) -> list[str]:
        named = self.cross_replace if isinstance(self.cross_replace, Mapping) else {"cross_replace": self.cross_replace}
        shares = {name: (window, request.steps + 1) for name, window in named.items()}
        shares["self_replace"] = (self.self_replace, request.steps)
        first = first_sampled(self, request)
        lost = [f"{name}={window!r}" for name, (window, count) in shares.items() if _acts_in_none(window, count, first)]
        return unsampled(self, request, lost)

    @property
    def edits_alone(self) -> bool:
        return any(factor != 1 for factor in self.weights.values())

    @staticmethod
    def tokens(backbone: Backbone, prompts: Sequence[str]) -> list[Tokens]:
        """The prompts as the text encoder reads them."""
        return [backbone.tokens(prompt) for prompt in prompts]

    def prepare(self, run: Run) -> Editor:
        """Align the prompts, look the words up, and start an empty memory."""
        if len(run.prompts) < 2:
            return Editor()
        tokens = self.tokens(run.backbone, run.prompts)
        device, width = run.text.device, run.text.shape[1]
        maps = [self.correspondence(tokens[0], target) for target in tokens[1:]]
        schedule = _fitted(self.schedule(tokens[1:], len(run.steps)), width)
        words = schedule.flatten(1).any(1).tolist() if run.backbone.has_word_maps else [False] * len(schedule)
        return _Running(
            config=self,
            weights=torch.stack([_fitted(_fitted(m.weights, width).mT, width).mT for m in maps]).to(device),
            kept=torch.stack([_fitted(m.kept, width) for m in maps]).to(device),
            active=schedule.to(device),
            replaces_words=words,
            factors=_fitted(self.factors(tokens[1:]), width, 1.0).to(device),
            blending=None if self.local_blend is None else _Blending.prepare(self.local_blend, tokens, run),
            layers=self.edited_layers(run.backbone),
        )

    def edited_layers(self, backbone: Backbone) -> frozenset[int]:
        """The joint layers that are edited.

        Raises:
            ValueError: for a layer that is none.
        """
        joint = {site.layer for site in backbone.sites.values() if site.is_joint}
        if self.layers is not None and not set(self.layers) <= joint:
            known = f"they are {sorted(joint)}" if joint else "the network has none: leave them out"
            raise ValueError(f"PromptToPrompt: layers={self.layers} are not all joint layers; {known}")
        return frozenset(joint if self.layers is None else self.layers)

    def correspondence(self, source: Tokens, target: Tokens) -> Correspondence:
        """Which source tokens each target token takes its attention from."""
        mode = self.mode or ("replace" if len(source.words) == len(target.words) else "refine")
        if mode == "refine":
            return refinement(source, target)
        return (replacement if self.word_map == "aligned" else replacement_by_authors)(source, target)

    def schedule(self, targets: Sequence[Tokens], count: int) -> Tensor:
        """Whether each target token's cross-attention is taken over, [steps, targets, tokens] of 0 and 1."""
        windows = self.cross_replace if isinstance(self.cross_replace, Mapping) else {"default_": self.cross_replace}
        active = torch.zeros(count, len(targets), targets[0].width)
        start, end = _window(windows.get("default_", 1.0), count + 1)
        active[start:end] = 1
        for word, window in windows.items():
            if word != "default_":
                start, end = _window(window, count + 1)
                for row, positions in _found(word, targets):
                    active[:, row, positions] = 0
                    active[start:end, row, positions] = 1
        return active

    def factors(self, targets: Sequence[Tokens]) -> Tensor:
        """The factor on each target token's attention, [targets, tokens]."""
        factors = torch.ones(len(targets), targets[0].width)
        for word, factor in self.weights.items():
            for row, positions in _found(word, targets):
                factors[row, positions] = float(factor)
        return factors


def _fitted(tensor: Tensor, width: int, value: float = 0.0) -> Tensor:
    """A tensor [..., tokens] for a text that is padded to another length."""
    return F.pad(tensor, (0, width - tensor.shape[-1]), value=value)


def _window(window: Window, count: int, name: str = "window") -> tuple[int, int]:
    """First and one past the last of `count` steps that a window covers."""
    bounds = tuple(window) if isinstance(window, Sequence) else (0.0, window)
    if len(bounds) != 2 or not all(math.isfinite(b) and 0 <= b <= 1 for b in bounds) or bounds[0] > bounds[1]:
        raise ValueError(
            f"{name}={window!r} is no part of the steps; give a fraction such as 0.8, or two such as (0.2, 0.8)"
        )
    return int(bounds[0] * count), int(bounds[1] * count)


def _acts_in_none(window: Window, count: int, sampled: int) -> bool:
    """Whether a window that is not empty covers none of `count` steps from the first `sampled` on."""
    first, last = window if isinstance(window, Sequence) else (0.0, window)
    start, end = _window(window, count)
    return first < last and end <= max(start, sampled)


def _found(word: str, targets: Sequence[Tokens]) -> list[tuple[int, list[int]]]:
    """Rows and token positions of a word in the target prompts; it must stand in one of them at least."""
    places, missing = [], None
    for row, tokens in enumerate(targets):
        try:
            places.append((row, find(word, tokens)))
        except ValueError as error:
            missing = error
    if not places and missing is not None:
        raise missing
    return places


class _Joint(NamedTuple):
    """One half's queries, keys and values in a layer that has text and picture in one sequence, and where they are."""

    q: Heads
    k: Heads
    v: Heads
    mask: KeyMask | None
    picture: slice
    words: slice

    def attention(self) -> Heads:
        return attention(self.q, self.k, self.v, self.mask)

    def word_maps(self) -> WordMaps:
        """The picture's attention to the text, [rows, heads, positions, tokens]."""
        return word_columns(self.q[:, :, self.picture], self.k, self.words, self.mask)

    def with_layout(self) -> _Joint:
        """The same with the source's queries and keys at the picture's positions in every row."""
        return self._replace(q=rows.of_source(self.q, self.picture), k=rows.of_source(self.k, self.picture))

    def with_word_maps(self, maps: WordMaps, rest: Tensor) -> Heads:
        """Attention in which the picture attends to the text by given maps, and to itself with the rest."""
        own = attention(*(x[:, :, self.picture] for x in (self.q, self.k, self.v)))
        out = self.attention()
        out[:, :, self.picture] = rest * own + maps @ self.v[:, :, self.words]
        return out


@dataclass(frozen=True, eq=False)
class _Running(Editor):
    """One run of Prompt-to-Prompt: the aligned prompts, and the sums of attention maps for the mask."""

    config: PromptToPrompt
    weights: Tensor
    kept: Tensor
    active: Tensor
    replaces_words: list[bool]
    factors: Tensor
    blending: _Blending | None
    layers: frozenset[int]

    def attend(self, run: Run, step: Step) -> Attend | None:
        active = self.active[step.index]
        first, last = _window(self.config.self_replace, len(run.steps))
        replaces_self = first <= step.index < last
        largest = self.config.self_positions or run.backbone.layout_positions(run.latent_size)
        replaces_words = self.replaces_words[step.index]
        if not (replaces_self or replaces_words or self.blending):
            return None

        def attend(site: Site, q: Heads, k: Heads, v: Heads, mask: KeyMask | None = None) -> Heads | None:
            watches = self.blending is not None and run.backbone.shows_words(site, q.shape[2], run.latent_size)
            null, text = rows.by_half(q, k, v, mask, null_half=run.null_half)
            if site.is_joint:
                parts = (part(site, q.shape[2], run.latent_size) for part in (run.backbone.picture, run.backbone.words))
                edits = site.layer in self.layers
                given = replaces_self and edits, active if replaces_words and edits else None, watches
                out = self.joint(_Joint(*text, *parts), *given)
            elif not site.is_cross:
                out = self.take_layout(*text) if replaces_self and q.shape[2] <= largest else None
            else:
                out = self.take_words(*text, active=active, watches=watches) if watches or replaces_words else None
            # The null half is never edited.
            return None if out is None else torch.cat([attention(*null), out])

        return attend

    def needs_null(self) -> bool:
        return False

    def copies(self, run: Run, step: Step) -> rows.Copies:
        # The null half is never edited.
        return "none" if self.attend(run, step) is None else "text"

    @staticmethod
    def take_layout(q: Heads, k: Heads, v: Heads, mask: KeyMask | None) -> Heads:
        """Self-attention in which the targets have the source's map."""
        return attention(rows.of_source(q, slice(None)), rows.of_source(k, slice(None)), v, mask)

    def take_words(self, q: Heads, k: Heads, v: Heads, mask: KeyMask | None, active: Tensor, watches: bool) -> Heads:
        """Cross-attention, edited."""
        maps = self.edited(probabilities(q, k, mask), active)
        if watches and self.blending is not None:
            self.blending.add(maps)
        return maps @ v

    def joint(self, layer: _Joint, takes_layout: bool, active: Tensor | None, watches: bool) -> Heads | None:
        """Attention of text and picture in one sequence, edited: the targets have the source's queries and keys at the
        picture's positions (Shin et al. 2025, arXiv 2508.07519), and its attention to the text, word by word."""
        layer = layer.with_layout() if takes_layout else layer
        maps = layer.word_maps() if watches or active is not None else None
        edited = maps if maps is None or active is None else self.edited(maps, active)
        if watches and self.blending is not None and edited is not None:
            self.blending.add(edited)
        if maps is None or edited is None or active is None:
            return layer.attention() if takes_layout else None
        # Re-weighting leaves the picture its share of the attention.
        plain = self.edited(maps, active, torch.ones_like(self.factors))
        return layer.with_word_maps(edited, 1 - plain.sum(-1, keepdim=True))

    def edited(self, maps: WordMaps, active: Tensor, factors: Tensor | None = None) -> WordMaps:
        """Attention maps [rows, heads, positions, tokens] in which the source's replace the targets', and words are
        re-weighted: by the run's factors if no others are given."""
        factors = self.factors if factors is None else factors
        # Source columns to target columns, kept where a token has a partner.
        source, own = rows.source(maps), rows.targets(maps)
        weights, kept, factors, active = (x.to(maps.dtype) for x in (self.weights, self.kept, factors, active))
        taken = torch.einsum("hps,tsw->thpw", source[0], weights)
        taken = taken * kept[:, None, None] + own * (1 - kept[:, None, None])
        # Re-weighting, unnormalised, and the schedule of each word.
        taken = taken * factors[:, None, None]
        return torch.cat([source, taken * active[:, None, None] + own * (1 - active[:, None, None])])

    def blend(self, run: Run, step: Step, x: Latents) -> Latents:
        if self.blending is None or not self.blending.started(step):
            return x
        mask = self.blending.mask(run.latent_size).to(x.dtype)
        return rows.source(x) + mask * (x - rows.source(x))

    def mask(self, run: Run) -> Mask | None:
        begins = self.blending is not None and self.blending.first_step < len(run.steps)
        return self.blending.mask(run.latent_size) if self.blending and begins and self.blending.sums else None


@dataclass
class _Blending:
    """The sum of the chosen words' attention maps so far, and the mask that it gives."""

    thresholds: tuple[Threshold, Threshold]
    chosen: Tensor
    subtracted: Tensor | None
    size: tuple[int, int]
    first_step: int
    sums: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def prepare(cls, config: LocalBlend, tokens: Sequence[Tokens], run: Run) -> _Blending:
        device, width = run.text.device, run.text.shape[1]
        threshold = run.backbone.settings.blend_threshold if config.threshold is None else config.threshold
        return cls(
            threshold if isinstance(threshold, tuple) else (threshold, threshold),
            _fitted(_marked(config.words, tokens), width).to(device),
            None if config.subtract is None else _fitted(_marked(config.subtract, tokens), width).to(device),
            run.backbone.word_map_size(run.latent_size),
            int(config.start * len(run.steps)),
        )

    @property
    def positions(self) -> int:
        return self.size[0] * self.size[1]

    def started(self, step: Step) -> bool:
        return step.index >= self.first_step and bool(self.sums)

    def add(self, maps: WordMaps) -> None:
        """Add one layer's maps [rows, heads, positions, tokens], mean over heads, to the sums."""
        mean = maps.detach().float().mean(1)
        for name, marks in (("chosen", self.chosen), ("subtracted", self.subtracted)):
            if marks is not None:
                seen = (mean * marks[:, None]).sum(-1).unflatten(1, self.size)[:, None]
                self.sums[name] = self.sums.get(name, 0) + seen

    def mask(self, latent_size: tuple[int, int]) -> Mask:
        """Where each row may differ from the source: the union of the source's and its own places."""
        chosen, subtracted = self.thresholds
        pooled = F.max_pool2d(self.sums["chosen"], 3, stride=1, padding=1)
        mask = _above(pooled, chosen, latent_size)
        if self.subtracted is not None:
            mask = mask & ~_above(self.sums["subtracted"], subtracted, latent_size)
        return mask


def _above(maps: Tensor, threshold: Threshold, size: tuple[int, int]) -> Mask:
    """Where maps reach over a share of their maximum, in the source's row or their own."""
    limit = otsu(maps) if threshold == "otsu" else float(threshold)
    above = F.interpolate(maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-12), size=size) > limit
    return rows.source(above) | above


def otsu(maps: Float[Tensor, "rows 1 height width"]) -> Float[Tensor, "rows 1 1 1"]:
    """The share of each map's maximum that parts its values into two classes whose means lie farthest apart, each class
    counted by its size (Otsu, "A Threshold Selection Method from Gray-Level Histograms", 1979, equation 18)."""
    values = maps.flatten(1).sort(1).values
    count, sums = values.shape[1], values.cumsum(1)
    low = torch.arange(1, count, device=maps.device)
    apart = (sums[:, -1:] - sums[:, :-1]) / (count - low) - sums[:, :-1] / low
    best = (low * (count - low) * apart.square()).argmax(1, keepdim=True)
    limit = (values.gather(1, best) + values.gather(1, best + 1)) / 2
    return (limit / values[:, -1:].clamp_min(1e-12))[..., None, None]


def _marked(words: Sequence[Words], tokens: Sequence[Tokens]) -> Tensor:
    """1 at the tokens of the chosen words, [rows, tokens]."""
    if isinstance(words, str) or len(words) != len(tokens):
        raise ValueError(
            f"the words of a local blend go by prompt: give {len(tokens)} entries, the source's first, got {words!r}"
        )
    marks = torch.zeros(len(tokens), tokens[0].width)
    for row, (chosen, prompt) in enumerate(zip(words, tokens, strict=True)):
        for word in [chosen] if isinstance(chosen, str) else chosen:
            marks[row, find(word, prompt)] = 1
    return marks
