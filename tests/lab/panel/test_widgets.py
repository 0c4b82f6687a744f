"""The panel without a browser: a control is set, and what it should show is waited for."""

import contextlib
import importlib
import io
import re
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

import nmg
from nmg.lab import controls
from nmg.lab.controls import CONTROLS, EDITORS, GUIDANCES, Control, name_of
from nmg.lab.examples import Example
from nmg.lab.panel import desk
from nmg.lab.panel.engine import SAMPLING
from nmg.lab.presets import SCENES
from nmg.lab.values import Number, Weights
from nmg.menagerie.scene import Scene
from nmg.request import Request
from tests.conftest import SOURCE, TARGET

widgets = pytest.importorskip("nmg.lab.panel.widgets", reason="needs ipywidgets (pip install 'nmg[notebook]')")
columns = pytest.importorskip("nmg.lab.panel.columns")
PATIENCE = 60.0


@pytest.fixture
def opened(tiny, picture):
    """Opens panels over the picture and closes them."""
    with contextlib.ExitStack() as stack:

        def opened(image=picture, *prompts, pipe=None, **options):
            options = {"steps": 2, **options}
            made = widgets.panel(pipe or tiny(), image, *(prompts or (SOURCE, TARGET)), **options)
            stack.callback(made.close)
            return made

        yield opened


@pytest.fixture
def panel(opened):
    """A panel with its first picture."""
    made = opened()
    assert made.wait(PATIENCE) and made.error is None
    return made


def part(panel, name):
    """The widget of a CSS class."""
    found = list(parts(panel, name))
    assert len(found) == 1, f"{len(found)} widgets of class nmg-{name}"
    return found[0]


def parts(widget, name):
    if f"nmg-{name}" in widget._dom_classes:
        yield widget
    for child in getattr(widget, "children", ()):
        yield from parts(child, name)


def shown(panel, name="edit"):
    return part(panel, name).value


def decoded(value):
    return Image.open(io.BytesIO(value)).convert("RGB").tobytes()


def test_a_moved_slider_changes_the_picture(panel):
    source, before, distances = shown(panel, "source"), shown(panel), shown(panel, "distances")
    part(panel, "noise-map-scale").value += 20
    assert panel.wait(PATIENCE) and panel.error is None
    assert panel.result.request.guidance.noise_map_scale == 30 == panel.settings.guidance.noise_map_scale
    assert shown(panel) != before and shown(panel, "distances") != distances
    assert shown(panel, "source") == source
    assert part(panel, "status").value.startswith("done in ")
    assert SAMPLING in part(panel, "status").value
    assert part(panel, "progress").value == part(panel, "progress").max == 2
    image = Image.open(io.BytesIO(shown(panel)))
    assert image.size == (256, 256)
    assert image.resize((32, 32), Image.Resampling.NEAREST).tobytes() == panel.result.edit.tobytes()


def test_every_control_turns_its_setting_and_the_picture(panel):
    turned = {
        "source-prompt": ("a cat", lambda request: request.source),
        "target-prompt": ("a dog", lambda request: request.targets[0]),
        "text-scale": (3.0, lambda request: request.guidance.text_scale),
        "steps": (3, lambda request: request.steps),
        "negative-prompt": ("blue", lambda request: request.negative),
        "weights": ("dog=4", lambda request: Weights().shown(request.editor.weights)),
        "cross-replace": (0.2, lambda request: request.editor.cross_replace),
        "guidance": ("direct", lambda request: name_of(request.guidance, GUIDANCES)),
        "editor": ("none", lambda request: name_of(request.editor, EDITORS)),
    }
    for name, (value, setting) in turned.items():
        before = shown(panel)
        part(panel, name).value = value
        assert panel.wait(PATIENCE) and panel.error is None
        assert setting(panel.result.request) == value
        assert shown(panel) != before, name


