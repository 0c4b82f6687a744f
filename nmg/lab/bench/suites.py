"""What a benchmark runs on: edits to make, and how each is scored. Menagerie's has the exact truth of every edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from nmg import images
from nmg.backbones import Backbone
from nmg.editors import Editor
from nmg.lab import scoring
from nmg.lab.presets import BY, FILE, FURTHER, SCENES, chosen
from nmg.lab.profile import MENAGERIE
from nmg.menagerie.model import CLASSIFIER, FOLDER, load_classifier
from nmg.menagerie.tasks import TASKS, TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS, Task

Scores = tuple[dict[str, float], dict[str, str]]
"""Metrics by name, and by the names of others why they have no value."""
SEEDS = {"validation": range(VALIDATION_SEEDS, TEST_SEEDS), "test": range(TEST_SEEDS, TRAIN_SEEDS)}
"""Menagerie's scenes by split; the model was trained on none of them."""


@dataclass(frozen=True, eq=False)
class Case:
    """One edit to make.

    Attributes:
        task, item: where it belongs.
        picture: the source, at the model's size.
        source, target: the prompts.
        editor: what makes it, as `Suite.editor` says for the item.
        truth: what its suite scores it by.
    """

    task: str
    item: int | str
    picture: Image.Image
    source: str
    target: str
    editor: Editor
    truth: Any = None


class Suite:
    """Edits to make, by task and item; a subclass says which.

    Attributes:
        name: in keys and records.
        text_scale: classifier-free guidance of every method, unless a run is given another.
        splits: names of the splits.
        references: pictures that no method makes, scored beside the methods'; "identity" returns the source.
    """

    name: ClassVar[str]
    text_scale: ClassVar[float]
    splits: ClassVar[tuple[str, ...]] = ("test",)
    references: ClassVar[tuple[str, ...]] = ("identity",)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the tables."""
        raise NotImplementedError

    @property
    def further(self) -> tuple[str, ...]:
        """Names of tasks that are measured where they are named: by other editors, "TASK by EDITOR"."""
        return ()

    def editor(self, task: str, item: int | str | None = None) -> Editor:
        """The editor of a task's item; without an item, one of the same class."""
        raise NotImplementedError

    def items(self, task: str, split: str, count: int | None) -> Sequence[int | str]:
        """The first `count` items of a task; all if None."""
        raise NotImplementedError

    def case(self, task: str, item: int | str, backbone: Backbone) -> Case:
        """One edit to make."""
        raise NotImplementedError

    def reference(self, name: str, case: Case, backbone: Backbone) -> Image.Image:
        """One of `references`."""
        return case.picture

    def score(self, case: Case, edited: Tensor, backbone: Backbone) -> Scores:
        """Metrics of an edited picture [1, 3, height, width] in 0…1."""
        raise NotImplementedError

    def described(self) -> dict[str, Any]:
        """What tells this suite's items from those of another of the same name."""
        return {"suite": self.name}


@dataclass(frozen=True)
class Menagerie(Suite):
    """The bundled world: held-out scenes, each edit with its exact counterfactual.

    Args:
        classifier: folder of the factor classifier that reads the edits.
        presets: the editor of each task, and of each further one.
    """

    classifier: Path = FOLDER
    presets: Mapping[str, Editor] = field(default_factory=lambda: SCENES, hash=False)

    name: ClassVar[str] = "menagerie"
    text_scale: ClassVar[float] = MENAGERIE.scales["text_scale"]
    splits: ClassVar[tuple[str, ...]] = tuple(SEEDS)
    references: ClassVar[tuple[str, ...]] = ("identity", "ceiling")

    @classmethod
    def of(cls, folder: Path) -> Menagerie:
        """The scenes for the model of a folder: with a classifier and presets of its own, where the folder has them."""
        own: dict[str, Any] = {}
        if (folder / CLASSIFIER).is_file():
            own["classifier"] = folder
        if (folder / FILE).is_file():
            own["presets"] = chosen(folder)
        return cls(**own)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(TASKS)

    @property
    def further(self) -> tuple[str, ...]:
        return tuple(f"{task}{BY}{editor}" for editor in FURTHER for task in TASKS)

    def editor(self, task: str, item: int | str | None = None) -> Editor:
        return self.presets[task]

    def task(self, name: str) -> Task:
        """What a task changes, and on which scenes."""
        return TASKS[kind_of(name)]

    def items(self, task: str, split: str, count: int | None) -> Sequence[int]:
        """Seeds of scenes.

        Raises:
            ValueError: for no count, or one that runs into the next split's seeds.
        """
        seeds = SEEDS[split]
        if count is None or not 0 < count <= len(seeds):
            raise ValueError(f"count={count} of scenes can't be drawn; give a number from 1 to {len(seeds)}, such as 8")
        return seeds[:count]

    def case(self, task: str, item: int | str, backbone: Backbone) -> Case:
        kind = self.task(task)
        ((scene, target),) = kind.scenes(int(item), 1)
        source_prompt, target_prompt = kind.prompts(scene, target)
        picture = scene.render(backbone.native_size[0])
        return Case(task, item, picture, source_prompt, target_prompt, self.editor(task, item), (scene, target))

    def reference(self, name: str, case: Case, backbone: Backbone) -> Image.Image:
        """The source, or the "ceiling": the autoencoder's picture of the truth."""
        if name == "identity":
            return case.picture
        truth = scoring.pixels([case.truth[1]], case.picture.width)
        return images.to_pil(backbone.decode(backbone.encode(truth)))[0]

    def score(self, case: Case, edited: Tensor, backbone: Backbone) -> Scores:
        scene, target = case.truth
        return scoring.score(edited, scene, target, self.task(case.task).factor, load_classifier(self.classifier))


def kind_of(task: str) -> str:
    """The kind of edit of a task: "colour change" of "colour change by FlowEdit"."""
    return task.partition(BY)[0]


def named(editor: Editor) -> str:
    """An editor's name in records."""
    return type(editor).__name__


def known_tasks(suite: Suite, tasks: Sequence[str] | None) -> tuple[str, ...]:
    """The tasks that are asked for, in the suite's order; all but the further ones if None.

    Raises:
        ValueError: for a task that the suite doesn't have.
    """
    every = (*suite.tasks, *suite.further)
    for task in tasks or ():
        if task not in every:
            raise ValueError(f"{suite.name} has no task {task!r}; its tasks are {', '.join(every)}")
    return suite.tasks if tasks is None else tuple(task for task in every if task in tasks)
