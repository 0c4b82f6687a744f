"""The panel in a real browser with visible scroll bars: by keyboard and by mouse, light and dark, at three widths."""

import functools
import io

import pytest
from PIL import Image

from tests import browser
from tests.notebooks import ROOT

STEPS = 8
WIDTHS = (900, 1280, 1440)
OWN = {"nmg_ptp.ipynb": "cross-replace", "nmg_masactrl.ipynb": "start-step", "nmg_pix2pix.ipynb": "amount"}
"""A slider of the editor's own."""
TYPED = {"blend": "rabbit, rabbit", "weights": "blue=2"}
TYPED_CODE = (" now", 'LocalBlend(words=("rabbit", "rabbit")', '"blue": 2')
"""What is typed into fields, and how the code of it reads."""
pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())]


@pytest.fixture(scope="module")
def served(request, tmp_path_factory):
    """A folder of notebooks with its JupyterLab, a browser, and whether they are dark."""
    folder, dark = tmp_path_factory.mktemp("notebooks"), getattr(request, "param", False)
    with browser.lab(folder, dark) as address, browser.chromium(size=(1280, 800)) as page:
        yield folder, address, page, dark


@pytest.fixture
def opened(served):
    """Opens a short copy of a notebook and runs it; at its end the browser may have nothing to complain about."""
    folder, address, page, _ = served
    panels = []

    def opened(name: str) -> browser.Panel:
        panels.append(browser.Panel(page(), address(browser.shortened(ROOT / name, folder, STEPS))))
        return panels[-1]

    yield opened
    for panel in panels:
        panel.page.close()
        assert panel.complaints == []


@pytest.mark.parametrize("name", browser.TASKS)
@pytest.mark.parametrize("served", [True, False], ids=["dark", "light"], indirect=True)
def test_the_panel_fits_its_cell_and_is_read_in_both_themes(served, opened, name):
    panel, dark = opened(name), served[-1]
    panel.result()
    tabs, own = panel.part("tabs", ".lm-TabBar-tab"), OWN[name]
    for width in WIDTHS:
        panel.page.set_viewport_size({"width": width, "height": 800})
        for i in range(tabs.count()):
            tabs.nth(i).click()
            panel.until(lambda i=i: "lm-mod-current" in tabs.nth(i).get_attribute("class"), "the tab opens")
            assert panel.scrolling() == [] and panel.sticking_out() == [] and panel.faint() == []
            assert not (dark and panel.bright())
        # The edit, the sliders and the way back are in view together, and where the tabs begin.
        panel.part("panel").evaluate("panel => panel.scrollIntoView()")
        seen = ("view", "noise-map-scale", "text-scale", own, "status")
        boxes = [panel.part(name).bounding_box() for name in seen]
        assert all(box["y"] >= 0 and box["y"] + box["height"] <= 800 for box in boxes)
        assert panel.part("history").bounding_box()["y"] < 780 and tabs.first.bounding_box()["y"] < 780
        assert boxes[1]["x"] >= boxes[0]["x"] + boxes[0]["width"]
    assert panel.nameless() == []
    assert bool(panel.bright()) != dark, "a light page is bright"


@pytest.mark.parametrize("served", [True, False], ids=["dark", "light"], indirect=True)
def test_sliders_the_wipe_and_the_history_by_keyboard(opened):
    panel = opened("nmg_ptp.ipynb")
    first = panel.result()
    assert "inverting" in panel.text("status")
    scale, text_scale = panel.value("noise-map-scale"), panel.value("text-scale")
    panel.result(lambda: panel.press("noise-map-scale", "ArrowLeft", 3))
    assert 0.8 * scale < panel.value("noise-map-scale") <= 0.95 * scale, "a key moves it by some percent"
    moved = panel.result(lambda: panel.press("noise-map-scale", "Home"))
    assert panel.value("noise-map-scale") == 0 and moved != first
    assert "sampling source and target" in panel.text("status") and "inverting" not in panel.text("status")

    view = panel.part("view")
    assert view.get_attribute("aria-valuenow") == "50"
    for key, value in (("ArrowRight", "52"), ("PageDown", "42"), ("Home", "0"), ("End", "100")):
        view.press(key)
        assert view.get_attribute("aria-valuenow") == value
    panel.part("thumb", "").first.press("ArrowRight")
    panel.until(
        lambda: panel.part("view", ".nmg-left").text_content() == "reconstruction", "another picture is compared"
    )

    panel.part("tried", "button").first.press("Enter")
    panel.until(lambda: panel.picture("edit") == first, "the first edit is back")
    assert (panel.value("noise-map-scale"), panel.value("text-scale")) == (scale, text_scale)

    panel.write("blend", "elephant")
    panel.until(lambda: "ValueError: 'elephant'" in panel.text("error"), "the panel says what was refused")
    assert panel.faint() == []
    assert panel.picture("edit") == first
    panel.write("blend", "")
    panel.part("error").wait_for(state="hidden")


