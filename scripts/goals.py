"""What the bundled model must show, and what it reached, as the model card says it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nmg.menagerie.scene import FACTORS

SUCCESS = {"viewpoint alteration": 0.8, "pose modification": 0.9, "cat to dog": 0.9, "dog to cat": 0.9}
"""Share of edits that must succeed, for tasks that ask for less than `EDITED`."""
COMPARING = "NMG, fast"
"""The method that edits with and without a local blend are made by."""
EDITED = 0.95


@dataclass(frozen=True)
class Goal:
    """A figure that is asked for.

    Attributes:
        what: it is of.
        asked: the least that it must be, or the most where `most`.
        reached: the figure; None where it could not be measured.
        form: how both are written.
    """

    what: str
    asked: float
    reached: float | None
    form: str = ".2f"
    most: bool = False

    @property
    def short(self) -> float:
        """By how much it falls short of what is asked; 0 where it is met."""
        if self.reached is None:
            return math.inf
        return max(0.0, self.reached - self.asked if self.most else self.asked - self.reached)

    @property
    def row(self) -> list[str]:
        """What, asked, reached, and "yes" or by how much it falls short."""
        asked = f"{'≤' if self.most else '≥'} {self.asked:{self.form}}"
        if self.reached is None:
            return [self.what, asked, "–", "not measured"]
        met = f"short by {self.short:{self.form}}" if self.short else "yes"
        return [self.what, asked, f"{self.reached:{self.form}}", met]


def goals(report: dict[str, Any]) -> list[Goal]:
    """Every goal, from what `scripts.evaluate` measured."""
    return [*_networks(report), *_words(report), *_edits(report["edits"]), *_strong(report["edits"]["strong"])]


def _networks(report: dict[str, Any]) -> Iterator[Goal]:
    auto, generated = report["autoencoder"], report["generation"]["accuracy"]
    lost = max(auto["accuracy_on_originals"][f] - auto["accuracy_on_reconstructions"][f] for f in FACTORS)
    yield Goal("tensors that training did not reach", 0, report["trained"]["untouched"], ".0f", most=True)
    yield Goal("autoencoder's PSNR, dB", 28, auto["psnr"], ".1f")
    yield Goal("factor that the classifier reads worse on its pictures, by", 0.02, lost, ".3f", most=True)
    for factor in FACTORS:
        asked = 0.9 if factor == "mouth" else 0.95
        yield Goal(f"generated pictures read back: {factor}", asked, generated[factor])


def _words(report: dict[str, Any]) -> Iterator[Goal]:
    for factor, asked in {"kind": 0.75, "colour": 0.75, "place": 0.85}.items():
        found = report["words"][factor]
        yield Goal(f"overlap of the {factor}'s word map with its mask", asked, found["overlap"], ".3f")
        yield Goal("… above that of the mean mask, by", 0, found["overlap"] - found["mean_mask"], ".3f")


def _edits(edits: dict[str, Any]) -> Iterator[Goal]:
    everyday = edits["everyday"]
    for task, rows in everyday.items():
        yield Goal(f"success: {task}", SUCCESS.get(task, EDITED), rows["NMG"]["success"])
    above = sum((_gain(rows["NMG"], rows["identity"], "psnr") or 0) > 0 for rows in everyday.values())
    yield Goal(f"tasks of {len(everyday)} with a PSNR above returning the source", 7, above, ".0f")
    for task, rows in edits["blended"].items():
        with_blend, without = rows[COMPARING], edits["whole"][task][COMPARING]
        gain = _gain(with_blend, without, "psnr_outside")
        yield Goal(f"local blend, {task}: PSNR outside of the change raised by, dB", 3, gain, ".1f")
        yield Goal(f"local blend, {task}: success changed by", 0, _gain(with_blend, without, "success"))
    differing = sum(edits["held"].values()) / len(edits["held"])
    yield Goal("mean difference of edits by self_replace 0 and 1, of 255", 5, 255 * differing, ".1f")


def _strong(tasks: dict[str, Any]) -> Iterator[Goal]:
    for what, measure, asked in (("reconstruction", "reconstruction_psnr", 10), ("edit", "psnr", 1)):
        gains = [_gain(rows["NMG"], rows["DDIM"], measure) for rows in tasks.values()]
        known = [gain for gain in gains if gain is not None]
        mean = sum(known) / len(known) if len(known) == len(gains) else None
        yield Goal(f"text scale 7.5, {what}: NMG above plain DDIM by, dB", asked, mean, ".1f")


def _gain(one: dict[str, Any], other: dict[str, Any], measure: str) -> float | None:
    """How much larger a mean is; None where one has no value."""
    values = one[measure], other[measure]
    return None if None in values else values[0] - values[1]
