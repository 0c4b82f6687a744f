"""A request at few steps: what a dragged slider shows until it is let go."""

from __future__ import annotations

import dataclasses
from typing import Any

from nmg.lab.controls import controls_of, turned, values_of
from nmg.lab.values import step
from nmg.request import Request

STEPS = 6
"""Of a sketch: the bounded noise-map step does not overshoot at few."""


def sketched(request: Request, steps: int = STEPS) -> Request | None:
    """The same request at few steps; None for one that has no more.

    What a method counts in steps, or gives for each, is brought to the same share of them.

    Raises:
        ValueError: for a method that can't have it.
    """
    count = request.steps or 50
    if count <= steps:
        return None
    methods = {name: _fewer(getattr(request, name), count, steps) for name in ("guidance", "editor")}
    return dataclasses.replace(request, steps=steps, **methods)


def _fewer(method: Any, count: int, steps: int) -> Any:
    """A method of `count` steps as one of `steps`."""
    counted = {row.name for row in controls_of(method) if row.value.type is step}
    changes: dict[str, Any] = {}
    for name, value in values_of(method).items():
        if name in counted and isinstance(value, int):
            changes[name] = value / count
        elif isinstance(value, tuple) and len(value) == count:
            changes[name] = tuple(value[i * count // steps] for i in range(steps))
    return turned(method, changes)
