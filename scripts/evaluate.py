"""Measure Menagerie's model on held-out scenes: `python -m scripts.evaluate`.

Writes a report (JSON), golden values and the model card beside the model. Every figure says on how many
scenes it was taken. Two processes share the edits with

  torchrun --nproc_per_node 2 -m scripts.evaluate --records FOLDER
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

import nmg
from nmg.backbones import Backbone
from nmg.editors import Editor
from nmg.guidance import CFG, Guidance
from nmg.lab import metrics
from nmg.lab.bench.records import Record, read
from nmg.lab.profile import MENAGERIE
from nmg.lab.scoring import accuracy, pixels
from nmg.menagerie.captions import caption
from nmg.menagerie.model import FOLDER, load_classifier
from nmg.menagerie.networks import FactorClassifier
from nmg.menagerie.scene import Scene
from nmg.menagerie.tasks import TASKS, TEST_SEEDS
from scripts import card

EDITED = ("DDIM", "NMG")
"""Methods whose edits the model card shows."""


def autoencoder(backbone: Backbone, classifier: FactorClassifier, count: int) -> dict[str, Any]:
    """How sharp the autoencoder is, and whether the classifier reads its pictures as it reads the originals."""
    scenes = [Scene.sample(TEST_SEEDS + i) for i in range(count)]
    originals = pixels(scenes)
    decoded = backbone.decode(torch.cat([backbone.encode(part) for part in originals.split(64)])).cpu()
    return {
        "scenes": count,
        "psnr": metrics.psnr(decoded, originals).mean().item(),
        "ssim": metrics.ssim(decoded, originals).mean().item(),
        "accuracy_on_originals": accuracy(classifier, originals, scenes),
        "accuracy_on_reconstructions": accuracy(classifier, decoded, scenes),
    }


def generation(pipe: Any, classifier: FactorClassifier, count: int, scale: float) -> dict[str, Any]:
    """Whether pictures sampled from held-out captions read back as captioned (50 DDIM steps, seeded)."""
    from nmg.pipelines import generate

    scenes = [Scene.sample(TEST_SEEDS + i) for i in range(count)]
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for start in tqdm(range(0, count, 16), "generate"):
        prompts = [caption(scene) for scene in scenes[start : start + 16]]
        pictures.append(generate(pipe, prompts, generator, scale))
    return {"captions": count, "guidance": scale, "accuracy": accuracy(classifier, torch.cat(pictures), scenes)}


def reconstruction(
    backbone: Backbone, count: int, guidances: dict[str, Guidance], first_seed: int = TEST_SEEDS, steps: int = 50
) -> dict[str, Any]:
    """PSNR of each guidance's reconstruction to the autoencoder's own, per guidance."""
    rows: dict[str, list[float]] = {name: [] for name in guidances}
    for i in tqdm(range(count), "reconstruct"):
        scene = Scene.sample(first_seed + i)
        trajectory = nmg.invert(backbone, scene.render(), caption(scene), steps=steps, progress=False)
        ceiling = backbone.decode(trajectory.maps[:1])
        for name, guidance in guidances.items():
            latents = nmg.edit(backbone, trajectory, guidance=guidance, editor=Editor(), progress=False).latents
            rows[name].append(metrics.psnr(backbone.decode(latents), ceiling).item())
    return {"scenes": count, "steps": steps, "psnr": {name: sum(values) / len(values) for name, values in rows.items()}}


def edits(
    backbone: Backbone,
    count: int,
    methods: Sequence[str] = EDITED,
    steps: int = 50,
    tasks: Sequence[str] | None = None,
    classifier: Path = FOLDER,
    records: Path | None = None,
) -> dict[str, Any]:
    """Edits of every task by each method, next to the identity and to the ceiling.

    Success is the share of edits whose changed factor reads as the target's; PSNR is to the exact counterfactual.
    The identity returns the source; the ceiling is the autoencoder's picture of the truth.

    Args:
        count: scenes of each task, or more where the records hold more.
        methods: names in `nmg.lab.bench.METHODS`.
        tasks: names in `TASKS`; all if None.
        classifier: folder of the factor classifier.
        records: folder of a benchmark's records, of which those that are wanted are taken over, at the noise-map scales
            that it chose, and which the others are added to; processes that share the work need one.

    Raises:
        ValueError: for records of another configuration, or none where several processes share the work.
    """
    from nmg.lab.bench import Menagerie, chosen_scales, runner
    from nmg.lab.bench.processes import joined

    if records is None and joined(backbone.device.type == "cpu").count > 1:
        raise ValueError("several processes need one folder to work in; give --records FOLDER")
    with TemporaryDirectory() as temporary:
        folder, scales = records or Path(temporary), chosen_scales(records) if records else None
        options: dict[str, Any] = {"steps": steps, "scales": scales, "pictures": False}
        known = Counter(r.task for r in read(folder) if r.split == "test" and r.method == methods[0])
        counts = {task: max(count, known[task]) for task in tasks or TASKS}
        suite = Menagerie(classifier)
        found = [r for t, n in counts.items() for r in runner.run(backbone, suite, methods, [t], n, folder, **options)]
    rows = dict.fromkeys(record.method for record in found)
    report = {
        task: {method: summary([r for r in found if (r.task, r.method) == (task, method)]) for method in rows}
        for task in counts
    }
    used = {record.editor: record.scale for record in found if record.method == "NMG"}
    return {"scenes": counts, "steps": steps, "noise_map_scales": used, "tasks": report}


def summary(rows: Sequence[Record]) -> dict[str, Any]:
    """Mean PSNR and success of a method's edits of a task.

    A PSNR that is infinite, since `exact` edits equal the truth, is None: JSON has no such number. So is what can't be
    said of all items: `without` of them have no result, for a `reason`.
    """
    lost = [row.refused for row in rows if row.refused]
    if lost:
        return {"psnr": None, "success": None, "without": len(lost), "reason": lost[0]}
    values = {name: [v for row in rows if (v := row.value(name)) is not None] for name in ("psnr", "success")}
    means = {name: sum(given) / len(given) for name, given in values.items()}
    exact = values["psnr"].count(math.inf)
    return {**means, "psnr": None, "exact": exact} if exact else means


def bundled_guidances() -> dict[str, Guidance]:
    """Plain DDIM and NMG at the bundled model's text scale, plain DDIM at 1 and at 7.5."""
    scale = MENAGERIE.scales["text_scale"]
    return {
        "DDIM, scale 1": CFG(1.0),
        f"DDIM, scale {scale:g}": CFG(scale),
        "DDIM, scale 7.5": CFG(7.5),
        "NMG": MENAGERIE.guidance(),
        "NMG, scale 7.5": MENAGERIE.guidance(text_scale=7.5),
    }


