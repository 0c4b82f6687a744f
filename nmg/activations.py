"""What a gradient pass keeps for its way back.

More than half of what Stable Diffusion's UNet keeps for a gradient of the latent need not be kept: of a convolution's
input, whose weights are fixed, the way back needs the shape alone, and what a normalisation gave and the wide middle of a
feed-forward layer are quickly computed again.
Gradient checkpointing of whole blocks (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv 1604.06174;
`unet.enable_gradient_checkpointing()`) keeps less still, and computes everything twice.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from torch.utils.weak import WeakTensorKeyDictionary

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

    given: Given = WeakTensorKeyDictionary()
    for module in network.modules():
        if isinstance(module, FeedForward) and not any("forward" in part.__dict__ for part in module.modules()):
            yield module, "forward", functools.partial(_computed_again, module, given)
        elif isinstance(module, nn.Conv2d) and _is_plain(module):
            yield module, "_conv_forward", functools.partial(_by_shape, module)
        elif type(module) in (nn.GroupNorm, nn.LayerNorm) and "forward" not in module.__dict__:
            yield module, "forward", functools.partial(_remembered, module, given)
        elif type(module) is nn.SiLU and "forward" not in module.__dict__:
            yield module, "forward", functools.partial(_by_norm, module, given)


Given = MutableMapping[Tensor, tuple[Callable[[Tensor], Tensor], Tensor]]
"""What a normalisation gave, while it lives, to that normalisation and its input."""


def _is_plain(module: nn.Conv2d) -> bool:
    """Whether it is PyTorch's own convolution, which some replace to let a picture wrap around its edges."""
    return type(module)._conv_forward is nn.Conv2d._conv_forward and "_conv_forward" not in module.__dict__


def _computed_again(module: nn.Module, given: Given, x: Tensor, *rest: object, **options: object) -> Tensor:
    """A feed-forward layer that keeps its input alone, or its normalisation's, which that keeps anyway."""
    forward = functools.partial(type(module).forward, module, **options)
    if x.numel() < WORTHWHILE:
        return forward(x, *rest)
    dropout = any(part.training for part in module.modules())
    again = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=dropout)
    if x not in given:
        return again(forward, x, *rest)
    norm, source = given[x]
    return again(lambda source, *rest: forward(norm(source), *rest), source, *rest)


def _remembered(module: nn.Module, given: Given, x: Tensor) -> Tensor:
    """A normalisation that is known for what it gives."""
    norm = functools.partial(type(module).forward, module)
    y = norm(x)
    if x.numel() >= WORTHWHILE and y.dtype == x.dtype:
        given[y] = norm, x
    return y


def _by_norm(module: nn.Module, given: Given, x: Tensor) -> Tensor:
    """An activation that keeps nothing of what a normalisation gave it: that keeps its own input, and is computed again."""
    forward = functools.partial(type(module).forward, module)
    if x not in given:
        return forward(x)
    norm, source = given[x]
    return _keeping_instead(x, _Again(norm, source.detach()), forward)


def _by_shape(module: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution that keeps the shape of its input alone."""

    def forward(x: Tensor) -> Tensor:
        return nn.Conv2d._conv_forward(module, x, weight, bias)

    if x.numel() < WORTHWHILE or weight.requires_grad:
        return forward(x)
    return _keeping_instead(x, _Shape.of(x), forward)


def _keeping_instead(x: Tensor, instead: _Shape | _Again, forward: Callable[[Tensor], Tensor]) -> Tensor:
    """`forward(x)`, whose way back finds what `instead` makes in x's place."""
    # The graph holds the function below, and must not hold the input by it.
    known = weakref.ref(x)

    def pack(tensor: Tensor) -> Tensor | _Shape | _Again:
        x = known()
        return instead if x is not None and tensor.is_set_to(x) else tensor

    with saved_tensors_hooks(pack, lambda kept: kept if isinstance(kept, Tensor) else kept.tensor()):
        return forward(x)


class _Again(NamedTuple):
    """How a tensor is computed again."""

    function: Callable[[Tensor], Tensor]
    source: Tensor

    def tensor(self) -> Tensor:
        with torch.no_grad():
            return self.function(self.source)


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
