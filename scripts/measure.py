"""One measurement, of this process alone: `scripts.speed` starts a fresh process for each of them.

Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import nmg
from nmg.lab.bench import meter
from scripts import baseline, models

PROMPTS = tuple(f"a gray {animal} sitting in the room" for animal in ("cat", "dog", "fox"))
WORDS = ("cat", "dog", "fox")
EDITORS: dict[str, Callable[[int], nmg.Editor]] = {
    "prompt-to-prompt": lambda targets: nmg.PromptToPrompt(
        cross_replace=1.0, self_replace=1.0, local_blend=nmg.LocalBlend(WORDS[: 1 + targets], start=0.0)
    ),
    "masactrl": lambda targets: nmg.MasaCtrl(start_step=0),
    "pix2pix-zero": lambda targets: nmg.Pix2PixZero(),
    "none": lambda targets: nmg.Editor(),
}
"""Editors by number of targets, so set that every step edits in full: no window ends before the last step."""
GUIDANCE = {"noise_map_scale": 0.01, "text_scale": 2.0}
"""Scales that random weights stand; the cost is any scale's."""
KINDS: dict[str, Callable[..., nmg.NoiseMap]] = {
    "jacobian-free": functools.partial(nmg.NoiseMap, jacobian=False),
    "fast": nmg.NoiseMap.fast,
}
"""Noise-map guidance of the measurements that have one of their own."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Memory:
    """MiB that this process holds and has held at most: on the GPU there, else in all."""

    def __init__(self, device: str):
        self.device = torch.device(device)
        meter.forget_peak(self.device)
        self.loaded = self.peak

    @property
    def peak(self) -> float:
        if (known := meter.peak_mib(self.device)) is not None:
            return known
        # Since the process began; in bytes on macOS, in KiB elsewhere.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


class Clock:
    """Seconds of each step; called at the end of each. A single thread's are those of its processor, which others on
    the machine hardly change."""

    def __init__(self, device: str):
        self.device = device
        self.seconds: list[float] = []
        self.now = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
        self.start = self.last = self.now()

    def __call__(self, *_: object) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        now = self.now()
        self.seconds.append(now - self.last)
        self.last = now

    def per_step(self, steps: int) -> float:
        """The median step's seconds, the first left out where there are others; with the loops of several added up."""
        loops = [self.seconds[i : i + steps] for i in range(0, len(self.seconds), steps)]
        return sum(statistics.median(loop[1:] or loop) for loop in loops)


def fabricated(backbone: nmg.Backbone, steps: int) -> nmg.Trajectory:
    """A trajectory of random noise maps: nothing here depends on what they show."""
    down = nmg.steps(backbone.scheduler, steps)
    levels = (down[-1].there, *(step.here for step in reversed(down)))
    side = backbone.unet.config.sample_size
    maps = torch.randn(steps + 1, 4, side, side, generator=torch.Generator().manual_seed(0))
    network = nmg.Identity.of(backbone, PROMPTS[0])
    return nmg.Trajectory(maps, levels, down, PROMPTS[0], backbone.name, network=network)


def load(arguments: argparse.Namespace, device: str) -> nmg.Backbone:
    """The pipeline, changed as asked."""
    size = models.SMALL if arguments.small else models.FULL
    if arguments.pixels:
        size = dataclasses.replace(size, latent=arguments.pixels // 8)
    pipe = models.pipeline(device, DTYPES[arguments.dtype], size)
    if arguments.measurement == "checkpointing":
        pipe.unet.enable_gradient_checkpointing()
    if arguments.measurement == "compile":
        pipe.unet.compile()
    if arguments.measurement == "channels-last":
        pipe.unet.to(memory_format=torch.channels_last)
    if not arguments.decode:
        side = 8 * size.latent
        pipe.vae.decode = lambda row, return_dict: (row.new_zeros(1, 3, side, side),)
    return nmg.Backbone(pipe)


def edit_once(
    arguments: argparse.Namespace, backbone: nmg.Backbone, trajectory: nmg.Trajectory, clock: Clock
) -> nmg.Edit | None:
    """One edit, as this package makes it or (None then) as the published code does."""
    count = 2 if arguments.measurement == "two-targets" else 1
    editor, targets = EDITORS[arguments.editor](count), PROMPTS[1 : 1 + count]
    guidance = KINDS.get(arguments.measurement, nmg.NoiseMap)(**GUIDANCE)
    if arguments.measurement != "baseline":
        return nmg.edit(
            backbone, trajectory, targets=targets, guidance=guidance, editor=editor, callback=clock, progress=False
        )
    latents = trajectory.start
    for latents in baseline.denoise(backbone, trajectory, targets[0], guidance, editor):  # noqa: B007
        clock()
    if arguments.decode:
        baseline.decode(backbone, latents)
    return None


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The row of one measurement."""
    device = arguments.device
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    backbone = load(arguments, device)
    again = arguments.measurement == "again"
    trajectory = nmg.Trajectory.load(arguments.path) if again else fabricated(backbone, arguments.steps)
    memory = Memory(device)
    if device == "cuda":
        # What a GPU does once only: its libraries and kernels load.
        edit_once(arguments, backbone, fabricated(backbone, 2), Clock(device))
    clock = Clock(device)
    edit = edit_once(arguments, backbone, trajectory, clock)
    peak, seconds = memory.peak, clock.now() - clock.start
    if edit and edit.replayed != again:
        raise RuntimeError(f"{arguments.measurement}: the source row was {'' if edit.replayed else 'not '}replayed")
    if edit and arguments.keep:
        edit.trajectory.save(arguments.keep)
    measured = {
        "editor": arguments.editor,
        "measurement": arguments.measurement,
        "steps": arguments.steps,
        "seconds_per_step": round(clock.per_step(arguments.steps), 4),
        "seconds": round(seconds, 3),
        "peak_gib": round(peak / 2**10, 3),
        "loaded_gib": round(memory.loaded / 2**10, 3),
    }
    return measured | setting_of(arguments, backbone)


def setting_of(arguments: argparse.Namespace, backbone: nmg.Backbone) -> dict[str, Any]:
    """What a measurement was made on."""
    on_gpu = arguments.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "threads": None if on_gpu else torch.get_num_threads(),
        "dtype": arguments.dtype,
        "decoded": arguments.decode,
        "pixels": backbone.native_size[0],
        "parameters_million": round(sum(p.numel() for p in backbone.unet.parameters()) / 1e6),
        "torch": torch.__version__,
    }


def arguments_of(words: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("editor", choices=EDITORS)
    p.add_argument("measurement")
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtype", choices=DTYPES, default="float32")
    p.add_argument("--steps", type=int, default=3)
    p.add_argument("--threads", type=int)
    p.add_argument("--small", action="store_true")
    p.add_argument("--pixels", type=int)
    p.add_argument("--decode", action="store_true")
    p.add_argument("--path", help="a trajectory that holds the recorded source row")
    p.add_argument("--keep", help="where to leave the trajectory with the source row recorded")
    return p.parse_args(words)


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    print(json.dumps(measure(arguments_of())))


if __name__ == "__main__":
    main()
