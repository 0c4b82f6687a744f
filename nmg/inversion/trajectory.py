"""A trajectory: the noise maps of one inverted picture, as a value to save, load and edit."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nmg.inversion.base import DDIM, Inversion
from nmg.inversion.edit_friendly import EditFriendly
from nmg.inversion.fixed_point import FixedPoint
from nmg.inversion.regularised import Regularised
from nmg.levels import Step
from nmg.serialize import load, packed, save, unpacked
from nmg.types import Latents

FORMAT = "nmg-trajectory-3"
EARLIER = ("nmg-trajectory-2",)
"""Formats that are still read: version 0.1.0's, whose recorded source row is not used."""
INVERSIONS = (DDIM, EditFriendly, FixedPoint, Regularised)
"""What a saved trajectory can have been made by."""


@dataclass(frozen=True, eq=False)
class SourceRow:
    """The source row of one run, recorded step by step.

    Attributes:
        key: a digest of all that the row depends on: the trajectory, the guidance, the negative prompt and the code.
        seen: the row that the network saw at each step, after `Guidance.steer`.
        ended: the row after each step.
        noise: what the network predicted for the first of `seen` under the source prompt, [1, channels, height, width].
            A changed network predicts something else.
        null: the guidance's own null embedding: one for each step, or one for all.
        plain_drift: see `nmg.Edit`.
    """

    key: str
    seen: Float[Tensor, "steps channels height width"]
    ended: Float[Tensor, "steps channels height width"]
    noise: Latents
    null: Float[Tensor, "_ tokens features"] | None = None
    plain_drift: float | None = None

    def to(self, device: torch.device | str) -> SourceRow:
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return dataclasses.replace(self, **moved)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        held = {name: getattr(self, name) for name in ("seen", "ended", "noise", "null")}
        return {name: tensor for name, tensor in held.items() if tensor is not None}


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The noise maps of one inverted picture, and what they were made with.

    Attributes:
        maps: z*_0 … z*_T, [T + 1, channels, height, width] in fp32; map 0 is the picture.
        levels: ᾱ of each map, T + 1 falling numbers.
        steps: the T denoising steps, noisiest first.
        prompt: the source prompt.
        model: hub id or folder of the model.
        convention: name of the levels (see `CONVENTIONS`).
        inversion: how the maps were made.
        residuals: what to add after each of the `steps`, where DDIM steps alone do not join the maps.
        cache: the source row of an earlier edit. An edit with the same guidance replays it.
    """

    maps: Float[Tensor, "levels channels height width"]
    levels: tuple[float, ...]
    steps: tuple[Step, ...]
    prompt: str
    model: str
    convention: str = "aligned"
    inversion: Inversion = DDIM()
    residuals: Float[Tensor, "steps channels height width"] | None = None
    cache: SourceRow | None = None

    @property
    def start(self) -> Latents:
        """The noisiest latent, where sampling begins."""
        return self.maps[-1:]

    def target(self, step: Step) -> Latents:
        """The noise map that the source row should reach by `step`: z*_{t-1} if aligned."""
        k = len(self.steps) - 1 - step.index
        return self.maps[k : k + 1]

    def origin(self, step: Step) -> Latents:
        """The noise map that `step` starts at: z*_t if aligned."""
        k = len(self.steps) - step.index
        return self.maps[k : k + 1]

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latent."""
        return self.maps.shape[-2], self.maps.shape[-1]

    def to(self, device: torch.device | str) -> Trajectory:
        residuals = None if self.residuals is None else self.residuals.to(device)
        cache = None if self.cache is None else self.cache.to(device)
        return dataclasses.replace(self, maps=self.maps.to(device), residuals=residuals, cache=cache)

    def save(self, path: str | os.PathLike) -> None:
        """Write the maps and all that describes them to one safetensors file.

        Raises:
            ValueError: for an inversion that is not this package's, which could not be read again.
        """
        if type(self.inversion) not in INVERSIONS:
            raise ValueError(
                f"{type(self.inversion).__name__} is no inversion of this package, so the file could not be read "
                "again; save dataclasses.replace(trajectory, inversion=DDIM()), whose maps are the same"
            )
        described = {name: getattr(self, name) for name in ("levels", "prompt", "model", "convention")}
        described["steps"] = [dataclasses.astuple(step) for step in self.steps]
        described["inversion"] = packed(self.inversion)
        held = {"maps": self.maps} | ({} if self.residuals is None else {"residuals": self.residuals})
        if self.cache is not None:
            described |= {"cache": self.cache.key, "plain_drift": self.cache.plain_drift}
            held |= {f"cache.{name}": tensor for name, tensor in self.cache.tensors().items()}
        save(path, FORMAT, held, described)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Trajectory:
        """Read a trajectory that `save` wrote.

        Raises:
            FileNotFoundError: without a file at `path`.
            ValueError: for a file that holds no trajectory.
        """
        held, described = load(path, (FORMAT, *EARLIER), "trajectory", "make one with `nmg invert`")
        described["steps"] = tuple(Step(*fields) for fields in described["steps"])
        described["levels"] = tuple(described["levels"])
        described["inversion"] = unpacked(described["inversion"], INVERSIONS)
        described.pop("path", None)
        key, row = described.pop("cache", None), {"plain_drift": described.pop("plain_drift", None)}
        for name in [name for name in held if name.startswith("cache.")]:
            row[name.removeprefix("cache.")] = held.pop(name)
        cache = None if key is None else SourceRow(key, **row)
        return cls(held["maps"], residuals=held.get("residuals"), cache=cache, **described)
