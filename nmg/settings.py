"""A method's settings as plain values, and back: for the files that remember them."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from nmg import images


def packed(method: Any) -> dict[str, Any]:
    """The settings of a method, a frozen dataclass, as values that JSON holds; and its name."""
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}
    return {"method": type(method).__name__, **{name: _plain(value) for name, value in values.items()}}


def unpacked(values: dict[str, Any], module: Any) -> Any:
    """The method that `packed` described, out of a module's public names.

    Raises:
        ValueError: for a method that the module does not have.
    """
    values = {key: _restored(value) for key, value in values.items()}
    name = values.pop("method")
    known = [n for n in module.__all__ if dataclasses.is_dataclass(getattr(module, n))]
    if name not in known:
        raise ValueError(f"this version has no method {name!r}; it has {', '.join(known)}")
    return getattr(module, name)(**{key: _methods(value, module) for key, value in values.items()})


def _methods(value: Any, module: Any) -> Any:
    """The methods among a method's settings."""
    if isinstance(value, tuple):
        return tuple(_methods(item, module) for item in value)
    return unpacked(value, module) if isinstance(value, dict) and isinstance(value.get("method"), str) else value


def _plain(value: Any) -> Any:
    if hasattr(value, "described"):
        return _plain(value.described())
    if isinstance(value, Image.Image | np.ndarray | Tensor):
        return _pictured(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return packed(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if callable(value):
        raise ValueError(
            f"the function {getattr(value, '__name__', value)!r} can't be written down; give its values, one per step"
        )
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _restored(value: Any) -> Any:
    """JSON's lists as the tuples that they were, and pictures as pictures."""
    if isinstance(value, list):
        return tuple(map(_restored, value))
    if isinstance(value, dict) and set(value) == {"png"} and isinstance(value["png"], str):
        return Image.open(io.BytesIO(base64.b64decode(value["png"])))
    return {key: _restored(item) for key, item in value.items()} if isinstance(value, dict) else value


def _pictured(value: Any) -> dict[str, str]:
    """A picture or mask as PNG in text."""
    buffer = io.BytesIO()
    images.load(value).save(buffer, format="PNG", optimize=True)
    return {"png": base64.b64encode(buffer.getvalue()).decode()}


def fingerprint(*values: Any) -> str:
    """A digest of values: equal for equal settings, and other for a file or picture of other content.

    Raises:
        ValueError: for a function, which does not say what it returns.
    """
    return hashlib.sha256(repr([_identified(value) for value in values]).encode()).hexdigest()


def _identified(value: Any) -> Any:
    """A value as something whose `repr` tells it from others."""
    if isinstance(value, Tensor):
        value = value.detach().float().cpu().numpy()
    if isinstance(value, np.ndarray):
        return value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    if isinstance(value, Image.Image):
        return value.mode, value.size, hashlib.sha256(value.tobytes()).hexdigest()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = {field.name: _identified(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return type(value).__name__, held
    if isinstance(value, dict):
        return [(key, _identified(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_identified(item) for item in value]
    if isinstance(value, str | os.PathLike) and os.path.isfile(value):
        return os.fspath(value), hashlib.sha256(Path(value).read_bytes()).hexdigest()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if callable(value):
        raise ValueError(f"the function {getattr(value, '__name__', value)!r} can't be identified by what it returns")
    return value