def evaluate(pipe: Any, folder: Path, edited: dict[str, Any], scenes: int = 32, captions: int = 64) -> dict[str, Any]:
    """Every measurement of the model card.

    Args:
        folder: of the factor classifier.
        edited: what `edits` reports.
        scenes: held-out scenes per measurement.
    """
    backbone, classifier, guidances = Backbone(pipe), load_classifier(folder), bundled_guidances()
    return {
        "scales": MENAGERIE.scales,
        "autoencoder": autoencoder(backbone, classifier, 16 * scenes),
        "generation": generation(pipe, classifier, captions, MENAGERIE.scales["text_scale"]),
        "reconstruction": reconstruction(backbone, scenes, guidances),
        "edits": edited,
    }


def golden(backbone: Backbone) -> dict[str, Any]:
    """A few values of every part, to notice a stack that loads the weights wrongly."""
    prompt = caption(Scene.sample(TEST_SEEDS))
    text = backbone.text([prompt])
    latents = backbone.encode(pixels([Scene.sample(TEST_SEEDS)]))
    with torch.no_grad():
        noise = backbone.predict(latents, nmg.steps(backbone.scheduler, 50)[25], text)
    parts = {"text": text.tokens, "latents": latents, "noise": noise, "decoded": backbone.decode(latents)}
    return {
        "prompt": prompt,
        "input_ids": backbone.tokenizer(prompt).input_ids,
        **{name: sample(t) for name, t in parts.items()},
    }


def sample(tensor: Tensor) -> list[float]:
    """Sixteen of a tensor's values, its mean and its standard deviation."""
    values = tensor.flatten()[:: tensor.numel() // 16][:16]
    return [*values.tolist(), tensor.mean().item(), tensor.std().item()]


def write_report(folder: Path, scenes: int = 32, edited_scenes: int = 32, records: Path | None = None) -> None:
    """Measure the model in `folder` and write report.json, golden.json and the model card beside it.

    Processes that torchrun started share the edits, which take the longest; the first does the rest.

    Args:
        scenes: held-out scenes per measurement.
        edited_scenes, records: of the edits; see `edits`.
    """
    from nmg.lab.bench.processes import joined, own_device
    from nmg.pipelines import load

    pipe = load(str(folder), own_device(None), torch.float32)
    edited = edits(Backbone(pipe), edited_scenes, classifier=folder, records=records)
    if not joined(pipe.device.type == "cpu").first:
        return
    (folder / "golden.json").write_text(json.dumps(golden(Backbone(pipe))))
    report = evaluate(pipe, folder, edited, scenes, 2 * scenes)
    (folder / "report.json").write_text(json.dumps(report, indent=2))
    training = json.loads((folder / "training.json").read_text())
    card.curves(training).savefig(folder / card.CURVES, dpi=110)
    (folder / "README.md").write_text(card.write(training, report))


def main() -> None:
    p = argparse.ArgumentParser(
        "python -m scripts.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", type=Path, default=FOLDER, help="folder that training wrote (default: the bundled model)")
    p.add_argument(
        "--scenes",
        type=int,
        default=32,
        help="held-out scenes per measurement (default: %(default)s)",
    )
    p.add_argument("--edits", type=int, default=32, help="held-out scenes per editing task (default: %(default)s)")
    p.add_argument(
        "--records",
        type=Path,
        metavar="FOLDER",
        help="take edits over from a run of `nmg bench`, and add what it lacks",
    )
    arguments = p.parse_args()
    write_report(arguments.model, arguments.scenes, arguments.edits, arguments.records)
    print(arguments.model / "README.md")


if __name__ == "__main__":
    main()