@pytest.mark.parametrize(
    ("editor", "turned"),
    [
        (nmg.MasaCtrl(0, 1), {"start-step": 0.5, "start-layer": 0, "foreground": "cat"}),
        (nmg.Pix2PixZero((["a cat"], ["a dog"])), {"amount": 0.5, "direction": ""}),
    ],
)
def test_the_other_editors_controls(opened, editor, turned):
    panel = opened(editor=editor)
    assert panel.wait(PATIENCE) and panel.error is None
    own = {"cross-replace", "self-replace", "blend", "weights", "start-step", "start-layer", "amount", "direction"}
    visible = {name for name in own if part(panel, name).layout.display != "none"}
    assert visible == turned.keys() - {"foreground"}
    for name, value in turned.items():
        before = panel.result
        part(panel, name).value = value
        assert panel.wait(PATIENCE) and panel.error is None
        assert panel.result is not before and panel.result.request != before.request


def test_only_the_controls_of_the_methods_in_use_are_shown(panel):
    assert part(panel, "cross-replace").layout.display != "none" == part(panel, "start-step").layout.display
    assert part(panel, "amount").layout.display == "none"
    panel.set(editor="masactrl", start_step=0, guidance="direct")
    assert part(panel, "cross-replace").layout.display == "none" != part(panel, "start-step").layout.display
    assert part(panel, "noise-map-scale").disabled and not part(panel, "text-scale").disabled
    assert part(panel, "guidance").value == "direct" and part(panel, "editor").value == "masactrl"


def test_both_numbers_of_the_scale_are_shown_and_large_ones_fit(panel):
    panel.set(noise_map_scale=1000.0, gradient_scale=100.0)
    assert part(panel, "noise-map-scale").value == 1000
    assert "1000 · 100 = 100\u202f000" in panel.columns.scales.value
    panel.set(noise_map_scale=(3.0, 1.0))
    assert "one number for each step" in panel.columns.scales.value
    assert panel.settings.guidance.noise_map_scale == (3, 1)


def test_cancel_in_the_middle_leaves_no_hook_and_the_next_request_works(panel, tiny):
    before, unet = shown(panel), tiny().unet
    processors = [type(processor) for processor in unet.attn_processors.values()]
    begun, told = threading.Event(), panel.controller._tell

    def tell(event):
        told(event)
        if getattr(event, "preview", None) is not None:
            begun.set()

    panel.controller._tell = tell
    panel.set(steps=60)
    assert begun.wait(PATIENCE)
    assert not part(panel, "cancel").disabled and "(preview)" in panel.pictures.captions["edit"].value
    part(panel, "cancel").click()
    assert panel.wait(PATIENCE)
    assert part(panel, "status").value == "cancelled" and part(panel, "cancel").disabled
    assert [type(processor) for processor in unet.attn_processors.values()] == processors
    assert shown(panel) == before and panel.result.request.steps == 2
    panel.set(steps=3)
    assert panel.wait(PATIENCE) and panel.result.request.steps == 3 and shown(panel) != before


def test_thirty_fast_moves_the_last_one_wins(panel, opened):
    slider = part(panel, "noise-map-scale")
    for i in range(30):
        slider.value = float(i)
        time.sleep(0.002 * (i % 3))
    assert panel.wait(PATIENCE) and panel.error is None
    assert panel.result.request.guidance.noise_map_scale == 29 == slider.value
    other = opened(guidance=nmg.NoiseMap(noise_map_scale=29.0))
    assert other.wait(PATIENCE)
    assert decoded(shown(panel)) == decoded(shown(other))


def test_errors_are_shown_in_pythons_words_and_the_last_picture_stays(panel):
    before = shown(panel)
    part(panel, "blend").value = "elephant"
    assert panel.wait(PATIENCE)
    said = part(panel, "error")
    assert said.value.startswith("ValueError: &#x27;elephant&#x27; does not occur in the prompt")
    assert said.layout.display != "none" and shown(panel) == before
    part(panel, "weights").value = "cat"
    assert "write WORD=FACTOR" in said.value
    part(panel, "blend").value = "cat"
    assert panel.wait(PATIENCE) and said.value == "" and said.layout.display == "none"
    assert panel.settings.editor.local_blend.words == ("cat", "cat") and panel.result.region is not None


