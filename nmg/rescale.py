"""The norm rule of Guide-and-Rescale: Titov, Khalmatova, Ivanova, Vetrov & Alanov, "Guide-and-Rescale: Self-Guidance
Mechanism for Effective Tuning-Free Real Image Editing", ECCV 2024, arXiv 2409.01322, section 3.4.
"""

from __future__ import annotations

from nmg.types import Latents

BOUNDS = (0.33, 3.0)
"""The least and the most that a guidance may be, as a share of classifier-free guidance's length."""


def rescaled(move: Latents, text: Latents, bounds: tuple[float, float] = BOUNDS) -> Latents:
    """A guidance whose length, row by row, is brought into bounds: g · clip(r, low, high) / r, r = ‖g‖ / ‖text‖.

    Args:
        move: g, what a guidance adds to the noise.
        text: w (e_c - e_∅), what the prompt adds. The bounds are shares of it: where it is nothing, so is the result.
        bounds: low and high.
    """
    length, reference = (x.flatten(1).norm(dim=1) for x in (move, text))
    low, high = (bound * reference for bound in bounds)
    factor = length.clamp(low, high) / length.clamp_min(1e-12)
    return move * factor.view(-1, *[1] * (move.ndim - 1))
