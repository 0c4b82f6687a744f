"""What a guidance may ask of the noise maps that it works on."""

from __future__ import annotations

from nmg.guidance.base import Guidance
from nmg.run import Asked


def need_aligned(guidance: Guidance, request: Asked) -> None:
    """Raise unless the noise maps lie at the levels that the steps end at.

    Raises:
        ValueError: with the reason.
    """
    if request.convention != "aligned":
        raise ValueError(
            f"{type(guidance).__name__} brings the source row to the noise map of the level that a step ends at, and "
            f"with convention={request.convention!r} the maps lie one level above; "
            'invert with convention="aligned", or use NoiseMap or CFG'
        )


def need_deterministic(guidance: Guidance, request: Asked, cure: str) -> None:
    """Raise unless DDIM steps join the noise maps; `cure` says what works instead.

    Raises:
        ValueError: with the reason.
    """
    if not request.inversion.joined:
        raise ValueError(
            f"{type(guidance).__name__} steers by what a DDIM step leads to, and no step joins the noise maps of "
            f"{type(request.inversion).__name__}; use Direct or CFG, or another inversion"
        )
    if not request.inversion.deterministic:
        raise ValueError(
            f"{type(guidance).__name__} steers by what a DDIM step leads to, and the noise maps of "
            f"{type(request.inversion).__name__} are joined by the noise that is stored beside them; {cure}, or use "
            "another inversion"
        )


def need_no_negative(guidance: Guidance, request: Asked, why: str) -> None:
    """Raise for a negative prompt where the guidance has a null prompt of its own.

    Raises:
        ValueError: with the reason `why`.
    """
    if request.own_negative is not None:
        raise ValueError(
            f"{type(guidance).__name__} {why}, so that negative={request.own_negative!r} would do nothing; leave it "
            "out, or use another guidance"
        )
