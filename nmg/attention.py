"""Attention hooks that live exactly as long as one network call.

`attending(unet, attend)` lets a function compute the attention of every layer, and puts the
network's own processors back when the block ends, whatever ends it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.nn import functional as F

from nmg.threads import alone_with
from nmg.types import Heads, Probabilities


@dataclass(frozen=True)
class Site:
    """One attention layer of a network.

    Attributes:
        name: its path in the network, such as `down_blocks.0.attentions.1.transformer_blocks.0.attn2`.
        place: "down", "mid" or "up".
        is_cross: whether its keys and values come from the text.
        layer: its place among the self- (or cross-) attention layers in the order they run, from 0.
    """

    name: str
    place: str
    is_cross: bool
    layer: int


Attend = Callable[[Site, Heads, Heads, Heads], Heads | None]
"""Computes a layer's output from queries, keys and values, each [rows, heads, positions, dim];
None leaves the layer to the library's fused attention."""

_STOCK = {"AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor", "FusedAttnProcessor2_0"}


def probabilities(q: Heads, k: Heads) -> Probabilities:
    """softmax(q kᵀ / √dim), in fp32 inside whatever the dtype."""
    scores = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-1, -2)
    return scores.softmax(-1).to(q.dtype)


def attention(q: Heads, k: Heads, v: Heads) -> Heads:
    """Fused attention; no matrix of probabilities is stored."""
    return F.scaled_dot_product_attention(q, k, v)


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


def sites(unet: Any) -> dict[str, Site]:
    """Every attention layer of a diffusers UNet by processor name, in the order they run.

    Raises:
        TypeError: if the network is not a UNet with attention, or carries processors that a hook would bypass.
    """
    with alone_with(unet):
        processors = getattr(unet, "attn_processors", None)
    if not processors:
        raise TypeError(
            f"{type(unet).__name__} has no attention layers to edit; pass a Stable Diffusion pipeline "
            "whose unet is a UNet2DConditionModel"
        )
    foreign = {type(p).__name__ for p in processors.values()} - _STOCK
    if foreign:
        raise TypeError(
            f"the UNet carries attention processors that an edit would bypass: {', '.join(sorted(foreign))} "
            "(an IP-Adapter, perhaps); unload them first, for example with pipe.unload_ip_adapter()"
        )

    return dict(_ordered(tuple(processors)))


@functools.cache
def _ordered(names: tuple[str, ...]) -> tuple[tuple[str, Site], ...]:
    """The layers of these processors in the order they run."""

    def order(name: str) -> tuple:
        place = ("down", "mid", "up").index(name.split("_", 1)[0])
        return place, [int(n) for n in re.findall(r"\d+", name)], name

    found, counts = [], {False: 0, True: 0}
    for name in sorted(names, key=order):
        is_cross = ".attn2." in name
        found.append((name, Site(name.removesuffix(".processor"), name.split("_", 1)[0], is_cross, counts[is_cross])))
        counts[is_cross] += 1
    return tuple(found)


@contextmanager
def attending(unet: Any, attend: Attend | None) -> Iterator[None]:
    """Let `attend` compute the attention of every layer inside the block; None changes nothing.

    The processors that were there before are restored when the block ends, by an exception too. Other threads that
    enter such a block of the same network wait, so that none meets the hooks of another.

    Raises:
        TypeError: see `sites`.
        RuntimeError: if the network ran and no layer called the hook.
    """
    with alone_with(unet):
        if attend is None:
            yield
        else:
            with _hooked(unet, attend):
                yield


@contextmanager
def _hooked(unet: Any, attend: Attend) -> Iterator[None]:
    calls: list[str] = []
    saved = dict(unet.attn_processors)
    hooks = {name: _Hook(site, attend, calls) for name, site in sites(unet).items()}
    try:
        unet.set_attn_processor(hooks)
        yield
    finally:
        unet.set_attn_processor(saved)
    if not calls:
        raise RuntimeError(
            "the network ran without calling any attention hook, so nothing would have been edited; "
            "was it compiled or replaced by another module?"
        )


class _Hook:
    """A diffusers attention processor that asks `attend` first."""

    def __init__(self, site: Site, attend: Attend, calls: list[str]):
        self.site, self.attend, self.calls = site, attend, calls

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        self.calls.append(self.site.name)
        residual, shape = hidden_states, hidden_states.shape
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if hidden_states.ndim == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)

        q, k, v = (
            projection(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projection, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        q = q if getattr(attn, "norm_q", None) is None else attn.norm_q(q)
        k = k if getattr(attn, "norm_k", None) is None else attn.norm_k(k)
        out = self.attend(self.site, q, k, v)
        if out is None:
            mask = self._mask(attn, attention_mask, k.shape[2], q.shape[0])
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

        out = out.transpose(1, 2).flatten(2).to(q.dtype)
        for layer in attn.to_out:
            out = layer(out)
        if len(shape) == 4:
            out = out.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor

    @staticmethod
    def _mask(attn, attention_mask, keys: int, rows: int):
        if attention_mask is None:
            return None
        return attn.prepare_attention_mask(attention_mask, keys, rows).unflatten(0, (rows, attn.heads))
