"""Tiny random-weight pipelines of every family, in the class and the shape of configuration of the real ones."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

TOKENIZER = Path(__file__).parent / "reference" / "sd-shaped" / "tokenizer"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


# ---------------------------------------------------------------- what an older release lacks


def classes(library: Any, *names: str) -> list[Any]:
    """Classes of diffusers or transformers; the test is skipped where the installed release lacks one."""
    _skip_without(library, [name for name in names if not hasattr(library, name)])
    return [getattr(library, name) for name in names]


def missing_of_sd35() -> list[str]:
    """What the installed diffusers lacks of the transformer of Stable Diffusion 3.5."""
    known = inspect.signature(diffusers.SD3Transformer2DModel.__init__).parameters
    settings = ("qk_norm", "dual_attention_layers")
    return [f"{name} of SD3Transformer2DModel" for name in settings if name not in known]


def needs_sd35() -> None:
    """Skip the test where Stable Diffusion 3.5 and the flow twin can't be built."""
    _skip_without(diffusers, missing_of_sd35())


def cast_layers(network: Any) -> None:
    """Layers kept in bfloat16 that compute in float32; the test is skipped where diffusers has no layerwise casting."""
    _skip_without(diffusers, [name for name in ("enable_layerwise_casting",) if not hasattr(network, name)])
    network.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)


def checkpoint(network: Any) -> None:
    """Gradient checkpointing; the test is skipped where diffusers does that in training mode alone."""
    source = inspect.getsource(inspect.getmodule(diffusers.models.unets.unet_2d_blocks.UNetMidBlock2DCrossAttn))
    _skip_without(diffusers, [] if "is_grad_enabled" in source else ["gradient checkpointing outside training mode"])
    network.enable_gradient_checkpointing()


def _skip_without(library: Any, missing: list[str]) -> None:
    if missing:
        pytest.skip(f"{library.__name__} {library.__version__} has no {', no '.join(missing)}")


def offload(pipe: Any) -> None:
    """What sequential offload does to each part; `enable_sequential_cpu_offload` itself takes no CPU for the device."""
    from accelerate import cpu_offload

    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            cpu_offload(part, execution_device=torch.device("cpu"))


# ---------------------------------------------------------------- parts


def clip_tokenizer(pad=None):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    if pad:
        tokenizer.pad_token = pad
    return tokenizer


def clip(tokenizer, kind="CLIPTextModelWithProjection"):
    """A CLIP text encoder of width 32."""
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return getattr(transformers, kind)(config).eval()


def autoencoder(channels=4, **config):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        latent_channels=channels,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **config,
    ).eval()


def sd(v=False):
    """Stable Diffusion 1; or 2, with velocities, heads that differ by block, and zero terminal SNR."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=32,
        attention_head_dim=(2, 4) if v else 2,
        use_linear_projection=v,
        norm_num_groups=8,
    )
    zero = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    schedule = zero if v else {"steps_offset": 1, "set_alpha_to_one": False}
    return quiet(
        StableDiffusionPipeline(
            vae=autoencoder(),
            text_encoder=clip(tokenizer, "CLIPTextModel"),
            tokenizer=tokenizer,
            unet=unet.eval(),
            scheduler=DDIMScheduler(**BETAS, **schedule, clip_sample=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def sdxl(force_zeros=True):
    """Stable Diffusion XL: two text encoders with other padding, text_time, transformers of several layers."""
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    first, second = clip_tokenizer(), clip_tokenizer("!")
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        cross_attention_dim=64,
        use_linear_projection=True,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 32,
    )
    return quiet(
        StableDiffusionXLPipeline(
            vae=autoencoder(scaling_factor=0.13025),
            text_encoder=clip(first, "CLIPTextModel"),
            text_encoder_2=clip(second),
            tokenizer=first,
            tokenizer_2=second,
            unet=unet.eval(),
            scheduler=DDIMScheduler(**BETAS, steps_offset=1, set_alpha_to_one=False, clip_sample=False),
            force_zeros_for_empty_prompt=force_zeros,
        )
    )


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def t5_tokenizer():
    """A fast tokenizer of words and letters that ends with </s>, as T5's does."""
    import string

    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["▁" + word for word in ("a", "red", "blue", "cat", "dog", "sitting", "in", "the", "forest", "")]
    vocabulary = dict.fromkeys(["<pad>", "</s>", "<unk>", *words, *string.printable])
    pieces = [(piece, -1.0 if len(piece) > 2 else -5.0) for piece in vocabulary]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **special)


def t5(tokenizer):
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=37,
        num_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()


def sd3(dynamic=False):
    """Stable Diffusion 3.5: three text encoders, a patch of 2, and a second attention of the picture alone."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    needs_sd35()
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        pos_embed_max_size=24,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    first, second, third = clip_tokenizer(), clip_tokenizer(), t5_tokenizer()
    shift = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15} if dynamic else {"shift": 3.0}
    return quiet(
        StableDiffusion3Pipeline(
            transformer=transformer.eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(**shift),
            vae=autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=clip(first),
            text_encoder_2=clip(second),
            text_encoder_3=t5(third),
            tokenizer=first,
            tokenizer_2=second,
            tokenizer_3=third,
        )
    )


def qwen_tokenizer():
    """A fast tokenizer of bytes with the words of chat, as Qwen's is."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=1024, **special)


def qwen(layers=2):
    """Qwen-Image: one language model, text padded and masked, latents packed, an autoencoder of films."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    parts = ("QwenImagePipeline", "QwenImageTransformer2DModel", "AutoencoderKLQwenImage")
    pipeline, network, autoencoder = classes(diffusers, *parts)
    configuration, encoder = classes(transformers, "Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration")
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    transformer = network(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    vae = autoencoder(
        base_dim=12,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.8, 1.0, 2.0],
    )
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default", "rope_theta": 1e6}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = configuration(
        text_config={
            **sizes,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rope_parameters": rope,
            "rope_scaling": rope,
            "rope_theta": 1e6,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 1024,
        },
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
        vocab_size=len(tokenizer),
        hidden_size=16,
    )
    shift = {"base_shift": 0.5, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
    pipe = pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **shift),
        vae=vae.eval(),
        text_encoder=encoder(config).eval(),
        tokenizer=tokenizer,
    )
    # A token is a byte here, and the template's beginning has more of them.
    beginning = pipe.prompt_template_encode.split("{}")[0]
    pipe.prompt_template_encode_start_idx = len(tokenizer(beginning).input_ids)
    pipe.default_sample_size = 16
    return quiet(pipe)


def flux(dev=True, double=2, single=2):
    """FLUX.1: CLIP's pooled embedding and T5's tokens, latents packed; dev is told its guidance, schnell is not."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=dev,
    )
    old = type(transformer.pos_embed).__name__ == "EmbedND"
    _skip_without(diffusers, ["positions of FLUX.1 that all rows share"] if old else [])
    first, second = clip_tokenizer(), t5_tokenizer()
    shift = (
        {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0} if dev else {"shift": 1.0}
    )
    pipe = FluxPipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(**shift),
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=clip(first, "CLIPTextModel"),
        text_encoder_2=t5(second),
        tokenizer=first,
        tokenizer_2=second,
    )
    pipe.default_sample_size = 16
    return quiet(pipe)


FAMILIES = {"sd1": sd, "sd2": lambda: sd(v=True), "xl": sdxl, "sd3": sd3}
"""The Stable Diffusions by the name that tests give them."""
OTHERS = {"flux": flux, "qwen": qwen}
