"""The kind of an edit, told by its prompts."""

import pytest

from nmg.lab.kinds import kind_of
from nmg.lab.presets import WHEN
from nmg.menagerie.captions import prompt_pair
from nmg.menagerie.tasks import EXAMPLES


@pytest.mark.parametrize(("task", "scene", "change"), EXAMPLES, ids=[f"{e[0]}-{i}" for i, e in enumerate(EXAMPLES)])
def test_the_examples_are_told(task, scene, change):
    # Along a direction is another way to swap an object.
    expected = "object swap" if " to " in task else task
    assert kind_of(*prompt_pair(scene, **change)) == expected in WHEN


@pytest.mark.parametrize(
    ("source", "target", "kind"),
    [
        ("a red cup of coffee on a wooden table", "a red cup of coffee on a snowy table", "contextual change"),
        ("a red cup of coffee on a wooden table", "a blue cup of coffee on a wooden table", "colour change"),
        ("a photo of a woman in a space suit", "a photo of a woman with glasses in a space suit", "face attribute"),
        ("a photo of a cat", "a photo of a cat, oil painting", "global editing"),
        ("a photo of a cat lying on a blanket", "a photo of a cat sitting on a blanket", "pose modification"),
        ("a cat", "a cat with a bow tie", "face attribute"),
        ("A cat.", "a cat", None),
    ],
)
def test_prompts_of_photographs_are_told(source, target, kind):
    assert kind_of(source, target) == kind
