import argparse

import pytest

from nmg.lab.bench import Menagerie, artefacts, paper
from tests.lab.bench.made import TASK


def test_the_command_makes_one_artefact_and_prints_its_paths(pipe, tmp_path, monkeypatch, capsys):
    p = argparse.ArgumentParser()
    paper.add(p.add_subparsers())
    options = ["--out", str(tmp_path), "--scenes", "1", "--steps", "2", "--methods", "DDIM", "--tasks", TASK]
    monkeypatch.setattr("nmg.pipelines.load", lambda *given, **options: pipe)
    monkeypatch.setattr(artefacts.Paper, "pictures", Menagerie())
    paper.run_paper(p.parse_args(["paper", "runtime", *options]))
    assert capsys.readouterr().out.split() == [str(tmp_path / f"runtime.{kind}") for kind in ("md", "csv")]
    with pytest.raises(SystemExit):
        p.parse_args(["paper", "poster"])