def test_a_preset_sets_the_editor_and_says_when_to_use_it(panel):
    preset = part(panel, "preset")
    preset.value = "viewpoint alteration"
    panel.set(start_step=0, start_layer=1)
    assert panel.wait(PATIENCE) and panel.error is None
    assert part(panel, "editor").value == "masactrl" and preset.value == "own settings"
    preset.value = "contextual change"
    assert panel.settings.editor == nmg.PromptToPrompt(self_replace=0.5)
    assert "surroundings" in panel.columns.when.value
    part(panel, "self-replace").value = 0.1
    assert preset.value == "own settings" and panel.columns.when.value == ""
    preset.value = "object swap"
    assert panel.settings.editor.local_blend.words == ("red", "blue")
    part(panel, "target-prompt").value = TARGET.replace("blue", "green")
    assert panel.settings.editor.local_blend.words == ("red", "green") and preset.value == "object swap"


def test_the_words_that_change_tell_the_preset():
    panel = widgets.panel(nmg.load("menagerie"), "scene:7,kind=cat,pose=sitting", steps=2, start=False)
    with contextlib.closing(panel):
        assert part(panel, "preset").value == "own settings"
        target = panel.settings.source.replace("sitting", "jumping")
        assert panel.columns.remarks.value == ""
        panel.set(target=target, editor=SCENES["pose modification"])
        assert part(panel, "preset").value == "pose modification"
        # One that was chosen, and fits, stays.
        part(panel, "preset").value = "viewpoint alteration"
        assert part(panel, "preset").value == "viewpoint alteration"
        panel.set(target="an elephant")
        assert "does not know &#x27;elephant&#x27;" in panel.columns.remarks.value


def test_the_strip_leads_back(panel):
    first, picture = panel.result, shown(panel)
    part(panel, "text-scale").value = 3.0
    assert panel.wait(PATIENCE)
    tried = part(panel, "history").children
    assert [tile.children[1].description for tile in tried] == ["first", "text scale 3"]
    assert "nmg-current" in tried[1]._dom_classes
    tried[0].children[1].click()
    assert panel.wait(PATIENCE)
    assert panel.result is first and shown(panel) == picture and part(panel, "text-scale").value == 10
    assert part(panel, "status").value.startswith("done: from the history; ") and len(panel.history) == 2
    assert "nmg-current" in tried[0]._dom_classes and "nmg-current" not in tried[1]._dom_classes


def test_the_wipe_and_the_looks_follow_the_picture(panel):
    names = ("wiped", "change", "words", "distances")
    before = {name: shown(panel, name) for name in names}
    assert all(before.values())
    part(panel, "wipe").value = 0.0
    wiped = Image.open(io.BytesIO(shown(panel, "wiped"))).resize((32, 32), Image.Resampling.NEAREST)
    assert wiped.tobytes() == panel.result.edit.tobytes()
    part(panel, "guidance").value = "none"
    assert panel.wait(PATIENCE)
    assert all(shown(panel, name) != before[name] for name in names)


def test_the_shown_picture_as_code(panel, tiny, picture):
    button, text = part(panel, "code-button"), part(panel, "code")
    assert text.layout.display == "none"
    button.click()
    assert "guidance=nmg.NoiseMap(" in text.value and text.layout.display != "none"
    names = {"pipe": tiny(), "image": picture}
    exec(panel.code(), names)
    assert names["result"].pictures[0].tobytes() == panel.result.edit.tobytes()


