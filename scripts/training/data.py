"""The training scenes: rendered once, with the masks that tell the words where to look."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from nmg.menagerie.scene import SIZE, Scene
from nmg.menagerie.tasks import TRAIN_SEEDS

WATCH_SEEDS = 900_000
"""Seeds of the scenes that a training is watched on, which are neither trained on nor reported."""
LATENT = 16
"""Positions of a latent's side, at which words are shown where to look."""
MASKED = ("figure", "head")


def training_scene(index: int) -> Scene:
    return Scene.sample(TRAIN_SEEDS + index)


def coverage(scene: Scene) -> np.ndarray:
    """How much of each latent position the figure and its head cover, uint8 [2, 16, 16]."""
    cells = SIZE // LATENT
    masks = [scene.mask(part).reshape(LATENT, cells, LATENT, cells).mean((1, 3)) for part in MASKED]
    return (np.stack(masks) * 255).round().astype(np.uint8)


@dataclass(frozen=True)
class Bank:
    """Scenes as arrays, mapped from disk.

    Attributes:
        pictures: uint8 [scenes, height, width, 3].
        masks: uint8 [scenes, 2, 16, 16]; see `coverage`.
    """

    pictures: np.ndarray
    masks: np.ndarray

    def __len__(self) -> int:
        return len(self.pictures)


def _drawn(index: int) -> tuple[np.ndarray, np.ndarray]:
    scene = training_scene(index)
    return np.asarray(scene.render()), coverage(scene)


def render_bank(folder: Path, count: int, workers: int) -> Bank:
    """The training scenes, rendered by `workers` processes unless the folder has them already."""
    paths = [folder / f"{name}_{count}.npy" for name in ("pictures", "masks")]
    if not all(path.exists() for path in paths):
        shapes = (count, SIZE, SIZE, 3), (count, len(MASKED), LATENT, LATENT)
        parts = [path.with_suffix(".part") for path in paths]
        arrays = [np.lib.format.open_memmap(p, "w+", np.uint8, s) for p, s in zip(parts, shapes, strict=True)]
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for i, drawn in enumerate(tqdm(pool.imap(_drawn, range(count), 64), "render", count)):
                for array, values in zip(arrays, drawn, strict=True):
                    array[i] = values
        for array, part, path in zip(arrays, parts, paths, strict=True):
            array.flush()
            part.rename(path)
    return Bank(*(np.load(path, mmap_mode="r") for path in paths))


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 [batch, height, width, 3] to float [batch, 3, height, width] in -1…1, channels last in memory."""
    tensor = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    return tensor.contiguous(memory_format=torch.channels_last)


def shuffled(count: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Endless batches of indices; every epoch sees each index once, in a new order."""
    if count < batch:
        raise ValueError(f"{count} scenes don't fill a batch of {batch}; give --scenes {batch} or more")
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(count)
        for start in range(0, count - batch + 1, batch):
            yield order[start : start + batch]
