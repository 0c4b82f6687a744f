"""A request as Python: the call of `nmg.edit` that makes its picture."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from typing import Any

from nmg.editors import PromptToPrompt
from nmg.request import Request


def call(request: Request, shown: Collection[str] = (), image: str | None = None) -> str:
    """The call of `nmg.edit` that a request is, as Python; it uses `pipe`, and `image` for a picture in memory.

    Args:
        shown: settings of the methods that are written although they have their defaults.
        image: Python that gives the picture; the request's own if not given.

    Raises:
        ValueError: for a setting that can't be written as code, such as a mask in memory.
    """
    if image is None:
        image = written(request.image) if request.image and isinstance(request.image, str | os.PathLike) else "image"
    lines = ["pipe", image, written(request.source), f"[{', '.join(map(written, request.targets))}]"]
    names = ("guidance", "editor", "steps", "size", "negative", "inversion", "convention", "offset", "skip")
    editor = request.editor or PromptToPrompt()
    usual = {"negative": request.own_negative}
    usual |= {"inversion": request.inversion if request.inversion != editor.inversion() else None}
    usual |= {"skip": request.skip if request.skip != editor.skip else None}
    usual["convention"] = None if request.convention == "aligned" else request.convention
    given = {name: usual.get(name, getattr(request, name)) for name in names}
    lines += [f"{name}={written(value, shown)}" for name, value in given.items() if value is not None]
    return "\n".join(["result = nmg.edit(", *(f"    {line}," for line in lines), ")"])


def written(value: Any, shown: Collection[str] = ()) -> str:
    """A value as Python: a method with the settings that are not its defaults, and those that are `shown`.

    Raises:
        ValueError: for a value that can't be written as code.
    """
    if hasattr(value, "parts"):
        return " + ".join(written(part, shown) for part in value.parts)
    if hasattr(value, "described"):
        return written(value.described())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = ", ".join(f"{name}={written(item, shown)}" for name, item in _told(value, shown).items())
        ours = type(value).__module__.split(".")[0] == "nmg"
        return f"{'nmg.' if ours else ''}{type(value).__name__}({own})"
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


def _told(method: Any, shown: Collection[str]) -> dict[str, Any]:
    """The fields of a method that are worth writing."""
    told = {}
    for entry in dataclasses.fields(method):
        value = getattr(method, entry.name, None)
        default = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
        if entry.init and (value != default or (entry.name in shown and value not in (None, (), {}))):
            told[entry.name] = value
    return told
