"""Time and memory of every family at its full size on a GPU: `python -m scripts.device_speed outputs/device`.

The networks have the real shapes and random weights, made on the device in bfloat16: time and memory don't depend on
their values, and nothing is downloaded. Text encoders and autoencoders are left out, and the text is random. For each
family, at its native size:

    call       one call of the network with two rows
    step       one step of an edit with one target: noise map guidance, then the text-guided call
    jacobian   the same with the gradient through the network, checkpointed

Seconds are the fastest of a few, after a first that is not counted; the memory is the most that tensors held meanwhile.
A family that fails says why, and the next one follows. One JSON object a family is written into the folder.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch

import nmg
from nmg.conditioning import Conditioning
from nmg.run import Run

NOISE_MAP_SCALE = 0.01
"""Scale that random weights stand; the cost is any scale's."""
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHIFT = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


@dataclass(frozen=True)
class Family:
    """A family at its full size, and a tiny one to try the measurement out.

    Attributes:
        network, config, tiny: class and settings of the network; `tiny` replaces some of them.
        latent, channels: side and channels of the latent.
        text: tokens and features of the text; `pooled`: width of the pooled embedding; `masked`: whether it has a mask.
        part: what the pipeline calls the network.
        scheduler: class and settings.
        scale: classifier-free guidance, which a distilled network does without.
    """

    network: str
    config: dict[str, Any]
    tiny: dict[str, Any]
    latent: int
    channels: int
    text: tuple[int, int]
    tiny_text: tuple[int, int]
    pooled: int = 0
    tiny_pooled: int = 0
    masked: bool = False
    part: str = "transformer"
    scheduler: tuple[str, dict[str, Any]] = ("FlowMatchEulerDiscreteScheduler", SHIFT)
    scale: float = 2.0


