"""Changes to a network that are undone, whatever strikes in the middle.

A signal can end a `with` block before its clean-up, or in it. Every change is therefore noted before it is made, beside
the network. What an ended block did not undo, the next one on the network does.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch

from nmg.threads import alone_with

F = TypeVar("F", bound=Callable[..., Any])
Note = Callable[[Callable[[], object]], None]
"""Takes what undoes a change that is about to be made; undoing it twice, or before it is made, must do no harm."""


class _Block:
    """Lives as long as its `with` block."""


_CHANGES: WeakKeyDictionary[Any, list[tuple[weakref.ref[_Block], Callable[[], object]]]] = WeakKeyDictionary()
"""What undoes the changes to each network, in their order, and the block that made each."""


@contextmanager
def undoing(network: Any) -> Iterator[Note]:
    """Undo, when the block ends, what was noted in it, last things first. One thread at a time is inside."""
    with alone_with(network):
        changes, block = _CHANGES.setdefault(network, []), _Block()
        _undo(changes, lambda owner: owner() is None)
        own = weakref.ref(block)
        try:
            yield lambda undo: changes.append((own, undo))
        finally:
            try:
                _undo(changes, lambda owner: owner in (own, None))
            except KeyboardInterrupt:
                # It waits until all is undone.
                _undo(changes, lambda owner: owner in (own, None))
                raise


def _undo(changes: list[tuple[weakref.ref[_Block], Callable[[], object]]], whose: Callable[[Any], bool]) -> None:
    """Undo the last changes, as far as they belong to a block."""
    while changes and whose(changes[-1][0]):
        changes[-1][1]()
        changes.pop()


def gradients_kept(function: F) -> F:
    """A decorator: gradients are on after a call if they were before. A signal in the clean-up of one of torch's own
    blocks leaves the thread without."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        enabled = torch.is_grad_enabled()
        try:
            return function(*args, **options)
        finally:
            torch.set_grad_enabled(enabled)

    return call  # type: ignore[return-value]


def no_inference() -> AbstractContextManager:
    """A block outside inference mode. None is opened without need: torch's guard, dropped late after an interrupt,
    leaves the thread without gradients."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
