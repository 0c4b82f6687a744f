"""An edit as the published implementation of Noise Map Guidance computes it, to compare time and memory with.

Written anew from what that implementation does (Cho et al., ICLR 2024, and the published code of the three editors that
it builds on). The results are this package's; what differs is what they cost:

- Every layer's attention is softmax(q kᵀ) v with the matrix in memory, in every network call, the gradient passes among
  them: a hook once registered stays, whether or not its controller is asked.
- The network's parameters require gradients, so that a gradient pass keeps what theirs would need. Prompt-to-Prompt and
  MasaCtrl ask `torch.autograd.grad` for the latent's alone. pix2pix-zero calls `backward`, which computes those of all
  parameters but self-attention's, and leaves them there.
- Every edit computes source and target, each with null and text copy, in one call of four rows; nothing is kept for the
  next edit of the same picture.
- Prompt-to-Prompt keeps the text half's matrices of the layers of at most 32×32 positions, of the step and summed over
  the steps. They are views, so that the null half's are kept with them.
- MasaCtrl computes every layer's scores and matrix for all rows, and holds them while the layers with mutual attention
  compute the two halves' in addition.
- pix2pix-zero runs two loops: the reconstruction, which keeps every cross-attention map of every step in the computer's
  memory, and then the edit.

Scales and energies are this package's, which sum over a row where the published code takes the mean: the same at
512×512 pixels. Latents are in fp32, as here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nmg import Backbone, Editor, NoiseMap, Pix2PixZero, Trajectory, rows
from nmg.attention import Attend, Site
from nmg.conditioning import Conditioning
from nmg.guidance.noise_map import ENERGIES, REFERENCE_ELEMENTS
from nmg.levels import Step, transfer
from nmg.run import PUBLISHED_STEPS
from scripts.controllers import Controller, by_matrix, controller_of, matrix


def denoise(
    backbone: Backbone, trajectory: Trajectory, target: str, guidance: NoiseMap, editor: Editor
) -> Iterator[Tensor]:
    """Edit towards one target prompt, and yield the latents after each step: of source and target, [2, channels,
    height, width]; from pix2pix-zero those of its first loop and then those of its second, the other row as it stands.

    The network's parameters require gradients from here on, and pix2pix-zero leaves theirs in them.
    """
    backbone.unet.requires_grad_(True)
    sampler = _Sampler.prepare(backbone, trajectory, target, guidance, editor)
    if isinstance(editor, Pix2PixZero):
        return two_loops(sampler, editor)
    return one_loop(sampler, controller_of(editor, backbone, sampler.trajectory, sampler.prompts))


def decode(backbone: Backbone, latents: Tensor) -> Tensor:
    """All pictures at once."""
    vae = backbone.vae
    with torch.no_grad():
        return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample


@dataclass(frozen=True)
class _Sampler:
    """What the two loops share.

    Attributes:
        null, text: of source and target, a row each.
    """

    backbone: Backbone
    trajectory: Trajectory
    guidance: NoiseMap
    prompts: tuple[str, str]
    null: Conditioning
    text: Conditioning

    @classmethod
    def prepare(
        cls, backbone: Backbone, trajectory: Trajectory, target: str, guidance: NoiseMap, editor: Editor
    ) -> _Sampler:
        prompts = (trajectory.prompt, target)
        embeddings = backbone.text([*prompts, editor.negative(trajectory.prompt)])
        null = embeddings[2:].expand(2, -1, -1)
        return cls(backbone, trajectory.to(backbone.device), guidance, prompts, null, embeddings[:2])

    def on_path(self, step: Step, source: Tensor) -> Tensor:
        """The source row after noise-map guidance: one pass with gradient, the controller off."""
        target = self.trajectory.target(step)
        with torch.enable_grad():
            z = source.detach().requires_grad_()
            eps = self.backbone.predict(z, step, self.null[:1], by_matrix)
            energy = ENERGIES[self.guidance.energy](transfer(z, eps, step.here, step.there), target)
            (gradient,) = torch.autograd.grad(energy / REFERENCE_ELEMENTS, z)
        guided = eps + self.guidance.strength(step, len(self.trajectory.steps)) * step.here.s * gradient
        return transfer(source, guided, step.here, step.there)

    def down(self, step: Step, x: Tensor, eps: Tensor) -> Tensor:
        """One step down along the noise of null and text halves, under classifier-free guidance."""
        null, text = eps.chunk(2)
        return transfer(x, null + self.guidance.text_scale * (text - null), step.here, step.there)


# ------------------------------------------------------------ Prompt-to-Prompt, MasaCtrl


@torch.no_grad()
def one_loop(sampler: _Sampler, controller: Controller) -> Iterator[Tensor]:
    """Source and target side by side, in four rows."""
    text = rows.cat([sampler.null, sampler.text])
    x = sampler.trajectory.start.expand(2, -1, -1, -1)
    for step in sampler.trajectory.steps:
        x = torch.cat([sampler.on_path(step, x[:1]), x[1:]])
        eps = sampler.backbone.predict(torch.cat([x, x]), step, text, controller.attend(step))
        x = controller.blend(step, sampler.down(step, x, eps))
        yield x


# ------------------------------------------------------------ pix2pix-zero


@torch.no_grad()
def two_loops(sampler: _Sampler, editor: Pix2PixZero) -> Iterator[Tensor]:
    """The reconstruction, which leaves its cross-attention maps, and then the edit."""
    for name, parameter in sampler.backbone.unet.named_parameters():
        parameter.requires_grad_(".attn1." not in name)
    (null, _), (text, moved) = sampler.null.split(1), sampler.text.split(1)
    backbone, steps, start = sampler.backbone, sampler.trajectory.steps, sampler.trajectory.start
    amount = editor.amount_for(backbone) * PUBLISHED_STEPS / len(steps)

    source_maps: list[list[Tensor]] = []
    source = start
    for step in steps:
        maps: list[Tensor] = []
        source = sampler.on_path(step, source)
        eps = backbone.predict(torch.cat([source, source]), step, rows.cat([null, text]), storing(maps))
        source_maps.append([layer.cpu() for layer in maps])
        source = sampler.down(step, source, eps)
        yield torch.cat([source, start])

    target = start
    for step in steps:
        pair = descend(sampler, step, torch.cat([target, target]), rows.cat([null, moved]), source_maps[0], amount)
        source_maps.pop(0)
        eps = backbone.predict(pair, step, rows.cat([null, moved]), by_matrix)
        target = sampler.down(step, pair[:1], eps)
        yield torch.cat([source, target])


def storing(maps: list[Tensor]) -> Attend:
    """Attention that keeps every cross-attention map of the call."""

    def attend(site: Site, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        probabilities = matrix(q, k)
        if site.is_cross:
            maps.append(probabilities)
        return probabilities @ v

    return attend


def descend(
    sampler: _Sampler, step: Step, pair: Tensor, text: Conditioning, wanted: list[Tensor], amount: float
) -> Tensor:
    """One gradient step of null and text copy towards the source's maps; the parameters get their gradients, too."""
    maps: list[Tensor] = []
    with torch.enable_grad():
        z = pair.detach().clone().requires_grad_()
        sampler.backbone.predict(z, step, text, storing(maps))
        apart = [(a - b.to(a.device)).square().sum((2, 3)).mean() for a, b in zip(maps, wanted, strict=True)]
        torch.stack(apart).sum().backward()
    return z.detach() - amount * z.grad  # type: ignore[operator]
