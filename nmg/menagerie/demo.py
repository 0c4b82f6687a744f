"""The demonstration on held-out scenes: a sheet of edits, a sheet of reconstructions, and their figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

import nmg
from nmg import figures, images, metrics
from nmg.backbone import Backbone
from nmg.editors import Editor
from nmg.guidance import CFG
from nmg.menagerie.captions import prompt_pair
from nmg.menagerie.evaluate import bundled_noise_map
from nmg.menagerie.model import NAME, SCALES
from nmg.menagerie.scene import Scene
from nmg.menagerie.tasks import EXAMPLES, TASKS

Column = list[tuple[Image.Image, float | None]]
"""Pictures of one scene from top to bottom, with their PSNR where one is measured."""


def demo(folder: Path, steps: int = 50) -> Iterator[Path]:
    """Edit `EXAMPLES` with the bundled model, by plain DDIM and by NMG, and write two sheets to `folder`."""
    from nmg.pipelines import load

    folder.mkdir(parents=True, exist_ok=True)
    backbone = Backbone(load(NAME, device="cpu"))
    columns = [_columns(backbone, name, scene, change, steps) for name, scene, change in tqdm(EXAMPLES, "scenes")]
    edits, reconstructions = [c[0] for c in columns], [c[1] for c in columns]

    heads = [f"{name}\n{_change(scene, change)}" for name, scene, change in EXAMPLES]
    names = ["source", "plain DDIM edit", "NMG edit", "true counterfactual"]
    title = f"Prompt-to-Prompt on the bundled model, {steps} steps, text scale {SCALES['text_scale']:g}"
    yield _saved(edits, heads, names, title, " to the truth", folder / "edits.png")

    names = ["source", "autoencoder", "DDIM, scale 1", "DDIM, scale 7.5", "NMG, scale 7.5"]
    title = "Reconstruction after inversion, PSNR to the autoencoder's picture"
    yield _saved(reconstructions, heads, names, title, "", folder / "reconstructions.png")


def _saved(cells: list[Column], heads: list[str], names: list[str], title: str, what: str, path: Path) -> Path:
    """Write a sheet with a column per scene and a row per method; measured rows carry their PSNR."""
    pictures = [[column[row][0] for column in cells] for row in range(len(names))]
    notes = [
        ["" if (v := column[row][1]) is None else f"{v:.1f} dB{what}" for column in cells] for row in range(len(names))
    ]
    figures.save(figures.sheet(pictures, heads, names, notes, title), path)
    return path


def _columns(backbone: Backbone, name: str, scene: Scene, change: dict[str, Any], steps: int) -> tuple[Column, Column]:
    """One scene's edits and its reconstructions, each picture with its PSNR where one is measured."""
    source, target = prompt_pair(scene, **change)
    original, truth = scene.render(), scene.edit(**change).render()
    trajectory = nmg.invert(backbone, original, source, steps=steps, progress=False)
    rebuilt = backbone.decode(trajectory.maps[:1])

    edits: Column = [(original, None)]
    for guidance in (CFG(SCALES["text_scale"]), bundled_noise_map()):
        result = nmg.edit(
            backbone, trajectory, targets=[target], guidance=guidance, editor=TASKS[name].editor, progress=False
        )
        edits.append((result.pictures[0], _psnr(result.pictures[0], images.to_tensor(truth))))
    edits.append((truth, None))

    rows: Column = [(original, None), (images.to_pil(rebuilt)[0], None)]
    for guidance in (CFG(1.0), CFG(7.5), bundled_noise_map(7.5)):
        picture = nmg.edit(backbone, trajectory, guidance=guidance, editor=Editor(), progress=False).reconstruction
        rows.append((picture, _psnr(picture, rebuilt)))
    return edits, rows


def _psnr(picture: Image.Image, truth: Tensor) -> float:
    return metrics.psnr(images.to_tensor(picture), truth.cpu()).item()


def _change(scene: Scene, change: dict[str, Any]) -> str:
    """What an edit changes, such as "forest → beach" or "+ smiling"."""
    ((factor, new),) = change.items()
    old = getattr(scene, factor)
    return f"+ {new}" if old == "plain" else f"{old} → {new}"
