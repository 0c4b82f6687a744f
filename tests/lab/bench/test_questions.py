import math
import re

import pytest

from nmg import Backbone
from nmg.lab.bench import questions
from nmg.lab.bench.plots import response
from nmg.lab.bench.questions import ASKED, Questions
from nmg.menagerie import FACTORS
from nmg.menagerie.captions import WORDS_OF
from tests.lab.bench.made import record, several


def test_every_question_asks_for_one_factor_on_scenes_that_lack_it():
    for name, (_, task, editor) in ASKED.items():
        assert Questions().editor(name) is editor
        for scene, target in task.scenes(10_000, 3):
            changed = [factor for factor, value in scene.factors.items() if target.factors[factor] != value]
            assert changed == [task.factor]


def test_what_is_removed_is_what_is_added():
    (glasses, _), (bare, _) = (next(ASKED[f"{verb} glasses"][1].scenes(10_000, 1)) for verb in ("remove", "add"))
    assert glasses.glasses and not bare.glasses


def test_what_no_prompt_can_ask_for_is_said_where_it_was_asked():
    assert not {"sun", "position"} & {*FACTORS, *(word for words in WORDS_OF.values() for word in words)}
    assert "sun" in questions.WORDS[questions.ADDED] and "position" in questions.WORDS[questions.GEOMETRY]
    assert set(questions.WORDS) == {question for question, _, _ in ASKED.values()}


def test_a_curve_has_a_panel_per_metric_and_a_line_per_method():
    points = {v: [record("NMG", item, metrics={"psnr": v + item, "success": 1.0}) for item in (1, 2)] for v in (1, 30)}
    figure = response({"NMG": points}, "s_N", ("psnr", "success"))
    first, second = figure.axes
    assert first.get_xscale() == "log" and first.get_xlabel() == "s_N"
    assert first.lines[0].get_ydata().tolist() == [2.5, 31.5] and second.lines[0].get_ydata().tolist() == [1, 1]


def test_a_curve_of_exact_source_rows_stands_at_the_edge():
    own = several(metric="psnr", DDIM=[20, 30], Direct=[math.inf, math.inf])
    curves = {label: dict.fromkeys((5, 10), [r for r in own if r.method == label]) for label in ("DDIM", "Direct")}
    (axes,) = response(curves, "steps", ("psnr",)).axes
    finite, exact = (line.get_ydata().tolist() for line in axes.lines)
    assert finite == [25, 25] and exact[0] == exact[1] > 30
    assert axes.get_yticks()[-1] == exact[0] and axes.get_yticklabels()[-1].get_text() == "exact"
    assert axes.get_ylim()[1] > exact[0] and max(axes.get_yticks()[:-1]) <= 30


@pytest.mark.slow
def test_the_page_answers_every_question_with_its_figures(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "ASKED", {name: ASKED[name] for name in ("add glasses", "another pose")})
    monkeypatch.setattr(questions, "COMPARED", ("DDIM", "NMG", "Direct"))
    scales = {"NMG": (1.0, 3.0), "NMG, unbounded": (1.0,)}
    for name, few in (("NOISE_MAP_SCALES", scales), ("TEXT_SCALES", (1.0, 3.0)), ("STEP_COUNTS", (1, 2))):
        monkeypatch.setattr(questions, name, few)
    monkeypatch.setattr(questions, "TURNS", ("colour change",))
    monkeypatch.setattr(questions, "CURVES", ("DDIM", "NMG"))
    written = questions.answer(Backbone(tiny()), tmp_path, 1, 2, progress=False)
    page = (tmp_path / "questions.md").read_text()
    assert all(path.is_file() for path in written)
    headings = (
        "Adding",
        "Geometry",
        "Failures",
        "together",
        "s_N, s_g and s_T",
        "number of steps",
        "Alignment",
        "bounded",
    )
    assert all(f"{heading}" in page for heading in headings)
    # Every section says what it compares before it shows anything.
    assert all(not text.lstrip().startswith(("|", "!", "#")) for text in re.split(r"^##.*$", page, flags=re.M)[1:])
    assert all(f"({path.name})" in page for path in written if path.suffix == ".png")
