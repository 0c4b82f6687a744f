"""A trajectory: the noise maps of one inverted picture, as a value to save, load and edit."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from nmg.conditioning import Conditioning
from nmg.identity import Identity
from nmg.inversion.base import CONVENTIONS, DDIM, Inversion
from nmg.inversion.drawn import Drawn
from nmg.inversion.edit_friendly import EditFriendly
from nmg.inversion.fixed_point import FixedPoint
from nmg.inversion.regularised import Regularised
from nmg.inversion.uni import UniInv
from nmg.levels import Level, Step, between, diffusion
from nmg.schema import MOST, Form, Number, Share, Text, shaped
from nmg.serialize import load, packed, save, unpacked
from nmg.types import Latents

FORMAT = "nmg-trajectory-4"
EARLIER = ("nmg-trajectory-2", "nmg-trajectory-3")
"""Formats that are still read: their levels are numbers ᾱ, and their recorded source row is not used."""
INVERSIONS = (DDIM, Drawn, EditFriendly, FixedPoint, Regularised, UniInv)
"""What a saved trajectory can have been made by."""


AXES = {
    "maps": "levels channels height width",
    "residuals": "steps channels height width",
    "network": "1 channels 8 8",
    "cache.seen": "steps channels height width",
    "cache.ended": "steps channels height width",
    "cache.noise": "1 channels height width",
    "cache.null.tokens": "nulls tokens features",
    "cache.null.pooled": "nulls pooled",
    "cache.null.mask": "nulls tokens",
    "cache.null.guidance": "nulls",
    "cache.null": "nulls tokens features",
}
"""The tensors of a saved trajectory; the last is of earlier formats."""


_Level = tuple[Share, Share, tuple[Number, Number]]
_Time = Annotated[int, Field(ge=0, le=10**6)] | Annotated[float, Field(ge=0, le=1e6)]


class _Fields(Form):
    """What a saved trajectory says of its tensors."""

    levels: Annotated[list[Share | _Level], Field(min_length=2)]
    steps: Annotated[list[tuple[int, _Time, Share | _Level, Share | _Level]], Field(min_length=1, max_length=MOST)]
    prompt: Text
    model: Text
    inversion: dict[str, Any]
    convention: Text = "aligned"
    cache: Text | None = None
    plain_drift: Annotated[float, Field(ge=0, le=1e9)] | None = None
    rounding: Share | None = None
    path: Text | None = None
    """Of version 0.1.0; not used."""


@dataclass(frozen=True, eq=False)
class SourceRow:
    """The source row of one run, recorded step by step.

    Attributes:
        key: a digest of all that the row depends on: the trajectory, the guidance, the negative prompt and the code.
        seen: the row that the network saw at each step, after `Guidance.steer`.
        ended: the row after each step.
        noise: what the network predicted for the first of `seen` under the source prompt, [1, channels, height, width].
            A changed network predicts something else.
        null: the guidance's own null text: one row for each step, or one for all.
        plain_drift: see `nmg.Edit`.
    """

    key: str
    seen: Float[Tensor, "steps channels height width"]
    ended: Float[Tensor, "steps channels height width"]
    noise: Latents
    null: Conditioning | None = None
    plain_drift: float | None = None

    def to(self, device: torch.device | str) -> SourceRow:
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return self.of(self.key, moved, self.plain_drift)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name; those of `null` are named after it."""
        null = {} if self.null is None else self.null.tensors()
        return {"seen": self.seen, "ended": self.ended, "noise": self.noise} | {f"null.{n}": t for n, t in null.items()}

    @classmethod
    def of(cls, key: str, tensors: dict[str, Tensor], plain_drift: float | None) -> SourceRow:
        """The row that these are the `tensors` of."""
        null: dict[str, Any] = {
            name.removeprefix("null."): held for name, held in tensors.items() if name.startswith("null.")
        }
        steps = {name: tensors[name] for name in ("seen", "ended", "noise")}
        if "mask" in null:
            # A file holds numbers.
            null["mask"] = null["mask"].bool()
        return cls(key, **steps, null=Conditioning(**null) if null else None, plain_drift=plain_drift)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The noise maps of one inverted picture, and what they were made with.

    Attributes:
        maps: z*_0 … z*_T, [T + 1, channels, height, width] in fp32; map 0 is the picture.
        levels: of each map, T + 1 of them.
        steps: the T denoising steps, noisiest first.
        prompt: the source prompt.
        model: hub id or folder of the model.
        convention: name of the levels (see `CONVENTIONS`).
        inversion: how the maps were made.
        residuals: what to add after each of the `steps`, where DDIM steps alone do not join the maps.
        cache: the source row of an earlier edit. An edit with the same guidance replays it.
        network: what the network is known by that the maps were made by, whatever its name is (`Identity.of(pipe,
            prompt)`). Without one the name counts.
    """

    maps: Float[Tensor, "levels channels height width"]
    levels: tuple[Level, ...]
    steps: tuple[Step, ...]
    prompt: str
    model: str
    convention: str = "aligned"
    inversion: Inversion = DDIM()
    residuals: Float[Tensor, "steps channels height width"] | None = None
    cache: SourceRow | None = None
    # Not part of what a source row is known by, for which the network is asked again.
    network: Identity | None = field(default=None, compare=False)

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

    def noise(self, step: Step) -> Latents:
        """What a network would have to predict at `origin(step)` for the step to end at `target(step)`; no call of it.

        Of a trajectory by DDIM it is what the network did predict on the way up.
        """
        return between(self.origin(step), self.target(step), step.here, step.there)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latent."""
        return self.maps.shape[-2], self.maps.shape[-1]

    def check(self) -> None:
        """Raise for maps, levels and steps that can't belong together.

        Raises:
            ValueError: with what is wrong.
        """
        count, steps = len(self.steps), self.steps
        tensors = self._tensors()
        # A row may be held in half precision, and a mask as truth values; a file holds neither.
        row = {} if self.cache is None else self.cache.tensors()
        sizes = shaped(tensors | {f"cache.{name}": tensor.float() for name, tensor in row.items()}, AXES)
        if not sizes.get("levels") == len(self.levels) == count + 1 or sizes.get("steps", count) != count:
            raise ValueError(f"{count} steps join {count + 1} maps, and it holds {len(self.maps)}")
        if sizes.get("nulls", 1) not in (1, count):
            raise ValueError(f"cache.null: {sizes['nulls']} null prompts are none of one, or of one for each step")
        if self.convention not in CONVENTIONS:
            raise ValueError(f"convention={self.convention!r} is unknown; {', '.join(CONVENTIONS)} work")
        times = [-step.timestep for step in steps]
        joined = all(a.there == b.here for a, b in pairwise(steps))
        if [step.index for step in steps] != list(range(count)) or times != sorted(times) or times[-1] > 0:
            raise ValueError("its steps are no falling timesteps, counted from 0")
        own = (steps[-1].there, *(step.here for step in reversed(steps)))
        if not joined or not _falling(own) or not _falling(self.levels):
            raise ValueError("its noise levels don't fall from the picture on, or leave 0…1")
        if self.convention == "aligned" and own != tuple(self.levels):
            raise ValueError("its noise levels are not those of its steps")

    def _tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, without the cache's."""
        answer = None if self.network is None else self.network.answer
        held = {"maps": self.maps, "residuals": self.residuals, "network": answer}
        return {name: tensor for name, tensor in held.items() if tensor is not None}

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
        described = {name: getattr(self, name) for name in ("prompt", "model", "convention")}
        described["levels"] = [dataclasses.astuple(level) for level in self.levels]
        described["steps"] = [dataclasses.astuple(step) for step in self.steps]
        described["inversion"] = packed(self.inversion)
        described["rounding"] = None if self.network is None else self.network.rounding
        held = self._tensors()
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
        cure = "make one with `nmg invert`"
        held, fields = load(path, (FORMAT, *EARLIER), _Fields, AXES, "trajectory", cure)
        row = {name.removeprefix("cache."): held.pop(name) for name in list(held) if name.startswith("cache.")}
        described: dict[str, Any] = {name: getattr(fields, name) for name in ("prompt", "model", "convention")}
        try:
            described["inversion"] = unpacked(fields.inversion, INVERSIONS)
            described["cache"] = None if fields.cache is None else SourceRow.of(fields.cache, row, fields.plain_drift)
            steps = tuple(Step(i, t, _level(here), _level(there)) for i, t, here, there in fields.steps)
            levels = tuple(map(_level, fields.levels))
            described["network"] = Identity.read(held.get("network"), fields.rounding)
            found = cls(held["maps"], levels, steps, residuals=held.get("residuals"), **described)
            found.check()
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{os.fspath(path)!r} is damaged ({error}); {cure}") from error
        return found


def _level(held: Any) -> Level:
    """A level as it is written, or as the number ᾱ that it was in earlier formats."""
    return diffusion(held) if isinstance(held, float) else Level(*held)


def _falling(levels: Sequence[Level]) -> bool:
    """Whether the picture's share falls and the noise's rises, from the picture on, as far as can be inverted."""
    rising = all(low.a >= high.a and low.s <= high.s for low, high in pairwise(levels))
    return rising and all(0 <= level.a <= 1 and 0 <= level.s <= 1 and level.a + level.s > 0 for level in levels)
