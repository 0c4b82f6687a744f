"""The panel without a browser: a control is set, and what it should show is waited for."""

import contextlib
import html
import importlib
import io
import re
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

import nmg
from nmg.lab import controls
from nmg.lab.controls import CONTROLS, EDITORS, GUIDANCES, Control, name_of
from nmg.lab.examples import Example
from nmg.lab.panel import desk, sketch
from nmg.lab.panel.engine import SAMPLING
from nmg.lab.presets import ANY, FURTHER, SCENES, WHEN
from nmg.lab.values import Number, Weights
from nmg.menagerie.scene import Scene
from nmg.request import Request
from tests.conftest import SOURCE, TARGET

widgets = pytest.importorskip("nmg.lab.panel.widgets", reason="needs ipywidgets (pip install 'nmg[notebook]')")
knobs = pytest.importorskip("nmg.lab.panel.knobs")
stage = pytest.importorskip("nmg.lab.panel.stage")
PATIENCE = 60.0
CAT = "scene:7,kind=cat,colour=orange,place=forest,style=plain,pose=sitting"


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
    """What the main picture or a tab shows."""
    return getattr(panel.stage, name, None) or part(panel, name).value


def decoded(value):
    return Image.open(io.BytesIO(value)).convert("RGB").tobytes()


def test_a_moved_slider_changes_the_picture(panel):
    source, before, distances = shown(panel, "source"), shown(panel), shown(panel, "distances")
    part(panel, "noise-map-scale").value = 1.0
    assert panel.wait(PATIENCE) and panel.error is None
    assert panel.result.request.guidance.noise_map_scale == 1 == panel.settings.guidance.noise_map_scale
    assert shown(panel) != before and shown(panel, "distances") != distances
    assert shown(panel, "source") == source
    assert part(panel, "status").value.startswith("done in ")
    assert SAMPLING in part(panel, "status").value
    assert part(panel, "progress").value == part(panel, "progress").max == 2
    image = Image.open(io.BytesIO(shown(panel)))
    assert image.size == (512, 512)
    assert image.resize((32, 32), Image.Resampling.NEAREST).tobytes() == panel.result.edit.tobytes()


