"""Keeping a picture: the call that makes it, and its PNG with all settings in it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nmg
from nmg.backbones import Backbone
from nmg.inversion import DDIM
from nmg.lab.panel.engine import Engine, Tried
from nmg.lab.panel.origin import PREFIX, Origin
from nmg.lab.panel.settings import EDITOR_CONTROLS, GUIDANCE_CONTROLS, Settings
from nmg.request import Recipe

# ---------------------------------------------------------------- as code


def code(settings: Settings, engine: Engine, origin: Origin) -> str:
    """The exact call of `nmg.edit` that makes the picture of some settings, as Python.

    It uses `pipe`, the loaded pipeline, and `image` where the picture is only in memory.
    `result.pictures` holds the edit.

    Raises:
        ValueError: for a setting that no code can write down, such as a mask in memory.
    """
    given = {
        "guidance": written(settings.guidance_method),
        "editor": written(settings.editor_method),
        "steps": str(settings.steps),
        "size": written(engine.picture.size),
    }
    if settings.negative is not None:
        given["negative"] = written(settings.negative)
    if engine.inversion != DDIM():
        given["inversion"] = written(engine.inversion)
    lines = ["pipe", _picture(origin), written(settings.source), f"[{', '.join(map(written, settings.targets()))}]"]
    lines += [f"{name}={value}" for name, value in given.items()]
    return "\n".join([_head(engine.backbone, origin), "result = nmg.edit(", *(f"    {line}," for line in lines), ")"])


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


def written(value: Any) -> str:
    """A value of a setting as Python: a method with the settings that the panel turns and those that are not its
    defaults.

    Raises:
        ValueError: for a value that no code can write down.
    """
    if hasattr(value, "parts"):
        return " + ".join(map(written, value.parts))
    if hasattr(value, "described"):
        return written(value.described())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = type(value).__name__
        own = ", ".join(f"{field}={written(item)}" for field, item in _told(value).items())
        return f"{'nmg.' if hasattr(nmg, name) else ''}{name}({own})"
    if isinstance(value, str | os.PathLike):
        return json.dumps(os.fspath(value), ensure_ascii=False)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{written(key)}: {written(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(written, value))}{',' * (len(value) == 1)})"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    raise ValueError(
        f"a {type(value).__name__} can't be written as code; give a file's path or plain values for it, and the "
        "settings can"
    )


def _told(method: Any) -> dict[str, Any]:
    """The fields of a method that are worth writing."""
    told = {}
    for entry in dataclasses.fields(method):
        if not entry.init:
            continue
        value = getattr(method, entry.name)
        default = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
        turned = entry.name in (*GUIDANCE_CONTROLS, *EDITOR_CONTROLS) and value not in (None, (), {})
        if turned or value != default:
            told[entry.name] = value
    return told


# ---------------------------------------------------------------- as PNG


def recipe(tried: Tried, engine: Engine, image: str) -> Recipe:
    """All settings of a picture; `image` says where the source lies."""
    settings, (width, height) = tried.settings, engine.picture.size
    return Recipe.of(
        engine.backbone,
        engine.picture,
        image=image,
        source=settings.source,
        targets=tuple(settings.targets()),
        guidance=settings.guidance_method,
        editor=settings.editor_method,
        steps=settings.steps,
        width=width,
        height=height,
        negative=settings.negative,
        row=0 if tried.edit is None else 1,
        inversion=engine.inversion,
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
