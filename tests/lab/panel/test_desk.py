"""A request is turned control by control, and what was turned is there again with the next method."""

import pytest

import nmg
from nmg.lab.controls import EDITORS, GUIDANCES
from nmg.lab.panel import Desk
from nmg.lab.panel.desk import differing
from tests.lab.panel.conftest import METHODS, REQUEST, changed


@pytest.mark.parametrize(("guidance", "editor"), METHODS)
def test_a_request_keeps_the_methods_that_it_is_given(guidance, editor):
    desk = Desk.of(REQUEST).turned(guidance=guidance, editor=editor)
    assert (desk.request.guidance, desk.request.editor) == (guidance, editor)
    names = {row.name: desk.value(row) for row in desk.in_use()}
    assert names["guidance"] in GUIDANCES and names["editor"] in EDITORS


@pytest.mark.parametrize("name", GUIDANCES)
def test_every_guidance_of_the_command_line_has_its_name_here(name):
    desk = Desk.of(REQUEST).turned(guidance=name, text_scale=4.0, noise_map_scale=7.0)
    assert desk.request.guidance.text_scale == 4
    values = {row.name: desk.value(row) for row in desk.in_use()}
    assert values["guidance"] == name and (values.get("noise_map_scale") == 7) == name.endswith("noise-map")


def test_a_control_turns_its_own_setting_alone():
    guidance, editor = METHODS[0]
    desk = Desk.of(REQUEST).turned(guidance=guidance, editor=editor).turned(noise_map_scale=5.0, cross_replace=0.3)
    assert desk.request.guidance == nmg.NoiseMap(noise_map_scale=5.0, energy="l2", during=(0, 0.5))
    assert desk.request.editor == nmg.PromptToPrompt(cross_replace=0.3, self_replace=(0.2, 0.7))
    # Another method and back: what was turned is still there.
    there = desk.turned(guidance="direct", editor="masactrl", start_layer=1)
    assert there.request.guidance == nmg.Direct(10.0) and there.request.editor == nmg.MasaCtrl(start_layer=1)
    assert there.turned(guidance="noise-map", editor="prompt-to-prompt").request == desk.request
    blend = Desk.of(REQUEST).turned(editor=METHODS[2][1]).turned(blend=("red", "blue")).request.editor.local_blend
    assert blend == nmg.LocalBlend(("red", "blue"), threshold=0.4)
    # A method that is given brings all of its own.
    again = Desk.of(REQUEST).turned(gradient_scale=1.0, threshold=0.9).turned(guidance=nmg.NoiseMap())
    assert again.request.guidance == nmg.NoiseMap() and again.turned(editor="masactrl").request.editor.threshold == 0.9


@pytest.mark.parametrize("name", [name for name, editor in EDITORS.items() if editor.suits == "direct"])
def test_an_editor_brings_the_guidance_that_it_is_published_with(name):
    desk = Desk.of(REQUEST).turned(guidance=nmg.NoiseMap.fast(text_scale=4.0))
    there = desk.turned(editor=name)
    assert there.request.guidance == nmg.Direct(4.0)
    assert there.turned(editor="masactrl").request.guidance == desk.request.guidance
    chosen = desk.turned(editor=name, guidance="none")
    assert chosen.request.guidance == nmg.CFG(4.0) == chosen.turned(editor=EDITORS[name]).request.guidance


def test_a_target_is_one_prompt_or_none():
    assert changed(target="a dog").targets == ("a dog",) and changed(target=" ").targets == ()


def test_what_is_no_setting_is_refused():
    with pytest.raises(TypeError, match="no setting 'noise_scale'; the settings are source, target"):
        changed(noise_scale=3)
    with pytest.raises(ValueError, match="guidance='nmg' is unknown; noise-map, null-text"):
        changed(guidance="nmg")


def test_what_differs_is_what_is_in_use():
    found = differing(changed(guidance="direct", steps=3, text_scale=4.0), REQUEST)
    assert {row.name: value for row, value in found.items()} == {"guidance": "direct", "steps": 3, "text_scale": 4.0}
    assert differing(REQUEST, REQUEST) == {}


@pytest.mark.parametrize(("name", "value"), [("noise_map_scale", 7.0), ("guard", "mask.png")])
def test_a_strength_is_turned_where_there_was_none(name, value):
    desk = Desk.of(REQUEST).turned(guidance=nmg.NoiseMap.fast())
    assert desk.turned(text_scale=4.0).request.guidance.lands
    guidance = desk.turned(**{name: value}).request.guidance
    assert guidance.bound == "element" and not guidance.jacobian
    assert desk.turned(**{name: value}).turned(bound="map", guard=None).request.guidance.lands
    # So it is where another guidance stood in between, and a guidance that is given stays as it is.
    assert desk.turned(guidance="direct", **{name: value}).turned(guidance="noise-map").request.guidance == guidance
    given = nmg.NoiseMap(bound=None)
    assert desk.turned(guidance=given, **{name: value}).request.guidance.bound is None
