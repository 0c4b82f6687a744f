"""What an item costs: seconds and peak memory, by the device that it ran on."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

PROCESS = Path("/proc/self")
RESET_PEAK = "5"
"""Written to a process's clear_refs, makes Linux forget its peak resident size (man 5 proc)."""


@dataclass
class Cost:
    """Filled in when the measured block ends.

    Attributes:
        seconds: of wall time, the device's queue emptied at both ends.
        peak_mib: MiB allocated at most on a CUDA device, resident at most of the process on Linux's CPU, model
            included; None where that can't be known.
    """

    seconds: float = 0.0
    peak_mib: float | None = None


@contextmanager
def metered(device: torch.device) -> Iterator[Cost]:
    """Measure what the block costs."""
    cost, known = Cost(), forget_peak(device)
    start = time.perf_counter()
    yield cost
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    cost.seconds = time.perf_counter() - start
    cost.peak_mib = peak_mib(device) if known else None


def forget_peak(device: torch.device) -> bool:
    """Start a new peak; whether that worked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return True
    if device.type == "cpu":
        _trim()
    try:
        (PROCESS / "clear_refs").write_text(RESET_PEAK)
    except OSError:
        return False
    return device.type == "cpu"


def _trim() -> None:
    """Give freed memory back to the system: what the C library keeps of an earlier block would count as the next's."""
    gc.collect()
    if os.name == "posix" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc's alone
        trim(0)


def peak_mib(device: torch.device) -> float | None:
    """The most MiB held since `forget_peak`; None where the system doesn't tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = PROCESS / "status"
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found[1]) / 2**10 if found else None


def described(device: torch.device) -> str:
    """A device's name in records; on the CPU with the number of torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}"


def _processor() -> str:
    """The processor's name, where the system tells it."""
    listing = PROCESS.parent / "cpuinfo"
    found = re.search(r"model name\s*:\s*(.+)", listing.read_text()) if listing.is_file() else None
    return found[1].strip() if found else platform.machine() or "cpu"