def test_save_writes_the_recipe_and_says_where(panel, tmp_path):
    part(panel, "save-path").value = str(tmp_path / "edit.png")
    for name in ("edit.png", "edit-2.png"):
        part(panel, "save").click()
        assert f"wrote {tmp_path / name} and " in part(panel, "saved").value
    assert Request.read(tmp_path / "edit.png").guidance == panel.settings.guidance
    part(panel, "save-path").value = "edit.gif"
    part(panel, "save").click()
    assert "ValueError: &#x27;edit.gif&#x27; can&#x27;t be written" in part(panel, "saved").value


def test_an_example_brings_all_that_it_has(opened, picture):
    truth = Image.new("RGB", picture.size, "red")
    panel = opened(Example(picture, SOURCE, TARGET, nmg.MasaCtrl(0, 1), truth), None)
    assert panel.wait(PATIENCE) and panel.error is None
    assert (panel.settings.source, panel.settings.targets) == (SOURCE, (TARGET,))
    assert panel.settings.editor == nmg.MasaCtrl(0, 1)
    assert decoded(shown(panel, "truth")) == b"\xff\0\0" * 256**2
    # The truth of another target is not known.
    panel.set(target="a dog")
    assert panel.wait(PATIENCE) and panel.pictures.columns["truth"].layout.display == "none"


def test_a_scene_brings_its_caption_and_every_truth(opened):
    panel = opened("scene:7,kind=cat,colour=orange,place=forest,style=plain", None, start=False)
    assert "orange cat" in panel.settings.source and panel.result is None and panel.history == ()
    with pytest.raises(RuntimeError, match="no picture yet"):
        panel.save("edit.png")
    target = panel.settings.source.replace("an orange", "a blue")
    panel.set(target=target)
    assert panel.wait(PATIENCE)
    blue = Scene.sample(7, kind="cat", colour="blue", place="forest", style="plain").render().resize((32, 32), 1)
    assert decoded(shown(panel, "truth")) == blue.resize((256, 256), Image.Resampling.NEAREST).tobytes()


def test_a_picture_needs_a_source_prompt(opened):
    with pytest.raises(ValueError, match="source is missing; say what the picture shows"):
        opened(Image.new("RGB", (32, 32)), None)


def test_large_pictures_are_sent_as_jpeg(tiny, opened):
    panel = opened(Image.new("RGB", (200, 160), "green"), size=(136, 24), steps=1)
    assert panel.wait(PATIENCE) and panel.error is None
    assert part(panel, "edit").format == "jpeg"
    assert Image.open(io.BytesIO(shown(panel))).size == (136, 24)


def test_a_closed_panel_ends_its_thread(opened):
    panel = opened()
    panel.close()
    assert not panel.controller.busy
    with pytest.raises(RuntimeError, match="the panel is closed"):
        panel.set(steps=3)


@dataclass(frozen=True)
class Calm(nmg.Editor):
    """An editor with a hyper-parameter of its own."""

    calm: float = 0.25


def test_a_row_of_the_controls_is_a_widget(opened, monkeypatch):
    row = Control((Calm,), "calm", Number(high=2.0), "how calm the edit is", "calmness")
    for module in (controls, columns, desk):
        monkeypatch.setattr(module, "CONTROLS", (*CONTROLS, row))
    monkeypatch.setitem(desk.TURNED, "calm", row)
    panel = opened(editor=Calm(), start=False)
    slider = part(panel, "calm")
    assert (slider.description, slider.value, slider.max) == ("calmness", 0.25, 2.0)
    slider.value = 1.5
    assert panel.settings.editor == Calm(1.5)
    panel.set(editor="none")
    assert slider.layout.display == "none"


def test_ipywidgets_is_needed_by_the_widgets_alone(monkeypatch):
    package = Path(nmg.__file__).parent
    users = [
        path.name
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) ipywidgets", path.read_text(), re.M)
    ]
    assert users == ["kit.py"]
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.delitem(sys.modules, "nmg.lab.panel.kit")
    with pytest.raises(ImportError, match=r"the panel needs ipywidgets; pip install 'nmg\[notebook\]'"):
        importlib.import_module("nmg.lab.panel.kit")
