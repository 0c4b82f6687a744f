"""Null-text inversion: Mokady, Hertz, Aberman, Pritch & Cohen-Or, "Null-text Inversion for Editing Real Images using
Guided Diffusion Models", CVPR 2023, arXiv 2211.09794.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from nmg import identity, rows
from nmg.backbones import Backbone
from nmg.backbones.checks import check_gradient
from nmg.conditioning import Conditioning
from nmg.guidance.base import Guidance
from nmg.guidance.needs import need_aligned, need_deterministic, need_no_negative
from nmg.identity import Identity
from nmg.levels import Step, transfer
from nmg.run import PUBLISHED_STEPS, Asked, Run
from nmg.schema import MOST, Form, Number, Share, Text
from nmg.serialize import load, save
from nmg.types import Latents
from nmg.undo import no_inference

FORMAT = "nmg-null-texts-1"
SAME_START = 0.05
"""The most that two inversions of the same picture differ by, on other hardware or in another precision."""


AXES = {"embeddings": "steps tokens features", "start": "1 channels height width", "network": "1 channels 8 8"}
"""The tensors of saved null texts."""


class _Fields(Form):
    """What saved null texts say of their tensors."""

    losses: Annotated[list[Annotated[float, Field(ge=0, le=1e9)]], Field(min_length=1, max_length=MOST)]
    text_scale: Number
    prompt: Text
    model: Text
    rounding: Share | None = None


@dataclass(frozen=True, eq=False)
class NullTexts:
    """The null embeddings that null-text inversion found for one trajectory. Saved, they spare the search later.

    Attributes:
        embeddings: one for each step, noisiest first, [steps, tokens, features].
        losses: mean squared distance to the noise map at the last iteration of each step.
        text_scale: w that they were found for.
        prompt, model: of the trajectory.
        start: its noisiest map, [1, channels, height, width]. Another picture has another.
        network: what their network is known by; see `Trajectory`.
        path: of the file that they were read from, if any.
    """

    embeddings: Float[Tensor, "steps tokens features"]
    losses: tuple[float, ...]
    text_scale: float
    prompt: str
    model: str
    start: Latents
    path: str | None = field(default=None, compare=False)
    network: Identity | None = None

    def described(self) -> str | None:
        """What a recipe holds of them: their file, or nothing. They are then found again."""
        return self.path

    def save(self, path: str | os.PathLike) -> None:
        """Write them to one safetensors file."""
        described = {name: getattr(self, name) for name in ("losses", "text_scale", "prompt", "model")}
        held = {"embeddings": self.embeddings, "start": self.start}
        if self.network is not None:
            held["network"], described["rounding"] = self.network.answer, self.network.rounding
        save(path, FORMAT, held, described)

    @classmethod
    def load(cls, path: str | os.PathLike) -> NullTexts:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: without a file at `path`.
            ValueError: for a file that holds no null texts.
        """
        cure = "make them with nmg.find_null_texts"
        held, fields = load(path, FORMAT, _Fields, AXES, "null texts", cure)
        said = (tuple(fields.losses), fields.text_scale, fields.prompt, fields.model)
        try:
            network = Identity.read(held.pop("network", None), fields.rounding)
            if len(held) < 2 or len(held["embeddings"]) != len(fields.losses):
                raise ValueError("it lacks some of its null texts or losses")
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)!r} is damaged: {error}; {cure}") from error
        return cls(held["embeddings"], *said, held["start"], os.fspath(path), network)


