"""Seconds and memory of an editor at Stable Diffusion 1.4's size: `python benchmarks/editors.py masactrl`.

The network has the real shape and random weights: time and memory don't depend on their values. A figure is of this
process alone, so run one editor per process. On a CPU the network is in float32, on a GPU in float16.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import nmg
from nmg.menagerie.model import FOLDER
from nmg.menagerie.networks import build_scheduler

SOURCE, TARGET = "a gray cat sitting in the room", "a gray dog sitting in the room"
EDITORS = {
    "prompt-to-prompt": nmg.PromptToPrompt(local_blend=nmg.LocalBlend(("cat", "dog"), start=0.0)),
    "masactrl": nmg.MasaCtrl(start_step=0, words=("cat", "dog")),
    "pix2pix-zero": nmg.Pix2PixZero(),
    "none": nmg.Editor(),
}


def pipeline(device: str, dtype: torch.dtype) -> StableDiffusionPipeline:
    """Stable Diffusion 1.4's networks with random weights, and its schedule.

    The tokenizer is the bundled model's, whose tokens are as good as any.
    """
    torch.manual_seed(0)
    four = ("CrossAttn", "CrossAttn", "CrossAttn", "")
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in four),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(four)),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )
        tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer", model_max_length=77)
        text = CLIPTextModel(
            CLIPTextConfig(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_attention_heads=12)
        )
    networks = {"unet": unet, "vae": vae, "text_encoder": text}
    for network in networks.values():
        if network.dtype != dtype:
            network.to(dtype)
    return StableDiffusionPipeline(
        **networks,
        tokenizer=tokenizer,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def peak(device: str) -> int:
    """The most memory that this process has held, in bytes: on the GPU there, else in all."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("editor", choices=EDITORS)
    p.add_argument("--steps", type=int, default=2)
    p.add_argument("--threads", type=int, help="of torch on a CPU")
    arguments = p.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = nmg.Backbone(pipeline(device, torch.float16 if device == "cuda" else torch.float32))
    loaded = peak(device)

    # The noise maps are noise: nothing here depends on what they show.
    down = nmg.steps(backbone.scheduler, arguments.steps)
    maps = torch.randn(arguments.steps + 1, 4, 64, 64, device=device)
    levels = (down[-1].alpha_prev, *(step.alpha for step in reversed(down)))
    trajectory = nmg.Trajectory(maps, levels, down, SOURCE, backbone.name)
    editor = EDITORS[arguments.editor]
    run = nmg.prepare(backbone, trajectory, [TARGET], editor.negative(SOURCE))
    start = time.time()
    *_, (_, latents) = nmg.denoise(run, nmg.NoiseMap(noise_map_scale=0.01, text_scale=2.0), editor)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.time() - start) / arguments.steps
    backbone.decode(latents)

    row = {
        "editor": arguments.editor,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "dtype": str(backbone.unet.dtype).removeprefix("torch."),
        "seconds_per_step": round(seconds, 3),
        "peak_gib": round(peak(device) / 2**30, 2),
        "peak_gib_before_sampling": round(loaded / 2**30, 2),
        "settings": repr(editor),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
