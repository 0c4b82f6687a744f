"""Choose the presets of Menagerie's model on validation scenes: `python -m scripts.presets --weights FOLDER`.

Every task's editor is tried with the settings of `GRID` on the same scenes, by `NoiseMap.fast()` at the model's text
scale, or the guidance and the inversion that the editor is published with. Chosen is the editor that succeeds most
often; of equal ones that of the highest mean PSNR to the truth. What was tried on a scene is kept: a run that was
killed goes on where it was. Several processes share the scenes under torchrun. The choice is written beside the model,
where the panel, the demonstration and the benchmark find it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

import nmg
from nmg import images
from nmg.backbones import Backbone
from nmg.editors import Editor, FlowEdit, GuideAndRescale, MasaCtrl, Pix2PixZero, PlugAndPlay, PromptToPrompt, UniEdit
from nmg.files import replacing
from nmg.guidance import default_guidance
from nmg.lab.bench import records, runner
from nmg.lab.bench.processes import joined, own_device
from nmg.lab.bench.suites import kind_of
from nmg.lab.presets import FILE, UNCHOSEN, chosen
from nmg.lab.profile import profile_of
from nmg.lab.scoring import score
from nmg.menagerie.model import FOLDER, load_classifier
from nmg.menagerie.tasks import TASKS, VALIDATION_SEEDS
from nmg.serialize import packed

GRID: dict[type[Editor], dict[str, tuple[float, ...]]] = {
    PromptToPrompt: {"cross_replace": (0.2, 0.4, 0.6, 0.8, 1.0), "self_replace": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)},
    MasaCtrl: {"start_step": (0.05, 0.1, 0.2, 0.3, 0.4), "start_layer": (1, 2, 3, 4, 5)},
    Pix2PixZero: {"amount": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 4.0)},
    PlugAndPlay: {"feature_replace": (0.2, 0.5, 0.8), "attention_replace": (0.0, 0.2, 0.5, 0.8)},
    FlowEdit: {"source_scale": (1.0, 1.5, 2.0, 3.0), "plain": (0.0, 0.2, 0.4)},
    UniEdit: {"omega": (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)},
    GuideAndRescale: {"attention_scale": (3e4, 3e5), "until": (0.1, 0.2, 0.4, 0.6)},
}
"""The settings that are tried, by editor."""

Tried = dict[str, dict[str, float]]
"""Success and PSNR by editor."""


def candidates(editor: Any) -> list[Editor]:
    """The editor with every combination of its settings in `GRID`."""
    grid = GRID[type(editor)]
    return [
        dataclasses.replace(editor, **dict(zip(grid, values, strict=True)))
        for values in itertools.product(*grid.values())
    ]


def named(editor: Editor) -> str:
    return json.dumps(packed(editor))


def attempts(backbone: Backbone, weights: Path, task: str, seed: int, steps: int, known: Tried) -> Tried:
    """The edits of one scene by every candidate, those that are known among them; one inversion serves all."""
    kind, editor = TASKS[kind_of(task)], UNCHOSEN[task]
    ((scene, target),) = kind.scenes(seed, 1)
    source, wanted = kind.prompts(scene, target)
    lacking = {name: one for one in candidates(editor) if (name := named(one)) not in known}
    if not lacking:
        return known
    picture = scene.render(backbone.native_size[0])
    trajectory = nmg.invert(backbone, picture, source, steps=steps, inversion=editor.inversion(), progress=False)
    guidance = default_guidance(backbone, fast=True) if editor.suits == "default" else None
    options: dict[str, Any] = {"guidance": guidance, "progress": False}
    found = dict(known)
    for name, one in lacking.items():
        edited = nmg.edit(backbone, trajectory, targets=[wanted], editor=one, **options).pictures[0]
        values, _ = score(images.to_tensor(edited), scene, target, kind.factor, load_classifier(weights))
        found[name] = {measure: values.get(measure, math.inf) for measure in ("success", "psnr")}
    return found


def best(task: str, scenes: Sequence[Tried]) -> Editor:
    """The candidate of a task that succeeds most often; of equal ones that of the highest mean PSNR."""

    def means(editor: Editor) -> tuple[float, ...]:
        rows = [tried[named(editor)] for tried in scenes]
        return tuple(sum(row[measure] for row in rows) / len(rows) for measure in ("success", "psnr"))

    return max(candidates(UNCHOSEN[task]), key=means)


def choose(
    weights: Path, folder: Path, scenes: int, steps: int, tasks: Sequence[str] = tuple(TASKS)
) -> dict[str, Editor]:
    """Try what the folder lacks, and write the best editors beside the model, where those of other tasks stay; every
    process has its share."""
    backbone = Backbone(nmg.load(str(weights), own_device(None), torch.float32))
    processes = joined(backbone.device.type == "cpu")
    asked = {"model": runner.model_name(backbone), "steps": steps, "scales": profile_of(backbone).scales}
    records.configure(folder, asked, processes.first)
    processes.wait()
    paths = {(task, VALIDATION_SEEDS + i): folder / f"{task}-{i}.json" for i in range(scenes) for task in tasks}
    for (task, seed), path in tqdm(processes.share(list(paths.items())), "scenes", disable=not processes.first):
        known = json.loads(path.read_text()) if path.is_file() else {}
        with replacing(path) as part:
            part.write_text(json.dumps(attempts(backbone, weights, task, seed, steps, known)))
    processes.wait()
    tried = {where: json.loads(path.read_text()) for where, path in paths.items()}
    best_editors = {task: best(task, [found for (own, _), found in tried.items() if own == task]) for task in tasks}
    if processes.first:
        written = chosen(weights) | best_editors
        with replacing(weights / FILE) as part:
            part.write_text(json.dumps({task: packed(editor) for task, editor in written.items()}, indent=2))
    return best_editors


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        "python -m scripts.presets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--weights", type=Path, default=FOLDER, help="folder of the model (default: the bundled one)")
    p.add_argument("--scenes", type=int, default=4, help="validation scenes of each task (default: %(default)s)")
    p.add_argument(
        "--tasks",
        nargs="+",
        default=tuple(TASKS),
        choices=UNCHOSEN,
        metavar="TASK",
        help='(default: each by its own editor; "object swap by FlowEdit" by another one)',
    )
    p.add_argument("--steps", type=int, default=50, help="of every inversion and edit (default: %(default)s)")
    p.add_argument("--records", type=Path, default=Path("runs/presets"), help="what is kept (default: %(default)s)")
    return p


def main() -> None:
    given = parser().parse_args()
    for task, editor in choose(given.weights, given.records, given.scenes, given.steps, given.tasks).items():
        print(f"{task:22} {editor}")


if __name__ == "__main__":
    main()
