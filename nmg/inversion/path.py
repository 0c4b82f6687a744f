"""The source row's way down along a trajectory, walked once under one guidance and followed by later edits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nmg._types import Latents


@dataclass(frozen=True, eq=False)
class SourcePath:
    """Where the source row was at each step of a run.

    Attributes:
        key: a digest of all that the row depends on: the trajectory, the guidance and the null prompt.
        seen: the row that the network saw at each step, after the guidance had steered it.
        ended: the row after each step.
        noise: what the network predicted for the first of `seen` under the source prompt, by which a changed network is
            noticed, [1, channels, height, width].
        null: the guidance's own null embedding, of each step or of all.
    """

    key: str
    seen: Float[Tensor, "steps channels height width"]
    ended: Float[Tensor, "steps channels height width"]
    noise: Latents
    null: Float[Tensor, "_ tokens features"] | None = None

    def to(self, device: torch.device | str) -> SourcePath:
        return SourcePath(self.key, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        held = {name: getattr(self, name) for name in ("seen", "ended", "noise", "null")}
        return {name: tensor for name, tensor in held.items() if tensor is not None}
