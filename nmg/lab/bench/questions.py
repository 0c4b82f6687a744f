"""What the paper's reviewers asked, answered on the bundled world, where the edit that should come out is known: adding
and removing, geometry, failures, two guidances at once, and the response to each setting. One page with its figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from matplotlib.figure import Figure

from nmg.backbones import Backbone
from nmg.editors import Editor
from nmg.files import replacing
from nmg.lab import figures
from nmg.lab.bench import plots, runner, sheets, tables
from nmg.lab.bench.groups import BOUNDS, EDITORS, Group, group
from nmg.lab.bench.markdown import markdown
from nmg.lab.bench.methods import GRID
from nmg.lab.bench.records import Record
from nmg.lab.bench.suites import Menagerie
from nmg.lab.presets import SCENES
from nmg.menagerie.tasks import Task

FACE, TURNED = SCENES["face attribute"], SCENES["viewpoint alteration"]
ADDED, REMOVED, GEOMETRY = "Adding", "Removing", "Geometry"
ASKED: dict[str, tuple[str, Task, Editor]] = {
    task.name: (question, task, editor)
    for question, task, editor in (
        (ADDED, Task("add glasses", "glasses", {"glasses": False, "kind": "cat"}, (True,)), FACE),
        (ADDED, Task("add a smile", "mouth", {"mouth": "plain", "kind": "cat"}, ("smiling",)), FACE),
        (REMOVED, Task("remove glasses", "glasses", {"glasses": True, "kind": "cat"}, (False,)), FACE),
        (REMOVED, Task("remove a smile", "mouth", {"mouth": "smiling", "kind": "cat"}, ("plain",)), FACE),
        (GEOMETRY, Task("another pose", "pose", {"kind": "cat"}), TURNED),
        (GEOMETRY, Task("another view", "view", {"kind": "cat"}), TURNED),
    )
}
"""Task → the question that it belongs to, what it changes, and the editor."""
WORDS = {
    ADDED: "The target prompt names glasses or a smile that the source lacks. The table sets the ways of keeping the "
    "source row side by side: PSNR inside is over the pixels that the truth changes, outside over all others. In the "
    "figure a column is a scene and a row a method; the number below a picture is its PSNR to the truth. A sun can be "
    "neither added nor removed here: a scene's seed places it, and no caption names it, so that no prompt can ask for "
    "it.",
    REMOVED: "The other way round: the target prompt drops the glasses or the smile that the source has, and the truth "
    "shows the bare face. Table and figure are read as above.",
    GEOMETRY: "The target prompt names another pose or another view, and the whole figure changes. Success tells "
    "whether it reads as asked, PSNR whether it also stands where the truth has it. Another position can't be asked "
    "for: a scene's seed decides where the figure stands, and no caption names it, so that a right pose at another "
    "spot counts as an error in PSNR.",
}
"""What a question compares, and how its table and figure are read."""
READING = (
    "A cell of a table is the mean over the scenes, (their median) and [the 95 % bootstrap interval of the mean over "
    "scenes, which is too narrow where they are few]. In a chart a dot or a line is the mean, its bar or band the "
    "interval; *identity* returns the source, *ceiling* is the autoencoder's picture of the truth. Reconstruction is "
    "the source row against the autoencoder's own picture; one that is exact stands in the grey band at the edge."
)
VARIANTS: dict[str, tuple[Sequence[str], str, str]] = {
    "Alignment": (
        ("NMG", "NMG, authors' levels", "NMG, one map later"),
        "alignment",
        "A noise-map step is compared with the noise map of the level that it arrives at. Beside that stand the "
        "authors' levels, which their Prompt-to-Prompt and pix2pix-zero run on, and the map of the level that a step "
        "starts at, as in their MasaCtrl.",
    ),
    "A bounded step": (
        ("NMG", "NMG, by norm", "NMG, rescaled", "NMG, unbounded"),
        "bound",
        "What limits the noise-map step: the distance that is left to the map, of each element (NMG, the default) or "
        "of the whole row (by norm), Guide-and-Rescale's ratio to the text guidance (rescaled), or nothing, as "
        "published (unbounded). Each has its own default strength.",
    ),
}
"""Settings that are compared as methods: the methods, the figure's name, and what it compares."""
COMPARED = ("DDIM", "NTI", "NMG", "NTI + NMG", "Direct")
TURNS = ("colour change", "contextual change")
"""Tasks on which settings are turned."""
CURVES = ("DDIM", "NMG", "Direct")
NOISE_MAP_SCALES = {"NMG": (1.0, 10.0, 100.0, 1000.0, 10_000.0), "NMG, unbounded": GRID}
TEXT_SCALES = (1.0, 2.0, 3.0, 5.0, 7.5, 10.0)
STEP_COUNTS = (5, 10, 20, 50)
METRICS = ("reconstruction_psnr", "psnr", "success")
COLUMNS = ("psnr", "psnr_inside", "psnr_outside", "success", "kept", "reconstruction_psnr", "seconds", "peak_mib")
FAILURES = 6


