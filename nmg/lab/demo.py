"""The demonstration on held-out scenes: what Noise Map Guidance is for, sheets of edits, and their figures."""

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
STRONG = 7.5
"""Stable Diffusion's usual text scale, at which plain DDIM leaves the source behind."""
STRONGLY = ("object swap", "face attribute", "colour change")
"""Tasks whose edits are shown at that scale too."""
Column = list[tuple[Image.Image, str]]
"""Pictures of one scene from top to bottom, with a note below each."""


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

    shown = [i for i, (_, strong) in enumerate(columns) if strong]
    names = ["source", "DDIM\nreconstruction", "NMG\nreconstruction", "DDIM\nedit", "NMG\nedit", "truth"]
    title = (
        f"What Noise Map Guidance is for: text scale {STRONG:g}, {steps} steps\n"
        "PSNR of reconstructions to the autoencoder's picture, of edits to the truth"
    )
    strong = [columns[i][1] for i in shown]
    yield _saved(strong, [heads[i] for i in shown], names, title, folder / "reconstructions.png")

    names = ["source", "plain DDIM edit", "NMG edit", "true counterfactual"]
    for sheet, editors in SHEETS.items():
        shown = [i for i, (name, _, _) in enumerate(EXAMPLES) if type(SCENES[name]).__name__ in editors]
        scale = MENAGERIE.scales["text_scale"]
        title = f"{' and '.join(editors.values())} on the bundled model, {steps} steps, text scale {scale:g}\nPSNR to the truth"
        yield _saved([columns[i][0] for i in shown], [heads[i] for i in shown], names, title, folder / sheet)


def _saved(cells: list[Column], heads: list[str], names: list[str], title: str, path: Path) -> Path:
    """Write a sheet with a column per scene and a row per name, with the notes below the pictures."""
    pictures, notes = ([[column[row][part] for column in cells] for row in range(len(names))] for part in (0, 1))
    figures.save(figures.sheet(pictures, heads, names, notes, title), path)
    return path


@functools.cache
def _backbone() -> Backbone:
    from nmg.pipelines import load

    return Backbone(load(NAME, device="cpu"))


def _columns(example: tuple[str, Scene, dict[str, Any]], steps: int) -> tuple[Column, Column]:
    """One scene's edits at the model's text scale, and at the strong one what it is shown at, reconstructions too."""
    name, scene, change = example
    backbone, scale = _backbone(), MENAGERIE.scales["text_scale"]
    source, target = prompt_pair(scene, **change)
    original, truth = (shown.render(backbone.native_size[0]) for shown in (scene, scene.edit(**change)))
    trajectory = nmg.invert(backbone, original, source, steps=steps, progress=False)
    rebuilt = backbone.decode(trajectory.maps[:1])

    def edits(text_scale: float) -> list[nmg.Edit]:
        guidances = CFG(text_scale), MENAGERIE.guidance(text_scale=text_scale)
        options: dict[str, Any] = {"targets": [target], "editor": SCENES[name], "progress": False}
        return [nmg.edit(backbone, trajectory, guidance=guidance, **options) for guidance in guidances]

    def column(made: list[nmg.Edit], *above: tuple[Image.Image, str]) -> Column:
        edited = [(edit.pictures[0], f"{_psnr(edit.pictures[0], images.to_tensor(truth)):.1f} dB") for edit in made]
        return [(original, ""), *above, *edited, (truth, "")]

    everyday = column(edits(scale))
    if name not in STRONGLY:
        return everyday, []
    strong = edits(STRONG)
    kept = [(edit.reconstruction, f"{_psnr(edit.reconstruction, rebuilt):.1f} dB") for edit in strong]
    return everyday, column(strong, *kept)


def _psnr(picture: Image.Image, truth: Tensor) -> float:
    return metrics.psnr(images.to_tensor(picture), truth.cpu()).item()


def _change(scene: Scene, change: dict[str, Any]) -> str:
    """What an edit changes, such as "forest → beach" or "+ smiling"."""
    ((factor, new),) = change.items()
    old = getattr(scene, factor)
    return f"+ {new}" if old == "plain" else f"{old} → {new}"
