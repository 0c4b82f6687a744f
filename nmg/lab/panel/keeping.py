"""Keeping a picture: the call that makes it, and its PNG with the request in it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Collection
from pathlib import Path

from PIL import Image

from nmg.files import folder, free, keep
from nmg.lab.code import call, written
from nmg.lab.controls import CONTROLS, turned, values_of
from nmg.lab.panel.engine import Engine, Tried
from nmg.lab.panel.origin import PREFIX, Origin
from nmg.lab.values import File
from nmg.request import Request, digest

SHOWN = {row.field for row in CONTROLS if row.label} | {"gradient_scale"}
"""Settings that are written as code also where they have their defaults."""


def code(request: Request, engine: Engine, origin: Origin) -> str:
    """The exact call of `nmg.edit` that makes the picture of a request, as Python.

    It uses `pipe`, the loaded pipeline, and `image` where the picture is only in memory. A mask in memory goes by the
    name of a file. `result.pictures` holds the edit.

    Raises:
        ValueError: for a setting that no code can write down.
    """
    targets = request.resolved(engine.backbone).targets
    whole = dataclasses.replace(request, image=origin.name, targets=targets, size=engine.picture.size)
    named, painted = _named(whole, lambda name: f"{name}.png")
    return f"{_head(engine, origin, painted)}\n{call(named, SHOWN, _picture(origin))}"


def _named(request: Request, name: Callable[[str], str]) -> tuple[Request, dict[str, Image.Image]]:
    """A request with files in the place of the masks that are only in memory, and these by their files."""
    painted: dict[str, Image.Image] = {}
    methods = {}
    for role in ("guidance", "editor"):
        method, changes = getattr(request, role), {}
        for field, value in values_of(method).items() if method is not None else ():
            if isinstance(value, Image.Image):
                changes[field] = name(field.replace("_", "-"))
                painted[changes[field]] = value
        methods[role] = turned(method, changes) if changes else method
    return dataclasses.replace(request, **methods), painted


def _head(engine: Engine, origin: Origin, painted: Collection[str]) -> str:
    """What the call needs."""
    lines = ["import nmg"]
    if origin.name.startswith(PREFIX):
        lines.append("from nmg.menagerie import scene")
    name = engine.backbone.settings.name or engine.backbone.name
    lines.append(f"\n# pipe: as the panel was given it, such as nmg.load({json.dumps(name)})")
    if not origin.name:
        lines.append("# image: the picture that the panel was given")
    lines += [f"# {name}: the mask, as the panel saves it beside the picture" for name in painted]
    return "\n".join(lines)


def _picture(origin: Origin) -> str:
    if origin.name.startswith(PREFIX):
        return f"scene.parse({written(origin.name.removeprefix(PREFIX))}).render()"
    return written(origin.name) if origin.name else "image"


def save(tried: Tried, engine: Engine, origin: Origin, path: str | os.PathLike) -> list[Path]:
    """Write a picture as PNG with its request, which `nmg replay` makes it again from.

    Nothing is overwritten: where the file exists, the next free number is added to its name. A source picture that is
    only in memory is written beside it, as NAME-source.png, and so is a mask, as NAME-guard.png for what is guarded.

    Returns:
        The picture's path, and the source's where it was written.

    Raises:
        ValueError: for a path that is no PNG's, or a setting that can't be written down.
        OSError: if the folder can't be written to.
    """
    path = Path(path).expanduser()
    path = path if path.suffix else path.with_suffix(".png")
    if path.suffix.lower() != ".png" or not path.stem:
        raise ValueError(f"{os.fspath(path)!r} can't be written; give the path of a .png file, such as edit.png")
    path = free(folder(path.parent) / path.name, _all).resolve()
    request = dataclasses.replace(tried.request.resolved(engine.backbone), digest=digest(engine.picture))
    request = dataclasses.replace(request, image=origin.name, row=0 if tried.edit is None else 1)
    request, painted = _named(request, lambda name: str(path.with_name(f"{path.stem}-{name}.png")))
    # Nothing is written for settings that can't be.
    request.to_json()
    beside = [keep(Path(place), mask.save) for place, mask in painted.items()]
    if not origin.name:
        beside.insert(0, keep(path.with_name(f"{path.stem}-source.png"), engine.picture.save))
        request = dataclasses.replace(request, image=str(beside[0]))
    return [request.save(tried.picture, path, over=False), *beside]


def _all(path: Path) -> list[Path]:
    """A picture's path, and those that its source and its masks may have beside it."""
    names = ("source", *(row.name.replace("_", "-") for row in CONTROLS if isinstance(row.value, File)))
    return [path, *(path.with_name(f"{path.stem}-{name}.png") for name in names)]
