"""Noise Map Guidance: Cho, Lee, Kim, Oh & Jeong, "Noise Map Guidance: Inversion with Spatial Context for Real
Image Editing", ICLR 2024, arXiv 2402.04625.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from nmg import rows
from nmg._types import Latents, TextEmbeddings
from nmg.ddim import Step, transfer
from nmg.guidance.base import CFG
from nmg.inversion import Trajectory
from nmg.run import Run

REFERENCE_ELEMENTS = 4 * 64 * 64
"""Elements of the latent that the published scales belong to: Stable Diffusion 1.4 at 512×512."""

ENERGIES = {
    "l1": lambda a, b: F.l1_loss(a, b, reduction="sum"),
    "l2": lambda a, b: F.mse_loss(a, b, reduction="sum"),
    "smooth_l1": lambda a, b: F.smooth_l1_loss(a, b, reduction="sum", beta=1e-4),
}
"""Distances between a latent and a noise map, summed, so that half precision sees gradients of unit size."""

LEVELS = {"end": Trajectory.target, "start": Trajectory.origin}
"""The noise map that a step is compared with."""


@dataclass(frozen=True, kw_only=True)
class NoiseMap(CFG):
    """Steer the source row back to its noise maps before each text-guided step (section 3.2, equations 7-10).

        L   = |step(z_t, e_∅) - z*_{t-1}|
        e_N = e_∅ + s_N · s_g · √(1 - ᾱ_t) · ∂L/∂z_t
        z_t ← step(z_t, e_N),   then classifier-free guidance at the same t.

    L is summed over one row and divided by 4·64·64, so that a scale means the same at every size,
    batch and latent width; at 512×512 it is the paper's mean. Only the source row is steered: the
    targets follow it through attention.

    Args:
        noise_map_scale: s_N. It acts only as the product s_N · s_g: turn one, leave the other.
        gradient_scale: s_g.
        text_scale: s_T, classifier-free guidance of every row.
        energy: "l1" (the paper's), "l2" or "smooth_l1".
        level: "end" compares with the noise map of the level that the step ends at; "start" with that of the level it starts
            at, one later, as the authors' MasaCtrl does.

    Raises:
        ValueError: for an unknown energy or level, or a scale that is not finite.
    """

    noise_map_scale: float = 10.0
    gradient_scale: float = 5000.0
    text_scale: float = 10.0
    energy: str = "l1"
    level: str = "end"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.energy not in ENERGIES:
            raise ValueError(f"energy={self.energy!r} is unknown; {', '.join(ENERGIES)} work")
        if self.level not in LEVELS:
            raise ValueError(f"level={self.level!r} is unknown; {', '.join(LEVELS)} work")

    @property
    def strength(self) -> float:
        """The one knob: the product of the two scales."""
        return self.noise_map_scale * self.gradient_scale

    def steer(self, run: Run, step: Step, x: Latents) -> Latents:
        source, null = rows.source(x), rows.source(run.null)
        gradient, eps = self.gradient(run, step, source, null)
        guided = eps + self.strength * (1 - step.alpha) ** 0.5 * gradient
        return rows.with_source(transfer(source, guided, step.alpha, step.alpha_prev), x)

    def gradient(self, run: Run, step: Step, source: Latents, null: TextEmbeddings) -> tuple[Latents, Latents]:
        """∂L/∂z_t through the network, and the null noise e_∅; no hook is active in this call."""
        target = LEVELS[self.level](run.trajectory, step).clone()

        def energy(z: Latents, eps: Latents) -> Tensor:
            return ENERGIES[self.energy](transfer(z, eps, step.alpha, step.alpha_prev), target)

        gradient, eps = run.gradient(source, step, null, energy)
        return gradient / REFERENCE_ELEMENTS, eps
