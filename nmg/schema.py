"""What a file may hold: every field by type, length and range, checked where it is read.

Files come from strangers, and are damaged on the way. The checks are pydantic's; a method's are made of its dataclass,
so that a new field needs no second line.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import json
import os
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from torch import Tensor

MOST = 1000
"""Entries of a list, and rounds of a loop, that a file may ask for."""
CHARACTERS = 10_000
"""Of a text in a file."""
PARTS = 8
"""Methods in one of them, such as the guidances of a stack."""
JSON, PICTURE = 16_000_000, 4_000_000
"""Characters of all settings in a file, and of a picture among them, which is written as text."""

Text = Annotated[str, Field(max_length=CHARACTERS, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")]
"""A text that can be printed, with line breaks."""
Number = Annotated[float, Field(ge=-1e9, le=1e9)]
Share = Annotated[float, Field(ge=0, le=1)]
Whole = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Count = Annotated[int, Field(ge=0, le=MOST)]
COUNTED = ("iterations", "rounds", "shifts", "average", "dilation")
"""Settings that cost time."""


class Form(BaseModel):
    """The fields of a file, in a subclass: all that it may hold, each of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Picture(Form):
    """A PNG as text in base64."""

    png: Annotated[str, Field(max_length=PICTURE, pattern=r"^[A-Za-z0-9+/]+=*$")]


File = Text | Picture | None
T = TypeVar("T")


def parsed(text: str | bytes) -> Any:
    """The values of JSON.

    Raises:
        ValueError: for text that is no JSON, too long, or holds numbers that are not finite.
    """
    if len(text) > JSON:
        raise ValueError(f"it is {len(text)} characters long, and at most {JSON} are read")
    try:
        return json.loads(text, parse_constant=_refused)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no finite number")


def checked(values: Any, form: type[T]) -> T:
    """Values of JSON in their form.

    Raises:
        ValueError: for a field that is missing, unknown, or not of its type and range: which, and what was expected.
    """
    try:
        # As JSON, whose lists are tuples where those are asked for.
        return _adapter(form).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None


_adapter: Any = functools.cache(TypeAdapter)

# ---------------------------------------------------------------- methods


@functools.cache
def form_of(kind: type, kinds: tuple[type, ...]) -> Any:
    """The form of a method's settings, made of its dataclass.

    Args:
        kinds: what may stand where it holds methods of its own.
    """
    hints = typing.get_type_hints(kind)
    fields: dict[str, Any] = {
        field.name: (Count if field.name in COUNTED else plain(hints[field.name], kinds), None)
        for field in dataclasses.fields(kind)
        if field.init
    }
    fields["method"] = (Literal[kind.__name__], ...)
    return create_model(kind.__name__, __base__=Form, **fields)


def plain(hint: Any, kinds: tuple[type, ...]) -> Any:
    """A type as JSON holds its values; None for a type that has none there, such as a function's."""
    if hint in _PLAIN or typing.get_origin(hint) is Literal:
        return _PLAIN.get(hint, hint)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return Union[tuple(found for one in inner if (found := plain(one, kinds)) is not None)]  # noqa: UP007
    if origin is tuple and ... not in inner:
        return tuple[tuple(plain(one, kinds) for one in inner)]  # type: ignore[misc]
    if origin in (tuple, list, collections.abc.Sequence):
        most = PARTS if dataclasses.is_dataclass(inner[0]) else MOST
        return Annotated[list[plain(inner[0], kinds)], Field(max_length=most)]  # type: ignore[misc]
    if origin in (dict, collections.abc.Mapping):
        return Annotated[dict[Text, plain(inner[1], kinds)], Field(max_length=MOST)]  # type: ignore[misc]
    # What has a form of its own in a recipe (`described`) is not held as a method.
    fitting = [k for k in kinds if isinstance(hint, type) and issubclass(k, hint) and not hasattr(k, "described")]
    # A stack of stacks is none that this package makes.
    forms: tuple[Any, ...] = tuple(form_of(k, ()) for k in fitting if not hasattr(k, "parts"))  # type: ignore[arg-type]
    if len(forms) < 2:
        return forms[0] if forms else None
    return Annotated[Union[forms], Field(discriminator="method")]  # noqa: UP007


_PLAIN: Mapping[Any, Any] = {
    **{float: Number, int: Whole, str: Text, bool: bool, Any: File, type(None): type(None)},
    **{os.PathLike: None},
}


# ---------------------------------------------------------------- tensors


def shaped(tensors: Mapping[str, Tensor], axes: Mapping[str, str]) -> dict[str, int]:
    """The sizes of named axes.

    Args:
        tensors: by name.
        axes: the names of each tensor's axes, such as "steps channels height width", or their sizes; of tensors that
            are not there, too.

    Raises:
        ValueError: for a tensor that is not named, or is no finite fp32 tensor of these axes.
    """
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        if name not in axes:
            raise ValueError(f"it holds a tensor {name!r}, which is unknown here")
        wanted, shape = axes[name].split(), list(tensor.shape)
        pairs = zip(wanted, shape, strict=False)
        found = [sizes.setdefault(axis, int(axis) if axis.isdigit() else size) for axis, size in pairs]
        if found != shape or len(shape) != len(wanted) or 0 in found:
            known = ", ".join(axis if axis.isdigit() else f"{axis} {sizes.get(axis, '?')}" for axis in wanted)
            raise ValueError(f"{name}: its shape {shape} is not [{known}]")
        if tensor.dtype != torch.float32 or not tensor.isfinite().all():
            raise ValueError(f"{name}: it holds values that are no finite numbers in float32")
    return sizes
