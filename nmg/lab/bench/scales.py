"""Noise-map scales: those that were chosen in a folder, and the one at which a method runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmg.lab.bench.methods import Method

SCALES = "scales.json"
"""The file of a folder with the scales that the validation split chose, and the means that they were chosen by."""
Scales = Mapping[str, Mapping[str, float]]
"""Noise-map scales by method and editor."""


def report_of(folder: str | os.PathLike) -> dict[str, Any]:
    """All that a folder says about its chosen scales; only an empty "scales" if none was chosen."""
    path = Path(folder) / SCALES
    return json.loads(path.read_text()) if path.is_file() else {"scales": {}}


def chosen_scales(folder: str | os.PathLike) -> dict[str, dict[str, float]] | None:
    """The scales that `tune` chose in a folder, by method and editor; None if it chose none."""
    return report_of(folder)["scales"] or None


def scale_for(method: Method, editor: str, scales: Scales | float | None) -> float | None:
    """The noise-map scale at which a method runs; None for a method without one, or at its guidance's default.

    Raises:
        ValueError: where `scales` lack an editor, or a method that is tuned.
    """
    if not method.scaled:
        return None
    if isinstance(scales, Mapping):
        if not method.grid:
            return None
        if editor not in scales.get(method.name, {}):
            raise ValueError(
                f"no noise-map scale was chosen for {method.name} with {editor}; choose it with `tune`, or give one "
                "number for all"
            )
        return scales[method.name][editor]
    return None if scales is None else float(scales)
