"""Where the bundled model's words look, against the renderer's masks: `python -m scripts.word_maps`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import nmg
from nmg.alignment import find, tokenize
from nmg.attention import Site, probabilities
from nmg.backbones import Backbone
from nmg.lab.scoring import pixels
from nmg.menagerie.captions import caption
from nmg.menagerie.model import FOLDER
from nmg.menagerie.scene import Scene
from nmg.menagerie.tasks import TEST_SEEDS
from nmg.types import Heads, KeyMask

LATEST = 600
"""The noisiest timestep that counts: above it a picture has no places yet."""
PART = {"kind": "figure", "colour": "figure", "place": "place"}
"""Factors whose words are measured, and the part of the picture that each names."""


@torch.no_grad()
def word_maps(backbone: Backbone, scene: Scene, generator: torch.Generator, steps: int = 10) -> Tensor:
    """The caption's attention maps [height, width, tokens] at the size at which words are read.

    Mean over heads, layers and the steps with t ≤ 600, each from the picture with noise added.
    """
    latents, prompt = backbone.encode(pixels([scene])), caption(scene)
    height, width = latents.shape[-2:]
    size, text, found = backbone.word_map_size((height, width)), backbone.text([prompt]), list[Tensor]()

    def attend(site: Site, q: Heads, k: Heads, v: Heads, mask: KeyMask | None = None) -> None:
        if site.is_cross and q.shape[2] == size[0] * size[1]:
            found.append(probabilities(q, k)[0].mean(0))

    for step in nmg.steps(backbone.scheduler, steps):
        if step.timestep <= LATEST:
            noise = torch.randn(latents.shape, generator=generator)
            backbone.predict(step.here.a * latents + step.here.s * noise, step, text, attend)
    return torch.stack(found).mean(0).unflatten(0, size)


def overlap(values: Tensor, truth: Tensor) -> float:
    """Intersection over union of a map, cut to the area of the truth, with the truth."""
    cut = torch.zeros(truth.numel(), dtype=torch.bool)
    cut[values.flatten().topk(int(truth.sum())).indices] = True
    cut = cut.view_as(truth)
    return ((cut & truth).sum() / (cut | truth).sum().clamp_min(1)).item()


def masks(scenes: Sequence[Scene], part: str, size: tuple[int, int]) -> Tensor:
    """Masks of a part at a map's size, bool [scenes, height, width]."""
    full = torch.from_numpy(np.stack([scene.mask(part) for scene in scenes])).float()
    return F.interpolate(full[None], size, mode="area")[0] > 0.5


def measure(backbone: Backbone, count: int = 64) -> dict[str, dict[str, float] | int]:
    """Mean overlap of the words' maps with what they name, beside that of the other scenes' mean mask."""
    scenes = [Scene.sample(TEST_SEEDS + i) for i in range(count)]
    generator = torch.Generator().manual_seed(0)
    maps = [word_maps(backbone, scene, generator) for scene in scenes]
    size = (maps[0].shape[0], maps[0].shape[1])
    found: dict[str, dict[str, float] | int] = {"scenes": count}
    for factor, part in PART.items():
        truths = masks(scenes, part, size)
        own, mean = [], []
        for i, scene in enumerate(scenes):
            tokens = tokenize(caption(scene), backbone.tokenizer)
            own.append(overlap(maps[i][..., find(getattr(scene, factor), tokens)].sum(-1), truths[i]))
            others = (truths.float().sum(0) - truths[i].float()) / (count - 1)
            mean.append(overlap(others, truths[i]))
        found[factor] = {"overlap": float(np.mean(own)), "mean_mask": float(np.mean(mean))}
    return found


def main() -> None:
    p = argparse.ArgumentParser("scripts.word_maps", description=__doc__)
    p.add_argument("--model", type=Path, default=FOLDER, help="folder of the model (default: the bundled one)")
    p.add_argument("--scenes", type=int, default=64)
    arguments = p.parse_args()
    torch.set_num_threads(1)
    backbone = Backbone(nmg.load(str(arguments.model), "cpu"))
    print(measure(backbone, arguments.scenes))


if __name__ == "__main__":
    main()
