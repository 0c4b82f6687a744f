"""The paper's tables and figures, each made by one call: `Paper(pipe, folder).editing()`, or `nmg paper editing`.

They are measured by the benchmark's runner on held-out scenes of the bundled world, whose edits have an exact truth,
or on photographs with captions, which have none. A call that was killed goes on where it stopped, and artefacts of the
same folder share what they have in common.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nmg import images
from nmg.backbones import Backbone
from nmg.editors import Editor, PromptToPrompt
from nmg.guidance import NoiseMap
from nmg.lab import figures, metrics
from nmg.lab.bench import plots, published, questions, runner, sheets, tables
from nmg.lab.bench.columns import TIME
from nmg.lab.bench.groups import BOUNDS, Group, gather, group
from nmg.lab.bench.judges import Judge, clip_judge, judged, opened, tifa_judge
from nmg.lab.bench.methods import Method, on_variant
from nmg.lab.bench.pictures import Pictures, examples_of
from nmg.lab.bench.processes import joined
from nmg.lab.bench.records import Record
from nmg.lab.bench.scales import Scales, chosen_scales
from nmg.lab.bench.suites import Menagerie, Suite, known_tasks
from nmg.lab.profile import profile_of

COMPARED = ("DDIM", "NTI", "NPI", "ProxNPI", "NMG")
"""The methods of the paper's comparisons."""
SWEPT = (0.0, 10.0, 100.0, 1000.0, 10_000.0)
"""Noise-map scales of the sweep; 0 steps along the null prompt before every guided step."""
VARIANTS = ("", ", authors' levels", ", regularised", ", fixed point", ", edit-friendly")
"""The inversions that robustness is measured on; NMG refuses edit-friendly noise, which the table says."""


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
        scales: noise-map scales, as `tuning.tune` returns them or one for all; if not given, those that it chose in the
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
    scales: Scales | float | None = None
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
        return Menagerie.of(Path(self.backbone.name))

    @cached_property
    def ready(self) -> Pictures:
        """The ready examples of all three editors, for the loaded model."""
        return examples_of(self.pipe)

    @cached_property
    def first(self) -> bool:
        """Whether this process writes: of those that torchrun started, which share the edits, one does."""
        return joined(self.backbone.device.type == "cpu").first

    def reconstruction(self) -> list[Path]:
        """How close each method's source row comes back to the autoencoder's picture: MSE, SSIM and LPIPS."""
        chosen = self._of_editor(PromptToPrompt)
        judges = {"reconstruction_lpips": self._lpips()}
        found = judged(self._run(self.methods, chosen), Path(self.folder), judges)
        note = f"The source row's picture against the autoencoder's own picture of the source. {published.rebuilt()}"
        columns = ("reconstruction_mse", "reconstruction_ssim", "reconstruction_psnr", "reconstruction_lpips")
        return self._tables("reconstruction", "Reconstruction", found, columns, [note])

    def editing(self) -> list[Path]:
        """How well each method's edits fit: the truth where there is one, and the target prompt by CLIP and TIFA."""
        judges = {"clip": self._clip(), "tifa": tifa_judge(getattr(self.pictures, "questions", {}))}
        found = judged(self._run(self.methods), Path(self.folder), judges)
        return self._tables("editing", "Editing", found, ("success", "psnr", "kept", "clip", "tifa"), by_task=True)

    def sheets(self) -> list[Path]:
        """The ready examples of each editor by each method, as pictures: a sheet per editor."""
        folder, ready = Path(self.folder) / "examples", self.ready
        shown = dataclasses.replace(self, suite=ready, folder=folder, tasks=None, count=None, scales=self._scales())
        truths = {
            (task, name): self.backbone.prepare(example.truth)
            for task, named in ready.examples.items()
            for name, example in named.items()
            if example.truth is not None
        }
        found = shown._run(self.methods)
        return self._drawn("sheet", lambda group: sheets.sheet(group, folder, truths=truths), found)

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
        return self._tables("runtime", "Run time", self._run(self.methods), TIME, [published.costs()])

    def questions(self) -> list[Path]:
        """What the paper's reviewers asked, answered on scenes whose edits have an exact truth: a page."""
        return questions.answer(
            self.backbone, Path(self.folder) / "questions", self.count or 4, self.steps, progress=self.progress
        )

    def _run(self, methods: Sequence[str | Method], tasks: Sequence[str] | None = None, **options: Any) -> list[Record]:
        """The records of methods, measured as far as the folder lacks them."""
        given: dict[str, Any] = {
            "scales": self._scales(),
            "steps": self.steps,
            "text_scale": self._own.get("text_scale") if self.text_scale is None else self.text_scale,
            "progress": self.progress,
        }
        where = (tasks or self.tasks, self.count, self.folder)
        return runner.run(self.pipe, self.pictures, methods, *where, **{**given, **options})

    @property
    def _own(self) -> dict[str, Any]:
        """The model's own scales."""
        return self.backbone.settings.scales

    def _scales(self) -> Scales | float | None:
        """The noise-map scales that were given or chosen, or the model's own; None leaves the guidances' defaults."""
        scales = chosen_scales(self.folder) if self.scales is None else self.scales
        return self._own.get("noise_map_scale") if scales is None else scales

    def _clip(self) -> Judge:
        """How well an edit fits its target prompt."""
        return clip_judge(str(self.backbone.device))

    def _lpips(self) -> Judge:
        """How far a reconstruction is from the autoencoder's own picture of the source."""
        distance = metrics.Lpips(device=str(self.backbone.device))

        def judge(record: Record, folder: Path) -> float | None:
            if record.method in BOUNDS:
                return None
            picture = images.to_tensor(self.pictures.case(record.task, record.item, self.backbone).picture)
            own = self.backbone.decode(self.backbone.encode(picture)).cpu()
            return distance(opened(record, "reconstruction", folder), own).item()

        return judge

    def _fitted(self, found: Iterable[Record]) -> list[Record]:
        """Records of pictures without a truth, with their CLIP score instead."""
        found = list(found)
        known = any("psnr" in record.metrics for record in found)
        return found if known else judged(found, Path(self.folder), {"clip": self._clip()})

    def _of_editor(self, editor: type[Editor]) -> Sequence[str]:
        """The tasks of an editor; all if none is of it."""
        names = known_tasks(self.pictures, self.tasks)
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

    def _drawn(self, name: str, draw: Callable[[Group], Any], found: Iterable[Record]) -> list[Path]:
        """A chart per editor."""
        paths = []
        groups = group(gather(found)) if self.first else []
        for one in [one for one in groups if one.task is None]:
            if (drawn := draw(one)) is not None:
                paths.append(Path(self.folder) / f"{name}-{one.editor.lower()}.png")
                figures.save(drawn, paths[-1])
        return paths


ARTEFACTS: dict[str, Callable[[Paper], list[Path]]] = {
    "reconstruction": Paper.reconstruction,
    "editing": Paper.editing,
    "sheets": Paper.sheets,
    "sweep": Paper.sweep,
    "robustness": Paper.robustness,
    "runtime": Paper.runtime,
    "questions": Paper.questions,
}