UNET_TINY = {"block_out_channels": (16, 32), "cross_attention_dim": 32, "norm_num_groups": 8, "layers_per_block": 1}
FAMILIES = {
    "Stable Diffusion 1.5": Family(
        "UNet2DConditionModel",
        {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768},
        {
            **UNET_TINY,
            "sample_size": 16,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        latent=64,
        channels=4,
        text=(77, 768),
        tiny_text=(8, 32),
        part="unet",
        scheduler=("DDIMScheduler", {**SD_BETAS, "steps_offset": 1, "set_alpha_to_one": False}),
    ),
    "Stable Diffusion XL": Family(
        "UNet2DConditionModel",
        {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        {
            **UNET_TINY,
            "sample_size": 16,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2),
            "attention_head_dim": (2, 4),
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 8 * 6 + 32,
        },
        latent=128,
        channels=4,
        text=(77, 2048),
        tiny_text=(8, 32),
        pooled=1280,
        tiny_pooled=32,
        part="unet",
        scheduler=("EulerDiscreteScheduler", {**SD_BETAS, "steps_offset": 1}),
    ),
    "Stable Diffusion 3.5 medium": Family(
        "SD3Transformer2DModel",
        {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
        {
            "sample_size": 16,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "joint_attention_dim": 32,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 32,
            "pos_embed_max_size": 24,
            "dual_attention_layers": (0,),
        },
        latent=128,
        channels=16,
        text=(333, 4096),
        tiny_text=(8, 32),
        pooled=2048,
        tiny_pooled=32,
        scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ),
    "FLUX.1 dev": Family(
        "FluxTransformer2DModel",
        {"in_channels": 64, "guidance_embeds": True},
        {
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 32,
            "axes_dims_rope": (4, 4, 8),
        },
        latent=128,
        channels=16,
        text=(512, 4096),
        tiny_text=(8, 32),
        pooled=768,
        tiny_pooled=32,
        scale=1.0,
    ),
    "Qwen-Image": Family(
        "QwenImageTransformer2DModel",
        {},
        {
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "axes_dims_rope": (8, 4, 4),
        },
        latent=128,
        channels=16,
        text=(128, 3584),
        tiny_text=(8, 32),
        masked=True,
    ),
}


@contextmanager
def made_on(device: torch.device) -> Iterator[None]:
    """Inside the block tensors are made on a device, in bfloat16."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


class Subject:
    """A family's network behind its `Backbone`, a trajectory of random maps, and random text for two prompts."""

    def __init__(self, name: str, device: torch.device, small: bool, steps: int):
        family = FAMILIES[name]
        self.side = 16 if small else family.latent
        with made_on(device):
            config = family.config | (family.tiny if small else {})
            network = getattr(diffusers, family.network)(**config).eval().requires_grad_(False)
        self.backbone = nmg.Backbone(stand_in(name, family, network, device))
        down = self.backbone.steps(steps, (self.side, self.side))
        levels = (down[-1].there, *(step.here for step in reversed(down)))
        self.random = torch.Generator(device).manual_seed(0)
        maps = self.normal(steps + 1, family.channels, self.side, self.side).float()
        trajectory = nmg.Trajectory(maps, levels, down, "a", self.backbone.name)
        text, null = self.text(family, small), self.text(family, small)
        self.run = Run(self.backbone, trajectory, ("a", "b"), text.with_guidance(3.5), null)
        self.scale = family.scale

    def normal(self, *shape: int) -> torch.Tensor:
        device = self.random.device
        return torch.randn(shape, generator=self.random, device=device, dtype=torch.bfloat16)

    def text(self, family: Family, small: bool) -> Conditioning:
        """Random text of two prompts, of which the second is shorter where texts are masked."""
        length, width = family.tiny_text if small else family.text
        pooled = family.tiny_pooled if small else family.pooled
        mask = torch.ones(2, length, dtype=torch.bool, device=self.random.device)
        mask[1, length // 2 :] = False
        return Conditioning(
            self.normal(2, length, width),
            self.normal(2, pooled) if pooled else None,
            mask if family.masked else None,
            torch.ones(2, device=self.random.device) if self.backbone.is_told_guidance else None,
        )

    def call(self) -> None:
        """One call of the network with two rows."""
        self.backbone.predict(self.run.start, self.run.steps[0], self.run.text)

    def step(self, jacobian: bool) -> None:
        """The first step of an edit with one target."""
        guidance = nmg.NoiseMap(noise_map_scale=NOISE_MAP_SCALE, text_scale=self.scale, jacobian=jacobian)
        next(nmg.denoise(self.run, guidance, nmg.Editor()))

    def checkpointed_step(self) -> None:
        network = self.backbone.network
        network.enable_gradient_checkpointing()
        network.train()
        self.step(jacobian=True)


def stand_in(name: str, family: Family, network: Any, device: torch.device) -> Any:
    """What a `Backbone` asks of a pipeline, without text encoders and autoencoder."""
    kind, settings = family.scheduler
    config = SimpleNamespace(latent_channels=family.channels, z_dim=family.channels, block_out_channels=(0,) * 4)
    absent = object()
    encoders = ["text_encoder", "tokenizer"]
    # A second one is what tells XL.
    encoders += [f"{part}_2" for part in encoders if family.pooled]
    return SimpleNamespace(
        **{family.part: network},
        **dict.fromkeys(encoders, absent),
        vae=SimpleNamespace(config=config),
        scheduler=getattr(diffusers, kind)(**settings),
        encode_prompt=absent,
        config={},
        name_or_path=f"{name} with random weights",
        vae_scale_factor=8,
        default_sample_size=family.latent,
        _execution_device=device,
    )


# ---------------------------------------------------------------- measuring


@torch.no_grad()
def timed(compute: Callable[[], None], device: torch.device, rounds: int) -> dict[str, float | None]:
    """Seconds of the fastest of some rounds after a first one, and on a GPU the GiB that tensors held at most."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(1 + rounds):
        began = time.perf_counter()
        compute()
        if cuda:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if cuda else None
    return {"seconds": min(seconds[1:]), "peak_gib": peak}


def measured(name: str, device: torch.device, small: bool, rounds: int) -> dict[str, Any]:
    """All figures of a family; those of a measurement that fails are what it said."""
    began = time.perf_counter()
    subject = Subject(name, device, small, steps=10)
    network = subject.backbone.network
    found: dict[str, Any] = {
        "family": name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "pixels": 8 * subject.side,
        "build_seconds": time.perf_counter() - began,
    }
    for what, compute in (
        ("call", subject.call),
        ("step", lambda: subject.step(jacobian=False)),
        ("jacobian", subject.checkpointed_step),
    ):
        try:
            found[what] = timed(compute, device, rounds)
        except Exception as error:  # What fails on a device can be anything; the other figures count.
            traceback.print_exc()
            found[what] = {"error": f"{type(error).__name__}: {error}"[:500]}
    return found | {"all_seconds": time.perf_counter() - began}


def line(found: dict[str, Any]) -> str:
    """One family's figures as a line."""
    if "error" in found:
        return f"{found['family']}: failed: {found['error']}"
    said = [f"{found['family']}: {found['parameters'] / 1e9:.3g} G parameters, {found['pixels']} pixels"]
    for what, title in (("call", "call of 2 rows"), ("step", "NMG step"), ("jacobian", "NMG step with Jacobian")):
        own = found[what]
        memory = f", {own['peak_gib']:.3g} GiB" if own.get("peak_gib") else ""
        said.append(f"{title} {own['seconds']:.3g} s{memory}" if "seconds" in own else f"{title}: {own['error']}")
    return f"{'; '.join(said)} ({found['all_seconds']:.1f} s in all)"


def main(words: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, help="where the JSON goes")
    p.add_argument("--family", action="append", choices=FAMILIES, help="one of several; all if not given")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--rounds", type=int, default=2, help="of each measurement, after a first that is not counted")
    p.add_argument("--small", action="store_true", help="tiny networks, to try the measurement out")
    given = p.parse_args(words)
    device = torch.device(given.device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    versions = {"device": card, "torch": torch.__version__, "diffusers": diffusers.__version__}
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.family or FAMILIES:
        try:
            found = measured(name, device, given.small, given.rounds)
        except Exception as error:  # The next family may fit.
            traceback.print_exc()
            found = {"family": name, "error": f"{type(error).__name__}: {error}"[:500]}
        print(line(found), flush=True)
        path = given.folder / f"{name.lower().replace(' ', '-')}.json"
        path.write_text(json.dumps(versions | {"small": given.small} | found, indent=2), encoding="utf-8")
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
