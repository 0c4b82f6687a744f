"""What a guidance may ask of the trajectory that it follows."""

from __future__ import annotations

from typing import Any

from nmg.inversion import DDIM


def need_aligned(guidance: Any, convention: str) -> None:
    """Raise for noise maps that don't lie at the levels that the steps end at.

    Raises:
        ValueError: with the reason.
    """
    if convention != "aligned":
        raise ValueError(
            f"{type(guidance).__name__} brings the source row to the noise map of the level that a step ends at, and with "
            f'convention={convention!r} the maps lie one level above; invert with convention="aligned", or use NoiseMap '
            "or CFG"
        )


def need_deterministic(guidance: Any, inversion: DDIM) -> None:
    """Raise for noise maps that are not joined by DDIM steps.

    Raises:
        ValueError: with the reason.
    """
    if not inversion.deterministic:
        raise ValueError(
            f"{type(guidance).__name__} steers by what a DDIM step leads to, and the noise maps of "
            f"{type(inversion).__name__} are joined by the noise that is stored beside them; use CFG, NegativePrompt, "
            "ProxNegativePrompt or Direct, or another inversion"
        )
