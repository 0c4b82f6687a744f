"""Keeping a picture: the call that makes it, and its PNG with all settings in it."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from nmg.backbones import Backbone
from nmg.lab.panel.engine import Engine, Tried
from nmg.lab.panel.origin import PREFIX, Origin
from nmg.lab.panel.settings import EDITOR_CONTROLS, GUIDANCE_CONTROLS, Settings
from nmg.request import Request, digest, written

TURNED = (*GUIDANCE_CONTROLS, *EDITOR_CONTROLS)
"""Settings that are written as code also where they have their defaults."""

# ---------------------------------------------------------------- as code


def code(settings: Settings, engine: Engine, origin: Origin) -> str:
    """The exact call of `nmg.edit` that makes the picture of some settings, as Python.

    It uses `pipe`, the loaded pipeline, and `image` where the picture is only in memory.
    `result.pictures` holds the edit.

    Raises:
        ValueError: for a setting that no code can write down, such as a mask in memory.
    """
    return f"{_head(engine.backbone, origin)}\n{request(settings, engine, origin.name).code(TURNED, _picture(origin))}"


def _head(backbone: Backbone, origin: Origin) -> str:
    """What the call needs."""
    lines = ["import nmg"]
    if origin.name.startswith(PREFIX):
        lines.append("from nmg.menagerie import scene")
    name = backbone.settings.name or backbone.name
    lines.append(f"\n# pipe: as the panel was given it, such as nmg.load({json.dumps(name)})")
    if not origin.name:
        lines.append("# image: the picture that the panel was given")
    return "\n".join(lines)


def _picture(origin: Origin) -> str:
    if origin.name.startswith(PREFIX):
        return f"scene.parse({written(origin.name.removeprefix(PREFIX))}).render()"
    return written(origin.name) if origin.name else "image"


# ---------------------------------------------------------------- as PNG


def recipe(tried: Tried, engine: Engine, image: str) -> Request:
    """All settings of a picture; `image` says where the source lies."""
    made = request(tried.settings, engine, image).resolved(engine.backbone)
    return dataclasses.replace(made, digest=digest(engine.picture), row=0 if tried.edit is None else 1)


def request(settings: Settings, engine: Engine, image: str) -> Request:
    """What some settings ask for."""
    return Request(
        image,
        settings.source,
        tuple(settings.targets()),
        settings.negative,
        settings.guidance_method,
        settings.editor_method,
        engine.inversion,
        settings.steps,
        engine.picture.size,
    )


def save(tried: Tried, engine: Engine, origin: Origin, path: str | os.PathLike) -> list[Path]:
    """Write a picture as PNG with its recipe, which `nmg replay` makes it again from.

    Nothing is overwritten: where the file exists, the next free number is added to its name. A source picture that is
    only in memory is written beside it, as NAME-source.png.

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
    path.parent.mkdir(parents=True, exist_ok=True)
    path, image, written_too = _free(path).resolve(), origin.name, []
    # Nothing is written for settings that can't be.
    recipe(tried, engine, image).to_json()
    if not image:
        beside = _free(path.with_name(f"{path.stem}-source.png"))
        engine.picture.save(beside)
        image, written_too = str(beside), [beside]
    return [recipe(tried, engine, image).save(tried.picture, path), *written_too]


def _free(path: Path) -> Path:
    """The path, or the first with a number added that is free."""
    free, number = path, 2
    while free.exists():
        free, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    return free
