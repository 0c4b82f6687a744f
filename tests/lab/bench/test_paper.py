import argparse
import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import nmg
from nmg.lab import metrics
from nmg.lab.bench import METHODS, paper, runner, tables
from nmg.lab.bench.paper import Paper, Pictures
from nmg.lab.examples import Example
from nmg.lab.profile import MENAGERIE
from nmg.menagerie.scene import Scene

STEPS = 2


@pytest.fixture(scope="module")
def pipe():
    return nmg.load("menagerie", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("paper")


@pytest.fixture
def make(pipe, folder):
    """The artefacts of one scene of a task, by plain DDIM and NMG, which share a folder."""
    options = {"methods": ("DDIM", "NMG"), "tasks": ("colour change",), "count": 1, "steps": STEPS, "progress": False}
    return lambda **others: Paper(pipe, folder, **{**options, **others})


@pytest.fixture
def unmeasured(monkeypatch):
    """No learned metric can be had."""

    def absent(self, *arguments):
        raise metrics.Missing(f"{type(self).__name__} is not here")

    for name in ("ClipScore", "Lpips", "Tifa"):
        monkeypatch.setattr(getattr(metrics, name), "__call__", absent)


def lines(path):
    """The lines of a long table by method and metric, over all tasks."""
    with path.open() as file:
        return {(x["method"], x["scale"], x["metric"]): x for x in csv.DictReader(file) if x["task"] == "all"}


def test_reconstruction_is_measured_on_the_source_row(make, folder, unmeasured):
    text, table = make().reconstruction()
    found = lines(table)
    (own,) = [r for r in tables.gather(folder) if r.method == "DDIM"]
    assert float(found["DDIM", "", "reconstruction_mse"]["mean"]) == pytest.approx(
        own.metrics["reconstruction_mse"], rel=1e-5
    )
    assert found["DDIM", "", "reconstruction_lpips"]["n"] == "0"
    assert "Lpips is not here" in found["DDIM", "", "reconstruction_lpips"]["reason"]
    assert "missing [1]" in text.read_text() and "MSE ×10³ and SSIM of NTI 33 and 0.812" in text.read_text()
    assert "| identity |" not in text.read_text()


def test_a_further_metric_is_measured_on_the_kept_pictures(make, folder, monkeypatch):
    asked = []

    def score(self, pictures, prompts):
        asked.append((pictures, prompts))
        return torch.tensor([30.0 + len(asked)])

    monkeypatch.setattr(metrics.ClipScore, "__call__", score)
    text, table = make().editing()
    found = lines(table)
    records = {r.method: r for r in tables.gather(folder)}
    assert len(asked) == len(records) == 4
    for (pictures, prompts), record in zip(asked, records.values(), strict=True):
        saved = torch.from_numpy(np.array(Image.open(folder / record.pictures["edit"]))).permute(2, 0, 1)[None] / 255
        torch.testing.assert_close(pictures, saved)
        assert prompts == [record.target]
    assert found["DDIM", "", "clip"]["n"] == "1" and "31" in {x["mean"] for x in found.values()}
    # Scenes bring no questions.
    assert "TIFA needs questions" in text.read_text()


def test_artefacts_share_their_edits_and_another_run_repeats_none(make, folder, monkeypatch, unmeasured):
    make().reconstruction()
    count = len(runner.records.read(folder))

    def never(*arguments, **options):
        raise AssertionError("an edit was made again")

    monkeypatch.setattr(nmg, "edit", never)
    for artefact in (Paper.reconstruction, Paper.editing, Paper.runtime):
        assert all(path.stat().st_size > 200 for path in artefact(make()))
    assert len(runner.records.read(folder)) == count


def test_runtime_has_the_cost_of_every_edit(make):
    text, table = make().runtime()
    found = lines(table)
    assert float(found["NMG", "30", "seconds"]["mean"]) > 0
    assert "| seconds ↓ |" in text.read_text() and "20 times faster" in text.read_text()
    assert "published time of null-text inversion is about 148 s" in text.read_text()
    assert "minus DDIM" not in text.read_text()


def test_the_sweep_has_a_row_per_scale_on_the_validation_split(make, folder):
    text, table, curve = make().sweep([0.0, 3.0])
    found = lines(table)
    values = {found["NMG", scale, "reconstruction_psnr"]["mean"] for scale in ("0", "3")}
    assert len(values) == 2 and {x["split"] for x in found.values()} == {"validation"}
    assert "NMG, scale 3" in text.read_text() and "split validation" in text.read_text()
    assert curve.name == "sweep-prompttoprompt.png"
    # The tables of the test split have no part in it.
    assert {r.scale for r in tables.gather(folder) if r.method == "NMG"} == {30.0}


def test_robustness_runs_both_guidances_on_every_inversion(make):
    variants = ("", ", authors' levels", ", edit-friendly")
    text, table, chart = make().robustness(variants)
    assert {f"{name}{variant}" for name in ("DDIM", "NMG") for variant in variants} < {m for m, _, _ in lines(table)}
    assert "No row: NMG, edit-friendly: refused on 1 of 1 items" in text.read_text()
    assert chart.name == "robustness-prompttoprompt.png" and "inversion seconds" in text.read_text()


def test_a_variant_is_that_of_the_method_that_has_it():
    found = paper.on_variant("DDIM", ", authors' levels")
    assert found.name == "DDIM, authors' levels" and (found.convention, found.offset) == ("diffusers-0.18", 0)
    assert found.guidance is METHODS["DDIM"].guidance
    assert paper.on_variant("NMG", "") is METHODS["NMG"]
    # A noise-map scale is taken over from plain DDIM.
    assert paper.on_variant("NMG", ", edit-friendly").scale_of == "NMG"
    with pytest.raises(ValueError, match="no variant ', sideways'"):
        paper.on_variant("DDIM", ", sideways")


def test_chosen_scales_are_used_and_taken_over(pipe, tmp_path):
    (tmp_path / "scales.json").write_text(json.dumps({"scales": {"NMG": {"PromptToPrompt": 3.0}}}))
    own = Paper(pipe, tmp_path)
    methods = ["DDIM", "NMG", "NMG, regularised"]
    assert own._scales(methods) == {name: {"PromptToPrompt": 3.0} for name in methods[1:]}
    assert Paper(pipe, tmp_path, scales=5)._scales(methods) == 5.0
    assert Paper(pipe, tmp_path / "elsewhere")._scales(methods) == MENAGERIE.scales["noise_map_scale"]


def test_the_paper_s_methods_are_known():
    assert set(paper.COMPARED) <= set(METHODS)
    for variant in paper.VARIANTS:
        assert paper.on_variant("NMG", variant).name == f"NMG{variant}"


def test_sheets_show_the_ready_examples(make, monkeypatch):
    kept = paper.examples_of(make().pipe).examples
    assert {type(example.editor).__name__ for named in kept.values() for example in named.values()} == {
        "PromptToPrompt",
        "MasaCtrl",
        "Pix2PixZero",
    }
    monkeypatch.setattr(paper, "examples_of", lambda pipe: Pictures({"colour change": kept["colour change"]}))
    sheets = []
    monkeypatch.setattr(
        paper.plots, "sheet", lambda *a, draw=paper.plots.sheet, **o: sheets.append(draw(*a, **o)) or sheets[-1]
    )
    (path,) = make(methods=("DDIM",)).sheets()
    assert path.name == "sheet-prompttoprompt.png"
    # Source, edit and truth.
    assert len(sheets[0].axes) == 3


# ---------------------------------------------------------------- photographs


@pytest.fixture
def photographs(tmp_path):
    """Two pictures with captions, without a truth."""
    for seed in (1, 2):
        Scene.sample(seed, kind="cat").render().save(tmp_path / f"{seed}.png")
    captions = {f"{seed}.png": {"source": "a cat in the forest", "target": "a dog in the forest"} for seed in (1, 2)}
    captions["2.png"] |= {"editor": "masactrl", "questions": [{"question": "is it a dog?"}]}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    return tmp_path


def test_photographs_are_edited_without_a_truth(pipe, photographs, tmp_path_factory, unmeasured):
    suite = Pictures.read(photographs)
    out = tmp_path_factory.mktemp("photographs")
    made = Paper(pipe, out, suite, methods=("DDIM",), count=None, steps=STEPS, progress=False)
    text, table = made.editing()
    assert "Prompt-to-Prompt" in text.read_text() and "MasaCtrl" in text.read_text()
    assert "ClipScore is not here" in text.read_text() and "PSNR ↑" not in text.read_text()
    # Only one of them brings questions, for a network that isn't there.
    with table.open() as file:
        reasons = {x["editor"]: x["reason"] for x in csv.DictReader(file) if x["metric"] == "tifa"}
    assert "Tifa is not here" in reasons["MasaCtrl"] and "needs questions" in reasons["PromptToPrompt"]
    # Without a truth the sweep needs CLIP, which isn't there either.
    text, table = made.sweep([3.0])
    assert "ClipScore is not here" in text.read_text() and "split validation" in text.read_text()
    text, table = made.reconstruction()
    assert float(lines(table)["DDIM", "", "reconstruction_mse"]["mean"]) > 0


def test_another_model_has_the_paper_s_scales(tiny, photographs, tmp_path):
    made = Paper(tiny(), tmp_path / "out", Pictures.read(photographs), ("NMG",), steps=STEPS, progress=False)
    made.runtime()
    (guidance,) = {json.dumps(r.settings["guidance"]) for r in tables.gather(tmp_path / "out") if r.method == "NMG"}
    settings = json.loads(guidance)
    assert (settings["text_scale"], settings["noise_map_scale"], settings["gradient_scale"]) == (7.5, 10, 5000)


def test_pictures_with_a_truth_are_scored_by_it(backbone, picture):
    suite = Pictures({"swap": {"one": Example(picture, "a", "b", nmg.Editor(), picture)}})
    case = suite.case("swap", "one", backbone)
    own = torch.from_numpy(np.array(case.picture)).permute(2, 0, 1)[None] / 255
    values, missing = suite.score(case, own, backbone)
    assert values["mse"] == 0 and values["ssim"] == pytest.approx(1) and "psnr" in missing
    assert suite.items("swap", "test", 5) == ("one",) and suite.items("swap", "test", 0) == ()
    other = Pictures({"swap": {"one": Example(picture, "a", "c", nmg.Editor(), picture)}})
    assert suite.described() != other.described()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "names no picture"),
        ('{"1.png": "a cat"}', "no source and target prompt"),
        ('{"1.png": {"source": "a", "target": "b", "editor": "brush"}}', "the editor 'brush'"),
    ],
)
def test_captions_that_can_t_be_used_say_why(photographs, text, message):
    (photographs / "captions.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Pictures.read(photographs)


def test_a_folder_without_captions_says_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="two prompts"):
        Pictures.read(tmp_path)


# ---------------------------------------------------------------- the command


def test_the_command_makes_one_artefact_and_prints_its_paths(pipe, folder, monkeypatch, capsys):
    p = argparse.ArgumentParser()
    paper.add(p.add_subparsers())
    options = ["--out", str(folder), "--scenes", "1", "--steps", str(STEPS), "--methods", "DDIM", "NMG"]
    arguments = p.parse_args(["paper", "runtime", *options, "--tasks", "colour change"])
    monkeypatch.setattr("nmg.pipelines.load", lambda *a, **o: pipe)
    paper.run_paper(arguments)
    assert capsys.readouterr().out.split() == [str(folder / f"runtime.{kind}") for kind in ("md", "csv")]
    with pytest.raises(SystemExit):
        p.parse_args(["paper", "poster"])
