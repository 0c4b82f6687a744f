"""Trained networks as ordinary pipeline folders, in half precision."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch

from nmg.menagerie import networks


def halved(part: Any) -> Any:
    """A copy in fp16 on the CPU, laid out as files hold it."""
    return copy.deepcopy(part).to("cpu", torch.float16, memory_format=torch.contiguous_format)


def write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """The files that the tokenizer was read from, in the older layout, which every release of transformers reads."""
    (folder / "tokenizer.json").unlink(missing_ok=True)
    for path in Path(tokenizer.name_or_path).iterdir():
        shutil.copy(path, folder / path.name)


def export(out: Path, vae: Any, denoiser: Any, tokenizer: Any, scheduler: Any, classifier: Any) -> None:
    """Write an ordinary Stable Diffusion folder, and the classifier beside it."""
    from diffusers import StableDiffusionPipeline
    from diffusers.models.attention_processor import AttnProcessor2_0

    denoiser.unet.set_attn_processor(AttnProcessor2_0())
    pipeline = StableDiffusionPipeline(
        vae=halved(vae),
        unet=halved(denoiser.unet),
        text_encoder=halved(denoiser.text_encoder),
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out, safe_serialization=True)
    write_tokenizer(tokenizer, out / "tokenizer")
    networks.restore_text_layout(out / "text_encoder" / "model.safetensors")
    classifier.cpu().save(out / "classifier.safetensors")


def export_flow(out: Path, vae: Any, denoiser: Any, tokenizer: Any) -> None:
    """Write the flow twin as an ordinary Stable Diffusion 3 folder, without the third text encoder."""
    from diffusers import StableDiffusion3Pipeline
    from diffusers.models.attention_processor import JointAttnProcessor2_0

    transformer = copy.deepcopy(denoiser.transformer)
    transformer.set_attn_processor(JointAttnProcessor2_0())
    own = halved(vae)
    own.register_to_config(shift_factor=0.0)
    encoders = halved(denoiser.text_encoder), halved(denoiser.text_encoder_2)
    scheduler = networks.build_flow_scheduler()
    pipeline = StableDiffusion3Pipeline(
        halved(transformer), scheduler, own, encoders[0], tokenizer, encoders[1], tokenizer, None, None
    )
    pipeline.save_pretrained(out, safe_serialization=True)
    for number in ("", "_2"):
        write_tokenizer(tokenizer, out / f"tokenizer{number}")
        networks.restore_text_layout(out / f"text_encoder{number}" / "model.safetensors")
