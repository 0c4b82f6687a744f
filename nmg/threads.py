"""Threads that share a pipeline, as a notebook's cells and its panel do, take turns at what can't be shared."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

_LOCKS: WeakKeyDictionary[Any, AbstractContextManager] = WeakKeyDictionary()


def alone_with(part: Any) -> AbstractContextManager:
    """A block that one thread at a time enters for a part of a pipeline: its UNet, whose hooks are one call's, or its
    tokenizer, which keeps settings of its own during a call. The thread that is inside may enter again."""
    return _LOCKS.setdefault(part, threading.RLock())
