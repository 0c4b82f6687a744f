"""Inputs made wrong, one place at a time, by a seeded generator: values of JSON, bytes of files, tensors."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

WRONG: dict[type, tuple[Any, ...]] = {
    str: (77, [77], {"a": []}, True, "\x1b[2J", "x" * 20_000, "\ud800"),
    int: ("7", ["a"], {"a": "b"}, float("nan"), float("inf"), 1e300, True),
    float: ("7", ["a"], {"a": "b"}, float("nan"), float("-inf"), 1e300, False),
    bool: (2, "yes", [True], {}),
    type(None): ({"nonsense": 1}, [[[]]], True),
    list: (7, {"a": "b"}, [None] * 5000, [[[]]]),
    tuple: (7, {"a": "b"}),
    dict: (7, [1], True),
}
"""What never stands where a value of the type does."""


def places(values: Any, at: tuple = ()) -> Iterator[tuple]:
    """The paths of all values inside a value of JSON."""
    if at:
        yield at
    inside = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inside:
        yield from places(value, (*at, key))


def wrong(values: Any, r: random.Random) -> tuple[str, Any]:
    """JSON with one value of a wrong type or range, or a field that nobody knows; and what was done."""
    values = copy.deepcopy(values)
    *path, last = r.choice(list(places(values)))
    inside = values
    for key in path:
        inside = inside[key]
    if isinstance(inside[last], dict) and r.random() < 0.3:
        inside[last]["unheard_of"] = 1
        return f"{(*path, last)} with an unknown field", values
    inside[last] = r.choice(WRONG[type(inside[last])])
    return f"{(*path, last)} = {str(inside[last])[:40]!r}", values


def text(values: Any, r: random.Random) -> tuple[str, str]:
    """JSON text that is wrong in one value, or no JSON."""
    said, changed = wrong(values, r)
    if r.random() < 0.8:
        return said, json.dumps(changed)
    whole = json.dumps(values)
    early = whole[: r.randrange(len(whole))]
    broken = (early, "[" * 100_000, "null", "7", "[]", whole + "}", "", whole[:-1] + ',"steps":}')
    return "no JSON of the form", r.choice(broken)


def cut(data: bytes, r: random.Random) -> bytes:
    """The bytes before a random place."""
    return data[: r.randrange(len(data))]


def flipped(data: bytes, r: random.Random) -> bytes:
    """Bytes with one to eight of them changed."""
    changed = bytearray(data)
    for _ in range(r.randint(1, 8)):
        changed[r.randrange(len(changed))] ^= r.randint(1, 255)
    return bytes(changed)


def _at(tensor: Tensor, value: float, r: random.Random) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[r.randrange(tensor.numel())] = value
    return changed


TENSORS: dict[str, Callable[[Tensor, random.Random], Tensor]] = {
    "a NaN": lambda tensor, r: _at(tensor, float("nan"), r),
    "an infinity": lambda tensor, r: _at(tensor, float("-inf"), r),
    "double precision": lambda tensor, r: tensor.double(),
    "half precision": lambda tensor, r: tensor.half(),
    "whole numbers": lambda tensor, r: tensor.int(),
    "one axis more": lambda tensor, r: tensor[None],
    "one axis less": lambda tensor, r: tensor[0],
    "nothing": lambda tensor, r: tensor[:0],
    "no axis": lambda tensor, r: torch.tensor(1.0),
}
"""Ways in which a tensor is none that a file of ours holds."""
