"""`nmg edit --grid`: one picture edited with every combination of the values of one or two options, on one sheet."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from tqdm.auto import tqdm

from nmg.files import keep
from nmg.lab import figures, inputs
from nmg.lab.arguments import parser
from nmg.lab.bench.processes import own_device
from nmg.lab.overrides import command, option, overridden
from nmg.lab.panel.engine import Engine, Tried
from nmg.request import Request

MOST = 64
"""Pictures of a grid."""
WHOLE = (
    *("model", "device", "dtype", "size", "source", "caption"),
    *("table", "grid", "gif", "out", "force", "all", "trajectory", "keep-path"),
)
"""Options that every picture of a grid shares."""

Axis = tuple[argparse.Action, list[str]]
"""An option and its values."""


def run(arguments: argparse.Namespace) -> None:
    """Make the sheet and print where it lies.

    Raises:
        ValueError: for an option or a value that can't be had, with its name, before anything is computed.
    """
    if arguments.trajectory or arguments.gif:
        raise ValueError("--grid makes its own trajectories and one sheet; leave --trajectory and --gif out")
    out = inputs.writable(arguments.out, ".png")
    edit = command(parser(), "edit")
    axes = [_axis(edit, given) for given in arguments.grid]
    if len(axes) > 2 or math.prod(len(values) for _, values in axes) > MOST:
        raise ValueError(f"--grid takes one or two options, and {MOST} pictures at most")
    cells = list(itertools.product(*([(action, value) for value in values] for action, values in axes)))
    asked = [_said(cell, lambda cell=cell: overridden(edit, arguments, cell)) for cell in cells]
    source, targets = inputs.prompts(asked[0])
    inputs.note_reconstruction(asked[0], targets)
    image = inputs.opened(arguments.image)
    pipe = inputs.loaded(arguments, inputs.scene_of(arguments.image) is not None, own_device(arguments.device))
    source = inputs.described(arguments, pipe, image, source)
    engine = Engine(pipe, image, size=arguments.size)
    requests = [
        _said(cell, lambda own=own: _request(own, engine, pipe, source)) for cell, own in zip(cells, asked, strict=True)
    ]
    found = [engine.make(request) for request in tqdm(requests, "pictures")]
    sheet = _sheet(engine, axes, found)
    place = out.with_name(f"{out.stem}-grid.png")
    print(keep(place, lambda part: sheet.savefig(part), arguments.force))


def _axis(edit: argparse.ArgumentParser, given: tuple[str, str]) -> Axis:
    name, values = given
    listed = [value.strip() for value in values.split(",") if value.strip()]
    if not listed:
        raise ValueError(f"--grid {name} has no values; write {name}=1,3,10")
    return option(edit, name, WHOLE), listed


def _said(cell: Sequence[tuple[argparse.Action, str]], make: Any) -> Any:
    """What `make` makes; its error with the cell that it is about."""
    try:
        return make()
    except ValueError as error:
        names = ", ".join(f"{action.option_strings[-1].removeprefix('--')}={value}" for action, value in cell)
        raise ValueError(f"--grid, {names}: {error}") from error


def _request(arguments: argparse.Namespace, engine: Engine, pipe: Any, source: str | None) -> Request:
    """A checked request for one cell."""
    _, targets = inputs.prompts(arguments)
    request = inputs.request_of(arguments, pipe, "", source, targets[:1])
    request = dataclasses.replace(request, steps=arguments.steps or 50, size=engine.picture.size)
    request.resolved(engine.backbone).opened().check(engine.backbone)
    return request


def _sheet(engine: Engine, axes: Sequence[Axis], found: Sequence[Tried]) -> Figure:
    """One option goes to the right, over reconstruction and edit; two make rows and columns of edits."""
    first = found[0].request
    title = "\n→  ".join([first.source or "", *first.targets[:1]])
    heads = [[f"{action.option_strings[-1].removeprefix('--')} {value}" for value in values] for action, values in axes]
    closes = [f"source {figures.closeness(tried.reconstruction, engine.picture)}" for tried in found]
    if len(axes) == 1:
        rebuilt = [engine.picture, *(tried.reconstruction for tried in found)]
        rows: list[list[Any]] = [rebuilt, [None, *(tried.picture for tried in found)]]
        notes = [["", *closes], [""] * len(rebuilt)]
        return figures.sheet(rows, ["source", *heads[0]], ["reconstruction", "edit"], notes, title)
    wide = len(heads[1])
    rows = [[tried.picture for tried in found[i : i + wide]] for i in range(0, len(found), wide)]
    notes = [closes[i : i + wide] for i in range(0, len(found), wide)]
    return figures.sheet(rows, heads[1], heads[0], notes, title)
