"""Fewer activations kept for the backward pass.

More than half of what Stable Diffusion's UNet keeps for a gradient of the latent need not be kept. A convolution with
fixed weights needs only the shape of its input in the backward pass. The output of a normalisation, and the wide middle
of a feed-forward layer, are quickly computed again.
Gradient checkpointing of whole blocks (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv
1604.06174; `unet.enable_gradient_checkpointing()`) keeps less still, and computes everything twice.
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

from nmg.undo import undoing

WORTHWHILE = 2**18
"""Elements of a layer's input from which the memory saved is worth the time that Python takes."""


@contextmanager
def sparing(network: nn.Module) -> Iterator[None]:
    """Inside the block the network keeps fewer activations, for the same gradient. The backward pass must run inside
    the block, too.

    Not changed: convolutions whose weights need a gradient, layers whose forward was replaced (by accelerate's offload,
    for one), and whole networks that are compiled or use gradient checkpointing.
    """
    with undoing(network) as note:
        for module, name, instead in [] if _decides_itself(network) else list(_spared(network)):
            # diffusers before 0.31 has one SiLU for all networks: another thread may have put it back.
            note(functools.partial(module.__dict__.pop, name, None))
            setattr(module, name, instead)
        yield


def _decides_itself(network: nn.Module) -> bool:
    return any(
        getattr(module, "gradient_checkpointing", False)
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module, "_orig_mod")
        or hasattr(module.forward, "_torchdynamo_orig_callable")
        for module in network.modules()
    )


def _spared(network: nn.Module) -> Iterator[tuple[nn.Module, str, Callable[..., Tensor]]]:
    """Modules, the method to replace in each, and its replacement; no module has one of its own by that name."""
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


Given = MutableMapping[Tensor, "Norm"]
"""Outputs of normalisations, as long as they live."""


class Norm(NamedTuple):
    """The normalisation that a tensor is the output of, and its version then: a tensor changed since can't be computed
    again."""

    forward: Callable[[Tensor], Tensor]
    source: Tensor
    version: int


def _is_plain(module: nn.Conv2d) -> bool:
    """Whether it is PyTorch's own convolution. Some replace it, to make tileable pictures for one."""
    return type(module)._conv_forward is nn.Conv2d._conv_forward and "_conv_forward" not in module.__dict__


def _remembered(module: nn.Module, given: Given, x: Tensor) -> Tensor:
    """A normalisation whose output is noted in `given`."""
    forward = functools.partial(type(module).forward, module)
    y = forward(x)
    # Autocast changes the type, and may be off in the backward pass.
    if x.numel() >= WORTHWHILE and y.requires_grad and y.dtype == x.dtype:
        given[y] = Norm(forward, x.detach(), y._version)
    return y


def _by_norm(module: nn.Module, given: Given, x: Tensor) -> Tensor:
    """An activation that does not keep its input where that is a normalisation's output."""
    return _after_norm(functools.partial(type(module).forward, module), given, x)


def _computed_again(module: nn.Module, given: Given, x: Tensor, *rest: object, **options: object) -> Tensor:
    """A feed-forward layer that keeps only its input; after a normalisation, nothing."""
    forward = functools.partial(type(module).forward, module, **options)
    if x.numel() < WORTHWHILE:
        return forward(x, *rest)
    dropout = any(part.training for part in module.modules())
    return _after_norm(
        lambda x: checkpoint(forward, x, *rest, use_reentrant=False, preserve_rng_state=dropout), given, x
    )


def _after_norm(forward: Callable[[Tensor], Tensor], given: Given, x: Tensor) -> Tensor:
    """`forward(x)`; its backward pass computes x again where that is a normalisation's output."""
    norm = given.get(x)
    if norm is None or norm.version != x._version:
        return forward(x)
    return _keeping_instead(x, functools.partial(norm.forward, norm.source), forward)


def _by_shape(module: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution that keeps only the shape of its input."""

    def forward(x: Tensor) -> Tensor:
        return nn.Conv2d._conv_forward(module, x, weight, bias)

    if x.numel() < WORTHWHILE or weight.requires_grad:
        return forward(x)
    # Its values are never read.
    alike = functools.partial(torch.empty_strided, x.shape, x.stride(), dtype=x.dtype, device=x.device)
    return _keeping_instead(x, alike, forward)


def _keeping_instead(x: Tensor, instead: Callable[[], Tensor], forward: Callable[[Tensor], Tensor]) -> Tensor:
    """`forward(x)`, whose backward pass calls `instead` for x."""
    # The graph holds the function below, and must not hold the input by it.
    known = weakref.ref(x)

    def pack(tensor: Tensor) -> Tensor | Callable[[], Tensor]:
        x = known()
        return instead if x is not None and tensor.is_set_to(x) else tensor

    def unpack(kept: Tensor | Callable[[], Tensor]) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad():
            return kept()

    with saved_tensors_hooks(pack, unpack):
        return forward(x)
