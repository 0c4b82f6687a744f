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

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nmg import Backbone, Editor, LocalBlend, MasaCtrl, NoiseMap, Pix2PixZero, PromptToPrompt, Trajectory
from nmg.alignment import Tokens, find
from nmg.attention import Attend, Site
from nmg.guidance.noise_map import ENERGIES, REFERENCE_ELEMENTS
from nmg.levels import Step, transfer


def scores(q: Tensor, k: Tensor) -> Tensor:
    """q kᵀ / √dim, [rows, heads, queries, keys]."""
    return (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)


def matrix(q: Tensor, k: Tensor) -> Tensor:
    """Attention probabilities [rows, heads, queries, keys]."""
    return scores(q, k).softmax(-1)


def by_matrix(site: Site, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of a layer whose controller is off."""
    return matrix(q, k) @ v


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
    return one_loop(sampler, controller_of(editor, sampler))


def decode(backbone: Backbone, latents: Tensor) -> Tensor:
    """All pictures at once."""
    vae = backbone.vae
    with torch.no_grad():
        return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample


@dataclass(frozen=True)
class _Sampler:
    """What the two loops share.

    Attributes:
        null, text: embeddings of source and target, [2, tokens, features].
    """

    backbone: Backbone
    trajectory: Trajectory
    guidance: NoiseMap
    prompts: tuple[str, str]
    null: Tensor
    text: Tensor

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
            eps = self.backbone.eps(z, step, self.null[:1], by_matrix)
            energy = ENERGIES[self.guidance.energy](transfer(z, eps, step.alpha, step.alpha_prev), target)
            (gradient,) = torch.autograd.grad(energy / REFERENCE_ELEMENTS, z)
        guided = eps + self.guidance.strength(step) * (1 - step.alpha) ** 0.5 * gradient
        return transfer(source, guided, step.alpha, step.alpha_prev)

    def down(self, step: Step, x: Tensor, eps: Tensor) -> Tensor:
        """One step down along the noise of null and text halves, under classifier-free guidance."""
        null, text = eps.chunk(2)
        return transfer(x, null + self.guidance.text_scale * (text - null), step.alpha, step.alpha_prev)


# ------------------------------------------------------------ Prompt-to-Prompt, MasaCtrl


@torch.no_grad()
def one_loop(sampler: _Sampler, controller: Controller) -> Iterator[Tensor]:
    """Source and target side by side, in four rows."""
    text = torch.cat([sampler.null, sampler.text])
    x = sampler.trajectory.start.expand(2, -1, -1, -1)
    for step in sampler.trajectory.steps:
        x = torch.cat([sampler.on_path(step, x[:1]), x[1:]])
        eps = sampler.backbone.eps(torch.cat([x, x]), step, text, controller.attend(step))
        x = controller.blend(step, sampler.down(step, x, eps))
        yield x


class Controller:
    """The controller that does nothing."""

    def attend(self, step: Step) -> Attend:
        return by_matrix

    def blend(self, step: Step, x: Tensor) -> Tensor:
        return x


def controller_of(editor: Editor, sampler: _Sampler) -> Controller:
    """The published code's counterpart of an editor.

    Raises:
        NotImplementedError: for one that is not written here.
    """
    if type(editor) is Editor:
        return Controller()
    if isinstance(editor, PromptToPrompt) and not editor.weights:
        return WordSwap.prepare(editor, sampler)
    if isinstance(editor, MasaCtrl) and editor.words is None and editor.source_mask is None:
        return Mutual(editor.first_step(len(sampler.trajectory.steps)), editor.first_layer(sampler.backbone))
    raise NotImplementedError(f"the published code's way of {editor} is not written here")


@dataclass
class WordSwap(Controller):
    """Prompt-to-Prompt's word replacement, with its store of attention maps and its local blend.

    Attributes:
        word_map: source tokens to target tokens, [tokens, tokens].
        active: whether each target token's attention is replaced, [steps, tokens] of 0 and 1.
        self_steps: the steps in which self-attention is replaced.
        marks: 1 at the tokens of the blend's words, [2, tokens]; None without a blend.
        threshold, blend_from: of the blend: a share of the maximum, and its first step.
        largest, watched: positions of the largest layer that is stored, and of those that the blend reads.
        step_maps, sums: the stored maps, [2, heads, positions, tokens] each: of this step, and over the steps so far.
    """

    word_map: Tensor
    active: Tensor
    self_steps: range
    marks: Tensor | None
    threshold: Any
    blend_from: int
    largest: int
    watched: tuple[int, int]
    step_maps: list[tuple[Site, Tensor]] = field(default_factory=list)
    sums: list[tuple[Site, Tensor]] = field(default_factory=list)

    @classmethod
    def prepare(cls, editor: PromptToPrompt, sampler: _Sampler) -> WordSwap:
        backbone, device, count = sampler.backbone, sampler.text.device, len(sampler.trajectory.steps)
        source, target = tokens = editor.tokens(backbone, sampler.prompts)
        blend = editor.local_blend or LocalBlend(())
        window = editor.self_replace if isinstance(editor.self_replace, tuple) else (0.0, editor.self_replace)
        return cls(
            word_map=editor.correspondence(source, target).weights.to(device),
            active=editor.schedule([target], count)[:, 0].to(device),
            self_steps=range(*(int(share * count) for share in window)),
            marks=_marks(blend, tokens).to(device) if editor.local_blend else None,
            threshold=blend.threshold,
            blend_from=int(blend.start * count),
            largest=math.prod(sampler.trajectory.latent_size) // 4,
            watched=backbone.word_map_size(sampler.trajectory.latent_size),
        )

    def attend(self, step: Step) -> Attend:
        self.step_maps = []

        def attend(site: Site, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            maps = matrix(q, k)
            self.replace(site, step, maps[len(maps) // 2 :])
            return maps @ v

        return attend

    def replace(self, site: Site, step: Step, maps: Tensor) -> None:
        """Store the text half's maps, and write the source's over the target's."""
        if maps.shape[2] <= self.largest:
            self.step_maps.append((site, maps))
        if site.is_cross:
            active = self.active[step.index].to(maps.dtype)
            taken = torch.einsum("hps,st->hpt", maps[0], self.word_map.to(maps.dtype))
            maps[1] = taken * active + maps[1] * (1 - active)
        elif step.index in self.self_steps and maps.shape[2] <= self.largest:
            maps[1] = maps[0]

    def blend(self, step: Step, x: Tensor) -> Tensor:
        """Add this step's maps up, and put the source back where neither prompt's words look."""
        for (_, total), (_, maps) in zip(self.sums, self.step_maps, strict=False):
            total += maps
        self.sums = self.sums or self.step_maps
        if self.marks is None or step.index < self.blend_from:
            return x
        positions = math.prod(self.watched)
        watched = [maps.float() for site, maps in self.sums if site.is_cross and maps.shape[2] == positions]
        seen = (torch.cat(watched, 1) * self.marks[:, None, None]).sum(-1).mean(1).unflatten(1, self.watched)[:, None]
        grown = F.interpolate(F.max_pool2d(seen, 3, stride=1, padding=1), x.shape[2:])
        mask = grown / grown.amax((2, 3), keepdim=True) > self.threshold
        return x[:1] + (mask[:1] | mask) * (x - x[:1])


def _marks(blend: LocalBlend, tokens: list[Tokens]) -> Tensor:
    marks = torch.zeros(len(tokens), tokens[0].length)
    for row, (word, prompt) in enumerate(zip(blend.words, tokens, strict=True)):
        marks[row, find(str(word), prompt)] = 1
    return marks


@dataclass
class Mutual(Controller):
    """MasaCtrl's mutual self-attention, without masks, from a step and a layer on."""

    first_step: int
    first_layer: int

    def attend(self, step: Step) -> Attend:
        def attend(site: Site, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            # Computed before the controller is asked, and both held while it works.
            before = scores(q, k)
            maps = before.softmax(-1)
            if site.is_cross or step.index < self.first_step or site.layer < self.first_layer:
                return maps @ v
            halves = zip(q.chunk(2), k.chunk(2), v.chunk(2), strict=True)
            return torch.cat([matrix(queries, keys[:1]) @ values[:1] for queries, keys, values in halves])

        return attend


# ------------------------------------------------------------ pix2pix-zero


@torch.no_grad()
def two_loops(sampler: _Sampler, editor: Pix2PixZero) -> Iterator[Tensor]:
    """The reconstruction, which leaves its cross-attention maps, and then the edit."""
    for name, parameter in sampler.backbone.unet.named_parameters():
        parameter.requires_grad_(".attn1." not in name)
    (null, _), (text, moved) = sampler.null.split(1), sampler.text.split(1)
    backbone, steps, start = sampler.backbone, sampler.trajectory.steps, sampler.trajectory.start

    looks: list[list[Tensor]] = []
    source = start
    for step in steps:
        maps: list[Tensor] = []
        source = sampler.on_path(step, source)
        eps = backbone.eps(torch.cat([source, source]), step, torch.cat([null, text]), storing(maps))
        looks.append([layer.cpu() for layer in maps])
        source = sampler.down(step, source, eps)
        yield torch.cat([source, start])

    target = start
    for step in steps:
        pair = descend(sampler, step, torch.cat([target, target]), torch.cat([null, moved]), looks[0], editor.amount)
        looks.pop(0)
        eps = backbone.eps(pair, step, torch.cat([null, moved]), by_matrix)
        target = sampler.down(step, pair[:1], eps)
        yield torch.cat([source, target])


def storing(maps: list[Tensor]) -> Attend:
    """Attention that keeps every cross-attention map of the call."""

    def attend(site: Site, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        looks = matrix(q, k)
        if site.is_cross:
            maps.append(looks)
        return looks @ v

    return attend


def descend(sampler: _Sampler, step: Step, pair: Tensor, text: Tensor, looks: list[Tensor], amount: float) -> Tensor:
    """One gradient step of null and text copy towards the source's maps; the parameters get their gradients, too."""
    maps: list[Tensor] = []
    with torch.enable_grad():
        z = pair.detach().clone().requires_grad_()
        sampler.backbone.eps(z, step, text, storing(maps))
        apart = [(a - b.to(a.device)).square().sum((2, 3)).mean() for a, b in zip(maps, looks, strict=True)]
        torch.stack(apart).sum().backward()
    return z.detach() - amount * z.grad  # type: ignore[operator]
