"""Measure Menagerie's model on held-out scenes: `python -m scripts.evaluate --weights FOLDER --scenes 32 --steps 50`.

Writes a report (JSON), golden values and the model card, which says what the model must show and what it reached,
beside the model. Each measurement, and each edit, is kept in the records once it is made: a run that was killed goes on
where it was. Two processes share the edits with

  torchrun --nproc_per_node 2 -m scripts.evaluate --weights FOLDER
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

import nmg
from nmg import images
from nmg.backbones import Backbone
from nmg.editors import Editor, LocalBlend, PromptToPrompt
from nmg.files import replacing
from nmg.guidance import CFG, Guidance
from nmg.lab import metrics
from nmg.lab.bench import Menagerie, runner
from nmg.lab.bench.processes import Processes, joined, own_device
from nmg.lab.bench.records import Record
from nmg.lab.presets import SCENES, chosen
from nmg.lab.profile import Profile, profile_of
from nmg.lab.scoring import accuracy, pixels
from nmg.menagerie.captions import caption
from nmg.menagerie.model import FOLDER, constant_tensors, load_classifier
from nmg.menagerie.networks import FactorClassifier
from nmg.menagerie.scene import Scene
from nmg.menagerie.tasks import TASKS, TEST_SEEDS
from scripts import card, goals, word_maps

METHODS = ("DDIM", "NMG")
"""Methods whose edits the model card shows."""
COMPARING = goals.COMPARING
"""The method of edits that differ in a setting of the editor alone; its edits are
NMG's to a hundredth of a decibel (docs/benchmark.md)."""
STRONG = 7.5
"""The text scale at which plain DDIM loses the picture."""
WORDS = tuple(task for task, editor in SCENES.items() if isinstance(editor, PromptToPrompt))
"""Prompt-to-Prompt's tasks."""
BLENDED = ("object swap", "colour change")
"""Tasks whose edits belong to one thing, so that a local blend can keep the rest."""
COMPARED = 8
"""Scenes of a task on which two layouts are compared, picture by picture."""
MEANS = ("psnr", "success", "psnr_outside", "kept", "reconstruction_psnr")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The measurements of one model.

    Attributes:
        weights: folder of the model, its classifier and its presets.
        records: where every measurement is kept once it is made.
        scenes: held-out scenes of each measurement, and of each task.
        steps: of every inversion and edit.
    """

    weights: Path
    records: Path
    scenes: int
    steps: int

    @cached_property
    def backbone(self) -> Backbone:
        return Backbone(nmg.load(str(self.weights), own_device(None), torch.float32))

    @cached_property
    def classifier(self) -> FactorClassifier:
        return load_classifier(self.weights)

    @cached_property
    def profile(self) -> Profile:
        return profile_of(self.backbone)

    @cached_property
    def processes(self) -> Processes:
        return joined(self.backbone.device.type == "cpu")

    def kept(self, name: str, measure: Callable[[], Any]) -> Any:
        """What a measurement gives, or what it gave for this model before."""
        path, asked = (
            self.records / f"{name}.json",
            {"model": runner.model_name(self.backbone), "scenes": self.scenes, "steps": self.steps},
        )
        if path.is_file() and (held := json.loads(path.read_text()))["asked"] == asked:
            return held["found"]
        found = measure()
        self.records.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(json.dumps({"asked": asked, "found": found}))
        return found

    def edits(self, name: str, suite: Menagerie, methods: Sequence[str] = METHODS, **options: Any) -> list[Record]:
        """Records of the edits by a suite's presets, in a folder of their own."""
        scales = self.profile.scales
        given = {
            "scales": scales.get("noise_map_scale"),
            "text_scale": scales["text_scale"],
            "pictures": False,
            **options,
        }
        tasks, folder = tuple(suite.presets), self.records / name
        return runner.run(self.backbone, suite, methods, tasks, self.scenes, folder, steps=self.steps, **given)

    def edited(self) -> dict[str, Any]:
        """All that edits show: every process has its share of them."""
        presets: dict[str, Any] = chosen(self.weights)
        words = {task: presets[task] for task in WORDS}
        whole = {task: dataclasses.replace(presets[task], local_blend=None) for task in BLENDED}
        found = {
            "everyday": self.edits("everyday", Menagerie(self.weights, presets)),
            "strong": self.edits("strong", Menagerie(self.weights, words), text_scale=STRONG),
            "whole": self.edits("whole", Menagerie(self.weights, whole), (COMPARING,)),
            "blended": self.edits("blended", Blended(self.weights, whole), (COMPARING,)),
        }
        held = {}
        for share in (0.0, 1.0):
            suite = Menagerie(self.weights, {t: dataclasses.replace(e, self_replace=share) for t, e in words.items()})
            few = dataclasses.replace(self, scenes=min(self.scenes, COMPARED))
            held[self.records / f"held-{share:g}"] = few.edits(f"held-{share:g}", suite, (COMPARING,), pictures=True)
        return {**{name: by_task(rows) for name, rows in found.items()}, "held": apart(held)}

    def report(self, edited: dict[str, Any]) -> dict[str, Any]:
        """Every measurement of the model card."""
        backbone, count, scales = self.backbone, self.scenes, self.profile.scales
        return {
            "scenes": count,
            "steps": self.steps,
            "scales": scales,
            "trained": trained(self.weights),
            "autoencoder": self.kept("autoencoder", lambda: autoencoder(backbone, self.classifier, 8 * count)),
            "words": self.kept("words", lambda: word_maps.measure(backbone, 2 * count)),
            "generation": self.kept(
                "generation",
                lambda: generation(backbone.pipe, self.classifier, 4 * count, scales["text_scale"], self.steps),
            ),
            "reconstruction": self.kept(
                "reconstruction", lambda: reconstruction(backbone, count, self.guidances(), steps=self.steps)
            ),
            "edits": edited,
        }

    def guidances(self) -> dict[str, Guidance]:
        """Plain DDIM at no text guidance, at the model's and at the strong scale, and NMG at the last two."""
        everyday = self.profile.scales["text_scale"]
        plain = {f"DDIM, scale {scale:g}": CFG(scale) for scale in (1.0, everyday, STRONG)}
        return {**plain, **{f"NMG, scale {s:g}": self.profile.guidance(text_scale=s) for s in (everyday, STRONG)}}


