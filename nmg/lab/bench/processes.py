"""Several processes that share one benchmark, started by torchrun: on CPU cores, or a GPU each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

PATIENCE = timedelta(days=7)
"""How long a process waits for the slowest; the default of half an hour is less than some items take."""

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those of its run.

    Attributes:
        rank: its number, from 0.
        count: of processes.
        wait: returns when all have called it.
    """

    rank: int = 0
    count: int = 1
    wait: Callable[[], Any] = lambda: None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, work: Sequence[T]) -> Sequence[T]:
        """This process's part; every process has to give the same list."""
        return work[self.rank :: self.count]


def joined(cpu: bool) -> Processes:
    """The processes that torchrun started, through accelerate; one alone without it.

    Args:
        cpu: talk over gloo instead of the GPUs' NCCL.

    Raises:
        RuntimeError: if fewer processes have joined than torchrun started.
    """
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started == 1:
        return Processes()
    from accelerate import PartialState

    state = PartialState(cpu=cpu, timeout=PATIENCE)
    if state.num_processes != started:
        raise RuntimeError(
            f"torchrun started {started} processes and {state.num_processes} joined; without a GPU each, give --device "
            "cpu"
        )
    return Processes(state.process_index, state.num_processes, state.wait_for_everyone)


def own_device(device: str | None) -> str | None:
    """The device of this process: a GPU each under torchrun, unless one is named by its number."""
    import torch

    chosen = device or ("cuda" if torch.cuda.is_available() else None)
    if chosen == "cuda" and "LOCAL_RANK" in os.environ:
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return chosen
