"""Attention hooks that live exactly as long as one network call.

Every attention that matters calls `scaled_dot_product_attention` inside a module of its own. `attending(network,
attend)` names that module while it runs, and lets a function compute what is called there, until the block ends,
whatever ends it.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmg.threads import alone_with
from nmg.types import Heads, KeyMask, Probabilities, WordMaps
from nmg.undo import undoing


@dataclass(frozen=True)
class Site:
    """One attention layer of a network.

    Attributes:
        name: its path in the network, such as `down_blocks.0.attentions.1.transformer_blocks.0.attn2`.
        place: "down", "mid" or "up"; of a transformer, the name of its blocks.
        is_cross: whether its keys and values come from the text.
        layer: its place among the self- (or cross-) attention layers in the order they run, from 0.
        is_joint: whether text and picture attend to each other in one sequence. Such a layer is a self-attention layer,
            in which `Backbone.picture` says where the picture is.
    """

    name: str
    place: str
    is_cross: bool
    layer: int
    is_joint: bool = False


Attend = Callable[[Site, Heads, Heads, Heads, KeyMask | None], Heads | None]
"""Computes a layer's output from queries, keys and values, each [rows, heads, positions, dim], and, where not all keys
count, their mask; None leaves the layer to the library's fused attention."""


def probabilities(q: Heads, k: Heads, mask: KeyMask | None = None) -> Probabilities:
    """softmax(q kᵀ / √dim), in fp32 inside whatever the dtype; a key that the mask leaves out has none."""
    scores = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-1, -2)
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).to(q.dtype)


def attention(q: Heads, k: Heads, v: Heads, mask: Tensor | None = None) -> Heads:
    """Fused attention; no matrix of probabilities is stored. Of no rows, nothing.

    Args:
        mask: which keys each query may attend to, as truth values that broadcast to [rows, heads, queries, keys].
    """
    return _plain(q, k, v, attn_mask=mask) if len(q) else q


def word_columns(q: Heads, k: Heads, words: slice, mask: KeyMask | None = None) -> WordMaps:
    """The columns of the attention matrix that are the words'. No more than one head's whole matrix is held."""
    heads = zip(q.split(1, 1), k.split(1, 1), strict=True)
    return torch.cat([probabilities(*head, mask)[..., words] for head in heads], 1)


