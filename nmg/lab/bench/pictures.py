"""Pictures with captions as a suite: photographs of a folder, or the ready examples."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from nmg import images
from nmg.backbones import Backbone
from nmg.editors import Editor, MasaCtrl, PromptToPrompt
from nmg.lab import examples, metrics
from nmg.lab.bench.suites import Case, Scores, Suite
from nmg.lab.presets import Example
from nmg.lab.scoring import finite
from nmg.request import digest

CAPTIONS = "captions.json"
EDITORS: dict[str, Editor] = {"prompt-to-prompt": PromptToPrompt(), "masactrl": MasaCtrl(), "none": Editor()}
"""Editors that a caption can name."""


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
        if not captions or not isinstance(captions, dict):
            raise ValueError(f"{path} names no picture; {form}")
        found: dict[str, dict[str, Example]] = {}
        for name, entry in captions.items():
            if not isinstance(entry, dict) or not {"source", "target"} <= entry.keys():
                raise ValueError(f"{name!r} has no source and target prompt in {path}; {form}")
            editor = entry.get("editor", next(iter(EDITORS)))
            if editor not in EDITORS:
                raise ValueError(f"{name!r} has the editor {editor!r} in {path}; {', '.join(EDITORS)} work")
            picture = images.load(Path(folder) / name)
            found.setdefault(editor, {})[name] = Example(picture, entry["source"], entry["target"], EDITORS[editor])
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
