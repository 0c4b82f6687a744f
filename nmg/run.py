"""What one run of an edit has at hand: the backbone, the trajectory and the text. Immutable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from nmg import rows
from nmg.activations import sparing
from nmg.attention import Attend, attending
from nmg.backbones import Backbone
from nmg.backbones.unet import frozen
from nmg.inversion import DDIM, Trajectory
from nmg.levels import Step, spread, transfer
from nmg.types import Doubled, Latents, TextEmbeddings


@dataclass(frozen=True)
class Plan:
    """What a run will be, as far as it is known before anything is computed.

    Attributes:
        inversion, convention: of the trajectory.
        steps: their number.
        latent_size: height and width.
        negative: the negative prompt that was asked for; None where the editor's habit holds.
    """

    inversion: DDIM
    convention: str
    steps: int
    latent_size: tuple[int, int]
    negative: str | None = None

    @classmethod
    def of(cls, trajectory: Trajectory, negative: str | None = None) -> Plan:
        """The plan of a run along a trajectory."""
        return cls(trajectory.inversion, trajectory.convention, len(trajectory.steps), trajectory.latent_size, negative)


@dataclass(frozen=True, eq=False)
class Run:
    """The fixed surroundings of a run, handed to every hook of guidance and editor.

    Attributes:
        prompts: the source prompt, then one per target.
        text: their embeddings, [rows, tokens, width].
        null: the null (or negative) prompt's embedding for each row, of the same shape.
    """

    backbone: Backbone
    trajectory: Trajectory
    prompts: tuple[str, ...]
    text: TextEmbeddings
    null: TextEmbeddings

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.trajectory.steps

    @property
    def latent_size(self) -> tuple[int, int]:
        return self.trajectory.latent_size

    @property
    def start(self) -> Latents:
        """Every row begins at the noisiest map."""
        return self.trajectory.start.expand(len(self.prompts), -1, -1, -1).clone()

    def down(self, x: Latents, eps: Latents, step: Step) -> Latents:
        """One step down: DDIM, or the stochastic step with the residual that the trajectory holds for it."""
        residuals = self.trajectory.residuals
        if residuals is None:
            return transfer(x, eps, step.alpha, step.alpha_prev)
        sigma = spread(step.alpha, step.alpha_prev)
        return transfer(x, eps, step.alpha, step.alpha_prev, sigma) + residuals[step.index]

    def eps(
        self,
        x: Latents,
        step: Step,
        text: TextEmbeddings,
        attend: Attend | None = None,
        copies: rows.Copies = "both",
        known: Doubled | None = None,
    ) -> Latents:
        """Predicted noise; of doubled rows, with these copies of the source alone (see `rows.completed`), or with none
        where the noise of both is known."""
        if known is not None:
            return rows.with_sources(known, self.eps(x, step, text, attend, "none"))
        x, text = rows.with_copies(x, copies), rows.with_copies(text, copies)
        eps = self.backbone.eps(x, step, text, attend) if len(x) else x
        return rows.completed(eps, copies)

    def gradient(
        self,
        x: Latents,
        step: Step,
        text: TextEmbeddings,
        energy: Callable[[Latents, Latents], Tensor],
        attend: Attend | None = None,
        jacobian: bool = True,
    ) -> tuple[Latents, Latents]:
        """∂ energy(x, e) / ∂x, e being the noise that the network predicts for x; and e itself.

        The parameters get no gradient. Works inside `torch.no_grad` and `torch.inference_mode`.

        Args:
            jacobian: whether e depends on x: the gradient then goes through the network, else e counts as a constant.
        """
        with self._differentiable(attend):
            z = x.detach().clone().requires_grad_()
            with torch.set_grad_enabled(jacobian):
                eps = self.eps(z, step, text.clone())
            (gradient,) = torch.autograd.grad(energy(z, eps), z)
        return gradient, eps.detach()

    def text_gradient(
        self, x: Latents, step: Step, text: TextEmbeddings, energy: Callable[[Latents], Tensor]
    ) -> tuple[TextEmbeddings, Tensor]:
        """∂ energy(e) / ∂text through the network, as `gradient`; and the energy."""
        with self._differentiable():
            embedding = text.detach().clone().requires_grad_()
            value = energy(self.eps(x.clone(), step, embedding))
            (gradient,) = torch.autograd.grad(value, embedding)
        return gradient, value.detach()

    @contextmanager
    def _differentiable(self, attend: Attend | None = None) -> Iterator[None]:
        # Frozen parameters and hooks stay until the backward pass is over: gradient checkpointing runs the network
        # again in it.
        unet = self.backbone.unet
        with torch.inference_mode(False), torch.enable_grad(), attending(unet, attend), frozen(unet), sparing(unet):
            yield