@dataclass(frozen=True)
class Questions(Menagerie):
    """The bundled world's scenes, with the tasks of `ASKED`."""

    name: ClassVar[str] = "questions"

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(ASKED)

    @property
    def further(self) -> tuple[str, ...]:
        return ()

    def editor(self, task: str, item: int | str | None = None) -> Editor:
        return ASKED[task][2]

    def task(self, name: str) -> Task:
        return ASKED[name][1]


@dataclass(frozen=True, eq=False)
class Page:
    """The page while it is made: its folder, and the settings of every run.

    Attributes:
        lines: of the Markdown so far.
        paths: what was written.
    """

    backbone: Backbone
    folder: Path
    options: Mapping[str, Any]
    lines: list[str]
    paths: list[Path]

    def run(self, suite: Menagerie, methods: Sequence[str], tasks: Sequence[str] | None, where: str, **own: Any) -> Any:
        """The records of methods on tasks, measured as far as the folder lacks them."""
        options = {**self.options, **own}
        count = options.pop("count")
        return runner.run(self.backbone, suite, methods, tasks, count, self.folder / where, **options)

    def say(self, *lines: str) -> None:
        self.lines.extend(line for text in lines for line in (text, ""))

    def show(self, name: str, figure: Figure | None, words: str) -> None:
        """A figure beside the page."""
        if figure is not None:
            self.paths.append(self.folder / f"{name}.png")
            figures.save(figure, self.paths[-1])
            self.say(f"![{words}]({name}.png)")


def answer(backbone: Backbone, folder: Path, count: int = 4, steps: int = 50, progress: bool = True) -> list[Path]:
    """Measure what the folder lacks, and write questions.md with its figures and tables.

    Args:
        count: scenes of each task.
        steps: of every edit, but where they are what is asked for.
    """
    page = Page(backbone, folder, {"count": count, "steps": steps, "progress": progress}, [], [])
    page.say(
        "# The reviewers' questions",
        f"Held-out scenes of the bundled world, {count} of each task, {steps} steps where nothing else is said. What "
        "an edit should give is known: PSNR is to the true counterfactual, and success means that the changed factor "
        "reads as the target's.",
        READING,
    )
    found = page.run(Questions(), COMPARED, None, "edits")
    for question in (ADDED, REMOVED, GEOMETRY):
        _compare(page, question, [record for record in found if ASKED[record.task][0] == question])
    _failures(page, found)
    _stacked(page, found)
    _responses(page)
    _variants(page)
    page.say("All columns, task by task: [the table](questions-table.md).")
    with replacing(folder / "questions.md") as part:
        part.write_text("\n".join(page.lines).rstrip() + "\n")
    written = tables.write_tables(folder, source=found, name="questions-table", title="The reviewers' edits")
    return [folder / "questions.md", *page.paths, *written]


def _whole(found: Sequence[Record]) -> list[Group]:
    """The groups of records over all tasks."""
    return [one for one in group(found) if one.task is None]


def _compare(page: Page, question: str, found: Sequence[Record]) -> None:
    """A table and the pictures of what one question is about."""
    page.say(f"## {question}", WORDS[question])
    for one in _whole(found):
        page.say(f"By {EDITORS.get(one.editor, one.editor)}:", markdown(one, COLUMNS, compare=False))
        shown = sheets.sheet(one, page.folder / "edits", methods=(*BOUNDS, "DDIM", "NMG", "Direct"))
        page.show(f"{question.lower()}-{one.editor.lower()}", shown, f"{question}: edits of held-out scenes")


