"""Measure Menagerie's model on held-out scenes: `python -m nmg.menagerie.evaluate`.

Writes a report (JSON), golden values and the model card beside the model. Every figure says on how many
scenes it was taken.
"""

from __future__ import annotations

import argparse
import json
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
from nmg.menagerie.model import FOLDER, SCALES
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
    from diffusers import StableDiffusionPipeline

    scenes = [Scene.sample(TEST_SEEDS + i) for i in range(count)]
    sampler = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    sampler.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for start in tqdm(range(0, count, 16), "generate"):
        prompts = [caption(scene) for scene in scenes[start : start + 16]]
        options = {"guidance_scale": scale, "num_inference_steps": 50, "generator": generator, "output_type": "pt"}
        pictures.append(sampler(prompts, **options).images.float().cpu())
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
    classifier: FactorClassifier,
    count: int,
    guidances: dict[str, CFG],
    first_seed: int = TEST_SEEDS,
    steps: int = 50,
    tasks: dict = TASKS,
) -> dict[str, Any]:
    """Edits of every task under every guidance, next to the identity and to the ceiling.

    Success is the share of edits whose changed factor reads as the target's; PSNR is to the exact counterfactual.
    The identity returns the source; the ceiling is the autoencoder's picture of the truth.
    """
    report = {}
    for task in tasks.values():
        outcomes: dict[str, list[tuple[float, bool]]] = {name: [] for name in ("identity", "ceiling", *guidances)}
        for scene, target in tqdm(list(task.scenes(first_seed, count)), task.name):
            source_prompt, target_prompt = task.prompts(scene, target)
            truth = pixels([target])
            trajectory = nmg.invert(backbone, scene.render(), source_prompt, steps=steps, progress=False)
            results = {"identity": pixels([scene]), "ceiling": backbone.decode(backbone.encode(truth)).cpu()}
            for name, guidance in guidances.items():
                edited = nmg.edit(
                    backbone, trajectory, targets=[target_prompt], guidance=guidance, editor=task.editor, progress=False
                )
                results[name] = images.to_tensor(edited.pictures[0])
            for name, picture in results.items():
                read = classifier.read(2 * picture - 1)[0][task.factor]
                outcomes[name].append((metrics.psnr(picture, truth).item(), read == getattr(target, task.factor)))
        report[task.name] = {
            name: {"psnr": sum(p for p, _ in rows) / count, "success": sum(s for _, s in rows) / count}
            for name, rows in outcomes.items()
        }
    return {"scenes": count, "steps": steps, "tasks": report}


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


def evaluate(pipe: Any, classifier: FactorClassifier, scenes: int = 32, captions: int = 64) -> dict[str, Any]:
    """Every measurement of the model card."""
    backbone, guidances = Backbone(pipe), bundled_guidances()
    edited = {"DDIM": CFG(SCALES["text_scale"]), "NMG": bundled_noise_map()}
    return {
        "scales": SCALES,
        "autoencoder": autoencoder(backbone, classifier, 16 * scenes),
        "generation": generation(pipe, classifier, captions, SCALES["text_scale"]),
        "reconstruction": reconstruction(backbone, scenes, guidances),
        "edits": edits(backbone, classifier, max(1, scenes // 3), edited),
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


def write_report(folder: Path, scenes: int = 32) -> None:
    """Measure the model in `folder` and write report.json, golden.json and the model card beside it."""
    from nmg.pipelines import load

    pipe, classifier = load(str(folder), dtype=torch.float32), FactorClassifier.load(folder / "classifier.safetensors")
    (folder / "golden.json").write_text(json.dumps(golden(Backbone(pipe))))
    report = evaluate(pipe, classifier, scenes, 2 * scenes)
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
        help="held-out scenes per measurement, a third of them per editing task (default: %(default)s)",
    )
    arguments = p.parse_args()
    write_report(arguments.model, arguments.scenes)
    print(arguments.model / "README.md")


if __name__ == "__main__":
    main()
