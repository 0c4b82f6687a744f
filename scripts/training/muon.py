"""Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"): momentum, made orthogonal.

On this project's autoencoder it is worth most of the training: after 1,400 pictures 21.1 dB against AdamW's 17.2, at
a step that is a twentieth slower.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that brings all singular values near one (from the source)."""


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest matrix with orthogonal rows or columns, roughly: singular values end between .7 and 1.2."""
    a, b, c = NEWTON_SCHULZ
    x = matrix / (matrix.norm() + 1e-7)
    tall = len(x) > x.shape[1]
    x = x.T if tall else x
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Steps of `lr` in spectral norm; a convolution counts as the matrix [out, in · height · width]."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                average = state.setdefault("momentum", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(average, group["momentum"]).flatten(1))
                size = group["lr"] * max(1, update.shape[0] / update.shape[1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(size * update.reshape(parameter.shape))


def optimizers(network: nn.Module, matrix_rate: float, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden layers' matrices; AdamW for embeddings, first and last layers, norms and biases."""
    edges = ("conv_in.weight", "conv_out.weight", "embedding.weight")
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    hidden = [p for name, p in trained.items() if p.ndim > 1 and not name.endswith(edges)]
    matrices = {id(p) for p in hidden}
    rest = [p for p in trained.values() if id(p) not in matrices]
    return [
        Muon(hidden, matrix_rate),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True),
    ]
