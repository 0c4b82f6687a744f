"""The paper's tables and figures, each made by one call: `Paper(pipe, folder).editing()`, or `nmg paper editing`.

They are measured by the benchmark's runner on held-out scenes of the bundled world, whose edits have an exact truth,
or on photographs with captions, which have none. A call that was killed goes on where it stopped, and artefacts of the
same folder share what they have in common.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from nmg import images
from nmg.backbones import Backbone
from nmg.editors import Editor, MasaCtrl, PromptToPrompt
from nmg.guidance import NoiseMap
from nmg.lab import examples, figures, metrics
from nmg.lab.bench import plots, published, runner, tables
from nmg.lab.bench.methods import METHODS, Method, find, on
from nmg.lab.bench.processes import joined, own_device
from nmg.lab.bench.records import Record
from nmg.lab.bench.suites import Case, Menagerie, Scores, Suite
from nmg.lab.examples import Example
from nmg.lab.profile import profile_of
from nmg.lab.scoring import finite
from nmg.request import digest

COMPARED = ("DDIM", "NTI", "NPI", "ProxNPI", "NMG")
"""The methods of the paper's comparisons."""
SWEPT = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Noise-map scales of the sweep; 0 steps along the null prompt before every guided step."""
VARIANTS = ("", ", authors' levels", ", regularised", ", fixed point", ", edit-friendly")
"""The inversions that robustness is measured on; NMG refuses edit-friendly noise, which the table says."""
CAPTIONS = "captions.json"
EDITORS: dict[str, Editor] = {"prompt-to-prompt": PromptToPrompt(), "masactrl": MasaCtrl(), "none": Editor()}
"""Editors that a caption can name."""


# ---------------------------------------------------------------- pictures with captions


@dataclass(frozen=True, eq=False)
class Pictures(Suite):
    """Pictures with their prompts, by task and name.

    Only drawn ones have a truth to score an edit by. Both splits hold the same pictures; the sweep's records lie under
    "validation", so that no table of reported edits mixes scales.

    Args:
        examples: task to name to picture; all of a task have the same class of editor.
        questions: by name of the picture, TIFA's questions about its target prompt.
    """

    examples: Mapping[str, Mapping[str, Example]]
    questions: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    name: ClassVar[str] = "pictures"
    text_scale: ClassVar[float] = 7.5
    noise_map_scale: ClassVar[float] = 10.0
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")

    @classmethod
    def read(cls, folder: str | os.PathLike) -> Pictures:
        """The pictures of a folder, as its captions.json describes them.

        The file maps a picture's name to {"source": prompt, "target": prompt}; "editor" names one of `EDITORS`
        (prompt-to-prompt if not given), and "questions" lists TIFA's questions.

        Raises:
            FileNotFoundError: without the file, or a picture that it names.
            ValueError: for a file that does not hold this.
        """
        path = Path(folder) / CAPTIONS
        form = f'{path} maps each picture\'s name to {{"source": …, "target": …}}'
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}; write one that maps each picture's name to its two prompts")
        try:
            captions = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON ({error}); {form}") from error
        found: dict[str, dict[str, Example]] = {}
        for name, entry in captions.items() if isinstance(captions, dict) else ():
            if not isinstance(entry, dict) or not {"source", "target"} <= entry.keys():
                raise ValueError(f"{name!r} has no source and target prompt in {path}; {form}")
            editor = entry.get("editor", next(iter(EDITORS)))
            if editor not in EDITORS:
                raise ValueError(f"{name!r} has the editor {editor!r} in {path}; {', '.join(EDITORS)} work")
            picture = images.load(Path(folder) / name)
            found.setdefault(editor, {})[name] = Example(picture, entry["source"], entry["target"], EDITORS[editor])
        if not found:
            raise ValueError(f"{path} names no picture; {form}")
        return cls(found, {name: entry["questions"] for name, entry in captions.items() if "questions" in entry})

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.examples)

    def editor(self, task: str, item: int | str | None = None) -> Editor:
        named = self.examples[task]
        return (next(iter(named.values())) if item is None else named[str(item)]).editor

    def items(self, task: str, split: str, count: int | None) -> Sequence[str]:
        return tuple(self.examples[task])[:count]

    def case(self, task: str, item: int | str, backbone: Backbone) -> Case:
        e = self.examples[task][str(item)]
        return Case(task, item, backbone.prepare(e.image), e.source, e.target, e.editor, e.truth)

    def score(self, case: Case, edited: Tensor, backbone: Backbone) -> Scores:
        if case.truth is None:
            return {}, {}
        truth = images.to_tensor(backbone.prepare(case.truth))
        measures = {"psnr": metrics.psnr, "mse": metrics.mse, "ssim": metrics.ssim}
        return finite({name: measure(edited, truth).item() for name, measure in measures.items()}, {})

    def described(self) -> dict[str, Any]:
        listed = {
            f"{task}/{name}": [digest(images.load(e.image)), e.source, e.target]
            for task, named in self.examples.items()
            for name, e in named.items()
        }
        return {"suite": self.name, "pictures": listed}


def examples_of(pipe: Any) -> Pictures:
    """The ready examples of all three editors, for the loaded model."""
    found = {**examples.prompt_to_prompt(pipe), **examples.masactrl(pipe), **examples.pix2pix_zero(pipe)}
    return Pictures({task: {task: example} for task, example in found.items()})


# ---------------------------------------------------------------- metrics of kept pictures


Judge = Callable[[Record, Path], float | None]
"""A metric of a record's pictures, which lie in a folder; None where it means nothing."""


