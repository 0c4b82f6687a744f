"""The notebooks' examples fit their models: every word that a preset names stands in its prompt."""

from pathlib import Path

import pytest
import torch

import nmg
from nmg import pipelines
from nmg.lab import examples
from nmg.request import Request

IMAGES = Path(__file__).parents[2] / "images"
TASKS = {
    examples.prompt_to_prompt: [
        "object swap",
        "contextual change",
        "face attribute",
        "colour change",
        "global editing",
    ],
    examples.masactrl: ["viewpoint alteration", "pose modification"],
    examples.pix2pix_zero: ["cat to dog", "dog to cat"],
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A drawn dog is black."""
    drawn = torch.zeros(1, 3, 64, 64)
    monkeypatch.setattr(pipelines, "generate", lambda pipe, prompts: drawn)


@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("which", ["bundled", "photographs"])
def test_each_task_has_an_example_whose_words_are_found(which, kind, sd_shaped):
    pipe = nmg.load("menagerie") if which == "bundled" else sd_shaped
    backbone = nmg.Backbone(pipe)
    found = kind(pipe, IMAGES)
    assert list(found) == TASKS[kind]
    for example in found.values():
        assert example.source != example.target
        request = Request(example.image, example.source, [example.target], editor=example.editor)
        request.resolved(backbone).check(backbone)
        assert backbone.prepare(example.image).size == backbone.native_size
        assert (example.truth is not None) == (which == "bundled")


def test_a_given_dog_is_not_drawn(sd_shaped):
    given = examples.pix2pix_zero(sd_shaped, IMAGES, dog=IMAGES / "coffee.png")["dog to cat"].image
    assert given == IMAGES / "coffee.png"
    with pytest.raises(ValueError, match="edits drawn scenes; leave the photograph"):
        examples.pix2pix_zero(nmg.load("menagerie"), IMAGES, dog=IMAGES / "coffee.png")