def spatial_size(positions: int, latent_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a layer with `positions` queries, in a network whose blocks halve the latent's size.

    Raises:
        ValueError: if no halving of `latent_size` has that many positions.
    """
    height, width = latent_size
    while height * width > positions:
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != positions:
        raise ValueError(f"no halving of a {latent_size[0]}×{latent_size[1]} latent has {positions} positions")
    return height, width


PLACES = ("down", "mid", "up")
"""The places of a UNet's blocks, in the order they run."""
SINGLE = "single"
"""The place of the transformer blocks in which text and picture have the same weights (FLUX); they run last."""


def sites(network: Any) -> dict[str, Site]:
    """Every attention layer of a diffusers network by its path, in the order they run.

    Raises:
        TypeError: if the network has no attention, or a layer has a processor with weights of its own, which adds
            attention that an edit would bypass.
    """
    with alone_with(network):
        return _sites(network, _layers(network))


def _sites(network: Any, layers: Mapping[str, Any]) -> dict[str, Site]:
    """See `sites`; of a network's layers, which take a search through all its modules to find."""
    if not layers:
        raise TypeError(
            f"{type(network).__name__} has no attention layers to edit; pass a Stable Diffusion pipeline "
            "whose unet is a UNet2DConditionModel"
        )
    foreign = {type(layer.processor).__name__ for layer in layers.values() if isinstance(layer.processor, nn.Module)}
    if foreign:
        raise TypeError(
            f"the network carries attention processors that an edit would bypass: {', '.join(sorted(foreign))} "
            "(an IP-Adapter, perhaps); unload them first, for example with pipe.unload_ip_adapter()"
        )
    return dict(_ordered(tuple((name, _is_joint(name, layer)) for name, layer in layers.items())))


def _is_joint(name: str, layer: Any) -> bool:
    """Whether a layer has text and picture in one sequence: with projections of its own for the text, or without."""
    return getattr(layer, "added_kv_proj_dim", None) is not None or name.startswith(SINGLE)


def _layers(network: Any) -> dict[str, Any]:
    """The modules that compute attention, by path. A compiled network holds the original."""
    modules = getattr(network, "_orig_mod", network).named_modules()
    return {name: module for name, module in modules if getattr(module, "processor", None) is not None}


@functools.cache
def _ordered(names: tuple[tuple[str, bool], ...]) -> tuple[tuple[str, Site], ...]:
    """The layers of these paths, joint or not, in the order they run."""

    def order(named: tuple[str, bool]) -> tuple:
        name, _ = named
        place = name.split("_", 1)[0]
        block = PLACES.index(place) if place in PLACES else int(place == SINGLE)
        return block, [int(n) for n in re.findall(r"\d+", name)], name

    found, counts = [], {False: 0, True: 0}
    for name, is_joint in sorted(names, key=order):
        is_cross = name.endswith(".attn2") and name.split("_", 1)[0] in PLACES
        found.append((name, Site(name, name.split("_", 1)[0], is_cross, counts[is_cross], is_joint)))
        counts[is_cross] += 1
    return tuple(found)


# ---------------------------------------------------------------- the hook


@contextmanager
def attending(network: Any, attend: Attend | None) -> Iterator[None]:
    """Let `attend` compute the attention of every layer inside the block; None changes nothing.

    Queries, keys and values come as the layer has made them: projected, normalised, rotated. The hooks are gone when
    the block ends, by an exception too. Other threads that enter such a block of the same network wait, so that none
    meets the hooks of another. A compiled network runs uncompiled inside.

    Raises:
        TypeError: see `sites`.
        RuntimeError: if the network ran and no layer called the hook.
    """
    with alone_with(network):
        if attend is None:
            yield
        else:
            with _native(network), uncompiled(network), _hooked(network, attend):
                yield


@contextmanager
def _hooked(network: Any, attend: Attend) -> Iterator[None]:
    layers, calls = _layers(network), [0]
    _install()
    with undoing(network) as note:
        # An interrupt inside a layer leaves it without a word.
        note(functools.partial(_left, calls))
        for name, site in _sites(network, layers).items():
            note(functools.partial(_unhooked, layers[name], calls))
            layers[name].register_forward_pre_hook(_Enter(_Here(site, attend, calls)))
            layers[name].register_forward_hook(_Leave(calls), always_call=True)
        yield
    if not calls[0]:
        raise RuntimeError(
            "the network ran without calling any attention hook, so nothing would have been edited; "
            "was it compiled or replaced by another module?"
        )


class _Here(NamedTuple):
    """The layer that a thread is in, who computes its attention, and the number of calls so far."""

    site: Site
    attend: Attend
    calls: list[int]


_RUNNING: dict[int, _Here] = {}
"""The layer that each thread is in. The backward pass of a checkpointed network runs its layers again in a thread of
its own, by the same hooks."""


class _Enter(NamedTuple):
    """The hook before a layer."""

    here: _Here

    def __call__(self, *_: Any) -> None:
        _RUNNING[threading.get_ident()] = self.here


class _Leave(NamedTuple):
    """The hook after it."""

    calls: list[int]

    def __call__(self, *_: Any) -> None:
        _RUNNING.pop(threading.get_ident(), None)


def _left(calls: list[int]) -> None:
    """Forget the layers of a block, which its counter tells from another's."""
    for thread, here in list(_RUNNING.items()):
        if here.calls is calls:
            _RUNNING.pop(thread, None)


def _unhooked(layer: nn.Module, calls: list[int]) -> None:
    """Take the hooks of a block off a layer."""
    for key, hook in list(layer._forward_pre_hooks.items()):
        if isinstance(hook, _Enter) and hook.here.calls is calls:
            layer._forward_pre_hooks.pop(key, None)
    for key, hook in list(layer._forward_hooks.items()):
        if isinstance(hook, _Leave) and hook.calls is calls:
            layer._forward_hooks.pop(key, None)
            layer._forward_hooks_always_called.pop(key, None)


Features = Mapping[str, Callable[[Tensor], Tensor]]
"""Functions of what layers put out, by the layers' paths in the network: what they return goes on instead."""


@contextmanager
def changing(network: Any, features: Features | None) -> Iterator[None]:
    """Let functions change what layers put out inside the block, as `attending` does with attention.

    Raises:
        AttributeError: for a path that the network doesn't have.
    """
    if not features:
        yield
        return
    with undoing(network) as note, uncompiled(network):
        for name, change in features.items():
            layer, hook = getattr(network, "_orig_mod", network).get_submodule(name), _Change(change)
            note(functools.partial(_unchanged, layer, hook))
            layer.register_forward_hook(hook)
        yield


@dataclass(frozen=True, eq=False)
class _Change:
    """The hook after a layer whose output is changed."""

    change: Callable[[Tensor], Tensor]

    def __call__(self, layer: Any, inputs: Any, output: Tensor) -> Tensor:
        return self.change(output)


def _unchanged(layer: nn.Module, hook: _Change) -> None:
    """Take one hook off a layer."""
    for key in [key for key, other in layer._forward_hooks.items() if other is hook]:
        layer._forward_hooks.pop(key, None)


_plain = F.scaled_dot_product_attention


def _shim(*args: Any, **options: Any) -> Any:
    """`scaled_dot_product_attention`, unless the calling thread is in a layer that is hooked."""
    if not _RUNNING or (here := _RUNNING.pop(threading.get_ident(), None)) is None:
        return _plain(*args, **options)
    # Inside `attend`, and until it is done, attention is the plain one.
    here.calls[0] += 1
    named = (options[name] for name in ("query", "key", "value", "attn_mask") if name in options)
    q, k, v, mask = (*args, *named, None)[:4]
    out = here.attend(here.site, q, k, v, mask)
    _RUNNING[threading.get_ident()] = here
    return _plain(*args, **options) if out is None else out.to(q.dtype)


def _install() -> None:
    """Put the shim in place, once and for good: a second network in another thread needs it, too."""
    if F.scaled_dot_product_attention is not _shim:
        F.scaled_dot_product_attention = functools.wraps(_plain)(_shim)


_OLD = {"AttnProcessor", "SlicedAttnProcessor", "XFormersAttnProcessor"}
"""Processors that compute plain attention by other means."""


@contextmanager
def _native(network: Any) -> Iterator[None]:
    """Inside the block, every layer calls `scaled_dot_product_attention`, whatever was chosen to be faster."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    layers = _layers(network).values()
    old = [(layer, layer.processor) for layer in layers if type(layer.processor).__name__ in _OLD]
    chosen = [(p, b) for layer in layers if (b := getattr(p := layer.processor, "_attention_backend", None))]
    with undoing(network) as note:
        for layer, processor in old:
            note(functools.partial(setattr, layer, "processor", processor))
            layer.processor = AttnProcessor2_0()
        for processor, backend in chosen:
            note(functools.partial(setattr, processor, "_attention_backend", backend))
            processor._attention_backend = None
        with _native_backend():
            yield


def _native_backend() -> AbstractContextManager:
    try:
        from diffusers.models.attention_dispatch import attention_backend
    except ImportError:
        # Before release 0.35 there is no other.
        return nullcontext()
    return attention_backend("native")


def uncompiled(network: Any) -> AbstractContextManager:
    """A block in which a compiled network runs as it was written: its graph does not see hooks that come and go."""
    stance = getattr(torch.compiler, "set_stance", None)
    compiled = hasattr(network, "_orig_mod") or any(module._compiled_call_impl for module in network.modules())
    return stance("force_eager") if stance and compiled else nullcontext()