class Lacking(ValueError):
    """A single picture lacks what a metric needs."""


def judged(found: Iterable[Record], folder: Path, judges: Mapping[str, Judge]) -> list[Record]:
    """Records with further metrics, measured on the pictures that were kept.

    One that can't be measured here is missing everywhere, with its reason.
    """
    lacking: dict[str, str] = {}
    records = []
    for record in found:
        values: dict[str, float] = {}
        missing: dict[str, str] = {}
        for name, judge in judges.items() if not record.refused else ():
            try:
                if name in lacking:
                    raise metrics.Missing(lacking[name])
                value = judge(record, folder)
                values |= {} if value is None else {name: value}
            except metrics.Missing as error:
                lacking[name] = missing[name] = str(error)
            except Lacking as error:
                missing[name] = str(error)
        values, missing = {**record.metrics, **values}, {**record.missing, **missing}
        records.append(dataclasses.replace(record, metrics=values, missing=missing))
    return records


def _opened(record: Record, kind: str, folder: Path) -> Tensor:
    if kind not in record.pictures:
        raise Lacking("its picture was not kept; measure it again in another folder, with pictures")
    return images.to_tensor(images.load(folder / record.pictures[kind]))


# ---------------------------------------------------------------- the artefacts


@dataclass(frozen=True, eq=False)
class Paper:
    """The paper's tables and figures, on one model and one set of pictures.

    Every artefact writes into `folder`, and returns the paths that it wrote.

    Args:
        pipe: a loaded Stable Diffusion pipeline.
        folder: of tables, figures, and the records that they rest on.
        suite: what is edited: held-out scenes on the bundled model, and else the ready photographs, if not given.
        methods: of the comparisons; the sweep and the robustness have their own.
        tasks: names in the suite; all if not given.
        count: items of each task; all of the suite's if None.
        steps: DDIM steps.
        scales: noise-map scales, as `runner.tune` returns them or one for all; if not given, those that it chose in the
            folder, or else the model's own.
        text_scale: the same for every method; the model's own if not given.
        progress: whether to show bars.

    Raises:
        ValueError: for a method or a task that is not known.
    """

    pipe: Any
    folder: Path
    suite: Suite | None = None
    methods: Sequence[str] = COMPARED
    tasks: Sequence[str] | None = None
    count: int | None = 4
    steps: int = 50
    scales: runner.Scales | float | None = None
    text_scale: float | None = None
    progress: bool = True

    @cached_property
    def backbone(self) -> Backbone:
        return self.pipe if isinstance(self.pipe, Backbone) else Backbone(self.pipe)

    @cached_property
    def pictures(self) -> Suite:
        """What is edited."""
        if self.suite is not None:
            return self.suite
        if not profile_of(self.pipe).knows_scenes:
            return self.ready
        trained = Path(self.backbone.name)
        return Menagerie(trained) if (trained / "classifier.safetensors").is_file() else Menagerie()

    @cached_property
    def ready(self) -> Pictures:
        """The ready examples."""
        return examples_of(self.pipe)

    @cached_property
    def first(self) -> bool:
        """Whether this process writes: of those that torchrun started, which share the edits, one does."""
        return joined(self.backbone.device.type == "cpu").first

    def reconstruction(self) -> list[Path]:
        """How close each method's source row comes back to the autoencoder's picture: MSE, SSIM and LPIPS."""
        chosen = self._of_editor(PromptToPrompt)
        distance = metrics.Lpips(device=str(self.backbone.device))

        def lpips(record: Record, folder: Path) -> float | None:
            if record.method in tables.BOUNDS:
                return None
            picture = images.to_tensor(self.pictures.case(record.task, record.item, self.backbone).picture)
            own = self.backbone.decode(self.backbone.encode(picture)).cpu()
            return distance(_opened(record, "reconstruction", folder), own).item()

        found = judged(self._run(self.methods, chosen), Path(self.folder), {"reconstruction_lpips": lpips})
        factor = tables.COLUMNS["reconstruction_mse"].factor
        listed = "; ".join(
            f"{name} {factor * row['mse']:.3g} and {row['ssim']:g}" for name, row in published.RECONSTRUCTION.items()
        )
        note = (
            "The source row's picture against the autoencoder's own picture of the source. Published, on 100 COCO "
            f"pictures by Stable Diffusion 1.4 ({published.CHO}): MSE ×10³ and SSIM of {listed}."
        )
        columns = ("reconstruction_mse", "reconstruction_ssim", "reconstruction_psnr", "reconstruction_lpips")
        return self._tables("reconstruction", "Reconstruction", found, columns, [note])

    def editing(self) -> list[Path]:
        """How well each method's edits fit: the truth where there is one, and the target prompt by CLIP and TIFA."""
        questions = self.pictures.questions if isinstance(self.pictures, Pictures) else {}
        answer = metrics.Tifa()

        def tifa(record: Record, folder: Path) -> float:
            if not questions.get(str(record.item)):
                raise Lacking(f"TIFA needs questions about the prompt; only pictures of a {CAPTIONS} can bring them")
            return answer(_opened(record, "edit", folder), [questions[str(record.item)]]).item()

        found = judged(self._run(self.methods), Path(self.folder), {"clip": self._clip(), "tifa": tifa})
        return self._tables("editing", "Editing", found, ("success", "psnr", "kept", "clip", "tifa"), by_task=True)

    def sheets(self) -> list[Path]:
        """The ready examples of each editor by each method, as pictures: a sheet per editor."""
        folder, ready = Path(self.folder) / "examples", self.ready
        shown = dataclasses.replace(
            self, suite=ready, folder=folder, tasks=None, count=None, scales=self._scales(self.methods)
        )
        truths = {
            (task, name): self.backbone.prepare(example.truth)
            for task, named in ready.examples.items()
            for name, example in named.items()
            if example.truth is not None
        }
        found = shown._run(self.methods)
        return self._drawn("sheet", lambda group: plots.sheet(group, folder, truths=truths), found)

    def sweep(self, values: Sequence[float] = SWEPT) -> list[Path]:
        """What the noise-map scale trades: closeness to the source for quality of the edit, on the validation split.

        Args:
            values: noise-map scales; each acts as its product with the gradient scale.
        """
        runs = [self._run(["DDIM", "NMG"], split="validation", scales=value) for value in values]
        found = self._fitted({record.key: record for run in runs for record in run}.values())
        note = (
            "On the validation split. The noise-map scale s_N acts as its product with s_g = "
            f"{NoiseMap.gradient_scale:g}; at 0 every step begins with one along the null prompt."
        )
        columns = ("reconstruction_psnr", "psnr", "success", "kept", "clip")
        written = self._tables("sweep", "The noise-map scale", found, columns, [note])
        return [*written, *self._drawn("sweep", plots.plane, found)]

    def robustness(self, variants: Sequence[str] = VARIANTS) -> list[Path]:
        """Plain DDIM and NMG on variants of the inversion.

        Args:
            variants: endings of the methods' names; "" is plain, aligned DDIM.
        """
        methods = [on_variant(name, variant) for variant in variants for name in ("DDIM", "NMG")]
        found = self._fitted(self._run(methods))
        columns = ("reconstruction_psnr", "psnr", "success", "kept", "clip", "inversion_seconds")
        written = self._tables("robustness", "Robustness to the inversion", found, columns)
        return [*written, *self._drawn("robustness", plots.methods, found)]

    def runtime(self) -> list[Path]:
        """Seconds of an edit without its inversion, their ratio to null-text inversion's, and peak memory."""
        asked = "; ".join(f"{tables.EDITORS.get(name, name)} {gb:g} GB" for name, gb in published.NOTEBOOK_GB.items())
        note = (
            f"Published ({published.CHO}): NMG is about {published.SPEED_UP:g} times faster than null-text inversion; "
            f"its notebooks ask for {asked} of GPU memory. The published time of null-text inversion is about "
            f"{published.NULL_TEXT_SECONDS:g} s a picture on an RTX 3090; it need not be of the same measurement."
        )
        return self._tables("runtime", "Run time", self._run(self.methods), tables.TIME, [note])

    def _run(self, methods: Sequence[str | Method], tasks: Sequence[str] | None = None, **options: Any) -> list[Record]:
        """The records of methods, measured as far as the folder lacks them."""
        given: dict[str, Any] = {
            "scales": self._scales(methods),
            "steps": self.steps,
            "text_scale": self._own.get("text_scale") if self.text_scale is None else self.text_scale,
            "progress": self.progress,
        }
        where = (tasks or self.tasks, self.count, self.folder)
        return runner.run(self.pipe, self.pictures, methods, *where, **{**given, **options})

    @property
    def _own(self) -> dict[str, Any]:
        """The model's own scales."""
        return self.backbone.settings.scales or {"noise_map_scale": self.pictures.noise_map_scale}

    def _scales(self, methods: Sequence[str | Method]) -> runner.Scales | float:
        """The noise-map scales of methods; one that takes over another's has that."""
        scales = runner.chosen_scales(self.folder) if self.scales is None else self.scales
        if isinstance(scales, Mapping):
            return {**scales, **{m.name: scales[m.scale_of] for m in map(find, methods) if m.scale_of in scales}}
        return float(self._own["noise_map_scale"] if scales is None else scales)

    def _clip(self) -> Judge:
        """How well an edit fits its target prompt."""
        score = metrics.ClipScore(device=str(self.backbone.device))
        return lambda record, folder: score(_opened(record, "edit", folder), [record.target]).item()

    def _fitted(self, found: Iterable[Record]) -> list[Record]:
        """Records of pictures without a truth, with their CLIP score instead."""
        found = list(found)
        known = any("psnr" in record.metrics for record in found)
        return found if known else judged(found, Path(self.folder), {"clip": self._clip()})

    def _of_editor(self, editor: type[Editor]) -> Sequence[str]:
        """The tasks of an editor; all if none is of it."""
        names = runner.known_tasks(self.pictures, self.tasks)
        return [name for name in names if isinstance(self.pictures.editor(name), editor)] or names

    def _tables(
        self,
        name: str,
        title: str,
        found: Iterable[Record],
        columns: Sequence[str],
        notes: Sequence[str] = (),
        by_task: bool = False,
    ) -> list[Path]:
        if not self.first:
            return []
        options: dict[str, Any] = {"metrics": columns, "notes": notes, "by_task": by_task}
        return tables.write_tables(self.folder, source=list(found), name=name, title=title, **options)

    def _drawn(self, name: str, draw: Callable[[tables.Group], Any], found: Iterable[Record]) -> list[Path]:
        """A chart per editor."""
        paths = []
        for one in _overall(found) if self.first else ():
            if (drawn := draw(one)) is not None:
                paths.append(Path(self.folder) / f"{name}-{one.editor.lower()}.png")
                figures.save(drawn, paths[-1])
        return paths


