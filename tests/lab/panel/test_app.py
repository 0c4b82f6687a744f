"""`nmg app`: the panel as a page of its own."""

import importlib.util
import json
from pathlib import Path

import pytest

from nmg.lab.arguments import parser
from nmg.lab.cli import main
from nmg.lab.panel import app
from tests import browser

BUNDLED = ["--model", "menagerie", "--device", "cpu"]
needs_voila = pytest.mark.skipif(importlib.util.find_spec("voila") is None, reason="needs pip install 'nmg[app]'")


@pytest.mark.browser
@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
@needs_voila
@pytest.mark.parametrize("dark", [True, False], ids=["dark", "light"])
def test_the_page_edits_and_fits_at_every_width(dark):
    options = [*BUNDLED, "--steps", "4", *["--dark"] * dark]
    with browser.app(*options) as address, browser.chromium(size=(1280, 800)) as page:
        panel = browser.Panel(page(), address)
        first = panel.result()
        assert panel.part("target-prompt", "textarea").input_value() == app.TARGET
        edit = panel.result(lambda: panel.write("target-prompt", app.TARGET.replace("blue", "pink")))
        named = panel.part("preset", "select").evaluate("choice => choice.selectedOptions[0].text")
        assert edit != first and named.replace("\xa0", " ") == "automatic: colour change"
        dragged = panel.result(lambda: panel.drag("text-scale", 0.3))
        assert dragged != edit and panel.result(lambda: panel.press("noise-map-scale", "Home")) != dragged
        for width in (900, 1280, 1440):
            panel.page.set_viewport_size({"width": width, "height": 800})
            assert panel.scrolling() == [] and panel.sticking_out() == [] and panel.faint() == []
            boxes = [panel.part(name).bounding_box() for name in ("view", "text-scale", "negative-prompt", "status")]
            assert all(box["y"] >= 0 and box["y"] + box["height"] <= 800 for box in boxes)
        assert bool(panel.bright()) != dark, "a light page is bright"
        # Nothing is asked of another machine.
        assert panel.complaints == []


def test_without_voila_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
    assert main(["app", *BUNDLED]) == 2
    assert "needs voila, ipywidgets, anywidget; pip install 'nmg[app]'" in capsys.readouterr().err


def test_a_model_of_photographs_needs_a_picture(monkeypatch, capsys):
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: object())
    assert main(["app", "--model", "CompVis/stable-diffusion-v1-4"]) == 2
    assert "IMAGE is missing; give a picture file, or --model menagerie" in capsys.readouterr().err


def test_voila_is_started_for_this_machine_alone(monkeypatch):
    called = []

    def run(command, env, check):
        called.append((command, json.loads(Path(command[3]).read_text())))
        return type("Ended", (), {"returncode": 0})

    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(app.subprocess, "run", run)
    app.run_app(parser().parse_args(["app", *BUNDLED, "--dark"]))
    ((command, notebook),) = called
    assert command[1:3] == ["-m", "voila"] and {"--Voila.ip=127.0.0.1", "--theme=dark"} <= set(command)
    assert repr(app.SCENE) in notebook["cells"][0]["source"]
