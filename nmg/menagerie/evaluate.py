"""Measure Menagerie's model on held-out scenes: `python -m nmg.menagerie.evaluate`.

Writes a report (JSON), golden values and the model card beside the model. Every figure says on how many
scenes it was taken.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

import nmg
from nmg import images, metrics
from nmg.backbone import Backbone
from nmg.editors import Editor
from nmg.guidance import CFG, NoiseMap
from nmg.menagerie import card
from nmg.menagerie.captions import caption
from nmg.menagerie.model import FOLDER, SCALES, load_classifier
from nmg.menagerie.networks import FactorClassifier
from nmg.menagerie.scene import FACTORS, Scene
from nmg.menagerie.tasks import TASKS, TEST_SEEDS


def pixels(scenes: list[Scene]) -> Tensor:
    """The scenes' pictures, [scenes, 3, 64, 64] in 0…1."""
    return torch.cat([images.to_tensor(scene.render()) for scene in scenes])


def accuracy(classifier: FactorClassifier, pictures: Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Share of the pictures in which each factor reads as the scene's."""
    read = classifier.read(2 * pictures - 1)
    return {
        name: sum(r[name] == getattr(s, name) for r, s in zip(read, scenes, strict=True)) / len(scenes)
        for name in FACTORS
    }


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
    backbone: Backbone, count: int, guidances: dict[str, CFG], first_seed: int = TEST_SEEDS, steps: int = 50
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
    guidances: dict[str, CFG],
    first_seed: int = TEST_SEEDS,
    steps: int = 50,
    tasks: Sequence[str] = tuple(TASKS),
    workers: int = 1,
    classifier: Path = FOLDER,
) -> dict[str, Any]:
    """Edits of every task under every guidance, next to the identity and to the ceiling.

    Success is the share of edits whose changed factor reads as the target's; PSNR is to the exact counterfactual.
    The identity returns the source; the ceiling is the autoencoder's picture of the truth.

    Args:
        workers: processes of one thread each, which load the model again.
        classifier: folder of the factor classifier.
    """
    options: dict[str, Any] = {
        "guidances": guidances,
        "first_seed": first_seed,
        "steps": steps,
        "classifier": classifier,
    }
    measure = functools.partial(measured, **options)
    items = [(task, i) for task in tasks for i in range(count)]
    if workers == 1:
        found = [measure(item, backbone) for item in tqdm(items, "edit")]
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool:
            found = list(tqdm(pool.map(functools.partial(measure, backbone=backbone.name), items), "edit", len(items)))
    report: dict[str, Any] = {}
    for task in tasks:
        rows = [outcome for (name, _), outcome in zip(items, found, strict=True) if name == task]
        report[task] = {
            method: {
                "psnr": sum(row[method][0] for row in rows) / count,
                "success": sum(row[method][1] for row in rows) / count,
            }
            for method in rows[0]
        }
    return {"scenes": dict.fromkeys(tasks, count), "steps": steps, "tasks": report}


def measured(
    item: tuple[str, int],
    backbone: Backbone | str,
    guidances: dict[str, CFG],
    first_seed: int,
    steps: int,
    classifier: Path = FOLDER,
) -> dict[str, tuple[float, bool]]:
    """PSNR to the truth and success of one scene's edits: by each guidance, by doing nothing, and at the ceiling."""
    (name, index), backbone = item, _loaded(backbone) if isinstance(backbone, str) else backbone
    task = TASKS[name]
    ((scene, target),) = task.scenes(first_seed + index, 1)
    source_prompt, target_prompt = task.prompts(scene, target)
    truth = pixels([target])
    trajectory = nmg.invert(backbone, scene.render(), source_prompt, steps=steps, progress=False)
    results = {"identity": pixels([scene]), "ceiling": backbone.decode(backbone.encode(truth)).cpu()}
    for method, guidance in guidances.items():
        options: dict[str, Any] = {"guidance": guidance, "editor": task.editor, "progress": False}
        edited = nmg.edit(backbone, trajectory, targets=[target_prompt], **options)
        results[method] = images.to_tensor(edited.pictures[0])
    outcomes = {}
    for method, picture in results.items():
        read = load_classifier(classifier).read(2 * picture - 1)[0][task.factor]
        outcomes[method] = metrics.psnr(picture, truth).item(), read == getattr(target, task.factor)
    return outcomes