def _overall(found: Iterable[Record]) -> list[tables.Group]:
    """Per editor, its records of all tasks."""
    return [one for one in tables.group(tables.gather(found)) if one.task is None]


def on_variant(name: str, variant: str) -> Method:
    """A method on a variant of the inversion, given as the ending of its name.

    Raises:
        ValueError: for a variant that no method has.
    """
    if (full := f"{name}{variant}") in METHODS:
        return METHODS[full]
    others = [method for method in METHODS.values() if variant and method.name.endswith(variant)]
    if not others:
        raise ValueError(f"there is no variant {variant!r} of an inversion; {'; '.join(METHODS)} are the methods")
    way = others[0]
    how = variant.removeprefix(", ")
    return on(METHODS[name], how, way.inversion, convention=way.convention, offset=way.offset)


ARTEFACTS: dict[str, Callable[[Paper], list[Path]]] = {
    "reconstruction": Paper.reconstruction,
    "editing": Paper.editing,
    "sheets": Paper.sheets,
    "sweep": Paper.sweep,
    "robustness": Paper.robustness,
    "runtime": Paper.runtime,
}


# ---------------------------------------------------------------- the command


DESCRIPTION = """\
Make the paper's tables and figures, on held-out scenes of the bundled model or on photographs.

  nmg paper editing --scenes 2 --methods DDIM NMG
  nmg paper all --out outputs/paper
  nmg paper reconstruction --model CompVis/stable-diffusion-v1-4 --images photographs

A folder of photographs holds captions.json: {"cat.png": {"source": "a photo of a cat", "target": "a photo of a dog"}}.
What was measured is kept in the folder: a run that was stopped goes on, and artefacts share their edits, with those
of `nmg bench --out` in the same folder too. Under torchrun the processes share the work.
"""


