"""Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"): momentum, made orthogonal.

On this project's autoencoder it is worth most of the training: after 1,400 pictures 21.1 dB against AdamW's 17.2, at
a step that is a twentieth slower.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that brings all singular values near one (from the source)."""


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """The nearest matrices [count, rows, columns] with orthogonal rows or columns: singular values of .7 to 1.2."""
    a, b, c = NEWTON_SCHULZ
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Steps of `lr` in spectral norm; a convolution counts as the matrix [out, in · height · width].

    Matrices of one shape are made orthogonal together. The rate may be a tensor, as a captured step needs it.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float | Tensor,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike = defaultdict[tuple[int, int], list[Tensor]](list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[len(parameter), parameter[0].numel()].append(parameter)
            for shape, parameters in alike.items():
                self._step(group, shape, parameters)

    def _step(self, group: dict[str, Any], shape: tuple[int, int], parameters: list[Tensor]) -> None:
        gradients: list[Any] = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        averages = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        looked = torch._foreach_lerp(gradients, averages, group["momentum"])
        updates = orthogonal(torch.stack([gradient.reshape(shape) for gradient in looked]))
        size = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        steps = (size * updates).unbind()
        torch._foreach_sub_(parameters, [step.view_as(p) for step, p in zip(steps, parameters, strict=True)])


def optimizers(network: nn.Module, rates: tuple[Tensor, Tensor]) -> list[torch.optim.Optimizer]:
    """Muon for the hidden layers' matrices; AdamW for embeddings, first and last layers, norms and biases.

    Args:
        rates: of the two, scalar tensors on the network's device, which a training changes in place.
    """
    edges = ("conv_in.weight", "conv_out.weight", "embedding.weight")
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    hidden = [p for name, p in trained.items() if p.ndim > 1 and not name.endswith(edges)]
    matrices = {id(p) for p in hidden}
    rest = [p for p in trained.values() if id(p) not in matrices]
    return [
        Muon(hidden, rates[0]),
        torch.optim.AdamW(
            rest, rates[1], betas=(0.9, 0.99), weight_decay=0.01, fused=True, capturable=rates[1].is_cuda
        ),
    ]
