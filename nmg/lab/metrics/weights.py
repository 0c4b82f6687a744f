"""The networks of learned metrics: loaded at the first call, and missing with a reason where they can't be."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Device = str | torch.device | None


class Missing(RuntimeError):
    """A metric can't be measured here: the message names it, and says why and how to get it."""


@contextmanager
def loading(metric: str, cure: str) -> Iterator[None]:
    """Load without notices; whatever goes wrong means that the metric is missing."""
    from nmg.pipelines import quiet

    try:
        with quiet(), warnings.catch_warnings(action="ignore"):
            yield
    except Exception as error:  # ImportError, OSError, ValueError, RuntimeError, SafetensorError, …
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Missing(f"{metric} can't be measured here: {reason} — {cure}") from error


def cure(model: str) -> str:
    """How to get a model that can't be loaded."""
    cure = f"give model= a folder in transformers' layout, or the hub id of a model that can be fetched, not {model!r}"
    return cure + ("; HF_HUB_OFFLINE is set, so that nothing is fetched" if offline() else "")


def complete(architecture: Any, model: str, **options: Any) -> Any:
    """The network with all its weights: those of another kind of model load too, and what they lack stays random."""
    # A hub id is "name" or "owner/name": anything else is a folder.
    if (os.path.isabs(model) or model.startswith((".", "~")) or model.count("/") > 1) and not os.path.isdir(model):
        raise FileNotFoundError(f"there is no folder {model!r}")
    # Never pickled weights, which could run anything.
    options = {"use_safetensors": True, **options}
    network, report = architecture.from_pretrained(model, output_loading_info=True, **options)
    if lacking := set(report["missing_keys"]) & {name for name, _ in network.named_parameters()}:
        raise ValueError(f"{model!r} lacks {len(lacking)} of the network's tensors, such as {min(lacking)}")
    return network


def offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def device_of(device: Device) -> torch.device:
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def one_each(what: str, given: Sequence[Any], pictures: Tensor) -> None:
    if isinstance(given, str) or len(given) != len(pictures):
        count = "a string" if isinstance(given, str) else len(given)
        raise ValueError(f"there are {len(pictures)} pictures and {count} for {what}; give a list of one per picture")