def add(commands: Any) -> None:
    """Add `nmg paper` to the commands."""
    p = commands.add_parser(
        "paper",
        help="make the paper's tables and figures",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("artefact", choices=[*ARTEFACTS, "all"], metavar="NAME", help=", ".join([*ARTEFACTS, "or all"]))
    p.add_argument("--out", type=Path, default=Path("outputs/paper"), help="folder to write (default: %(default)s)")
    p.add_argument("--images", type=Path, metavar="FOLDER", help=f"photographs, with their prompts in {CAPTIONS}")
    p.add_argument("--tasks", nargs="+", metavar="TASK", help="kinds of edit (default: all)")
    p.add_argument("--methods", nargs="+", metavar="METHOD", default=COMPARED, help=f"(default: {' '.join(COMPARED)})")
    p.add_argument(
        "--scenes", type=int, metavar="N", help="scenes or pictures of each task (default: 4 scenes, all pictures)"
    )
    p.add_argument("--steps", type=int, default=Paper.steps, help="DDIM steps (default: %(default)s)")
    p.add_argument(
        "--noise-map-scale", type=float, metavar="S_N", help="for all (default: chosen in --out, or the model's)"
    )
    p.add_argument("--text-scale", type=float, metavar="S_T", help="of every method (default: the model's)")
    p.add_argument("--model", help="hub id, folder, or menagerie (default: as for nmg edit)")
    p.add_argument("--device", help="cuda, cpu, …")
    p.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the network")


def run_paper(arguments: argparse.Namespace) -> None:
    """Make one artefact, or all, and print the paths."""
    from nmg.pipelines import load

    suite = Pictures.read(arguments.images) if arguments.images else None
    pipe = load(
        arguments.model, own_device(arguments.device), getattr(torch, arguments.dtype) if arguments.dtype else None
    )
    paper = Paper(
        pipe,
        arguments.out,
        suite,
        arguments.methods,
        arguments.tasks,
        (None if suite else Paper.count) if arguments.scenes is None else arguments.scenes,
        arguments.steps,
        arguments.noise_map_scale,
        arguments.text_scale,
    )
    for make in ARTEFACTS.values() if arguments.artefact == "all" else [ARTEFACTS[arguments.artefact]]:
        for path in make(paper):
            print(path)
