"""Guide-and-Rescale: Titov, Khalmatova, Ivanova, Vetrov & Alanov, "Guide-and-Rescale: Self-Guidance Mechanism for
Effective Tuning-Free Real Image Editing", ECCV 2024, arXiv 2409.01322.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nmg import rows
from nmg.attention import Attend, Features, Site, probabilities
from nmg.backbones import Backbone
from nmg.backbones.checks import check_gradient
from nmg.editors.base import Editor, check_finite, idle
from nmg.levels import Step
from nmg.rescale import rescaled
from nmg.run import Asked, Run
from nmg.types import Doubled, Heads, KeyMask, Latents


@dataclass(frozen=True)
class GuideAndRescale(Editor):
    """Targets whose noise leads to the source's self-attention and features, as far as their prompt's does (section 3).

        g = ∇_z [ s_A Σ_layers mean (A(z) - A*)² + s_F mean |F(z) - F*| ],   e = e_∅ + w (e_c - e_∅) + g'

    with A the maps of every self-attention layer and F what the decoder's last block puts out, both under the source
    prompt: of the target's latent, and of the source's in the same step. g' is g with its length brought to between
    0.33 and 3 times that of w (e_c - e_∅) (`nmg.rescale`), so that the scales need no tuning. The paper reads the
    source off its noise maps, which `Direct` does and is the guidance where none is given, at text scale 7.5.

    Args:
        attention_scale: s_A.
        feature_scale: s_F.
        until: share of the steps, the first, that are guided; 0 for none, where the targets follow their prompts alone.

    Raises:
        ValueError: for a scale that is not finite, or a share outside 0…1. For a request: for a network without a
            decoder, or one through which no gradient can be taken.
    """

    attention_scale: float = 3e5
    feature_scale: float = 500.0
    until: float = 30 / 50

    def __post_init__(self) -> None:
        check_finite(self, "attention_scale", self.attention_scale)
        check_finite(self, "feature_scale", self.feature_scale)
        if isinstance(self.until, bool) or not isinstance(self.until, int | float) or not 0 <= self.until <= 1:
            raise ValueError(f"GuideAndRescale: until={self.until!r} must be a share of the steps, 0…1, such as 0.6")

    @property
    def suits(self) -> str:
        return "direct"

    @property
    def text_scale(self) -> float | None:
        return 7.5

    def check(self, backbone: Backbone, request: Asked) -> None:
        """Raise for a network that has no decoder or lets no gradient through."""
        backbone.check_decoder("GuideAndRescale")
        if self.guided(request.steps):
            check_gradient(backbone.network, "GuideAndRescale", "GuideAndRescale(until=0)")

    def remarks(self, backbone: Backbone, request: Asked) -> list[str]:
        said = "GuideAndRescale: attention_scale=0 and feature_scale=0 guide nowhere, so that the gradient does nothing"
        nowhere = len(request.prompts) > 1 and self.attention_scale == self.feature_scale == 0
        return idle(self, request, "until") + [said] * nowhere

    def guided(self, count: int) -> range:
        """The steps, of `count`, that are guided."""
        return range(round(self.until * count))

    def follow(self, run: Run, step: Step, x: Latents, eps: Doubled, noise: Latents) -> Latents:
        if step.index not in self.guided(len(run.steps)) or len(run.prompts) < 2:
            return noise
        prompt, theirs = rows.source(run.text), _Kept.of(run.backbone)
        run.predict(rows.source(x), step, prompt, theirs.attend, features=theirs.features)
        guides = torch.cat([self.gradient(run, step, z, theirs) for z in rows.targets(x).split(1)])
        text = rows.targets(noise - rows.halves(eps)[0])
        return rows.with_targets(rows.targets(noise) + rescaled(guides * step.here.per_noise, text), noise)

    def gradient(self, run: Run, step: Step, z: Latents, theirs: _Kept) -> Latents:
        """g of one target [1, channels, height, width]."""
        own = _Kept.of(run.backbone)
        prompt, scales = rows.source(run.text), (self.attention_scale, self.feature_scale)

        def energy(z: Latents, eps: Latents) -> Tensor:
            return own.distance(theirs, *scales)

        return run.gradient(z, step, prompt, energy, own.attend, features=own.features)[0]


@dataclass(frozen=True, eq=False)
class _Kept:
    """The self-attention maps and the last features of one network call, by the paths of their layers."""

    block: str
    held: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, backbone: Backbone) -> _Kept:
        """Nothing yet, of a network."""
        return cls(backbone.decoder[-1].partition(".resnets.")[0])

    @property
    def attend(self) -> Attend:
        def attend(site: Site, q: Heads, k: Heads, v: Heads, mask: KeyMask | None = None) -> Heads | None:
            if site.is_cross:
                return None
            # By path: gradient checkpointing runs the layers again.
            maps = self.held[site.name] = probabilities(q, k, mask)
            return maps @ v

        return attend

    @property
    def features(self) -> Features:
        return {self.block: self._keep}

    def _keep(self, output: Tensor) -> Tensor:
        self.held[self.block] = output
        return output

    def distance(self, other: _Kept, attention_scale: float, feature_scale: float) -> Tensor:
        """The energy (equations 9 and 11): squared distances of maps, absolute ones of features."""

        def mean(name: str, size: Callable[[Tensor], Tensor]) -> Tensor:
            return size((self.held[name] - other.held[name]).float()).mean()

        maps = [mean(name, torch.square) for name in other.held if name != self.block]
        return attention_scale * torch.stack(maps).sum() + feature_scale * mean(self.block, torch.abs)