def _failures(page: Page, found: Sequence[Record]) -> None:
    """The edits by Noise Map Guidance that are farthest from the truth."""
    own = [record for record in found if record.method == "NMG" and not record.refused]
    worst = sorted(own, key=lambda record: record.metrics.get("psnr_inside", math.inf))[:FAILURES]
    items = {(record.task, record.item) for record in worst}
    missed = sum(record.metrics["success"] == 0 for record in own)
    page.say(
        "## Failures",
        f"The {len(worst)} edits by NMG, of {len(own)}, whose changed pixels are farthest from the truth; on {missed} "
        "of all the changed factor does not read as the target's.",
        "A column is one of them, with the source above and the autoencoder's picture of the truth in the last row. "
        "Direct inversion puts the source row on its noise maps exactly: where it is as wrong, the cause is not how "
        "that row is kept.",
    )
    chosen = [record for record in found if (record.task, record.item) in items]
    for one in _whole(chosen):
        shown = sheets.sheet(one, page.folder / "edits", methods=(*BOUNDS, "NMG", "Direct"))
        page.show(f"failures-{one.editor.lower()}", shown, "The worst edits, with the truth in the last row")


def _stacked(page: Page, found: Sequence[Record]) -> None:
    """Null-text inversion and Noise Map Guidance, alone and together."""
    page.say(
        "## Null-text inversion and Noise Map Guidance together",
        "Both keep the source row: null-text inversion by a null embedding that it optimises in each step, Noise Map "
        "Guidance by a step of the latent. Plain DDIM, each alone, and both at once, on the edits above; the first "
        "panel is the source row, the others are the edits.",
    )
    own = [record for record in found if record.method in ("DDIM", "NTI", "NMG", "NTI + NMG")]
    for one in _whole(own):
        page.show(f"together-{one.editor.lower()}", plots.methods(one, METRICS), "Alone and together")


def _responses(page: Page) -> None:
    """What each setting does, on the validation split."""
    world, where = Menagerie(), {"split": "validation"}
    page.say(
        "## The response to s_N, s_g and s_T",
        "s_N and s_g act as their product alone, so that one curve answers for both. The bounded step can't overshoot, "
        "the paper's can. On the validation split; the first panel is the source row, the others are the edits.",
    )
    turned: dict[str, dict[float, list[Record]]] = {
        method: {value: page.run(world, [method], TURNS, "turned", scales=value, **where) for value in values}
        for method, values in NOISE_MAP_SCALES.items()
    }
    page.show("noise-map-scale", plots.response(_of(turned), "s_N (s_g = 5000)", METRICS), "The noise-map scale")
    page.say(
        "The text scale s_T is the classifier-free guidance of source and target alike, the same for every method:"
    )
    by_text = {
        value: page.run(world, CURVES, TURNS, f"text-scale-{value:g}", text_scale=value, **where)
        for value in TEXT_SCALES
    }
    page.show("text-scale", plots.response(_by_method(by_text), "s_T", METRICS), "The text scale")
    page.say(
        "## The number of steps",
        "The same methods with fewer steps, of the inversion and of the edit alike; panels as above.",
    )
    by_steps: dict[float, list[Record]] = {
        count: page.run(world, CURVES, TURNS, f"steps-{count}", steps=count, **where) for count in STEP_COUNTS
    }
    page.show("steps", plots.response(_by_method(by_steps), "steps", METRICS), "The number of steps")


def _variants(page: Page) -> None:
    """The alignment of the noise maps, and what limits a step."""
    for title, (methods, name, words) in VARIANTS.items():
        page.say(f"## {title}", f"{words} On the validation split; panels as above.")
        found = page.run(Menagerie(), methods, TURNS, "turned", split="validation")
        for one in _whole([record for record in found if record.method in methods]):
            page.show(name, plots.methods(one, METRICS), title)


def _of(curves: Mapping[str, Mapping[float, Sequence[Record]]]) -> dict[str, dict[float, list[Record]]]:
    """Curves with the records of their own method alone."""
    return {
        label: {value: [record for record in rows if record.method == label] for value, rows in points.items()}
        for label, points in curves.items()
    }


def _by_method(found: Mapping[float, Sequence[Record]]) -> dict[str, dict[float, list[Record]]]:
    """Records by a setting's value, as curves of each method."""
    return _of({label: found for label in CURVES})
