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
def test_the_page_edits_and_fits_at_every_width():
    scene = "scene:7,kind=cat,colour=orange,place=forest,style=plain,pose=sitting"
    with browser.app(scene, *BUNDLED, "--steps", "4", "--dark") as address, browser.chromium(size=(1280, 800)) as page:
        panel = browser.Panel(page(), address)
        first = panel.result()
        source = panel.part("source-prompt", "textarea").input_value()
        edit = panel.result(lambda: panel.write("target-prompt", source.replace("orange", "blue")))
        assert edit != first and "automatic: colour change" in panel.part("preset", "select").inner_text()
        panel.result(lambda: panel.drag("text-scale", 0.3))
        for width in (900, 1280, 1440):
            panel.page.set_viewport_size({"width": width, "height": 800})
            assert panel.scrolling() == [] and panel.sticking_out() == []
        assert sum(map(int, panel.colour("controls"))) > 3 * 128, "words are light on a dark page"
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
