"""What a guidance may ask of the trajectory that it follows."""

from __future__ import annotations

from nmg.guidance.base import CFG
from nmg.run import Plan


def need_aligned(guidance: CFG, plan: Plan) -> None:
    """Raise for noise maps that don't lie at the levels that the steps end at.

    Raises:
        ValueError: with the reason.
    """
    if plan.convention != "aligned":
        raise ValueError(
            f"{type(guidance).__name__} brings the source row to the noise map of the level that a step ends at, and "
            f"with convention={plan.convention!r} the maps lie one level above; "
            'invert with convention="aligned", or use NoiseMap or CFG'
        )


def need_deterministic(guidance: CFG, plan: Plan, cure: str) -> None:
    """Raise for noise maps that are not joined by DDIM steps; `cure` says what works instead.

    Raises:
        ValueError: with the reason.
    """
    if not plan.inversion.deterministic:
        raise ValueError(
            f"{type(guidance).__name__} steers by what a DDIM step leads to, and the noise maps of "
            f"{type(plan.inversion).__name__} are joined by the noise that is stored beside them; {cure}, or use "
            "another inversion"
        )


def need_no_negative(guidance: CFG, plan: Plan, why: str) -> None:
    """Raise for a negative prompt where the guidance has a null prompt of its own.

    Raises:
        ValueError: with the reason `why`.
    """
    if plan.negative is not None:
        raise ValueError(
            f"{type(guidance).__name__} {why}, so that negative={plan.negative!r} would do nothing; leave it out, or "
            "use another guidance"
        )
