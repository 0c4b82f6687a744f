"""Records made up for tests of what is said about them."""

import math

from nmg.lab.bench import groups
from nmg.lab.bench.records import Record
from nmg.lab.presets import SCENES
from nmg.lab.scoring import INFINITE


def task_of(editor):
    """The bundled world's first task by an editor's class name."""
    return next(task for task, made in SCENES.items() if type(made).__name__ == editor)


TASK, OTHER, THIRD = map(task_of, ("PromptToPrompt", "MasaCtrl", "Pix2PixZero"))
STEPS = {"steps": 2, "progress": False}


def record(method="DDIM", item=0, task="colour change", suite="menagerie", split="test", **fields):
    """A record that says little; `fields` overrides."""
    own = {
        "key": f"{suite}/{split}/{task}/{item}/{method}/{fields.get('scale')}",
        "editor": "PromptToPrompt",
        "scale": None,
        "steps": 2,
        "source": "a red cat in the forest",
        "target": "a blue cat in the forest",
        "device": "cpu",
        "version": "0",
        "model": "menagerie@0",
    }
    return Record(suite=suite, split=split, task=task, item=item, method=method, **{**own, **fields})


def several(suite="menagerie", metric="psnr", **values):
    """Records of methods, of which each has a value of a metric per item; an infinite one is of equal pictures."""

    def made(method, item, value):
        if math.isinf(value):
            return record(method, item, suite=suite, missing={metric: INFINITE})
        return record(method, item, suite=suite, metrics={metric: float(value)})

    return [made(method, item, v) for method, some in values.items() for item, v in enumerate(some)]


def only(records):
    """The group of all tasks, of records with one editor."""
    return groups.group(records)[0]


def rows(table):
    """A Markdown table's cells by the first of each row."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return {cells[0]: dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]}


class Counting:
    """A callback that counts records, and stops the run when it has seen so many."""

    def __init__(self, most=None):
        self.keys, self.most = [], most

    def __call__(self, record):
        self.keys.append(record.key)
        if len(self.keys) == self.most:
            raise KeyboardInterrupt
