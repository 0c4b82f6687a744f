"""The benchmark: every task's items by every method, each measured once and kept, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

import nmg
from nmg import images
from nmg.backbones import Backbone
from nmg.editors import Editor
from nmg.guidance import Guidance, NoiseMap
from nmg.inversion import Trajectory
from nmg.lab import metrics
from nmg.lab.bench import meter, records, tuning
from nmg.lab.bench.methods import Method, find
from nmg.lab.bench.processes import Processes, joined
from nmg.lab.bench.records import Item, Record, Writer
from nmg.lab.bench.suites import Case, Scores, Suite, named
from nmg.lab.scoring import finite
from nmg.menagerie import model as menagerie
from nmg.request import Request
from nmg.serialize import packed

SCALES = "scales.json"
"""The noise-map scales that the validation split chose."""
Scales = Mapping[str, Mapping[str, float]]
"""Noise-map scales by method and editor."""
REFUSAL, FAILURE = ValueError, FloatingPointError
"""How the package refuses a combination, and how it stops at values that are not finite;
both come again in every run."""


@dataclass(frozen=True)
class Variant:
    """A method at one noise-map scale."""

    method: Method
    scale: float | None = None


Wanted = Mapping[Item, Variant | None]
"""Items of one case, and what makes them; None for a reference."""
Tasks = Mapping[str, Sequence[Variant]]
"""What is measured of each task."""


def run(
    pipe: Any,
    suite: Suite,
    methods: Sequence[str | Method],
    tasks: Sequence[str] | None,
    count: int | None,
    folder: str | os.PathLike,
    split: str = "test",
    scales: Scales | float | None = None,
    steps: int = 50,
    text_scale: float | None = None,
    pictures: bool = True,
    callback: Callable[[Record], object] | None = None,
    progress: bool = True,
) -> list[Record]:
    """Measure methods on a suite's tasks, beside the suite's references ("identity", and Menagerie's "ceiling").

    What the folder already holds is not measured again. Under torchrun the processes share the work,
    and each returns all.

    Args:
        pipe: a loaded Stable Diffusion pipeline, or a `Backbone`.
        methods: names in `METHODS`, or methods of your own.
        tasks: names in `suite.tasks`; all if None.
        count: items of each task; all if None and the suite has an end.
        folder: of records and pictures.
        split: "test" is for reporting, "validation" for choosing.
        scales: noise-map scales as `tune` returns them, or one for all; the suite's own if None.
        steps: of the inversion and of the edit.
        text_scale: the same for every method; the suite's own if None.
        pictures: whether to save the edits.
        callback: called with every record once it is written.

    Returns:
        The records of what was asked for, by task, item and method.

    Raises:
        ValueError: for a name that is not known, or a folder with records of another configuration.
    """
    bench = Bench.opened(pipe, suite, folder, split, steps, text_scale, pictures)
    variants = {
        task: [
            Variant(method, _scale(method, named(suite.editor(task)), scales, suite)) for method in map(find, methods)
        ]
        for task in known_tasks(suite, tasks)
    }
    return bench.measure(variants, count, references=True, callback=callback, progress=progress)


def tune(
    pipe: Any,
    suite: Suite,
    methods: Sequence[str | Method],
    tasks: Sequence[str] | None,
    count: int,
    folder: str | os.PathLike,
    steps: int = 50,
    text_scale: float | None = None,
    callback: Callable[[Record], object] | None = None,
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Choose each method's noise-map scale on the validation split, by editor: see `nmg.lab.bench.tuning`.

    A method that takes over another's scale (`Method.scale_of`) has that tuned.
    The choice is written to scales.json, with the means that it rests on.

    Args:
        count: validation items of each task; see `run` for the others.

    Returns:
        The chosen scales by method and editor.

    Raises:
        ValueError: for a suite that has no validation split, and as `run` does.
    """
    if "validation" not in suite.splits:
        raise ValueError(
            f"{suite.name} has no validation split, so no scale can be chosen; give --scales default, or a number"
        )
    chosen = [find(method) for method in methods]
    tuned = _with_grids(chosen)
    bench = Bench.opened(pipe, suite, folder, "validation", steps, text_scale, pictures=False)
    variants = [Variant(method, scale) for method in tuned for scale in method.grid]
    names = known_tasks(suite, tasks)
    found = bench.measure(dict.fromkeys(names, variants), count, callback=callback, progress=progress) if tuned else []
    tried = {method.name: tuning.by_editor(found, method) for method in tuned}
    for method in chosen:
        if method.scale_of in tried:
            tried[method.name] = tried[method.scale_of]
    # What was chosen before, for other methods or editors, stays.
    report = _chosen_before(bench.folder)
    for name, editors in tried.items():
        for editor, rows in editors.items():
            report["scales"].setdefault(name, {})[editor] = tuning.best(rows)
            report["means"].setdefault(name, {})[editor] = tuning.means(rows)
    bench.processes.wait()
    if bench.processes.first and tried:
        described = {"split": "validation", "items_per_task": count, "criterion": tuning.CRITERION}
        records.replace(bench.folder / SCALES, json.dumps({**described, **report}, indent=2))
    bench.processes.wait()
    return report["scales"]


def _with_grids(chosen: Sequence[Method]) -> list[Method]:
    """The methods that have a grid of scales, and those whose scale another takes over."""
    own = {method.name: method for method in chosen}
    scaled = (own.get(m.scale_of) or find(m.scale_of) if m.scale_of else m for m in chosen)
    return list({method.name: method for method in scaled if method.grid}.values())


def _chosen_before(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    report = json.loads((folder / SCALES).read_text()) if (folder / SCALES).is_file() else {}
    return {name: report.get(name, {}) for name in ("scales", "means")}


def chosen_scales(folder: str | os.PathLike) -> dict[str, dict[str, float]] | None:
    """The scales that `tune` chose in a folder, by method and editor; None if it chose none."""
    path = Path(folder) / SCALES
    return json.loads(path.read_text())["scales"] if path.is_file() else None


def _scale(method: Method, editor: str, scales: Scales | float | None, suite: Suite) -> float | None:
    """The noise-map scale at which a method runs; None for a method without one."""
    if not method.scaled:
        return None
    if isinstance(scales, Mapping):
        if editor not in scales.get(method.name, {}):
            raise ValueError(
                f"no noise-map scale was chosen for {method.name} with {editor}; choose it with `tune`, or give one "
                "number for all"
            )
        return scales[method.name][editor]
    return float(suite.noise_map_scale if scales is None else scales)


def known_tasks(suite: Suite, tasks: Sequence[str] | None) -> tuple[str, ...]:
    """The tasks that are asked for, in the suite's order.

    Raises:
        ValueError: for a task that the suite doesn't have.
    """
    for task in tasks or ():
        if task not in suite.tasks:
            raise ValueError(f"{suite.name} has no task {task!r}; its tasks are {', '.join(suite.tasks)}")
    return tuple(task for task in suite.tasks if tasks is None or task in tasks)


# ---------------------------------------------------------------- one run


@dataclass(frozen=True, eq=False)
class Bench:
    """What all items of a run have in common.

    Attributes:
        model: name of the model, and a digest of its UNet.
    """

    backbone: Backbone
    suite: Suite
    folder: Path
    split: str
    steps: int
    text_scale: float
    pictures: bool
    model: str
    processes: Processes

    @classmethod
    def opened(
        cls,
        pipe: Any,
        suite: Suite,
        folder: str | os.PathLike,
        split: str,
        steps: int,
        text_scale: float | None,
        pictures: bool,
    ) -> Bench:
        """A run in a folder, whose records, if it has any, were measured as this run would.

        Raises:
            ValueError: if they were not, or for an unknown split.
        """
        if split not in suite.splits:
            raise ValueError(f"split={split!r} is unknown; {suite.name} has {', '.join(suite.splits)}")
        backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
        scale = suite.text_scale if text_scale is None else float(text_scale)
        processes = joined(backbone.device.type == "cpu")
        bench = cls(backbone, suite, Path(folder), split, steps, scale, pictures, model_name(backbone), processes)
        configuration = {
            **suite.described(),
            "model": bench.model,
            "dtype": str(backbone.unet.dtype).removeprefix("torch."),
            "device": meter.described(backbone.device),
            "steps": steps,
            "text_scale": scale,
            "version": nmg.__version__,
        }
        records.configure(bench.folder, configuration, processes.first)
        return bench

    def measure(
        self,
        plan: Tasks,
        count: int | None,
        references: bool = False,
        callback: Callable[[Record], object] | None = None,
        progress: bool = True,
    ) -> list[Record]:
        """Measure what the folder lacks, this process's share of it, and return all that the plan holds."""
        wanted = {
            (task, item): self.items(task, item, variants, references)
            for task, variants in plan.items()
            for item in self.suite.items(task, self.split, count)
        }
        known = {record.key: record for record in records.read(self.folder)}
        self.compare(known, wanted)
        lacking = [group for group, items in wanted.items() if any(item.key not in known for item in items)]
        # Every process has read the same records before any writes: they share the same list.
        self.processes.wait()
        writer, share = Writer(self.folder, self.processes.rank), self.processes.share(lacking)
        if share and self.backbone.device.type == "cuda":
            self.warm_up(*share[0])
        for task, item in tqdm(share, self.split, disable=not (progress and self.processes.first), unit="item"):
            for record in self.group(task, item, wanted[task, item], known):
                writer.write(record)
                if callback is not None:
                    callback(record)
        self.processes.wait()
        found = {record.key: record for record in records.read(self.folder)}
        return [found[item.key] for items in wanted.values() for item in items]

    def warm_up(self, task: str, number: int | str) -> None:
        """A step up and down, gradient included, so that no item's seconds hold what a device does once."""
        case = self.suite.case(task, number, self.backbone)
        options: dict[str, Any] = {"steps": 1, "size": case.picture.size, "progress": False}
        nmg.edit(self.backbone, case.picture, case.source, guidance=NoiseMap(), editor=Editor(), **options)

    def items(self, task: str, item: int | str, variants: Sequence[Variant], references: bool) -> Wanted:
        """Every item of one case, with the variant that makes it; None for a reference."""
        where = (self.suite.name, self.split, task, item)
        bounds = {Item(*where, name): None for name in self.suite.references} if references else {}
        return {**bounds, **{Item(*where, v.method.name, v.scale): v for v in variants}}

    def compare(self, known: Mapping[str, Record], wanted: Mapping[tuple[str, int | str], Wanted]) -> None:
        """See that what is known of the plan was measured as the plan would.

        Raises:
            ValueError: if it was not.
        """
        every = {item: variant for items in wanted.values() for item, variant in items.items()}
        settings = {
            item.key: self.settings(item, variant) if variant else {}
            for item, variant in every.items()
            if item.key in known
        }
        records.agree([known[key] for key in settings], settings, self.folder)

    def settings(self, item: Item, variant: Variant) -> dict[str, Any]:
        """All settings of an edit, as a record holds them."""
        method = variant.method
        return {
            "guidance": packed(self.guidance(variant)),
            "inversion": packed(method.inversion_at(self.text_scale)),
            "editor": packed(self.suite.editor(item.task, item.item)),
            "convention": method.convention,
            "offset": method.offset,
        }

    def request(self, case: Case, variant: Variant) -> Request:
        """The edit of a case."""
        method = variant.method
        return Request(
            case.picture,
            case.source,
            (case.target,),
            guidance=self.guidance(variant),
            editor=case.editor,
            inversion=method.inversion_at(self.text_scale),
            steps=self.steps,
            size=case.picture.size,
            convention=method.convention,
            offset=method.offset,
        )

    def guidance(self, variant: Variant) -> Guidance:
        return variant.method.guidance(self.text_scale, variant.scale)

    def group(self, task: str, number: int | str, items: Wanted, known: Mapping[str, Record]) -> Iterator[Record]:
        """Measure the items of one case that are not known; one inversion serves all methods that share it."""
        case = self.suite.case(task, number, self.backbone)
        work = _Work(self, case)
        for item, variant in items.items():
            if item.key not in known:
                yield work.reference(item) if variant is None else work.edit(item, variant)


@dataclass(frozen=True, eq=False)
class _Work:
    """One case while its items are measured.

    Attributes:
        inverted: the trajectories so far and their seconds, by what they were made with.
    """

    bench: Bench
    case: Case
    inverted: dict[Any, tuple[Trajectory, float]] = field(default_factory=dict)

    def reference(self, item: Item) -> Record:
        """The record of a picture that no method makes."""
        picture = self.bench.suite.reference(item.method, self.case, self.bench.backbone)
        values, missing = self.score(picture)
        return self.record(item, metrics=values, missing=missing, pictures=self.saved(item, edit=picture))

    def edit(self, item: Item, variant: Variant) -> Record:
        """The record of one edit, or of its refusal or failure."""
        bench, settings = self.bench, self.bench.settings(item, variant)
        try:
            request = bench.request(self.case, variant)
            # Before the inversion, which a refusal would waste.
            request.resolved(bench.backbone).opened().check(bench.backbone)
            trajectory, seconds = self.trajectory(variant.method)
            options: dict[str, Any] = {"guidance": request.guidance, "editor": request.editor, "progress": False}
            with meter.metered(bench.backbone.device) as cost:
                result = nmg.edit(bench.backbone, trajectory, targets=[self.case.target], **options)
        except (REFUSAL, FAILURE) as error:
            return self.record(item, settings=settings, refused=str(error), failed=isinstance(error, FAILURE))
        (picture,) = result.pictures
        values, missing = self.score(picture)
        rebuilt, infinite = self.reconstruction(result.reconstruction, trajectory)
        return self.record(
            item,
            settings=settings,
            metrics={**values, **rebuilt},
            missing={**missing, **infinite},
            seconds=cost.seconds,
            inversion_seconds=seconds,
            peak_mib=cost.peak_mib,
            pictures=self.saved(item, edit=picture, reconstruction=result.reconstruction),
        )

    def trajectory(self, method: Method) -> tuple[Trajectory, float]:
        """The case's noise maps as a method makes them, and how long they took."""
        key = (method.inversion_at(self.bench.text_scale), method.convention, method.offset)
        if key not in self.inverted:
            options: dict[str, Any] = dict(zip(("inversion", "convention", "offset"), key, strict=True))
            with meter.metered(self.bench.backbone.device) as cost:
                made = nmg.invert(
                    self.bench.backbone,
                    self.case.picture,
                    self.case.source,
                    steps=self.bench.steps,
                    size=self.case.picture.size,
                    progress=False,
                    **options,
                )
            self.inverted[key] = made, cost.seconds
        return self.inverted[key]

    def score(self, picture: Image.Image) -> Scores:
        return self.bench.suite.score(self.case, images.to_tensor(picture), self.bench.backbone)

    def reconstruction(self, picture: Image.Image, trajectory: Trajectory) -> Scores:
        """The source row's picture against the autoencoder's own, which is the best that it can be."""
        (ceiling,) = images.to_pil(self.bench.backbone.decode(trajectory.maps[:1]))
        a, b = images.to_tensor(picture), images.to_tensor(ceiling)
        measures = {"psnr": metrics.psnr, "mse": metrics.mse, "ssim": metrics.ssim}
        return finite({f"reconstruction_{name}": measure(a, b).item() for name, measure in measures.items()}, {})

    def saved(self, item: Item, **pictures: Image.Image) -> dict[str, str]:
        """Write pictures, and their paths relative to the folder."""
        if not self.bench.pictures:
            return {}
        paths = {}
        for name, picture in pictures.items():
            path = Path("pictures", *(_slug(part) for part in item.key.split("/")))
            path = path.with_name(f"{path.name}-{name}.png")
            (self.bench.folder / path).parent.mkdir(parents=True, exist_ok=True)
            picture.save(self.bench.folder / path)
            paths[name] = path.as_posix()
        return paths

    def record(self, item: Item, **measured: Any) -> Record:
        return Record(
            key=item.key,
            **vars(item),
            editor=named(self.case.editor),
            steps=self.bench.steps,
            source=self.case.source,
            target=self.case.target,
            device=meter.described(self.bench.backbone.device),
            version=nmg.__version__,
            model=self.bench.model,
            **measured,
        )


def _slug(text: str) -> str:
    """Text as part of a path: "NTI + NMG" is nti-nmg."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "default"


def model_name(backbone: Backbone) -> str:
    """The model's name, or its folder's, and twelve digits of the SHA-256 of its UNet's weights."""
    name = Path(backbone.name)
    short = menagerie.NAME if name == menagerie.FOLDER else name.name if name.is_dir() else backbone.name
    digest = hashlib.sha256()
    for key, tensor in sorted(backbone.unet.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{short}@{digest.hexdigest()[:12]}"
