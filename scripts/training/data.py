"""The training scenes: rendered once, with the masks that tell the words where to look, and with their captions."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from nmg.menagerie import networks
from nmg.menagerie.captions import MAX_TOKENS, caption
from nmg.menagerie.scene import FACTORS, SIZE, Scene
from nmg.menagerie.tasks import TRAIN_SEEDS

WATCH_SEEDS = 900_000
"""Seeds of the scenes that a training is watched on, which are neither trained on nor reported."""
LATENT = 16
"""Positions of a latent's side, at which words are shown where to look."""
MASKED = ("figure", "head")
CAPTIONS = 12
"""Captions of a scene: the canonical one, and others as people write them."""
CHUNK = 64
"""Scenes that a rendering process draws at a time."""
COLUMNS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "pictures": (np.uint8, (SIZE, SIZE, 3)),
    "masks": (np.uint8, (len(MASKED), LATENT, LATENT)),
    "captions": (np.int16, (CAPTIONS, MAX_TOKENS)),
    "answers": (np.uint8, (len(FACTORS),)),
}
"""What is kept of every scene: its picture, how much of each latent position its figure and head cover (0…255), its
captions as tokens, and the indices of its factors' values."""


def training_scene(index: int) -> Scene:
    return Scene.sample(TRAIN_SEEDS + index)


def coverage(scene: Scene) -> np.ndarray:
    """How much of each latent position the figure and its head cover, uint8 [2, 16, 16]."""
    cells = SIZE // LATENT
    masks = [scene.mask(part).reshape(LATENT, cells, LATENT, cells).mean((1, 3)) for part in MASKED]
    return (np.stack(masks) * 255).round().astype(np.uint8)


def tokenized(tokenizer: Any, texts: list[str]) -> Tensor:
    """Token ids [texts, 32]."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def written(scene: Scene, seed: int) -> list[str]:
    """The captions that a scene is trained with: the canonical one first."""
    random = np.random.default_rng([seed, 6])
    return [caption(scene), *(caption(scene, random) for _ in range(CAPTIONS - 1))]


class Bank:
    """Training scenes on disk, and those that are rendered so far on the device that trains.

    Args:
        folder: of the columns, one file each; those of a whole bank are kept and used again.
        count: scenes.
        workers: processes that render.
        device: where the columns are held; on the CPU they stay mapped from disk.

    Attributes:
        ready: scenes that can be drawn.
    """

    def __init__(self, folder: Path, count: int, workers: int, device: torch.device):
        self.paths = {name: folder / f"{name}_{count}.npy" for name in COLUMNS}
        self.count, self.device, self.ready = count, device, 0
        self._rendered, self._thread = count, None
        self._progress = folder / f"rendered_{count}.txt"
        if not all(path.exists() for path in self.paths.values()):
            networks.write_tokenizer(folder / "tokenizer")
            self._rendered = self._begun()
            self._thread = threading.Thread(target=self._render, args=(folder, workers), daemon=True)
            self._thread.start()
            if device.type == "cpu":
                self._thread.join()
        self._disk = {name: self._opened(path) for name, path in self.paths.items()}
        self.columns = self._disk
        if device.type != "cpu":
            self.columns = {name: torch.empty_like(column, device=device) for name, column in self._disk.items()}
        self.follow()

    def _begun(self) -> int:
        """Scenes that a rendering which was cut short has left; files to render into, if there are none."""
        if self._progress.exists():
            return int(self._progress.read_text())
        for path, (kind, shape) in zip(self.paths.values(), COLUMNS.values(), strict=True):
            np.lib.format.open_memmap(path.with_suffix(".part"), "w+", kind, (self.count, *shape)).flush()
        return 0

    def _opened(self, path: Path) -> Tensor:
        whole = path if path.exists() else path.with_suffix(".part")
        return torch.from_numpy(np.load(whole, mmap_mode="c"))

    def _render(self, folder: Path, workers: int) -> None:
        parts = [path.with_suffix(".part") for path in self.paths.values()]
        first, tokens = self._rendered, folder / "tokenizer"
        jobs = [(parts, tokens, i, min(i + CHUNK, self.count)) for i in range(first, self.count, CHUNK)]
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for end in tqdm(pool.imap(_drawn, jobs), "render", len(jobs), unit_scale=CHUNK, mininterval=10):
                self._progress.write_text(str(end))
                self._rendered = end
        for part, path in zip(parts, self.paths.values(), strict=True):
            part.rename(path)
        self._progress.unlink()

    def follow(self, least: int = 1) -> int:
        """Take over what has been rendered since, waiting until there are `least` scenes; how many there are.

        Raises:
            RuntimeError: if the rendering stopped before.
        """
        while self._rendered < least:
            if not (self._thread and self._thread.is_alive()):
                raise RuntimeError(f"rendering stopped after {self._rendered} of {self.count} scenes; see above")
            self._thread.join(0.2)
        end = self._rendered
        if self.columns is not self._disk:
            for name, column in self.columns.items():
                column[self.ready : end].copy_(self._disk[name][self.ready : end])
        self.ready = end
        return end


def _drawn(job: tuple[list[Path], Path, int, int]) -> int:
    """Draw scenes into the columns; the index after the last."""
    paths, tokenizer, start, end = job
    columns = [np.load(path, mmap_mode="r+") for path in paths]
    tokens = networks.build_tokenizer(tokenizer)
    for i in range(start, end):
        scene = training_scene(i)
        answers = [values.index(getattr(scene, name)) for name, values in FACTORS.items()]
        drawn = np.asarray(scene.render()), coverage(scene), tokenized(tokens, written(scene, i)).numpy(), answers
        for column, value in zip(columns, drawn, strict=True):
            column[i] = value
    return end


def to_tensor(pictures: Tensor) -> Tensor:
    """uint8 [batch, height, width, 3] to float [batch, 3, height, width] in -1…1, channels last in memory."""
    return pictures.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class Draw:
    """Draws a step's scenes: indices [batch] of those that are ready, all alike likely.

    Args:
        bank: of the scenes.
        batch: scenes of a step.
        ready: how many can be drawn; a tensor, so that a captured step sees it grow.
    """

    def __init__(self, bank: Bank, batch: int, ready: int):
        self.bank, self.batch = bank, batch
        self.ready = torch.tensor(float(ready), device=bank.device)

    def __call__(self, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(self.batch, generator=generator, device=self.bank.device)
        return (uniform * self.ready).long().clamp_max(self.bank.count - 1)
