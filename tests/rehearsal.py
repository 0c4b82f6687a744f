"""A rehearsal of an accelerator on a CPU: tensors that say they live elsewhere, and compute here.

It sees a tensor of the CPU that meets one of the device, a tensor that is made on the device without values, and every
wait for the device: for a value, or for a copy. It does not see time, memory, the device's own rounding, or operations
that the device lacks.
"""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
"""What the tensors say: a device that every torch has, and that computes nothing."""
aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default: "a number",
    aten.equal.default: "torch.equal",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
}
"""Operations that wait for the device, and what they are known by."""
SCALARS = (aten._local_scalar_dense.default, aten.equal.default)
"""Operations whose result is no tensor of the device."""


class There(torch.Tensor):
    """A tensor that says that it is on the device, and holds one of the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> There:
        # Conjugates are otherwise a mark on the tensor, of which nothing is known where operations are computed.
        real = real.resolve_conj().resolve_neg()
        shape = {"strides": real.stride(), "storage_offset": real.storage_offset(), "dtype": real.dtype}
        there = torch.Tensor._make_wrapper_subclass(cls, real.shape, device=DEVICE, requires_grad=False, **shape)
        there.held = real
        return there

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: tuple = (), options: dict | None = None) -> Any:
        return Log.current().compute(operation, args, options or {})


class Log:
    """What happened: each kind of event by the line of the package that caused it."""

    _all: list[Log] = []

    def __init__(self) -> None:
        self.mixed: collections.Counter[str] = collections.Counter()
        self.phantoms: collections.Counter[str] = collections.Counter()
        self.waits: collections.Counter[str] = collections.Counter()

    @classmethod
    def current(cls) -> Log:
        return cls._all[-1] if cls._all else Log()

    def compute(self, operation: Any, args: tuple, options: dict[str, Any]) -> Any:
        """Unwrap, compute on the CPU, and wrap again what would be on the device."""
        tensors: list[torch.Tensor] = []
        _each(tensors.append, (args, *options.values()))
        there = [tensor for tensor in tensors if isinstance(tensor, There)]
        here = [tensor for tensor in tensors if not isinstance(tensor, There)]
        self.note(operation, args, there, here)
        if operation is aten._to_copy.default:
            self.copied(args[0], options)

        to = options.get("device")
        placed = torch.device(to) == DEVICE if to is not None else bool(there)
        own = {name: value for name, value in options.items() if not (name == "layout" and value is None)}
        own |= {} if to is None else {"device": torch.device("cpu")}
        found = operation(*_each(_real, args), **{name: _each(_real, value) for name, value in own.items()})

        written = [i for i, a in enumerate(operation._schema.arguments) if a.alias_info and a.alias_info.is_write]
        if written:
            # An operation in place returns the tensor that it was given.
            name = operation._schema.arguments[written[0]].name
            given = args[written[0]] if written[0] < len(args) else options.get(name)
            return given if len(operation._schema.returns) == 1 else found
        return _each(_wrapped, found) if placed and operation not in SCALARS else found

    def note(self, operation: Any, args: tuple, there: list[There], here: list[torch.Tensor]) -> None:
        if any(tensor.device == DEVICE for tensor in here):
            self.phantoms[f"{operation} at {_line()}"] += 1
        moving = operation in (aten._to_copy.default, aten.copy_.default, aten.lift_fresh.default)
        if there and any(tensor.dim() for tensor in here) and not moving:
            self.mixed[f"{operation} at {_line()}"] += 1
        indexing = operation in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
        masks = indexing and any(t is not None and t.dtype == torch.bool for t in args[1])
        if there and (operation in WAITS or masks):
            self.wait(WAITS.get(operation, "a boolean index"))
        if operation is aten.copy_.default and there and here:
            self.wait("a copy")

    def wait(self, what: str) -> None:
        """Count a wait for the device by the line that caused it."""
        self.waits[f"{what} at {_line()}"] += 1

    def copied(self, tensor: torch.Tensor, options: dict[str, Any]) -> None:
        """Count the wait for a tensor that is copied to the device or from it. The CPU's memory is copied to the device
        in time if it need not be waited for."""
        to = options.get("device")
        if to is None or (torch.device(to) == DEVICE) == isinstance(tensor, There):
            return
        if isinstance(tensor, There) or not options.get("non_blocking"):
            self.wait("a copy")


def _each(change: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """An operation's arguments or results with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    return type(value)(_each(change, part) for part in value) if type(value) in (tuple, list) else value


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.held if isinstance(tensor, There) else tensor


def _wrapped(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if isinstance(tensor, There) else There(tensor)


def _line() -> str:
    """The innermost line of the package on the stack."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/nmg/" in name:
            return f"nmg/{name.rsplit('/nmg/', 1)[1]} {frame.f_code.co_name}"
        frame = frame.f_back
    return "?"


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), options: dict | None = None) -> Any:
        return Log.current().compute(operation, args, options or {})


class _Made(TorchFunctionMode):
    """Constructors that make their tensor below Python, where no dispatch sees its values."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), options: dict | None = None) -> Any:
        options = dict(options or {})
        makes = function in (torch.tensor, torch.as_tensor)
        if makes and options.get("device") is not None and torch.device(options["device"]) == DEVICE:
            del options["device"]
            made = function(*args, **options)
            if not isinstance(made, There):
                Log.current().wait("a copy")
            return _wrapped(made)
        if function is torch.Tensor.tolist and isinstance(args[0], There):
            Log.current().waits[f"a list at {_line()}"] += 1
            return args[0].held.tolist()
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], There):
            args = (args[0], _listed(args[1]), *args[2:])
        return function(*args, **options)


def _listed(index: Any) -> Any:
    """An index whose lists are tensors of the device."""
    if isinstance(index, tuple):
        return tuple(map(_listed, index))
    if not isinstance(index, list):
        return index
    Log.current().wait("an index by a list")
    return There(torch.tensor(index))


@contextlib.contextmanager
def rehearsal() -> Iterator[Log]:
    """Inside the block modules that were `moved` compute, and what they do is logged."""
    log = Log()
    Log._all.append(log)
    try:
        with _Made(), _Dispatch():
            yield log
    finally:
        Log._all.remove(log)


def moved(*modules: torch.nn.Module) -> None:
    """Put the parameters and buffers of modules on the device; one that is shared stays shared."""
    known: dict[int, torch.nn.Parameter] = {}
    for module in (part for network in modules for part in network.modules()):
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                wrapped = torch.nn.Parameter(There(parameter.data), requires_grad=parameter.requires_grad)
                module._parameters[name] = known.setdefault(id(parameter), wrapped)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = There(buffer)
