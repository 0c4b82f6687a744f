"""What the parts of a pipeline may be: what an edit would leave out is refused, or said, with what works instead."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from nmg import levels
from nmg.undo import undoing

PARTS = {
    "vae",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
    "tokenizer",
    "tokenizer_2",
    "tokenizer_3",
    "transformer",
    "unet",
    "scheduler",
    "safety_checker",
    "feature_extractor",
    "image_encoder",
}
"""Components that an edit calls, or that change no picture."""
CONDITIONS = {
    "time_cond_proj_dim": "the guidance scale (as latent consistency models do)",
    "addition_embed_type": "a second embedding",
    "class_embed_type": "a class",
    "num_class_embeds": "a class",
    "encoder_hid_dim_type": "another kind of text embedding",
}
"""Settings of a UNet by which it reads a condition besides the text, and what that is."""
IP_ADAPTER = "ip_image_proj"
"""The kind of embedding that an IP-Adapter brings, which `nmg.attention.sites` refuses by its processors."""
UNFOLLOWED = (
    "clip_sample",
    "thresholding",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
)
"""Options of schedulers that DDIM's steps along the noise maps don't have."""
SWAPS = {
    "layerwise_casting": "layerwise casting",
    "group_offloading": "group offload",
    "lazy_prefetch_group_offloading": "group offload",
}
"""Hooks of diffusers that exchange a layer's weights after its forward pass, and what they are called."""

REUSES = ("cache", "fbc_", "broadcast", "skip", "energy_guidance")
"""In the names of diffusers' hooks that leave out layers, or take what they gave in another step or call."""


def check(pipe: Any) -> None:
    """Raise for a pipeline with a condition or a part that an edit would leave out.

    Raises:
        TypeError: with the part's name and what works instead.
    """
    name = type(pipe).__name__
    held = {part: vars(pipe).get(part) for part in getattr(pipe, "config", {})}
    others = [part for part, network in held.items() if part not in PARTS and isinstance(network, nn.Module)]
    if others:
        raise TypeError(
            f"{name} has a {', a '.join(others)}, whose condition an edit would leave out; edit with the plain "
            "pipeline of the same weights, StableDiffusionPipeline.from_pipe(pipe, torch_dtype=pipe.dtype)"
        )
    if hasattr(pipe, "set_pag_applied_layers"):
        raise TypeError(
            f"{name} guides by perturbed attention, which an edit would leave out; edit with the plain pipeline of the "
            "same weights, StableDiffusionPipeline.from_pipe(pipe, torch_dtype=pipe.dtype)"
        )
    levels.flows(pipe.scheduler)


def check_network(unet: Any, reads: tuple[str, ...] = ()) -> None:
    """Raise for a UNet that reads a condition besides the text, or whose attention was replaced.

    Args:
        reads: kinds of condition that it is given.

    Raises:
        TypeError: with the condition, or the layer, and what works instead.
    """
    for setting, what in CONDITIONS.items():
        if (kind := unet.config.get(setting)) not in (None, IP_ADAPTER, *reads):
            raise TypeError(
                f"the UNet reads {what} ({setting}={kind!r}), which an edit would leave out; Stable Diffusion 1, 2 and "
                "XL work"
            )
    if (kind := unet.config.get("attention_type", "default")) != "default":
        raise TypeError(
            f"the UNet reads grounding boxes or pictures (attention_type={kind!r}, as GLIGEN's), which an edit would "
            "leave out; use a pipeline without them"
        )
    # What an interrupt left of ours is undone first.
    with undoing(unet):
        layer = next(_replaced(unet), None)
    if layer:
        raise TypeError(
            f"the forward pass of {layer} was replaced, by token merging or a cache perhaps (ToMe's or DeepCache's): "
            "an edit compares positions and steps, and needs all of them computed; undo it first, for example with "
            "tomesd.remove_patch(pipe) or helper.disable()"
        )
    if found := sorted({name for name in _hooks(unet) if any(part in name for part in REUSES)}):
        raise TypeError(
            f"the network has {', '.join(found)}, which leaves out layers, or takes what they gave in another step, so "
            "that an edit would not see them; undo it first, for example with pipe.transformer.disable_cache()"
        )


def check_release(network: Any) -> None:
    """Raise for a network with settings that the installed diffusers does not know: it has left out the layers that
    they ask for, and those layers' weights.

    Raises:
        TypeError: with the settings.
    """
    known = inspect.signature(type(network).__init__).parameters
    # How weights are quantized is kept beside the settings, and leaves out no layer.
    own = {*known, "quantization_config"}
    given = {name: value for name, value in network.config.items() if name[0] != "_" and name not in own}
    # What is empty or off asks for nothing.
    if others := [f"{name}={value!r}" for name, value in given.items() if value]:
        raise TypeError(
            f"the {type(network).__name__} was saved with {', '.join(others)}, which {_installed()} does not know, so "
            "that it left out layers; pip install -U diffusers, and load it again"
        )


def check_positions(network: Any) -> None:
    """Raise for a FLUX.1 of diffusers 0.30, whose positions differ by row; later ones have the same for all.

    Raises:
        TypeError: with the release.
    """
    if type(network.pos_embed).__name__ == "EmbedND":
        raise TypeError(
            f"FLUX.1 works with diffusers 0.31 and later, and {_installed()} is installed; pip install -U diffusers"
        )


def _installed() -> str:
    from diffusers import __version__

    return f"diffusers {__version__}"


def _replaced(unet: nn.Module) -> Iterator[str]:
    """Paths of the blocks and layers that compute something else than their class does.

    accelerate's and diffusers' hooks wrap the forward pass, and leave it the same. So may who replaces that of the
    whole network, to compile or to watch it, or of a single convolution, to make tileable pictures.
    """
    for path, module in unet.named_modules():
        whole, single = module is unet, not any(True for _ in module.children())
        wrapped = hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook")
        replaced = "forward" in vars(module) and not (wrapped or whole or single)
        if type(module).__name__ == "ToMeBlock" or replaced:
            yield path


def _hooks(network: nn.Module) -> Iterator[str]:
    """Names of diffusers' hooks on a network's modules."""
    for module in network.modules():
        if (registry := getattr(module, "_diffusers_hook", None)) is not None:
            yield from registry.hooks


def check_gradient(network: Any, who: str, cure: str) -> None:
    """Raise for a network through which no gradient can be taken, since its weights leave after the forward pass.

    Args:
        who: what takes the gradient, and `cure` what works without one: for the message.

    Raises:
        ValueError: with what exchanges the weights.
    """
    found = {SWAPS[name] for name in _hooks(network) if name in SWAPS}
    if found:
        raise ValueError(
            f"{who} takes a gradient through the network, and {' and '.join(sorted(found))} exchanges the weights "
            f"before the backward pass has used them; give {cure}, or pipe.enable_model_cpu_offload() instead"
        )


def unfollowed(scheduler: Any) -> str | None:
    """What to say about options of a scheduler that an edit does not follow; None if there are none."""
    found = [name for name in UNFOLLOWED if scheduler.config.get(name)]
    if not found:
        return None
    return (
        f"{type(scheduler).__name__}'s {', '.join(found)} {'are' if len(found) > 1 else 'is'} not followed: an edit "
        "takes DDIM's steps at the model's own noise levels"
    )
