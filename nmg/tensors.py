"""Tensors and what describes them in one safetensors file: how trajectories, directions and null texts are kept."""

from __future__ import annotations

import json
import os
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def save(path: str | os.PathLike, form: str, tensors: dict[str, Tensor], described: dict[str, Any]) -> None:
    """Write tensors, in fp32, and a description that JSON holds; a file at `path` is replaced when all is written.

    Args:
        form: name and version of the file's form, which `load` asks for again.
    """
    part = f"{os.fspath(path)}.part"
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, part, metadata={"format": form, "described": json.dumps(described)})
    os.replace(part, path)


def load(path: str | os.PathLike, form: str, what: str, cure: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description that `save` wrote.

    Args:
        what: what the file should hold, and `cure` how to make one: for the messages.

    Raises:
        FileNotFoundError: without a file at `path`.
        ValueError: for a file of another form, or one that can't be read.
    """
    name = repr(os.fspath(path))
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no {what} at {name}; {cure}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != form:
                raise ValueError(f"{name} holds no {what} of this version; {cure}")
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(metadata["described"])  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{name} can't be read ({error}); {cure}") from error