@functools.cache
def _loaded(model: str) -> Backbone:
    from nmg.pipelines import load

    return Backbone(load(model, device="cpu"))


def bundled_guidances() -> dict[str, CFG]:
    """Plain DDIM and NMG at the bundled model's text scale, plain DDIM at 1 and at 7.5."""
    scale = SCALES["text_scale"]
    return {
        "DDIM, scale 1": CFG(1.0),
        f"DDIM, scale {scale:g}": CFG(scale),
        "DDIM, scale 7.5": CFG(7.5),
        "NMG": bundled_noise_map(),
        "NMG, scale 7.5": bundled_noise_map(7.5),
    }


def bundled_noise_map(text_scale: float | None = None) -> NoiseMap:
    """Noise map guidance with the scales that suit the bundled model."""
    return NoiseMap(**SCALES if text_scale is None else {**SCALES, "text_scale": text_scale})


def evaluate(pipe: Any, folder: Path, scenes: int = 32, captions: int = 64, workers: int = 1) -> dict[str, Any]:
    """Every measurement of the model card.

    Args:
        folder: of the factor classifier.
        scenes: held-out scenes, for each task of editing too.
        workers: processes that edit.
    """
    backbone, classifier, guidances = Backbone(pipe), load_classifier(folder), bundled_guidances()
    edited = {"DDIM": CFG(SCALES["text_scale"]), "NMG": bundled_noise_map()}
    return {
        "scales": SCALES,
        "autoencoder": autoencoder(backbone, classifier, 16 * scenes),
        "generation": generation(pipe, classifier, captions, SCALES["text_scale"]),
        "reconstruction": reconstruction(backbone, scenes, guidances),
        "edits": edits(backbone, scenes, edited, workers=workers, classifier=folder),
    }


def golden(backbone: Backbone) -> dict[str, Any]:
    """A few values of every part, to notice a stack that loads the weights wrongly."""
    prompt = caption(Scene.sample(TEST_SEEDS))
    text = backbone.text([prompt])
    latents = backbone.encode(pixels([Scene.sample(TEST_SEEDS)]))
    with torch.no_grad():
        noise = backbone.eps(latents, nmg.steps(backbone.scheduler, 50)[25], text)
    parts = {"text": text, "latents": latents, "noise": noise, "decoded": backbone.decode(latents)}
    return {
        "prompt": prompt,
        "input_ids": backbone.tokenizer(prompt).input_ids,
        **{name: sample(t) for name, t in parts.items()},
    }


def sample(tensor: Tensor) -> list[float]:
    """Sixteen of a tensor's values, its mean and its standard deviation."""
    values = tensor.flatten()[:: tensor.numel() // 16][:16]
    return [*values.tolist(), tensor.mean().item(), tensor.std().item()]


def write_report(folder: Path, scenes: int = 32, workers: int = 1) -> None:
    """Measure the model in `folder` and write report.json, golden.json and the model card beside it."""
    from nmg.pipelines import load

    pipe = load(str(folder), dtype=torch.float32)
    (folder / "golden.json").write_text(json.dumps(golden(Backbone(pipe))))
    report = evaluate(pipe, folder, scenes, 2 * scenes, workers)
    (folder / "report.json").write_text(json.dumps(report, indent=2))
    training = json.loads((folder / "training.json").read_text())
    (folder / "README.md").write_text(card.write(training, report))


def main() -> None:
    p = argparse.ArgumentParser(
        "nmg.menagerie.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", type=Path, default=FOLDER, help="folder that training wrote (default: the bundled model)")
    p.add_argument(
        "--scenes",
        type=int,
        default=32,
        help="held-out scenes per measurement and editing task (default: %(default)s)",
    )
    p.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that edit (default: the cores)")
    arguments = p.parse_args()
    write_report(arguments.model, arguments.scenes, arguments.workers)
    print(arguments.model / "README.md")


if __name__ == "__main__":
    main()