@pytest.mark.parametrize("served", [True, False], ids=["dark", "light"], indirect=True)
def test_every_control_is_reached_and_turned_by_keys_alone(opened):
    panel = opened("nmg_ptp.ipynb")
    panel.result()
    keys, part = panel.page.keyboard, panel.part
    sliders = ("cross-replace", "self-replace", "noise-map-scale", "text-scale", "steps")
    fields = ("source-prompt", "target-prompt", "blend", "weights", "negative-prompt")
    others = ("view", "thumb", "upload", "run", "preset", "editor", "guidance", "tried", "tabs")
    for width in WIDTHS:
        panel.page.set_viewport_size({"width": width, "height": 800})
        reached = [name for stop in panel.tabbed() for name in stop]
        assert set(sliders + fields + others) <= set(reached)

    cells = panel.page.locator(".jp-Cell").count()
    for name in sliders:
        value = panel.value(name)
        panel.result(functools.partial(panel.press, name, "ArrowLeft"))
        assert panel.value(name) < value
    for name, letter in (("guidance", "d"), ("editor", "m"), ("preset", "c")):
        part(name, "select").focus()
        panel.result(functools.partial(keys.press, letter))
        assert part(name, "select").input_value().startswith(letter)
    for name in fields:
        part(name, ":is(input, textarea)").focus()
        keys.press("End")
        keys.type(TYPED.get(name, " now"))
        keys.press("Tab")
    tabs = part("tabs", ".lm-TabBar-tab")
    tabs.first.focus()
    for _ in range(tabs.count() - 1):
        keys.press("ArrowRight")
    keys.press("Enter")
    made = (*TYPED_CODE, "Direct(", "PromptToPrompt(")
    panel.until(lambda: all(text in part("code", "textarea").input_value() for text in made), "all of it is made")
    # The notebook heard none of these keys.
    assert panel.page.locator(".jp-Cell").count() == cells

    part("tried", "button").first.focus()
    keys.press("Enter")
    panel.until(lambda: "from the history" in panel.text("status"), "the first edit is back")
    tried = panel.tried()
    part("run").focus()
    keys.press("Space")
    panel.until(lambda: panel.text("status").startswith("done") and panel.tried() == tried, "nothing new is made")


def test_a_dragged_slider_is_followed_and_a_long_run_is_cancelled(opened):
    panel = opened("nmg_ptp.ipynb")
    panel.result()
    text_scale, tried = panel.value("text-scale"), panel.tried()
    with panel.dragging("text-scale", 0.3):
        panel.until(lambda: panel.part("view", ".nmg-right").text_content() == "preview, 6 steps", "a preview follows")
        assert panel.tried() == tried
    panel.until(lambda: panel.tried() == tried + 1 and panel.text("status").startswith("done"), "the full picture")
    assert panel.value("text-scale") > text_scale + 1
    dragged = panel.picture("edit")

    panel.enter("steps", 50)
    panel.until(lambda: panel.picture("edit") != dragged, "a preview is shown")
    panel.part("cancel").click()
    panel.until(lambda: "cancelled" in panel.text("status"), "the long run is cancelled")
    panel.until(lambda: panel.picture("edit") == dragged, "the last good edit is back")
    assert panel.result(lambda: panel.enter("steps", STEPS - 1)) != dragged


def test_the_line_is_dragged_a_mask_painted_and_the_code_copied(opened):
    panel = opened("nmg_ptp.ipynb")
    panel.result()
    panel.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    panel.stroke((0.5, 0.5), (0.2, 0.5))
    assert panel.part("view").get_attribute("aria-valuenow") == "20"

    panel.part("tabs", ".lm-TabBar-tab").filter(has_text="Keep").click()
    panel.part("copy-button").click()
    panel.until(lambda: panel.text("copied") == "copied", "the code is copied")
    copied = panel.page.evaluate("navigator.clipboard.readText()")
    assert "nmg.edit(" in copied and copied == panel.part("code", "textarea").input_value()

    panel.part("tabs", ".lm-TabBar-tab").filter(has_text="Mask").click()
    panel.part("painting").wait_for()
    assert panel.text("hint") == "Drag over the picture to paint a mask."
    panel.stroke((0.2, 0.2), (0.2, 0.8))
    assert panel.part("view").get_attribute("aria-valuenow") == "20"
    panel.result(lambda: panel.part("mask-use", "select").select_option("what is guarded"))
    assert "mask=" in panel.part("code", "textarea").input_value()
    # By keyboard the same mask grows.
    panel.result(functools.partial(panel.part("view").press, " "))


def test_another_picture_is_chosen_or_dropped(opened):
    panel = opened("nmg_ptp.ipynb")
    panel.result()
    red, blue = (_png(colour) for colour in ("red", "blue"))
    with panel.page.expect_file_chooser() as chooser:
        panel.part("upload").click()
    chooser.value.set_files({"name": "red.png", "mimeType": "image/png", "buffer": red})
    panel.until(lambda: panel.picture("source").getpixel((9, 9)) == (255, 0, 0), "the chosen picture is there")
    panel.drop("blue.png", blue)
    panel.until(lambda: panel.picture("source").getpixel((9, 9)) == (0, 0, 255), "the dropped picture is there")
    assert panel.part("target-prompt", "textarea").input_value() == ""


@pytest.mark.parametrize("name", ["nmg_masactrl.ipynb", "nmg_pix2pix.ipynb"])
def test_the_scale_and_the_editors_own_control(opened, name):
    panel, control = opened(name), OWN[name]
    first = panel.result()
    moved = panel.result(lambda: panel.press("noise-map-scale", "Home"))
    assert moved != first
    value = panel.value(control)
    assert panel.result(lambda: panel.drag(control, 0.3)) != moved
    assert panel.value(control) > value
    assert "beside the recorded source" in panel.text("status")


def _png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()
