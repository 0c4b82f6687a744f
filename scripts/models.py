"""Stable Diffusion 1.4's networks with random weights: time and memory don't depend on their values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from nmg.menagerie.model import FOLDER
from nmg.menagerie.networks import build_scheduler


@dataclass(frozen=True)
class Size:
    """Widths of the networks, whose structure is Stable Diffusion 1.4's.

    Attributes:
        latent: height and width of the latent.
        unet, vae: channels of the blocks.
        text: features of a text token.
        text_layers: layers of the text encoder.
    """

    latent: int
    unet: tuple[int, ...]
    vae: tuple[int, ...]
    text: int
    text_layers: int


FULL = Size(latent=64, unet=(320, 640, 1280, 1280), vae=(128, 256, 512, 512), text=768, text_layers=12)
SMALL = Size(latent=32, unet=(32, 32, 64, 64), vae=(32, 32, 32, 32), text=96, text_layers=2)
"""As many layers and heads as the full size, on a quarter of the positions: to try the measurements out."""


def pipeline(device: str, dtype: torch.dtype, size: Size = FULL, with_values: bool = True) -> StableDiffusionPipeline:
    """A text-to-image pipeline in evaluation mode; the same weights each time on one kind of device.

    The tokenizer is the bundled model's, whose tokens are as good as any. Fake tensors have no values, and can't leave
    the meta device: say so there.
    """
    torch.manual_seed(0)
    cross = ("CrossAttn", "CrossAttn", "CrossAttn", "")
    with torch.device("meta" if with_values else device):
        unet = UNet2DConditionModel(
            sample_size=size.latent,
            block_out_channels=size.unet,
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in cross),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(cross)),
            cross_attention_dim=size.text,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=size.vae,
            layers_per_block=2,
            latent_channels=4,
            sample_size=8 * size.latent,
        )
    for network in (unet, vae):
        if network.dtype != dtype:
            network.to(dtype)
        if with_values:
            fill(network.to_empty(device=device))
    with torch.device(device):
        text = _text_encoder(size)
    if text.dtype != dtype:
        text.to(dtype)
    return StableDiffusionPipeline(
        unet=unet.eval(),
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=CLIPTokenizer.from_pretrained(FOLDER / "tokenizer", model_max_length=77),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _text_encoder(size: Size) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=size.text,
        intermediate_size=4 * size.text,
        num_hidden_layers=size.text_layers,
        num_attention_heads=12,
    )
    return CLIPTextModel(config)


@torch.no_grad()
def fill(network: nn.Module) -> None:
    """Give a network without values PyTorch's usual first ones, but in one pass over its parameters, and no biases."""
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.zero_()
        else:
            bound = 1 / math.sqrt(parameter[0].numel())
            parameter.uniform_(-bound, bound)
    for module in network.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.weight.fill_(1)