# ---------------------------------------------------------------- networks


def trained(folder: Path) -> dict[str, Any]:
    """The tensors that no training reached."""
    untouched = constant_tensors(folder)
    return {"untouched": len(untouched), "such as": untouched[:3]}


def autoencoder(backbone: Backbone, classifier: FactorClassifier, count: int) -> dict[str, Any]:
    """How sharp the autoencoder is, and whether the classifier reads its pictures as it reads the originals."""
    scenes = [Scene.sample(TEST_SEEDS + i) for i in range(count)]
    originals = pixels(scenes, backbone.native_size[0])
    decoded = backbone.decode(torch.cat([backbone.encode(part) for part in originals.split(32)])).cpu()
    return {
        "scenes": count,
        "psnr": metrics.psnr(decoded, originals).mean().item(),
        "ssim": metrics.ssim(decoded, originals).mean().item(),
        "accuracy_on_originals": accuracy(classifier, originals, scenes),
        "accuracy_on_reconstructions": accuracy(classifier, decoded, scenes),
    }


def generation(pipe: Any, classifier: FactorClassifier, count: int, scale: float, steps: int = 50) -> dict[str, Any]:
    """Whether pictures sampled from held-out captions read back as captioned (DDIM, seeded)."""
    from nmg.pipelines import generate

    scenes = [Scene.sample(TEST_SEEDS + i) for i in range(count)]
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for start in tqdm(range(0, count, 16), "generate"):
        prompts = [caption(scene) for scene in scenes[start : start + 16]]
        pictures.append(generate(pipe, prompts, generator, scale, steps))
    return {"captions": count, "guidance": scale, "accuracy": accuracy(classifier, torch.cat(pictures), scenes)}


def reconstruction(
    backbone: Backbone, count: int, guidances: dict[str, Guidance], first_seed: int = TEST_SEEDS, steps: int = 50
) -> dict[str, Any]:
    """PSNR of each guidance's reconstruction to the autoencoder's own, per guidance."""
    rows: dict[str, list[float]] = {name: [] for name in guidances}
    for i in tqdm(range(count), "reconstruct"):
        scene = Scene.sample(first_seed + i)
        picture = scene.render(backbone.native_size[0])
        trajectory = nmg.invert(backbone, picture, caption(scene), steps=steps, progress=False)
        ceiling = backbone.decode(trajectory.maps[:1])
        for name, guidance in guidances.items():
            latents = nmg.edit(backbone, trajectory, guidance=guidance, editor=Editor(), progress=False).latents
            rows[name].append(metrics.psnr(backbone.decode(latents), ceiling).item())
    return {"scenes": count, "steps": steps, "psnr": {name: sum(values) / len(values) for name, values in rows.items()}}


