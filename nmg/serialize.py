"""Values as files hold them: a method's settings as JSON, and tensors with what describes them as safetensors."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nmg import images
from nmg.files import replacing
from nmg.schema import checked, form_of, parsed, shaped

F = TypeVar("F")

# ---------------------------------------------------------------- settings


def packed(method: Any) -> dict[str, Any]:
    """The settings of a method, a frozen dataclass, as values that JSON holds; and its name."""
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}
    return {"method": type(method).__name__, **{name: _plain(value) for name, value in values.items()}}


def unpacked(values: dict[str, Any], kinds: Sequence[type]) -> Any:
    """The method that `packed` described, out of classes that it may be of.

    Raises:
        ValueError: for a method of none of them, or a setting that is not of its type and range.
    """
    known = {kind.__name__: kind for kind in kinds}
    named = [values.get("method"), *_named(list(values.values()))]
    if unknown := [name for name in named if not isinstance(name, str) or name not in known]:
        raise ValueError(f"this version has no method {unknown[0]!r}; it has {', '.join(known)}")
    checked(values, form_of(known[values["method"]], tuple(kinds)))
    return _method(_restored(values), known)


def methods_of(module: Any) -> tuple[type, ...]:
    """The methods among a module's public names, which are dataclasses."""
    return tuple(kind for name in module.__all__ if dataclasses.is_dataclass(kind := getattr(module, name)))


def _named(value: Any) -> Iterator[str]:
    """The names of the methods in a value; a word may be called "method" too, with a number."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict) and isinstance(value.get("method"), str):
        yield value["method"]
    for item in inside:
        yield from _named(item)


def _method(value: Any, known: Mapping[str, type]) -> Any:
    """A method of its checked settings, with the methods among them."""
    if isinstance(value, tuple):
        return tuple(_method(item, known) for item in value)
    if not isinstance(value, dict) or value.get("method") not in known:
        return value
    settings = {key: _method(item, known) for key, item in value.items() if key != "method"}
    return known[value["method"]](**settings)


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
        return images.decoded(io.BytesIO(base64.b64decode(value["png"])), "the picture in the settings")
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
    text = json.dumps(described, allow_nan=False)
    metadata = {"format": form, "described": text, "digest": _digest(tensors, text)}
    with replacing(path) as part:
        save_file(tensors, part, metadata=metadata)


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of a file's content, by which damage to a number is found."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].numpy().tobytes())
    return found.hexdigest()


def load(
    path: str | os.PathLike,
    form: str | Sequence[str],
    fields: type[F],
    axes: Mapping[str, str],
    what: str,
    cure: str,
) -> tuple[dict[str, Tensor], F]:
    """The tensors and the description that `save` wrote, checked.

    Args:
        form: the file's form, or those that can be read.
        fields: the description's.
        axes: of every tensor that the file may hold; see `schema.shaped`.
        what: what the file should hold, and `cure` how to make one: for the messages.

    Raises:
        FileNotFoundError: without a file at `path`.
        ValueError: for a file of another form, or one that is damaged: with what is wrong.
    """
    name = repr(os.fspath(path))
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no {what} at {name}; {cure}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in ([form] if isinstance(form, str) else form):
                raise ValueError(f"{name} holds no {what} of this version; {cure}")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, UnicodeError) as error:
        raise ValueError(f"{name} can't be read ({error}); {cure}") from error
    try:
        shaped(tensors, axes)
        # Files of earlier versions have no digest.
        if metadata.get("digest", own := _digest(tensors, metadata.get("described", ""))) != own:
            raise ValueError("its content is not what was written")
        return tensors, checked(parsed(metadata.get("described", "")), fields)
    except ValueError as error:
        raise ValueError(f"{name} is damaged, or holds no {what} of this version ({error}); {cure}") from error
