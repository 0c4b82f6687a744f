"""The notebooks' examples fit their models: every word that a preset names stands in its prompt."""

from pathlib import Path

import pytest

import nmg
from nmg import examples

IMAGES = Path(__file__).parent.parent / "images"
TASKS = ["object swap", "contextual change", "face attribute", "colour change", "global editing"]


@pytest.mark.parametrize("which", ["bundled", "photographs"])
def test_each_task_has_an_example_whose_words_are_found(which, sd_shaped):
    pipe = nmg.load("menagerie") if which == "bundled" else sd_shaped
    backbone = nmg.Backbone(pipe)
    found = examples.prompt_to_prompt(pipe, IMAGES)
    assert list(found) == TASKS
    for example in found.values():
        assert example.source != example.target
        backbone.check([example.source, example.target])
        example.editor.check(backbone, [example.source, example.target])
        assert backbone.prepare(example.image).size == backbone.native_size
        assert (example.truth is not None) == (which == "bundled")


def test_a_preset_with_a_missing_word_is_found_out(sd_shaped):
    editor = nmg.PromptToPrompt(weights={"lion": 2.0})
    with pytest.raises(ValueError, match="'lion' does not occur"):
        editor.check(nmg.Backbone(sd_shaped), ["a cat", "a tiger"])
