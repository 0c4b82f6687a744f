"""Presets for photographs are made of the words that change between two prompts."""

import pytest

from nmg.editors import LocalBlend, Pix2PixZero, PromptToPrompt
from nmg.lab.presets import PHOTOGRAPHS, Preset, changed_words


@pytest.mark.parametrize(
    ("source", "target", "changed"),
    [
        ("a cat on a table", "a tiger on a table", (("cat",), ("tiger",))),
        ("a cat", "a cat wearing glasses", ((), ("glasses",))),
        ("a red cup on a wooden table", "a blue cup on a snowy table", (("red", "wooden"), ("blue", "snowy"))),
        ("a cat", "a cat", ((), ())),
    ],
)
def test_the_words_that_change_are_found_without_small_ones(source, target, changed):
    assert changed_words(source, target) == changed


@pytest.mark.parametrize(
    ("kind", "target", "editor"),
    [
        ("object swap", "a red fox", PromptToPrompt(self_replace=0.4, local_blend=LocalBlend(("cat", "fox")))),
        ("object swap", "a red cat", PromptToPrompt(self_replace=0.4)),
        ("colour change", "a blue cat", PromptToPrompt(local_blend=LocalBlend(("cat", "cat")))),
        ("face attribute", "a red smiling cat", PromptToPrompt(self_replace=0.5, weights={"smiling": 2.0})),
        ("cat to dog", "a red dog", Pix2PixZero(("cat", "dog"))),
        ("cat to dog", "a blue cat sleeping", Pix2PixZero()),
    ],
)
def test_a_preset_names_the_words_of_its_prompts(kind, target, editor):
    preset = Preset(kind, "", PHOTOGRAPHS[kind])
    assert preset.build("a red cat", target) == editor
    assert preset.fits("a red cat", target, editor) and not preset.fits("a red cat", target, PromptToPrompt("replace"))
    assert not Preset("other", "", lambda source, target: PromptToPrompt("other")).fits("a", "b", editor)