def test_every_control_turns_its_setting_and_the_picture(panel):
    turned = {
        "source-prompt": ("a cat", lambda request: request.source),
        "target-prompt": ("a dog", lambda request: request.targets[0]),
        "text-scale": (3.0, lambda request: request.guidance.text_scale),
        "steps": (3, lambda request: request.steps),
        "negative-prompt": ("blue", lambda request: request.negative),
        "weights": ("dog=4", lambda request: Weights().shown(request.editor.weights)),
        "cross-replace": (0.4, lambda request: request.editor.cross_replace),
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
    assert "1000 · 100 = 100\u202f000" in panel.knobs.scales.value
    panel.set(noise_map_scale=(3.0, 1.0))
    assert "one number for each step" in panel.knobs.scales.value
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
    assert not part(panel, "cancel").disabled and panel.stage.showing == "preview"
    part(panel, "cancel").click()
    assert panel.wait(PATIENCE)
    assert part(panel, "status").value == "cancelled" and part(panel, "cancel").disabled
    assert [type(processor) for processor in unet.attn_processors.values()] == processors
    assert shown(panel) == before and panel.result.request.steps == 2 and panel.stage.showing == "edit"
    panel.set(steps=3)
    assert panel.wait(PATIENCE) and panel.result.request.steps == 3 and shown(panel) != before


def test_thirty_fast_moves_the_last_one_wins(panel, opened):
    slider = part(panel, "noise-map-scale")
    for i in range(30):
        slider.value = float(i)
        time.sleep(0.002 * (i % 3))
    assert panel.wait(PATIENCE) and panel.error is None
    assert panel.result.request.guidance.noise_map_scale == 29 == slider.value
    other = opened(guidance=nmg.NoiseMap(noise_map_scale=29.0, jacobian=False))
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
    assert "surroundings" in panel.knobs.when.value
    part(panel, "self-replace").value = 0.1
    assert preset.value == "own settings" and panel.knobs.when.value == ""
    preset.value = "object swap"
    assert panel.settings.editor.local_blend.words == ("red", "blue")
    part(panel, "target-prompt").value = TARGET.replace("blue", "green")
    assert panel.settings.editor.local_blend.words == ("red", "green") and preset.value == "object swap"


def test_the_difference_of_the_prompts_tells_the_preset():
    with contextlib.closing(widgets.panel(nmg.load("menagerie"), CAT, steps=2, start=False)) as panel:
        preset, source = part(panel, "preset"), panel.settings.source
        assert preset.value == "automatic" and preset.options[0] == ("automatic", "automatic")
        for word, name in (("jumping", "pose modification"), ("standing", "pose modification")):
            part(panel, "target-prompt").value = source.replace("sitting", word)
            assert preset.options[0][0] == f"automatic: {name}" and panel.settings.editor == SCENES[name]
        panel.set(target=source.replace("orange", "blue"))
        assert preset.options[0][0] == "automatic: colour change" and panel.settings.editor == SCENES["colour change"]
        assert "Another colour" in panel.knobs.when.value
        # What is turned by hand, or chosen, does not follow any more.
        part(panel, "cross-replace").value = 0.1
        assert preset.value == "own settings"
        panel.set(target=source.replace("sitting", "jumping"))
        assert preset.value == "own settings" and panel.settings.editor.cross_replace == 0.1
        preset.value = "viewpoint alteration"
        assert panel.settings.editor == SCENES["viewpoint alteration"] and preset.value == "viewpoint alteration"
        preset.value = "automatic"
        assert panel.settings.editor == SCENES["pose modification"]
        panel.set(target="an elephant")
        assert "does not know &#x27;elephant&#x27;" in panel.knobs.remarks.value


def test_a_value_beyond_a_sliders_range_can_be_turned_both_ways(opened):
    panel = opened(editor=nmg.Pix2PixZero(("red", "blue"), amount=2.0), start=False)
    assert (part(panel, "amount").value, part(panel, "amount").max) == (2.0, 4.0)


def test_every_editor_can_be_chosen_and_makes_a_picture():
    with contextlib.closing(widgets.panel(nmg.load("menagerie"), CAT, "a gray cat", steps=4, start=False)) as panel:
        first, preset = panel.settings.guidance, part(panel, "preset")
        for name in (*FURTHER, "object swap"):
            preset.value = name
            panel.controller.wait()
            assert panel.controller.error is None and panel.result.request.editor == panel.settings.editor
            assert preset.value == name and (ANY | WHEN)[name] == html.unescape(panel.knobs.when.value)
        assert panel.settings.guidance == first


def test_an_editor_that_is_given_stays(opened):
    panel = opened(editor=nmg.PromptToPrompt(cross_replace=0.3), start=False)
    assert part(panel, "preset").value == "own settings"
    panel.set(target="a dog")
    assert panel.settings.editor == nmg.PromptToPrompt(cross_replace=0.3)


def test_a_held_slider_shows_sketches_and_the_full_picture_when_let_go(opened):
    panel = opened(steps=9)
    assert panel.wait(PATIENCE) and panel.error is None
    before, kept = shown(panel), panel.result
    panel.stage.held = True
    if not part(panel, "text-scale").continuous_update:
        pytest.skip("needs anywidget, which tells when a slider is held")
    part(panel, "text-scale").value = 3.0
    assert panel.wait(PATIENCE)
    assert panel.stage.showing == f"preview, {sketch.STEPS} steps" and shown(panel) != before
    assert panel.result is kept and len(panel.history) == 1
    drafted = shown(panel)
    panel.stage.held = False
    assert panel.wait(PATIENCE) and panel.error is None
    assert panel.result.request.guidance.text_scale == 3.0 and panel.result.request.steps == 9
    assert panel.stage.showing == "edit" and shown(panel) not in (before, drafted)


def test_a_picture_from_disk_takes_the_place_of_the_other(panel, picture):
    other = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    buffer = io.BytesIO()
    other.save(buffer, "PNG")
    file = {
        "name": "other.png",
        "type": "image/png",
        "size": len(buffer.getvalue()),
        "last_modified": datetime.now(UTC),
    }
    part(panel, "upload").set_trait("value", ({**file, "content": memoryview(buffer.getvalue())},))
    # Nobody knows what it shows: the panel asks.
    assert panel.settings.source is None and panel.settings.targets == () and panel.history == ()
    assert "say what the picture shows" in part(panel, "status").value and panel.result is None
    part(panel, "source-prompt").value = SOURCE
    assert panel.wait(PATIENCE) and panel.error is None
    guidance = panel.settings.guidance
    fresh = nmg.edit(panel.controller.engine.backbone, other, SOURCE, guidance=guidance, steps=2, progress=False)
    assert panel.result.reconstruction.tobytes() == fresh.reconstruction.tobytes()
    panel._took("notes.txt", b"no picture")
    assert "can&#x27;t be read as a picture" in part(panel, "error").value


def test_the_bundled_model_describes_a_picture_of_its_world():
    pipe, scene = nmg.load("menagerie"), Scene("dog", "brown", "beach", seed=10_050)
    with contextlib.closing(widgets.panel(pipe, CAT, steps=1, start=False)) as panel:
        buffer = io.BytesIO()
        scene.render().save(buffer, "PNG")
        panel._took("dog.png", buffer.getvalue())
        assert "dog" in panel.settings.source
        assert panel.wait(PATIENCE) and panel.error is None


def test_a_painted_mask_is_used_and_saved(panel, tmp_path):
    use, before = part(panel, "mask-use"), shown(panel)
    painted = Image.new("RGBA", panel.pictures.engine.picture.size)
    painted.paste((220, 30, 60, 255), (0, 0, 16, 32))
    buffer = io.BytesIO()
    painted.save(buffer, "PNG")
    panel._took("", buffer.getvalue())
    assert panel.settings.guidance.mask is None
    use.value = "what is guarded"
    assert panel.wait(PATIENCE) and panel.error is None and shown(panel) != before
    assert panel.settings.guidance.mask.getbbox() == (0, 0, 16, 32)
    assert 'mask="guard.png"' in panel.code() and "# guard.png: the mask" in panel.code()
    paths = panel.save(tmp_path / "edit.png")
    assert [path.name for path in paths] == ["edit.png", "edit-source.png", "edit-guard.png"]
    assert Request.read(paths[0]).guidance.mask == str(paths[2])
    use.value = "the source's foreground"
    assert "MasaCtrl takes this mask, and is not in use" in panel.mask.said.value
    assert panel.settings.guidance.mask is None
    part(panel, "clear").click()
    assert panel.mask.mask is None and panel.wait(PATIENCE)
    # Painting is on while its tab is open.
    panel.pictures.tabs.selected_index = 3
    assert panel.stage.painting
    panel.pictures.tabs.selected_index = 0
    assert not panel.stage.painting


def test_without_anywidget_the_edit_alone_is_shown(monkeypatch, opened):
    monkeypatch.setattr(stage, "anywidget", None)
    panel = opened()
    assert panel.wait(PATIENCE) and panel.error is None
    assert isinstance(panel.stage, stage.Still) and panel.stage.children[0].value == panel.stage.edit != b""
    assert "pip install" in panel.stage.children[1].value
    assert not part(panel, "text-scale").continuous_update
    assert part(panel, "code").value == panel.code()


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


def test_the_reconstruction_and_the_tabs_follow_the_picture(panel):
    names = ("reconstruction", "change", "words", "distances")
    before = {name: shown(panel, name) for name in names}
    assert all(before.values())
    assert panel.stage.measures["reconstruction"].endswith(" dB")
    assert panel.stage.captions["edit"] == f"edit: {TARGET}"
    part(panel, "guidance").value = "none"
    assert panel.wait(PATIENCE)
    assert all(shown(panel, name) != before[name] for name in names)


def test_the_shown_picture_as_code(panel, tiny, picture):
    text = part(panel, "code").value
    assert "guidance=nmg.NoiseMap(" in text and text == part(panel, "copy").text == panel.code()
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
    assert decoded(shown(panel, "truth")) == b"\xff\0\0" * 512**2
    # The truth of another target is not known.
    panel.set(target="a dog")
    assert panel.wait(PATIENCE) and panel.stage.truth == b""


def test_a_scene_brings_its_caption_and_every_truth(opened):
    panel = opened("scene:7,kind=cat,colour=orange,place=forest,style=plain", None, start=False)
    assert "orange cat" in panel.settings.source and panel.result is None and panel.history == ()
    with pytest.raises(RuntimeError, match="no picture yet"):
        panel.save("edit.png")
    target = panel.settings.source.replace("an orange", "a blue")
    panel.set(target=target)
    assert panel.wait(PATIENCE)
    blue = Scene.sample(7, kind="cat", colour="blue", place="forest", style="plain").render().resize((32, 32), 1)
    assert decoded(shown(panel, "truth")) == blue.resize((512, 512), Image.Resampling.NEAREST).tobytes()


def test_a_picture_needs_a_source_prompt(opened):
    with pytest.raises(ValueError, match="source is missing; say what the picture shows"):
        opened(Image.new("RGB", (32, 32)), None)


def test_large_pictures_are_sent_as_jpeg(tiny, opened):
    panel = opened(Image.new("RGB", (200, 160), "green"), size=(136, 24), steps=1)
    assert panel.wait(PATIENCE) and panel.error is None
    image = Image.open(io.BytesIO(shown(panel)))
    assert image.format == "JPEG" and image.size == (136, 24)


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
    for module in (controls, knobs, desk):
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
