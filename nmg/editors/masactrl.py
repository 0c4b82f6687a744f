"""MasaCtrl: Cao, Wang, Qi, Shan, Qie & Zheng, "MasaCtrl: Tuning-Free Mutual Self-Attention Control for Consistent Image
Synthesis and Editing", ICCV 2023, arXiv 2304.08465.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from nmg import masks, rows
from nmg.alignment import find
from nmg.attention import Attend, Site, attention, spatial_size
from nmg.backbones import Backbone
from nmg.editors.base import Editor
from nmg.levels import Step
from nmg.run import Asked, Run
from nmg.types import Heads, KeyMask

Maps = Float[Tensor, "maps height width"]
Allowed = Bool[Tensor, "targets 1 positions positions"]
START_STEP = 4 / 50
"""The published start step's share of the published 50 steps."""
START_LAYER = 10 / 16
"""Where the published start layer lies in Stable Diffusion 1's sixteen self-attention layers."""


@dataclass(frozen=True)
class MasaCtrl(Editor):
    """Targets in another pose or viewpoint that keep the source's appearance: mutual self-attention (section 4.1).

    From a step and a layer on, a target's queries attend to the source's keys and values, in the null and the text half
    alike. With masks (section 4.2) the target's foreground attends to the source's foreground only, and its background
    to the source's background only. Give either the masks, or the words that they are found by. Where text and picture
    attend to each other in one sequence, all this is the picture's part of it; the targets keep their own text's keys
    and values, to which every position attends.

    Args:
        start_step: the first step of mutual attention, or its share of the steps, such as 0.2. Before it, the target
            follows its own prompt. If not given, the share that the paper's 4 is of its 50 steps.
        start_layer: its first self-attention layer, counted from 0 in the order they run. If not given, 10 of Stable
            Diffusion 1's 16 layers, 44 of XL's 70, the layers that are known to carry the appearance in FLUX, and as
            deep as in Stable Diffusion in any other network.
        layers: the very layers, instead of all from `start_layer` on.
        source_mask, target_mask: the foreground of the source and of every target, as an array, a PIL image or a file
            of any size (brighter than half is foreground).
        words: a word or phrase of the source prompt, then one of each target prompt. The picture's attention to them
            finds the foreground at every step (section 4.2, "mask-aware"). Layers that run before the first such map in
            a step have no mask.
        threshold: share of a map's range from which a position is foreground.

    Raises:
        ValueError: for a start before the first step or layer, one mask without the other, or masks and words at once.
            For a request: for a start layer that the network doesn't have, or a word that its prompt does not hold.
    """

    start_step: int | float = START_STEP
    start_layer: int | None = None
    source_mask: Any = None
    target_mask: Any = None
    words: Sequence[str] | None = None
    threshold: float = 0.1
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        start, layer = self.start_step, self.start_layer
        share = isinstance(start, float) and 0 <= start < 1
        if not (share or _whole(start)):
            raise ValueError(
                f"MasaCtrl: start_step={start!r} must be a whole number from 0 on, such as start_step=4, or a share of "
                "the steps below 1"
            )
        if layer is not None and not _whole(layer):
            raise ValueError(
                f"MasaCtrl: start_layer={layer!r} must be a whole number from 0 on, such as start_layer=10"
            )
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
            if layer is not None or not self.layers or not all(map(_whole, self.layers)):
                raise ValueError(
                    f"MasaCtrl: layers={self.layers!r} must be whole numbers from 0 on, such as layers=(8, 9), without "
                    "start_layer"
                )
        if (self.source_mask is None) != (self.target_mask is None):
            missing = "source_mask" if self.source_mask is None else "target_mask"
            raise ValueError(f"MasaCtrl needs both masks or none, and {missing} is missing; words=… finds them instead")
        for name in ("source_mask", "target_mask"):
            # All as one kind of picture: a config is a value that compares and can be written down.
            if isinstance(getattr(self, name), np.ndarray | Tensor | Image.Image):
                object.__setattr__(self, name, masks.picture(getattr(self, name)))
        if self.source_mask is not None and self.words is not None:
            raise ValueError("MasaCtrl takes its foreground from masks or from words, not from both; leave one out")
        if not isinstance(self.threshold, int | float) or not 0 <= self.threshold <= 1:
            raise ValueError(f"MasaCtrl: threshold={self.threshold!r} must be a share of the range, 0…1, such as 0.1")

    def opened(self) -> Editor:
        given = {"source_mask": self.source_mask, "target_mask": self.target_mask}
        named = {name: mask for name, mask in given.items() if isinstance(mask, str | os.PathLike)}
        return dataclasses.replace(self, **{name: masks.opened(mask) for name, mask in named.items()})  # type: ignore

    def check(self, backbone: Backbone, request: Asked) -> None:
        """Raise for a layer or step that is not there, a mask of one value, or a word that its prompt does not hold."""
        self.mutual_layers(backbone)
        if self.words is not None:
            backbone.check_word_maps("MasaCtrl with words", "give source_mask and target_mask instead")
        self.marked(backbone, request.prompts)
        self.given_masks(backbone.latent_size(request.size))
        if len(request.prompts) > 1:
            self.check_start(request.steps)

    def prepare(self, run: Run) -> Editor:
        if len(run.prompts) < 2:
            return Editor()
        given, marked = self.given_masks(run.latent_size), self.marked(run.backbone, run.prompts)
        device = run.text.device
        return _Running(
            config=self,
            layers=self.mutual_layers(run.backbone),
            masks=None if given is None else given.to(device),
            marked=None if marked is None else [torch.tensor(positions, device=device) for positions in marked],
        )

    def given_masks(self, latent_size: tuple[int, int]) -> Float[Tensor, "2 height width"] | None:
        """The masks of source and target, if they were given."""
        given = [mask for mask in (self.source_mask, self.target_mask) if mask is not None]
        return torch.stack([masks.load(mask, latent_size, "MasaCtrl") for mask in given]) if given else None

    def check_start(self, count: int) -> None:
        """Raise if no step of `count` has mutual attention."""
        if self.first_step(count) >= count:
            raise ValueError(
                f"MasaCtrl: start_step={self.start_step} leaves none of the {count} steps, so nothing would be edited; "
                "give an earlier one, or a share such as start_step=0.1"
            )

    def first_step(self, count: int) -> int:
        """The first of `count` steps with mutual attention."""
        return round(self.start_step * count) if isinstance(self.start_step, float) else int(self.start_step)

    def first_layer(self, backbone: Backbone) -> int:
        """The first self-attention layer of mutual attention."""
        return min(self.mutual_layers(backbone))

    def mutual_layers(self, backbone: Backbone) -> frozenset[int]:
        """The self-attention layers of mutual attention.

        Raises:
            ValueError: if the network has no such layer.
        """
        count = sum(not site.is_cross for site in backbone.sites.values())
        if self.layers is not None and max(self.layers) >= count:
            raise ValueError(f"MasaCtrl: layers={self.layers} are not all among the network's {count}, 0…{count - 1}")
        known = backbone.appearance_layers if self.layers is None else tuple(self.layers)
        if known is not None and self.start_layer is None:
            return frozenset(known)
        layer = round(START_LAYER * count) if self.start_layer is None else self.start_layer
        if layer >= count:
            raise ValueError(
                f"MasaCtrl: start_layer={layer} leaves no layer of the network's {count}; give 0…{count - 1}, or "
                "leave it out"
            )
        return frozenset(range(layer, count))

    def marked(self, backbone: Backbone, prompts: Sequence[str]) -> list[list[int]] | None:
        """The token positions of each prompt's word, the source's first."""
        if self.words is None or len(prompts) < 2:
            return None
        if isinstance(self.words, str) or len(self.words) != len(prompts):
            raise ValueError(
                f"MasaCtrl's words go by prompt: give {len(prompts)} of them, the source's first, got {self.words!r}"
            )
        return [find(word, backbone.tokens(prompt)) for word, prompt in zip(self.words, prompts, strict=True)]


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


