"""Values as files hold them: a method's settings as JSON, and tensors with what describes them as safetensors."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nmg import images
from nmg.files import replacing

# ---------------------------------------------------------------- settings


def packed(method: Any) -> dict[str, Any]:
    """The settings of a method, a frozen dataclass, as values that JSON holds; and its name."""
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}
    return {"method": type(method).__name__, **{name: _plain(value) for name, value in values.items()}}


def unpacked(values: dict[str, Any], kinds: Sequence[type]) -> Any:
    """The method that `packed` described, out of classes that it may be of.

    Raises:
        ValueError: for a method of none of them.
    """
    values = {key: _restored(value) for key, value in values.items()}
    name, known = values.pop("method"), {kind.__name__: kind for kind in kinds}
    if name not in known:
        raise ValueError(f"this version has no method {name!r}; it has {', '.join(known)}")
    return known[name](**{key: _methods(value, kinds) for key, value in values.items()})


def methods_of(module: Any) -> tuple[type, ...]:
    """The methods among a module's public names, which are dataclasses."""
    return tuple(kind for name in module.__all__ if dataclasses.is_dataclass(kind := getattr(module, name)))


def _methods(value: Any, kinds: Sequence[type]) -> Any:
    """The methods among a method's settings."""
    if isinstance(value, tuple):
        return tuple(_methods(item, kinds) for item in value)
    return unpacked(value, kinds) if isinstance(value, dict) and isinstance(value.get("method"), str) else value


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
        held = {
            field.name: _identified(getattr(value, field.name)) for field in dataclasses.fields(value) if field.compare
        }
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


# ---------------------------------------------------------------- tensors


def save(path: str | os.PathLike, form: str, tensors: dict[str, Tensor], described: dict[str, Any]) -> None:
    """Write tensors, in fp32, and a description that JSON holds; a file at `path` is replaced when all is written.

    Args:
        form: name and version of the file's form, which `load` asks for again.
    """
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as part:
        save_file(tensors, part, metadata={"format": form, "described": json.dumps(described)})


def load(
    path: str | os.PathLike, form: str | Sequence[str], what: str, cure: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description that `save` wrote.

    Args:
        form: the file's form, or those that can be read.
        what: what the file should hold, and `cure` how to make one: for the messages.

    Raises:
        FileNotFoundError: without a file at `path`.
        ValueError: for a file of another form, or one that can't be read.
    """
    name = repr(os.fspath(path))
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no {what} at {name}; {cure}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in ([form] if isinstance(form, str) else form):
                raise ValueError(f"{name} holds no {what} of this version; {cure}")
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(metadata["described"])  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{name} can't be read ({error}); {cure}") from error
