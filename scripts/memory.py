"""What an edit takes of a GPU's memory, computed without one: `python -m scripts.memory xl sd3`.

Each family's networks have the published configuration and no values; one step of an edit runs on tensors of shapes
alone, at the size that the model was trained on (see `nmg.lab.memory`). The memory is that of tensors: what cuDNN
and CUDA hold for themselves comes on top.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

import nmg
from nmg.conditioning import Conditioning
from nmg.lab.memory import GIB, Needs, computed, in_dtype
from nmg.menagerie.model import FOLDER

PROMPTS = ("a cat sitting in the room", "a dog sitting in the room")
GENTLE = nmg.NoiseMap()
METHODS: dict[str, tuple[nmg.Guidance, nmg.Editor]] = {
    "noise map guidance": (GENTLE, nmg.PromptToPrompt()),
    "checkpointed": (GENTLE, nmg.PromptToPrompt()),
    "jacobian=False": (nmg.NoiseMap(jacobian=False), nmg.PromptToPrompt()),
    "pix2pix-zero's descent": (GENTLE, nmg.Pix2PixZero(amount=0.15)),
}
"""What a step does."""


@dataclass(frozen=True)
class Family:
    """A model in its published configuration.

    Attributes:
        make: builds its pipeline.
        dtype: that it is published in.
        side: of its pictures in pixels.
        tokens, features, pooled: of a prompt's embeddings.
        distilled: whether it is told its guidance, and edited without a null half.
        masked: whether its text is padded to the longest beside it only, and the padding masked.
    """

    make: Callable[[], Any]
    dtype: torch.dtype
    side: int
    tokens: int
    features: int
    pooled: int | None = None
    distilled: bool = False
    masked: bool = False

    def text(self, rows: int) -> Conditioning:
        pooled = None if self.pooled is None else torch.empty(rows, self.pooled, dtype=self.dtype)
        told = torch.ones(rows) if self.distilled else None
        mask = torch.ones(rows, self.tokens, dtype=torch.bool) if self.masked else None
        return Conditioning(
            torch.empty(rows, self.tokens, self.features, dtype=self.dtype), pooled, mask, guidance=told
        )


# ---------------------------------------------------------------- parts


def autoencoder(channels: int = 4, **config: Any) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=channels,
        sample_size=1024,
        **config,
    )


def clip(width: int, layers: int, heads: int, projects: bool = False) -> Any:
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
    )
    return (CLIPTextModelWithProjection if projects else CLIPTextModel)(config)


def t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
    )
    return T5EncoderModel(config)


def tokenizer() -> CLIPTokenizer:
    """The bundled model's, whose tokens are as good as any."""
    return CLIPTokenizer.from_pretrained(FOLDER / "tokenizer", model_max_length=77)


def scheduler(**config: Any) -> DDIMScheduler:
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**betas, steps_offset=1, set_alpha_to_one=False, clip_sample=False, **config)


# ---------------------------------------------------------------- families


