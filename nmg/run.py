"""What one run of an edit works with: the backbone, the trajectory and the text. Immutable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from nmg import rows
from nmg.activations import sparing
from nmg.attention import Attend, Features, Site, attending, changing
from nmg.backbones import Backbone
from nmg.backbones.unet import frozen
from nmg.conditioning import Conditioning
from nmg.inversion import Trajectory
from nmg.levels import Step, spread, transfer
from nmg.types import Doubled, Heads, KeyMask, Latents, TokenMaps
from nmg.undo import no_inference

C = TypeVar("C")

PUBLISHED_STEPS = 50
"""Steps that the published settings belong to. What acts once in each step is counted by them."""


@runtime_checkable
class Asked(Protocol):
    """What a guidance or an editor checks before anything is computed: a `nmg.request.Request` with no default open.

    `prompts` are the source prompt, then one per target; `own_negative` is the negative prompt, where it is another
    than the editor's habit; `skip` is the share of the steps, the noisiest, that is left out, or None for the editor's
    habit; `size` is width and height in pixels.
    """

    @property
    def prompts(self) -> tuple[str, ...]: ...
    @property
    def negative(self) -> Any: ...
    @property
    def own_negative(self) -> str | None: ...
    @property
    def guidance(self) -> Any: ...
    @property
    def inversion(self) -> Any: ...
    @property
    def convention(self) -> Any: ...
    @property
    def steps(self) -> Any: ...
    @property
    def skip(self) -> Any: ...
    @property
    def size(self) -> Any: ...


def hooks(base: type) -> list[str]:
    """The hooks of a base class: its public methods."""
    return [name for name, value in vars(base).items() if callable(value) and not name.startswith("_")]


def delegating(base: type, inner: str) -> Callable[[type[C]], type[C]]:
    """A class decorator: every hook of `base` that the class does not define calls that of its attribute `inner`.

    A hook that returns another `base`, as `prepare` does, returns it in the same wrapper.
    """

    def forward(name: str) -> Callable[..., Any]:
        def hook(self: Any, *args: Any) -> Any:
            found = getattr(getattr(self, inner), name)(*args)
            return dataclasses.replace(self, **{inner: found}) if isinstance(found, base) else found

        return hook

    def decorate(cls: type[C]) -> type[C]:
        for name in hooks(base):
            if name not in vars(cls):
                setattr(cls, name, forward(name))
        return cls

    return decorate


@dataclass(frozen=True, eq=False)
class Run:
    """What every hook of guidance and editor is given, the same in every step.

    Attributes:
        prompts: the source prompt, then one per target.
        text: what they became, one row each.
        null: the same of the null (or negative) prompt, for each row.
        null_half: whether the network sees the null half in each step; see `Guidance.needs_null`.
        first: index of the first step that is sampled; the noisier ones are left out.
    """

    backbone: Backbone
    trajectory: Trajectory
    prompts: tuple[str, ...]
    text: Conditioning
    null: Conditioning
    null_half: bool = True
    first: int = 0

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step of the trajectory, by index."""
        return self.trajectory.steps

    @property
    def sampled(self) -> tuple[Step, ...]:
        """The steps that are sampled."""
        return self.steps[self.first :]

    @property
    def latent_size(self) -> tuple[int, int]:
        return self.trajectory.latent_size

    @property
    def start(self) -> Latents:
        """Every row begins at the noise map of the first step that is sampled."""
        start = self.trajectory.origin(self.sampled[0]) if self.first else self.trajectory.start
        return start.expand(len(self.prompts), -1, -1, -1).clone()

    def down(self, x: Latents, eps: Latents, step: Step) -> Latents:
        """One step down: DDIM, or the stochastic step with the residual that the trajectory holds for it."""
        residuals = self.trajectory.residuals
        if residuals is None:
            return transfer(x, eps, step.here, step.there)
        sigma = spread(step.here, step.there)
        return transfer(x, eps, step.here, step.there, sigma) + residuals[step.index]

    def predict(
        self,
        x: Latents,
        step: Step,
        text: Conditioning,
        attend: Attend | None = None,
        copies: rows.Copies = "both",
        source_noise: Doubled | None = None,
        null_half: bool = True,
        features: Features | None = None,
    ) -> Latents:
        """What the network predicts, in fp32 (see `nmg.levels.Level`). Of doubled rows, the network sees only these
        copies of the source, and the null half or not (see `rows.completed`).

        Args:
            source_noise: of the source's null and text copy, if it is known; the network then sees neither.
            features: change what layers put out in this call.
        """
        if source_noise is not None:
            known: Any = (attend, "none", None, null_half, features)
            return rows.with_sources(source_noise, self.predict(x, step, text, *known))
        x, text = rows.with_copies(x, copies, null_half), rows.with_copies(text, copies, null_half)
        with changing(self.backbone.network, features):
            eps = self.backbone.predict(x, step, text, attend) if len(x) else x
        return rows.completed(eps, copies, null_half)

    def word_maps(self, site: Site, q: Heads, k: Heads, mask: KeyMask | None) -> TokenMaps | None:
        """How much the picture attends to the text in a layer of one call: of the text half, mean over heads. None for
        a layer in which words are not looked for."""
        backbone, size = self.backbone, self.latent_size
        if not backbone.shows_words(site, q.shape[2], size):
            return None
        _, (q, k, mask) = rows.by_half(q, k, mask, null_half=self.null_half)
        maps = backbone.word_maps(site, q, k, mask, size).float().mean(1)
        return maps.unflatten(1, backbone.word_map_size(size))

    def gradient(
        self,
        x: Latents,
        step: Step,
        text: Conditioning,
        energy: Callable[[Latents, Latents], Tensor],
        attend: Attend | None = None,
        jacobian: bool = True,
        features: Features | None = None,
    ) -> tuple[Latents, Latents]:
        """∂ energy(x, e) / ∂x, where e is the noise that the network predicts for x; and e itself.

        The parameters get no gradient. Works inside `torch.no_grad` and `torch.inference_mode`.

        Args:
            jacobian: whether the gradient goes through the network. If not, e counts as a constant.
            features: see `predict`.
        """
        with self._differentiable(attend, features):
            z = x.detach().clone().requires_grad_()
            with torch.set_grad_enabled(jacobian):
                eps = self.backbone.predict(z, step, text.clone())
            (gradient,) = torch.autograd.grad(energy(z, eps), z)
        return gradient, eps.detach()

    def text_gradient(
        self, x: Latents, step: Step, text: Conditioning, energy: Callable[[Latents], Tensor]
    ) -> tuple[Float[Tensor, "rows tokens features"], Tensor]:
        """∂ energy(e) / ∂ the text's embeddings through the network, as `gradient`; and the energy."""
        with self._differentiable():
            embedding = text.tokens.detach().clone().requires_grad_()
            value = energy(self.backbone.predict(x.clone(), step, text.clone().with_tokens(embedding)))
            (gradient,) = torch.autograd.grad(value, embedding)
        return gradient, value.detach()

    @contextmanager
    def _differentiable(self, attend: Attend | None = None, features: Features | None = None) -> Iterator[None]:
        # Frozen parameters and hooks stay until the backward pass is over: gradient checkpointing runs the network
        # again in it.
        unet = self.backbone.network
        hooks = attending(unet, attend), changing(unet, features)
        with no_inference(), torch.enable_grad(), hooks[0], hooks[1], frozen(unet), sparing(unet):
            yield


def skipped(share: Any, count: int) -> int:
    """How many of `count` steps are left out.

    Raises:
        ValueError: for a share outside 0…1, or one that leaves no step.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ValueError(f"skip={share!r} must be a share of the steps below 1, such as skip=0.3")
    if (first := round(share * count)) >= count:
        raise ValueError(f"skip={share:g} leaves none of the {count} steps; give a smaller share, or more steps")
    return first
