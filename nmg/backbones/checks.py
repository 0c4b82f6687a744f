"""What the parts of a pipeline may be: what an edit would leave out is refused, or said, with what works instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

PARTS = {
    "vae",
    "text_encoder",
    "tokenizer",
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
    if not hasattr(pipe.scheduler, "alphas_cumprod"):
        raise TypeError(
            f"{type(pipe.scheduler).__name__} has no levels of DDIM (alphas_cumprod); set one of Stable Diffusion's "
            "own, such as pipe.scheduler = DDIMScheduler.from_pretrained(…, subfolder='scheduler')"
        )


def check_network(unet: Any) -> None:
    """Raise for a UNet that reads a condition besides the text, or whose attention was replaced.

    Raises:
        TypeError: with the condition, or the layer, and what works instead.
    """
    for setting, what in CONDITIONS.items():
        if (kind := unet.config.get(setting)) not in (None, IP_ADAPTER):
            raise TypeError(
                f"the UNet reads {what} ({setting}={kind!r}), which an edit would leave out; Stable Diffusion 1 and 2, "
                "whose UNets read the text alone, work"
            )
    if (kind := unet.config.get("attention_type", "default")) != "default":
        raise TypeError(
            f"the UNet reads grounding boxes or pictures (attention_type={kind!r}, as GLIGEN's), which an edit would "
            "leave out; use a pipeline without them"
        )
    if layer := next(_replaced(unet), None):
        raise TypeError(
            f"the forward pass of {layer} was replaced, by token merging perhaps: its positions are no longer those of "
            "the picture, which edits compare; undo it first, for example with tomesd.remove_patch(pipe)"
        )


def _replaced(unet: nn.Module) -> Iterator[str]:
    """Paths of the transformer blocks and attention layers that compute something else than their class does.

    accelerate's and diffusers' hooks wrap the forward pass, and leave it the same.
    """
    for path, module in unet.named_modules():
        attends = hasattr(module, "processor") or hasattr(module, "attn1")
        wrapped = hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook")
        if attends and (type(module).__name__ == "ToMeBlock" or ("forward" in vars(module) and not wrapped)):
            yield path


def check_gradient(network: Any, who: str, cure: str) -> None:
    """Raise for a network through which no gradient can be taken, since its weights leave after the forward pass.

    Args:
        who: what takes the gradient, and `cure` what works without one: for the message.

    Raises:
        ValueError: with what exchanges the weights.
    """
    registries = (getattr(module, "_diffusers_hook", None) for module in network.modules())
    found = {SWAPS[name] for hooks in registries if hooks is not None for name in hooks.hooks if name in SWAPS}
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