# ---------------------------------------------------------------- edits


class Blended(Menagerie):
    """The same edits, with a local blend on the figure, which its kind names in both prompts."""

    def editor(self, task: str, item: int | str | None = None) -> Editor:
        editor: Any = super().editor(task, item)
        if item is None:
            return editor
        ((scene, target),) = TASKS[task].scenes(int(item), 1)
        return dataclasses.replace(editor, local_blend=LocalBlend((scene.kind, target.kind)))


def by_task(found: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Means of the records, by task and method."""
    tasks, methods = (dict.fromkeys(getattr(record, name) for record in found) for name in ("task", "method"))
    return {
        task: {method: summary([r for r in found if (r.task, r.method) == (task, method)]) for method in methods}
        for task in tasks
    }


def summary(rows: Sequence[Record]) -> dict[str, Any]:
    """Means over the edits of a task by one method.

    A PSNR that is infinite, since `exact` edits equal the truth, is None: JSON has no such number. So is what can't be
    said of all items: `without` of them have no result, for a `reason`.
    """
    lost = [row.refused for row in rows if row.refused]
    if lost:
        return {**dict.fromkeys(MEANS), "without": len(lost), "reason": lost[0]}
    values = {name: [v for row in rows if (v := row.value(name)) is not None] for name in MEANS}
    means = {name: sum(given) / len(given) if given else None for name, given in values.items()}
    finite = {name: value if value is not None and math.isfinite(value) else None for name, value in means.items()}
    exact = values["psnr"].count(math.inf)
    return {**finite, "exact": exact} if exact else finite


def apart(runs: Mapping[Path, Sequence[Record]]) -> dict[str, float]:
    """Mean absolute difference of the edits of two runs, in 0…1, by task.

    Args:
        runs: the records by their folder.
    """
    found: dict[str, list[float]] = {}
    for pair in zip(*runs.values(), strict=True):
        if pair[0].method == COMPARING:
            one, other = (
                images.to_tensor(images.load(folder / record.pictures["edit"]))
                for folder, record in zip(runs, pair, strict=True)
            )
            found.setdefault(pair[0].task, []).append((one - other).abs().mean().item())
    return {task: sum(values) / len(values) for task, values in found.items()}


# ---------------------------------------------------------------- golden values


def golden(backbone: Backbone) -> dict[str, Any]:
    """A few values of every part, to notice a stack that loads the weights wrongly."""
    scene = Scene.sample(TEST_SEEDS)
    prompt = caption(scene)
    text = backbone.text([prompt])
    latents = backbone.encode(pixels([scene], backbone.native_size[0]))
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


def write_report(evaluation: Evaluation) -> None:
    """Measure the model and write report.json, golden.json and the model card beside it.

    Processes that torchrun started share the edits, which take the longest; the first does the rest.
    """
    edited, folder = evaluation.edited(), evaluation.weights
    if not evaluation.processes.first:
        return
    report = evaluation.report(edited)
    (folder / "golden.json").write_text(json.dumps(golden(evaluation.backbone)))
    (folder / "report.json").write_text(json.dumps(report, indent=2))
    training = json.loads((folder / "training.json").read_text())
    card.curves(training).savefig(folder / card.CURVES, dpi=110)
    (folder / "README.md").write_text(card.write(training, report))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        "python -m scripts.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--weights", type=Path, default=FOLDER, help="folder that training wrote (default: the bundled model)"
    )
    p.add_argument("--scenes", type=int, default=32, help="held-out scenes of each measurement (default: %(default)s)")
    p.add_argument("--steps", type=int, default=50, help="of every inversion and edit (default: %(default)s)")
    p.add_argument("--records", type=Path, default=Path("runs/evaluation"), help="what is kept (default: %(default)s)")
    return p


def main() -> None:
    given = parser().parse_args()
    write_report(Evaluation(given.weights, given.records, given.scenes, given.steps))
    print(given.weights / "README.md")


if __name__ == "__main__":
    main()
