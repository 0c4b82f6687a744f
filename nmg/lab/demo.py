"""The demonstration on held-out scenes: sheets of edits, and one of what guidance costs the source, with its cure."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

import nmg
from nmg import files, images
from nmg.backbones import Backbone
from nmg.guidance import CFG
from nmg.lab import figures, metrics
from nmg.lab.presets import SCENES
from nmg.lab.profile import MENAGERIE
from nmg.menagerie.captions import prompt_pair
from nmg.menagerie.model import NAME
from nmg.menagerie.scene import Scene
from nmg.menagerie.tasks import EXAMPLES

SHEETS = {
    "edits.png": {"PromptToPrompt": "Prompt-to-Prompt"},
    "poses-and-kinds.png": {"MasaCtrl": "MasaCtrl", "Pix2PixZero": "pix2pix-zero"},
}
"""The sheets of edits, with the editors that each shows."""
BENEFIT = ("object swap", "face attribute", "colour change")
"""Tasks that are also shown at `STRONG`, with their reconstructions."""
STRONG = 7.5
"""Stable Diffusion's usual text scale, at which plain DDIM loses the source."""
INCH = 1.4
"""The size of a picture, at which the words are read at the width of a page."""
Column = list[tuple[Image.Image, float | None]]
"""Pictures of one scene from top to bottom, with their PSNR where one is measured."""


def demo(folder: Path, steps: int = 50) -> Iterator[Path]:
    """Edit `EXAMPLES` with the bundled model, by plain DDIM and by NMG, and write its sheets to `folder`.

    The model is small: one process per core, one thread each, is faster than many threads.
    """
    files.folder(folder)
    workers = min(os.cpu_count() or 1, len(EXAMPLES))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool:
        scenes = pool.map(functools.partial(_columns, steps=steps), EXAMPLES)
        columns = list(tqdm(scenes, "scenes", len(EXAMPLES)))
    heads = [f"{name}\n{_change(scene, change)}" for name, scene, change in EXAMPLES]
    edits, strong = [c[0] for c in columns], [c[1] for c in columns if c[1]]

    rows = [head for head, column in zip(heads, columns, strict=True) if column[1]]
    pair = ("reconstruction", "edit")
    across = ["source", *(f"{name}\n{of}" for name in ("plain DDIM", "NMG") for of in pair), "truth"]
    title = f"Text scale {STRONG:g}, {steps} steps; PSNR to the source as autoencoded, of edits to the truth"
    cells = [[column[c] for column in strong] for c in range(len(across))]
    yield _saved(cells, across, rows, title, "", folder / "benefit.png")

    names = ["source", "plain DDIM edit", "NMG edit", "truth"]
    for sheet, editors in SHEETS.items():
        chosen = [i for i, (name, _, _) in enumerate(EXAMPLES) if type(SCENES[name]).__name__ in editors]
        scale = MENAGERIE.scales["text_scale"]
        title = f"{' and '.join(editors.values())} on the bundled model, {steps} steps, text scale {scale:g}"
        cells, own = [edits[i] for i in chosen], [heads[i] for i in chosen]
        yield _saved(cells, own, names, title, " to the truth", folder / sheet)


def _saved(cells: list[Column], heads: list[str], names: list[str], title: str, what: str, path: Path) -> Path:
    """Write a sheet with a column per scene and a row per method; measured rows carry their PSNR."""
    pictures = [[column[row][0] for column in cells] for row in range(len(names))]
    notes = [
        ["" if (v := column[row][1]) is None else f"{v:.1f} dB{what}" for column in cells] for row in range(len(names))
    ]
    return figures.save(figures.sheet(pictures, heads, names, notes, title, INCH), path, over=False)


@functools.cache
def _backbone() -> Backbone:
    from nmg.pipelines import load

    return Backbone(load(NAME, device="cpu"))


def _columns(example: tuple[str, Scene, dict[str, Any]], steps: int) -> tuple[Column, Column]:
    """One scene's edits, and what `STRONG` makes of it if its task is among `BENEFIT`; measured pictures with PSNR."""
    name, scene, change = example
    backbone = _backbone()
    source, target = prompt_pair(scene, **change)
    original, truth = scene.render(), scene.edit(**change).render()
    trajectory = nmg.invert(backbone, original, source, steps=steps, progress=False)
    rebuilt = backbone.decode(trajectory.maps[:1])

    edits: Column = [(original, None)]
    for guidance in (CFG(MENAGERIE.scales["text_scale"]), MENAGERIE.guidance()):
        options: dict[str, Any] = {"guidance": guidance, "editor": SCENES[name], "progress": False}
        picture = nmg.edit(backbone, trajectory, targets=[target], **options).pictures[0]
        edits.append((picture, _psnr(picture, images.to_tensor(truth))))
    edits.append((truth, None))
    if name not in BENEFIT:
        return edits, []

    strong: Column = [(original, None)]
    for guidance in (CFG(STRONG), MENAGERIE.guidance(text_scale=STRONG)):
        options = {"guidance": guidance, "editor": SCENES[name], "progress": False}
        result = nmg.edit(backbone, trajectory, targets=[target], **options)
        strong.append((result.reconstruction, _psnr(result.reconstruction, rebuilt)))
        strong.append((result.pictures[0], _psnr(result.pictures[0], images.to_tensor(truth))))
    return edits, [*strong, (truth, None)]


def _psnr(picture: Image.Image, truth: Tensor) -> float:
    return metrics.psnr(images.to_tensor(picture), truth.cpu()).item()


def _change(scene: Scene, change: dict[str, Any]) -> str:
    """What an edit changes, such as "forest → beach" or "+ smiling"."""
    ((factor, new),) = change.items()
    old = getattr(scene, factor)
    return f"+ {new}" if old == "plain" else f"{old} → {new}"
