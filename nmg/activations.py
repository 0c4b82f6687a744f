"""What a gradient pass keeps for its way back.

Half of what Stable Diffusion's UNet keeps for a gradient of the latent need not be kept: of a convolution's input, whose
weights are fixed, the way back needs the shape alone, and the wide middle of a feed-forward layer is quickly computed again.
Gradient checkpointing of whole blocks (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv 1604.06174;
`unet.enable_gradient_checkpointing()`) keeps less still, and computes everything twice.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

WORTHWHILE = 2**18
"""Elements of a layer's input from which memory counts more than the time that Python takes for a call."""


@contextmanager
def sparing(network: nn.Module) -> Iterator[None]:
    """A gradient pass inside the block keeps less, for the same gradient. Begin and end it within one block.

    Left as they are: convolutions whose weights need a gradient, layers with a forward of their own (accelerate's offload,
    for one), and whole networks that are compiled or checkpoint their gradients, which decide for themselves.
    """
    changed = [] if _decides_itself(network) else list(_spared(network))
    try:
        for module, name, instead in changed:
            setattr(module, name, instead)
        yield
    finally:
        for module, name, _ in changed:
            delattr(module, name)


def _decides_itself(network: nn.Module) -> bool:
    return any(
        getattr(module, "gradient_checkpointing", False)
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module, "_orig_mod")
        or hasattr(module.forward, "_torchdynamo_orig_callable")
        for module in network.modules()
    )


def _spared(network: nn.Module) -> Iterator[tuple[nn.Module, str, Callable[..., Tensor]]]:
    """Modules, the method that is exchanged in each, and what for; no module has one of its own by that name."""
    from diffusers.models.attention import FeedForward

    for module in network.modules():
        if isinstance(module, FeedForward) and not any("forward" in part.__dict__ for part in module.modules()):
            yield module, "forward", functools.partial(_computed_again, module)
        elif isinstance(module, nn.Conv2d) and _is_plain(module):
            yield module, "_conv_forward", functools.partial(_by_shape, module)


def _is_plain(module: nn.Conv2d) -> bool:
    """Whether it is PyTorch's own convolution, which some replace to let a picture wrap around its edges."""
    return type(module)._conv_forward is nn.Conv2d._conv_forward and "_conv_forward" not in module.__dict__


def _computed_again(module: nn.Module, x: Tensor, *rest: object, **options: object) -> Tensor:
    """A feed-forward layer that keeps its input alone."""
    forward = functools.partial(type(module).forward, module, **options)
    if x.numel() < WORTHWHILE:
        return forward(x, *rest)
    dropout = any(part.training for part in module.modules())
    return checkpoint(forward, x, *rest, use_reentrant=False, preserve_rng_state=dropout)


def _by_shape(module: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution that keeps the shape of its input alone."""
    forward = functools.partial(nn.Conv2d._conv_forward, module)
    if x.numel() < WORTHWHILE or weight.requires_grad:
        return forward(x, weight, bias)
    # The graph holds the function below, and must not hold the input by it.
    given = weakref.ref(x)

    def pack(tensor: Tensor) -> Tensor | _Shape:
        x = given()
        return _Shape.of(tensor) if x is not None and tensor.is_set_to(x) else tensor

    with saved_tensors_hooks(pack, lambda kept: kept.tensor() if isinstance(kept, _Shape) else kept):
        return forward(x, weight, bias)


class _Shape(NamedTuple):
    """All that is kept of a tensor."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> _Shape:
        return cls(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)

    def tensor(self) -> Tensor:
        """A tensor of that shape, whose values nobody looks at."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
