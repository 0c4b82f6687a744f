"""The demonstration on held-out scenes: a sheet of edits, a sheet of reconstructions, and their figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

import nmg
from nmg import figures, images, metrics
from nmg.backbone import Backbone
from nmg.editors import Editor
from nmg.guidance import CFG
from nmg.menagerie.captions import caption, prompt_pair
from nmg.menagerie.evaluate import bundled_noise_map
from nmg.menagerie.model import NAME, SCALES
from nmg.menagerie.scene import Scene
from nmg.menagerie.tasks import TASKS, TEST_SEEDS

SCENES: tuple[tuple[str, Scene, dict[str, Any]], ...] = (
    ("object swap", Scene("cat", "orange", "forest", seed=TEST_SEEDS), {"kind": "fox"}),
    ("contextual change", Scene("dog", "brown", "city", pose="standing", seed=TEST_SEEDS + 1), {"place": "beach"}),
    ("contextual change", Scene("car", "red", "desert", pose="standing", seed=TEST_SEEDS + 2), {"place": "snow"}),
    ("face attribute", Scene("cat", "white", "beach", seed=TEST_SEEDS + 3), {"mouth": "smiling"}),
    ("colour change", Scene("rabbit", "pink", "forest", seed=TEST_SEEDS + 4), {"colour": "blue"}),
    (
        "global editing",
        Scene("tiger", "orange", "snow", pose="standing", seed=TEST_SEEDS + 5),
        {"style": "oil painting"},
    ),
    ("global editing", Scene("bear", "brown", "city", seed=TEST_SEEDS + 6), {"style": "at night"}),
)
"""Task, source scene, and the factor that the edit changes."""


def demo(folder: Path, steps: int = 50) -> Iterator[Path]:
    """Edit `SCENES` with the bundled model, by plain DDIM and by NMG, and write two sheets to `folder`."""
    from nmg.pipelines import load

    folder.mkdir(parents=True, exist_ok=True)
    backbone = Backbone(load(NAME, device="cpu"))
    edits, reconstructions, labels = [], [], []
    for name, scene, change in tqdm(SCENES, "scenes"):
        edited, rebuilt = _row(backbone, name, scene, change, steps)
        edits.append(edited)
        reconstructions.append(rebuilt)
        source, target = prompt_pair(scene, **change)
        labels.append(f"{name}\n{_difference(source, target)}")

    columns = ["source", "plain DDIM edit", "NMG edit", "true counterfactual"]
    notes = [["", *(f"{value:.1f} dB to the truth" for value in row[1]), ""] for row in edits]
    sheet = figures.sheet(
        [row[0] for row in edits],
        columns,
        labels,
        notes,
        f"Prompt-to-Prompt on the bundled model, {steps} steps, text scale {SCALES['text_scale']:g}",
    )
    figures.save(sheet, folder / "edits.png")
    yield folder / "edits.png"

    columns = ["source", "autoencoder", "DDIM, scale 1", "DDIM, scale 7.5", "NMG, scale 7.5"]
    notes = [["", "", *(f"{value:.1f} dB" for value in row[1])] for row in reconstructions]
    sheet = figures.sheet(
        [row[0] for row in reconstructions],
        columns,
        [caption(s) for _, s, _ in SCENES],
        notes,
        "Reconstruction after inversion (PSNR to the autoencoder's own)",
    )
    figures.save(sheet, folder / "reconstructions.png")
    yield folder / "reconstructions.png"


def _row(backbone: Backbone, name: str, scene: Scene, change: dict[str, Any], steps: int) -> tuple[tuple, tuple]:
    """Pictures and figures of one scene: (pictures, PSNRs) of its edits, and of its reconstructions."""
    source, target = prompt_pair(scene, **change)
    truth = scene.edit(**change).render()
    trajectory = nmg.invert(backbone, scene.render(), source, steps=steps, progress=False)
    rebuilt = backbone.decode(trajectory.maps[:1])

    def edited(guidance: CFG) -> Image.Image:
        return nmg.edit(
            backbone, trajectory, targets=[target], guidance=guidance, editor=TASKS[name].editor, progress=False
        ).pictures[0]

    def reconstructed(guidance: CFG) -> Image.Image:
        return nmg.edit(backbone, trajectory, guidance=guidance, editor=Editor(), progress=False).reconstruction

    pairs = [edited(CFG(SCALES["text_scale"])), edited(bundled_noise_map())]
    quality = [metrics.psnr(images.to_tensor(p), images.to_tensor(truth)).item() for p in pairs]
    rows = [reconstructed(g) for g in (CFG(1.0), CFG(7.5), bundled_noise_map(7.5))]
    fidelity = [metrics.psnr(images.to_tensor(p), rebuilt).item() for p in rows]
    original = scene.render()
    return ([original, *pairs, truth], quality), ([original, images.to_pil(rebuilt)[0], *rows], fidelity)


def _difference(source: str, target: str) -> str:
    """The changed words of two prompts, such as "forest → beach" or "+ smiling"."""
    old, new = source.replace(",", "").split(), target.replace(",", "").split()
    removed = [word for word in old if word not in new]
    added = [word for word in new if word not in old]
    return f"{' '.join(removed)} → {' '.join(added)}" if removed else f"+ {' '.join(added)}"
