"""The benchmark: every task's items by every method, each measured once and kept, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

import nmg
from nmg.backbones import Backbone
from nmg.editors import Editor
from nmg.guidance import NoiseMap
from nmg.lab.bench import records
from nmg.lab.bench.methods import Method, find
from nmg.lab.bench.processes import Processes, joined
from nmg.lab.bench.records import Item, Record, Writer
from nmg.lab.bench.scales import Scales, scale_for
from nmg.lab.bench.suites import Suite, known_tasks, named
from nmg.lab.bench.work import Setting, Variant, Work
from nmg.menagerie import model as menagerie

Tasks = Mapping[str, Sequence[Variant]]
"""What is measured of each task."""
Wanted = Mapping[Item, Variant | None]
"""Items of one case, and what makes them; None for a reference."""


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
        scales: noise-map scales as `tune` returns them, or one for all; the guidance's default if None.
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
    plan = {
        task: [Variant(m, scale_for(m, named(suite.editor(task)), scales)) for m in map(find, methods)]
        for task in known_tasks(suite, tasks)
    }
    return bench.measure(plan, count, references=True, callback=callback, progress=progress)


@dataclass(frozen=True, eq=False)
class Bench:
    """What all items of a run have in common, and its place among the processes that share the work."""

    setting: Setting
    split: str
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
        setting = Setting(backbone, suite, Path(folder), steps, scale, pictures, model_name(backbone))
        processes = joined(backbone.device.type == "cpu")
        records.configure(setting.folder, setting.described, processes.first)
        return cls(setting, split, processes)

    @property
    def folder(self) -> Path:
        return self.setting.folder

    def measure(
        self,
        plan: Tasks,
        count: int | None,
        references: bool = False,
        callback: Callable[[Record], object] | None = None,
        progress: bool = True,
    ) -> list[Record]:
        """Measure what the folder lacks, this process's share of it, and return all that the plan holds.

        Raises:
            ValueError: if another run is writing to the folder, with which.
        """
        with records.held(self.folder, self.processes.first):
            return self._measured(plan, count, references, callback, progress)

    def _measured(
        self,
        plan: Tasks,
        count: int | None,
        references: bool,
        callback: Callable[[Record], object] | None,
        progress: bool,
    ) -> list[Record]:
        """See `measure`."""
        wanted = {
            (task, item): self.items(task, item, variants, references)
            for task, variants in plan.items()
            for item in self.setting.suite.items(task, self.split, count)
        }
        known = {record.key: record for record in records.read(self.folder)}
        self.compare(known, wanted)
        lacking = [group for group, items in wanted.items() if any(item.key not in known for item in items)]
        # Every process has read the same records before any writes: they share the same list.
        self.processes.wait()
        writer, share = Writer(self.folder, self.processes.rank), self.processes.share(lacking)
        if share and self.setting.backbone.device.type == "cuda":
            self.warm_up(*share[0])
        for task, number in tqdm(share, self.split, disable=not (progress and self.processes.first), unit="item"):
            for record in self.group(task, number, wanted[task, number], known):
                writer.write(record)
                if callback is not None:
                    callback(record)
        self.processes.wait()
        found = {record.key: record for record in records.read(self.folder)}
        return [found[item.key] for items in wanted.values() for item in items]

    def items(self, task: str, item: int | str, variants: Sequence[Variant], references: bool) -> Wanted:
        """Every item of one case, with the variant that makes it; None for a reference."""
        where = (self.setting.suite.name, self.split, task, item)
        bounds = {Item(*where, name): None for name in self.setting.suite.references} if references else {}
        return {**bounds, **{Item(*where, v.method.name, v.scale): v for v in variants}}

    def compare(self, known: Mapping[str, Record], wanted: Mapping[tuple[str, int | str], Wanted]) -> None:
        """See that what is known of the plan was measured as the plan would.

        Raises:
            ValueError: if it was not.
        """
        every = {item: variant for items in wanted.values() for item, variant in items.items() if item.key in known}
        settings = {
            item.key: self.setting.of(variant, self.setting.suite.editor(item.task, item.item)) if variant else {}
            for item, variant in every.items()
        }
        records.agree([known[key] for key in settings], settings, self.folder)

    def group(self, task: str, number: int | str, items: Wanted, known: Mapping[str, Record]) -> Iterator[Record]:
        """Measure the items of one case that are not known; one inversion serves all methods that share it."""
        work = Work(self.setting, self.setting.suite.case(task, number, self.setting.backbone))
        for item, variant in items.items():
            if item.key not in known:
                yield work.reference(item) if variant is None else work.edit(item, variant)

    def warm_up(self, task: str, number: int | str) -> None:
        """A step up and down, gradient included, so that no item's seconds hold what a device does once."""
        case = self.setting.suite.case(task, number, self.setting.backbone)
        options: dict[str, Any] = {"steps": 1, "size": case.picture.size, "progress": False}
        nmg.edit(self.setting.backbone, case.picture, case.source, guidance=NoiseMap(), editor=Editor(), **options)


def model_name(backbone: Backbone) -> str:
    """The model's name, or its folder's, and twelve digits of the SHA-256 of its UNet's weights."""
    name = Path(backbone.name)
    short = menagerie.NAME if name == menagerie.FOLDER else name.name if name.is_dir() else backbone.name
    digest = hashlib.sha256()
    for key, tensor in sorted(backbone.network.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{short}@{digest.hexdigest()[:12]}"