@dataclass(frozen=True)
class NullText(Guidance):
    """A null embedding for each step, optimised so that the guided step of the source row ends at its noise map.

        ∅_t = argmin |D(z_t, e(z_t, ∅) + w (e_c - e(z_t, ∅))) - z*_{t-1}|²      (section 3.2, equation 3)

    by Adam, started from the embedding of the step before (algorithm 1). All rows use the embedding that was found.
    Stacked with a guidance that steers the source row (`NullText(10) + NoiseMap()`), the search starts after its step.

    Args:
        text_scale: w.
        iterations: the most optimisation steps in each step.
        rate: Adam's learning rate at the first step. It falls linearly to half of that at the last.
        tolerance: mean squared distance at which the first step's search ends early. `growth` is added for each step.
        growth: see `tolerance`. `rate` and `growth` go by the share of the steps, so that 50 steps are as published.
        embeddings: `NullTexts` of an earlier search, or their file, to use instead of a search.

    Raises:
        ValueError: for fewer than one iteration. For a request: for embeddings of another number of steps, text scale,
            model or picture.
    """

    iterations: int = 10
    rate: float = 1e-2
    tolerance: float = 1e-5
    growth: float = 2e-5
    embeddings: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int) or self.iterations < 1:
            raise ValueError(f"NullText: iterations={self.iterations!r} must be a whole number from 1 on, such as 10")

    def opened(self) -> NullText:
        named = isinstance(self.embeddings, str | os.PathLike)
        return dataclasses.replace(self, embeddings=NullTexts.load(self.embeddings)) if named else self

    def check(self, backbone: Backbone, request: Asked) -> None:
        need_aligned(self, request)
        need_deterministic(self, request, "use CFG at the text scale of the inversion, or Direct")
        if backbone.DISTILLED:
            raise ValueError(
                f"NullText searches for the null text of classifier-free guidance, and the "
                f"{type(backbone.network).__name__} was distilled to do without; use NoiseMap or Direct"
            )
        if self.embeddings is None:
            check_gradient(backbone.network, "NullText", "NegativePrompt, Direct or null texts that were found before")
        else:
            need_no_negative(self, request, "was given null texts that were found before")
            _same("steps", len(self.embeddings.embeddings), request.steps)
            _same("text scale", self.embeddings.text_scale, self.text_scale)
            _same("source prompt", self.embeddings.prompt, request.prompts[0])
            found, what = self.embeddings, "NullText: what embeddings holds"
            identity.check(backbone, found.prompt, found.network, found.model, what, "find them again")

    def prepare(self, run: Run) -> Guidance:
        if self.embeddings is None:
            return self.search(run)
        known, start = self.opened().embeddings, run.trajectory.start.cpu()
        if known.start.shape != start.shape or (known.start - start).abs().max() > SAME_START:
            raise ValueError("NullText: the embeddings were found for another picture or inversion; find them again")
        return Found(text_scale=self.text_scale, embeddings=known.embeddings.to(run.null.device))

    def search(self, run: Run) -> Search:
        """A fresh search, whatever `embeddings` hold."""
        return Search(text_scale=self.text_scale, config=self, first=rows.source(run.null).tokens)

    def null(self, run: Run, step: Step) -> Conditioning:
        raise RuntimeError("NullText is prepared for a run before its hooks are called; `nmg.denoise` does so")

    def rate_at(self, run: Run, step: Step) -> float:
        """Adam's learning rate in a step."""
        return self.rate * (1 - step.index / (2 * len(run.steps)))

    def limit_at(self, run: Run, step: Step) -> float:
        """Loss below which a step's search ends."""
        return self.tolerance + self.growth * step.index * PUBLISHED_STEPS / len(run.steps)


@dataclass(frozen=True, kw_only=True, eq=False)
class Found(Guidance):
    """A run with null embeddings that were found before."""

    embeddings: Tensor

    def null(self, run: Run, step: Step) -> Conditioning:
        return run.null.with_tokens(self.embeddings[step.index, None])


@dataclass(frozen=True, kw_only=True, eq=False)
class Search(Guidance):
    """A run that searches step by step. `found` holds the embedding of every step so far, and its loss."""

    config: NullText
    first: Float[Tensor, "1 tokens features"]
    found: list[tuple[Tensor, float]] = field(default_factory=list)

    def steer(self, run: Run, step: Step, x: Latents) -> Latents:
        start = self.found[-1][0] if self.found else self.first
        self.found.append(self.optimised(run, step, rows.source(x), start))
        return x

    def optimised(self, run: Run, step: Step, z: Latents, null: Tensor) -> tuple[Tensor, float]:
        """The null embedding whose guided step from `z` ends nearest to the noise map,
        and the mean squared distance."""
        target, limit = run.trajectory.target(step).clone(), self.config.limit_at(run, step)
        under, own = run.predict(z, step, rows.source(run.text)), rows.source(run.null)

        def energy(without: Latents) -> Tensor:
            # The sum, not the mean, goes through the network: half precision sees gradients of unit size.
            eps = run.backbone.rescaled(without + self.text_scale * (under - without), under)
            return (transfer(z, eps, step.here, step.there) - target).square().sum()

        with no_inference():
            embedding = torch.nn.Parameter(null.detach().float().clone())
            adam = torch.optim.Adam([embedding], lr=self.config.rate_at(run, step))
            for _ in range(self.config.iterations):
                gradient, loss = run.text_gradient(z, step, own.with_tokens(embedding), energy)
                embedding.grad = gradient.float() / target.numel()
                adam.step()
                if (left := (loss / target.numel()).item()) < limit:
                    break
        return embedding.detach(), left

    def null(self, run: Run, step: Step) -> Conditioning:
        return run.null.with_tokens(self.found[step.index][0])

    def texts(self, run: Run) -> NullTexts:
        """What a finished search found."""
        embeddings = torch.cat([embedding for embedding, _ in self.found]).float().cpu()
        losses = tuple(loss for _, loss in self.found)
        trajectory = run.trajectory
        start, network = trajectory.start.float().cpu(), trajectory.network
        said = (losses, self.text_scale, trajectory.prompt, trajectory.model)
        return NullTexts(embeddings, *said, start, network=network)


def _same(what: str, has: object, needs: object) -> None:
    """Raise for null texts of another run."""
    if has != needs:
        raise ValueError(f"NullText: the embeddings' {what} is {has!r} and the run's is {needs!r}; find them again")
