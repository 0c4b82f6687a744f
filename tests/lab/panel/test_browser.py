"""The panel in a real browser: moved by keyboard and by mouse, cancelled, wiped, brought back, refused."""

import pytest

from tests import browser
from tests.notebooks import ROOT

STEPS = 6
pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder of notebooks with its JupyterLab, and a browser."""
    folder = tmp_path_factory.mktemp("notebooks")
    with browser.lab(folder) as address, browser.chromium() as page:
        yield folder, address, page


@pytest.fixture
def opened(served):
    """Opens a short copy of a notebook and runs it; at its end the browser may have nothing to complain about."""
    folder, address, page = served
    panels = []

    def opened(name: str) -> browser.Panel:
        panels.append(browser.Panel(page(), address(browser.shortened(ROOT / name, folder, STEPS))))
        return panels[-1]

    yield opened
    for panel in panels:
        panel.page.close()
        assert panel.complaints == []


def test_every_part_of_the_panel(opened):
    panel = opened("nmg_ptp.ipynb")
    first = panel.result()
    assert "inverting" in panel.text("status")
    scale, text_scale = panel.value("noise-map-scale"), panel.value("text-scale")

    moved = panel.result(lambda: panel.press("noise-map-scale", "ArrowRight", 3))
    assert panel.value("noise-map-scale") == scale + 3
    assert moved != first
    assert "sampling source and target" in panel.text("status")
    assert "inverting" not in panel.text("status")

    dragged = panel.result(lambda: panel.drag("text-scale", 0.3))
    assert panel.value("text-scale") > text_scale + 1
    assert dragged != moved

    panel.enter("steps", 50)
    panel.until(lambda: panel.picture("edit") != dragged, "a preview is shown")
    panel.part("cancel").click()
    panel.until(lambda: "cancelled" in panel.text("status"), "the long run is cancelled")
    panel.until(lambda: panel.picture("edit") == dragged, "the last good edit is back")
    fewer = panel.result(lambda: panel.enter("steps", STEPS - 2))
    assert fewer != dragged

    half = panel.picture("wiped")
    panel.press("wipe", "ArrowRight", 5)
    panel.until(lambda: panel.picture("wiped") != half, "the wipe moves")

    panel.part("tried").first.click()
    panel.until(lambda: panel.picture("edit") == first, "the first edit is back")
    assert panel.value("noise-map-scale") == scale
    assert panel.value("text-scale") == text_scale
    assert panel.value("steps") == STEPS

    panel.write("blend", "elephant")
    panel.until(lambda: "ValueError: 'elephant'" in panel.text("error"), "the panel says what was refused")
    assert panel.picture("edit") == first
    panel.write("blend", "")
    panel.part("error").wait_for(state="hidden")


@pytest.mark.parametrize(("name", "control"), [("nmg_masactrl.ipynb", "start-step"), ("nmg_pix2pix.ipynb", "amount")])
def test_the_scale_and_the_editors_own_control(opened, name, control):
    panel = opened(name)
    first = panel.result()
    moved = panel.result(lambda: panel.press("noise-map-scale", "ArrowLeft", 5))
    assert moved != first
    value = panel.value(control)
    assert panel.result(lambda: panel.drag(control, 0.3)) != moved
    assert panel.value(control) > value
    assert "beside the recorded source" in panel.text("status")
