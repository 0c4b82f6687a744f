"""Which device a command computes on: CUDA, then a Mac's GPU, then the CPU."""

from __future__ import annotations

import sys

import torch


def device_for(named: str | None) -> str:
    """The device that was named, or the first that is there; a choice for MPS is said, since nobody has tested it."""
    if named:
        return named
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        print("nmg: computing on this Mac's GPU (MPS), which is untested; --device cpu is tested", file=sys.stderr)
        return "mps"
    return "cpu"
