import argparse
import dataclasses
import subprocess
import sys

import pytest
import torch

from nmg.lab import metrics
from nmg.lab.bench import Menagerie, command, records
from tests.lab.bench.made import TASK, rows


def parsed(*words):
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers(required=True))
    return parser.parse_args(["bench", *map(str, words)])


def test_options_go_before_quick_and_quick_before_the_usual():
    suite = Menagerie()
    usual, quick = command._chosen(parsed(), suite), command._chosen(parsed("--quick"), suite)
    assert usual["tasks"] == list(suite.tasks) and usual["scales"] == "tune" and "NMG" in usual["methods"]
    assert quick["methods"] == ["DDIM", "NMG"] and quick["scales"] == "default" and len(quick["tasks"]) == 4
    own = command._chosen(parsed("--quick", "--methods", "NMG", "--scales", 3, "--editors", "MasaCtrl"), suite)
    assert own["methods"] == ["NMG"] and own["scales"] == 3 and set(own["tasks"]) < set(quick["tasks"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "NGM"], "no method 'NGM'"),
        (["--tasks", "juggling"], "no task 'juggling'"),
        (["--editors", "MasaCtrl", "Imagic"], "no editor 'Imagic'; the suite has PromptToPrompt, MasaCtrl"),
        (["--editors", "MasaCtrl", "--tasks", TASK], "no task is left by --editors MasaCtrl"),
    ],
    ids=str,
)
def test_unknown_names_are_refused_before_the_model_is_loaded(words, message):
    with pytest.raises(ValueError, match=message):
        command._chosen(parsed(*words), Menagerie())


@pytest.mark.parametrize(
    "words",
    [["--methods", "NMG"], ["--text-scale", 0], ["--editors", "MasaCtrl"], ["--scales", 3], ["--no-pictures"]],
    ids=str,
)
def test_the_contradiction_refuses_what_it_settles_itself(words):
    own = ["--pie-bench", "PIE", "--contradiction", "--scenes", 1, "--steps", 2, "--device", "cpu"]
    command._settled(parsed(*own))
    with pytest.raises(ValueError, match=f"no use for {words[0]}; leave that out"):
        command._settled(parsed(*own, *words))
    with pytest.raises(ValueError, match="give its folder by --pie-bench"):
        command._settled(parsed("--contradiction"))


@pytest.mark.parametrize("words", [["--scenes", "0"], ["--scales", "large"]], ids=str)
def test_values_that_mean_nothing_are_refused_by_the_parser(words, capsys):
    with pytest.raises(SystemExit):
        parsed(*words)
    assert "must be a" in capsys.readouterr().err


def test_the_command_measures_and_reports(pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nmg.pipelines.load", lambda *given: pipe)
    words = ["--quick", "--tasks", TASK, "--scenes", 1, "--steps", 2, "--no-pictures", "--out", tmp_path]
    command.run_bench(parsed(*words))
    assert [line.rpartition("/")[2] for line in capsys.readouterr().out.split()] == [
        "table.md", "table.csv", "methods-prompttoprompt.png", "plane-prompttoprompt.png",
    ]  # fmt: skip


def test_a_judge_rates_the_kept_pictures_once(pipe, tmp_path, monkeypatch, capsys):
    seen = []

    def score(self, edited, sources, prompts):
        seen.append((self.model, prompts))
        return torch.tensor([7.5])

    monkeypatch.setattr("nmg.pipelines.load", lambda *given: pipe)
    monkeypatch.setattr(metrics.VieScore, "__call__", score)
    words = ["--quick", "--methods", "DDIM", "--tasks", TASK, "--scenes", 1, "--steps", 2, "--out", tmp_path]
    for _ in range(2):
        command.run_bench(parsed(*words, "--judge", "some/judge"))
    assert [model for model, _ in seen] == ["some/judge"] * 3
    table = (tmp_path / "table.md").read_text()
    assert rows(table)["DDIM"]["VIEScore ↑"].startswith("7.50") and "judgement of some/judge" in table
    # Nothing of it stays in the run's own records.
    assert all("viescore" not in record.metrics for record in records.read(tmp_path))
    with pytest.raises(ValueError, match="leave --no-pictures out"):
        command.run_bench(parsed(*words, "--judge", "--no-pictures"))


def test_the_split_that_was_measured_is_tabulated(measured, tmp_path, capsys):
    found, _ = measured
    rest = [dataclasses.replace(r, key=f"validation {r.key}", split="validation") for r in found]
    for one in (*found, *rest):
        records.Writer(tmp_path).write(one)
    command._report(tmp_path, rest, "validation", [*found, *rest], ["By a judge."])
    table = (tmp_path / "table.md").read_text()
    assert "split validation" in table and "By a judge." in table


def test_the_package_names_what_it_has_and_draws_only_when_asked():
    script = (
        "import sys, nmg.lab.bench as b; assert 'matplotlib' not in sys.modules; [getattr(b, n) for n in b.__all__]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
