"""Negative-prompt inversion: Miyake, Iohara, Saito & Tanaka, "Negative-prompt Inversion: Fast Image Inversion for
Editing with Text-guided Diffusion Models", 2023, arXiv 2305.16807; and its proximal guidance: Han, Wen, Chen, Song,
Ren, Jin, Kulis, Metaxas & Bresler, "ProxEdit: Improving Tuning-Free Real Image Editing With Proximal Guidance", WACV
2024, arXiv 2306.05414.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nmg import rows
from nmg.backbones import Backbone
from nmg.conditioning import Conditioning
from nmg.guidance.base import Guidance
from nmg.guidance.needs import need_aligned, need_deterministic, need_no_negative
from nmg.levels import Step, predict_clean
from nmg.run import PUBLISHED_STEPS, Asked, Run
from nmg.types import Doubled, Latents

THRESHOLDS = ("hard", "soft")
PULLS = ("inversion", "reconstruction", "none")


@dataclass(frozen=True)
class NegativePrompt(Guidance):
    """The null prompt is the source prompt (section 3.2): the source row follows e_c at every text scale."""

    def check(self, backbone: Backbone, request: Asked) -> None:
        need_no_negative(self, request, "takes the source prompt for the null prompt")

    def null(self, run: Run, step: Step) -> Conditioning:
        return rows.source(run.text).expand_as(run.null)


@dataclass(frozen=True)
class ProxNegativePrompt(NegativePrompt):
    """Negative-prompt inversion that drops small differences of the noise and holds unedited places at the source
    (section 3.2).

        d   = e_c - e_∅,   λ = quantile(|d|, q)
        d'  = d where |d| > λ                     (hard)    or sign(d) max(|d| - λ, 0)     (soft)
        e   = e_∅ + w d',   M = dilate(|d'| > λ)
        z  ← z - η (z - z*) (1 - M)               for t < below

    λ is found for each row. The source row has d = 0, and is held everywhere. (What the authors' code calls its L0
    threshold is soft, too.)

    Args:
        text_scale: w.
        quantile: q, the share of the differences that is left out; the paper's 0.7.
        threshold: "hard" (L0) or "soft" (L1).
        pull: what the rows are held at outside of M: "inversion", the noise map at the step's end; "reconstruction",
            the picture, for the clean latent that the step predicts; "none".
        rate: η, the share of the distance that is taken back in each of 50 steps; fewer take back as much in all.
        dilation: radius of the dilation in latent pixels.
        below: timestep below which rows are held.
        pooled: one λ over all rows, the source's zeros among them, as the authors' code has it; with one target a q of
            0.7 then leaves out 0.4 of the target's differences.

    Raises:
        ValueError: for an unknown threshold or pull, a share outside 0…1, or a negative radius.
    """

    quantile: float = 0.7
    threshold: str = "hard"
    pull: str = "inversion"
    rate: float = 1.0
    dilation: int = 1
    below: int = 400
    pooled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("threshold", THRESHOLDS), ("pull", PULLS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; {', '.join(known)} work")
        for name in ("quantile", "rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"ProxNegativePrompt: {name}={getattr(self, name)!r} must be a share, 0…1")
        if isinstance(self.dilation, bool) or not isinstance(self.dilation, int) or self.dilation < 0:
            raise ValueError(f"ProxNegativePrompt: dilation={self.dilation!r} must be a whole number from 0 on")

    def check(self, backbone: Backbone, request: Asked) -> None:
        super().check(backbone, request)
        if self.pull == "inversion":
            need_aligned(self, request)
        if self.pull == "reconstruction":
            need_deterministic(self, request, 'give pull="inversion"')

    def remarks(self, request: Asked) -> list[str]:
        said = []
        if self.quantile == 1:
            said.append("ProxNegativePrompt: quantile=1 leaves out every difference, so that nothing is edited")
        if self.pull != "none" and (self.rate == 0 or self.below <= 0):
            why = "rate=0" if self.rate == 0 else f"below={self.below}"
            said.append(f'ProxNegativePrompt: {why} holds nothing in any step; pull="none" says the same')
        return said

    def combine(self, run: Run, step: Step, eps: Doubled) -> Latents:
        null, text = rows.halves(eps)
        return run.backbone.rescaled(null + self.text_scale * self.kept(text - null), text)

    def kept(self, difference: Latents) -> Latents:
        """d', the differences that are large in their row."""
        size, limit = difference.abs(), self.limit(difference)
        if self.threshold == "soft":
            return difference.sign() * (size - limit).clamp_min(0)
        return difference * (size > limit)

    def limit(self, difference: Latents) -> Float[Tensor, "rows 1 1 1"]:
        """λ of each row."""
        if self.quantile == 0:
            return difference.new_zeros(len(difference), 1, 1, 1)
        sizes = difference.abs().flatten(1)
        sizes = sizes.reshape(1, -1).expand(len(sizes), -1) if self.pooled else sizes
        return sizes.quantile(self.quantile, dim=1)[:, None, None, None]

    def correct(self, run: Run, step: Step, x: Latents, eps: Doubled) -> Latents:
        if self.pull == "none" or step.timestep >= self.below:
            return x
        held = self.rate_of(len(run.steps)) * (1 - self.edited(eps))
        if self.pull == "inversion":
            return x - held * (x - run.trajectory.target(step))
        # The step's clean latent moves by as much, and the step's end by what it weighs there.
        clean = predict_clean(x, self.combine(run, step, eps), step.there, step.here)
        return x - step.there.a * held * (clean - run.trajectory.maps[:1])

    def rate_of(self, count: int) -> float:
        """η of each of `count` steps, which leave as much of a distance as 50 do."""
        return 1 - (1 - self.rate) ** (PUBLISHED_STEPS / count)

    def edited(self, eps: Doubled) -> Float[Tensor, "rows channels height width"]:
        """M, 1 where a row is edited or borders on it, else 0."""
        null, text = rows.halves(eps)
        difference = text - null
        mask = (self.kept(difference).abs() > self.limit(difference)).float()
        # An editor may compute the source's two halves in different ways, which leaves rounding errors in d = 0.
        mask = rows.with_source(torch.zeros_like(rows.source(mask)), mask)
        return F.max_pool2d(mask, 2 * self.dilation + 1, stride=1, padding=self.dilation)
