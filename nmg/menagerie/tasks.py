"""The editing tasks of Menagerie: which factor changes, and on which scenes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nmg.menagerie.captions import prompt_pair
from nmg.menagerie.scene import FACTORS, Scene

VALIDATION_SEEDS = 0
"""Seeds from here to `TEST_SEEDS` choose settings; the model has seen none of them."""
TEST_SEEDS = 10_000
"""Seeds from here to `TRAIN_SEEDS` are for reported figures."""
TRAIN_SEEDS = 1_000_000
"""Seeds from here on are for training."""


@dataclass(frozen=True)
class Task:
    """A kind of edit.

    Attributes:
        name: as the paper calls it.
        factor: what changes.
        held: factors that every source scene of the task has.
        values: values that the factor may take in the target; all of its values if empty.
    """

    name: str
    factor: str
    held: dict[str, object] = field(default_factory=dict)
    values: tuple = ()

    def scenes(self, first_seed: int, count: int) -> Iterator[tuple[Scene, Scene]]:
        """Pairs of a source scene and its exact counterfactual, deterministic in the seeds."""
        for seed in range(first_seed, first_seed + count):
            scene = Scene.sample(seed, **self.held)
            own = getattr(scene, self.factor)
            choices = [v for v in self.values or FACTORS[self.factor] if v != own]
            value = choices[np.random.default_rng([seed, 4]).integers(len(choices))]
            yield scene, scene.edit(**{self.factor: value})

    def prompts(self, scene: Scene, target: Scene) -> tuple[str, str]:
        """Source and target prompt of a pair."""
        return prompt_pair(scene, **{self.factor: getattr(target, self.factor)})


ANIMALS = tuple(kind for kind in FACTORS["kind"] if kind != "car")

TASKS = {
    task.name: task
    for task in (
        Task("object swap", "kind", {"kind": "cat"}, ANIMALS),
        Task("contextual change", "place"),
        Task("face attribute", "mouth", {"mouth": "plain", "kind": "cat"}, ("smiling",)),
        Task("colour change", "colour", {"style": "plain"}),
        Task("global editing", "style", {"style": "plain"}, ("oil painting", "pencil sketch", "at night")),
        Task("viewpoint alteration", "view"),
        Task("pose modification", "pose", {"kind": "cat"}),
        Task("cat to dog", "kind", {"kind": "cat"}, ("dog",)),
        Task("dog to cat", "kind", {"kind": "dog"}, ("cat",)),
    )
}
"""The tasks of the paper, by its names: five of Prompt-to-Prompt, two of MasaCtrl, two of pix2pix-zero."""

EXAMPLES: tuple[tuple[str, Scene, dict[str, Any]], ...] = (
    ("object swap", Scene("cat", "orange", "forest", seed=TEST_SEEDS), {"kind": "fox"}),
    ("contextual change", Scene("dog", "brown", "city", pose="standing", seed=TEST_SEEDS + 1), {"place": "beach"}),
    ("contextual change", Scene("car", "red", "desert", pose="standing", seed=TEST_SEEDS + 2), {"place": "snow"}),
    ("face attribute", Scene("cat", "white", "beach", seed=TEST_SEEDS + 3), {"mouth": "smiling"}),
    ("colour change", Scene("rabbit", "pink", "forest", seed=TEST_SEEDS + 4), {"colour": "blue"}),
    (
        "global editing",
        Scene("tiger", "orange", "snow", pose="standing", seed=TEST_SEEDS + 5),
        {"style": "oil painting"},
    ),
    ("global editing", Scene("bear", "brown", "city", seed=TEST_SEEDS + 6), {"style": "at night"}),
    ("viewpoint alteration", Scene("dog", "brown", "forest", pose="standing", seed=TEST_SEEDS + 7), {"view": "left"}),
    ("pose modification", Scene("cat", "orange", "snow", seed=TEST_SEEDS + 8), {"pose": "jumping"}),
    ("cat to dog", Scene("cat", "gray", "room", seed=TEST_SEEDS + 9), {"kind": "dog"}),
    ("dog to cat", Scene("dog", "white", "beach", seed=TEST_SEEDS + 10), {"kind": "cat"}),
)
"""Task, source scene, and the factor that the edit changes."""