def sd(text: Callable[[], Any], sample: int, **unet: Any) -> StableDiffusionPipeline:
    down = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    return StableDiffusionPipeline(
        vae=autoencoder(),
        unet=UNet2DConditionModel(sample_size=sample, down_block_types=down, up_block_types=up, **unet),
        text_encoder=text(),
        tokenizer=tokenizer(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd1() -> StableDiffusionPipeline:
    return sd(lambda: clip(768, 12, 12), 64, cross_attention_dim=768, attention_head_dim=8)


def sd2() -> StableDiffusionPipeline:
    heads = {"attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
    return sd(lambda: clip(1024, 23, 16), 96, cross_attention_dim=1024, **heads)


def sdxl() -> StableDiffusionXLPipeline:
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(force_upcast=True),
        text_encoder=clip(768, 12, 12),
        text_encoder_2=clip(1280, 32, 20, projects=True),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet,
        scheduler=scheduler(),
    )


def sd3(layers: int, **config: Any) -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=layers,
        attention_head_dim=64,
        joint_attention_dim=4096,
        pooled_projection_dim=2048,
        **config,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(16, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(768, 12, 12, projects=True),
        text_encoder_2=clip(1280, 32, 20, projects=True),
        text_encoder_3=t5(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        tokenizer_3=tokenizer(),
    )


def sd3_medium() -> StableDiffusion3Pipeline:
    return sd3(24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192)


def sd35_large() -> StableDiffusion3Pipeline:
    size = {"num_attention_heads": 38, "caption_projection_dim": 2432, "pos_embed_max_size": 192}
    return sd3(38, qk_norm="rms_norm", **size)


def flux() -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=19,
        num_single_layers=38,
        attention_head_dim=128,
        num_attention_heads=24,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
        guidance_embeds=True,
    )
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0),
        vae=autoencoder(16, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(768, 12, 12),
        text_encoder_2=t5(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
    )


def qwen_image() -> QwenImagePipeline:
    text = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    config = Qwen2_5_VLConfig(
        text_config={**text, "num_key_value_heads": 4, "vocab_size": 152064},
        vision_config={"hidden_size": 1280, "out_hidden_size": 3584},
    )
    # The published configurations are the classes' own.
    return QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9),
        vae=AutoencoderKLQwenImage(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer(),
    )


HALF = torch.float16
FAMILIES = {
    "sd1": Family(sd1, HALF, 512, 77, 768),
    "sd2": Family(sd2, HALF, 768, 77, 1024),
    "xl": Family(sdxl, HALF, 1024, 77, 2048, 1280),
    "sd3": Family(sd3_medium, HALF, 1024, 77 + 256, 4096, 2048),
    "sd35-large": Family(sd35_large, torch.bfloat16, 1024, 77 + 256, 4096, 2048),
    "flux-dev": Family(flux, torch.bfloat16, 1024, 512, 4096, 768, distilled=True),
    "qwen-image": Family(qwen_image, torch.bfloat16, 1024, 64, 3584, masked=True),
}


def built(family: Family) -> Any:
    """The family's pipeline, whose weights have a shape and no values."""
    with torch.device("meta"):
        pipe = in_dtype(family.dtype, family.make)
    # The schedule needs its values.
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    return pipe


def needs(family: Family, pipe: Any, method: str) -> Needs:
    """What one of the `METHODS` takes, with one target."""
    network = nmg.Backbone(pipe).network
    if method == "checkpointed":
        network.enable_gradient_checkpointing()
    guidance, editor = METHODS[method]
    guidance = guidance.rescaled(1.0) if family.distilled else guidance
    text, null = family.text(len(PROMPTS)), family.text(1)
    try:
        return computed(pipe, PROMPTS, text, null, guidance, editor, (family.side, family.side))
    finally:
        network.disable_gradient_checkpointing()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("families", nargs="*", choices=[*FAMILIES, []], default=list(FAMILIES), metavar="family")
    parser.add_argument("--side", type=int, help="of the pictures in pixels, if another than the model's")
    arguments = parser.parse_args()
    print("| model | weights | a step with | takes | of it kept | largest operation | a picture |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.families:
        family = FAMILIES[name]
        family = family if arguments.side is None else Family(**vars(family) | {"side": arguments.side})
        pipe = built(family)
        for method in METHODS if nmg.Backbone(pipe).has_word_maps else list(METHODS)[:-1]:
            found = needs(family, pipe, method)
            sizes = (found.step, found.kept, found.largest, found.picture)
            step, kept, largest, picture = (f"{size / GIB:.2f}" for size in sizes)
            what = f"{name}, {family.side}², {str(family.dtype).removeprefix('torch.')}"
            print(
                f"| {what} | {found.weights / GIB:.2f} | {method} | {step} | {kept} | {largest} | {picture} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