def joint(q: Heads, k: Heads, v: Heads, mask: KeyMask | None, picture: slice, allowed: Allowed | None) -> Heads:
    """Joint attention of one half, in which the targets attend to the source's picture, or to what is allowed of it,
    and to their own text."""
    if not len(q):
        return q
    k, v = (rows.of_source(x, picture) for x in (k, v))
    if allowed is None:
        return attention(q, k, v, mask)
    seen = allowed.new_ones(len(allowed), 1, q.shape[2], k.shape[2])
    seen[..., picture, picture] = allowed
    own, seen = (None, seen) if mask is None else (rows.source(mask), seen & rows.targets(mask))
    parts = ((rows.source, own), (rows.targets, seen))
    return torch.cat([attention(part(q), part(k), part(v), keys) for part, keys in parts])


def foreground(maps: Float[Tensor, "*maps height width"]) -> Float[Tensor, "*maps height width"]:
    """Attention maps stretched to 0…1, each by its own range; the foreground is where one reaches a threshold."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)


@dataclass(frozen=True, eq=False)
class _Running(Editor):
    """One run of MasaCtrl."""

    config: MasaCtrl
    layers: frozenset[int]
    masks: Float[Tensor, "2 height width"] | None
    marked: list[Tensor] | None

    def attend(self, run: Run, step: Step) -> Attend | None:
        if step.index < self.config.first_step(len(run.steps)):
            return None
        # Of the marked words, in the layers that have run.
        seen: list[Maps] = []

        def attend(site: Site, q: Heads, k: Heads, v: Heads, mask: KeyMask | None = None) -> Heads | None:
            if self.marked is not None and (maps := run.word_maps(site, q, k, mask)) is not None:
                pairs = zip(maps, self.marked, strict=True)
                seen.append(torch.stack([row[..., places].sum(-1) for row, places in pairs]))
            if site.is_cross or site.layer not in self.layers:
                return None
            halves = rows.by_half(q, k, v, mask, null_half=run.null_half)
            picture = run.backbone.picture(site, q.shape[2], run.latent_size)
            allowed = self.allowed(seen, q[:, :, picture].shape[2], run.latent_size)
            if site.is_joint:
                return torch.cat([joint(*half, picture=picture, allowed=allowed) for half in halves])
            return torch.cat([self.mutual(*half[:3], allowed=allowed) for half in halves])

        return attend

    def needs_null(self) -> bool:
        return False

    def allowed(self, seen: list[Maps], positions: int, latent_size: tuple[int, int]) -> Allowed | None:
        """Which of the source's positions each position of a target attends to at a layer; None for all of them."""
        maps = foreground(torch.stack(seen).mean(0)) if seen else self.masks
        if maps is None:
            return None
        threshold = self.config.threshold if self.masks is None else 0.5
        grounds = F.interpolate(maps[:, None], spatial_size(positions, latent_size)).flatten(1) >= threshold
        source, targets = rows.source(grounds), rows.targets(grounds)
        # A mask that holds everything or nothing separates nothing. No value is looked at: that would wait for a GPU.
        separates = source.any() & ~source.all()
        return ((targets[:, :, None] == source[:, None]) | ~separates)[:, None]

    @staticmethod
    def mutual(q: Heads, k: Heads, v: Heads, allowed: Allowed | None) -> Heads:
        """Self-attention of one half in which the targets attend to the source."""
        own = attention(rows.source(q), rows.source(k), rows.source(v))
        k, v = (rows.source(x).expand_as(rows.targets(x)) for x in (k, v))
        return torch.cat([own, attention(rows.targets(q), k, v, allowed)])
