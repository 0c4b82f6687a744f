import math
from types import SimpleNamespace

import pytest

import nmg
from scripts import grid


def record(method, **metrics):
    return SimpleNamespace(method=method, value=metrics.get)


def test_the_grid_holds_every_bound_strength_and_way_once_and_the_papers_step():
    found = grid.settings()
    names = [grid.described(guidance) for guidance in found]
    assert len(found) == len(set(names)) == 2 + 2 * 2 * 2
    assert found[:2] == [nmg.NoiseMap(bound=None), nmg.NoiseMap.fast()] and names[:2] == ["published 10", "fast"]
    assert "element 10, no Jacobian" in names and "norm 3000" in names
    assert len(grid.settings((1.0,), ("l1", "l2"))) == 2 + 2 * 2 * 2
    assert grid.method(found[0]).guidance(3.0, None) == nmg.NoiseMap(text_scale=3.0, bound=None)


def test_of_equally_good_edits_the_best_source_decides_and_what_failed_is_never_chosen():
    def cell(**psnrs):
        return [record(name, psnr=edit, reconstruction_psnr=source) for name, (edit, source) in psnrs.items()]

    found = {
        (5, 3.0): cell(a=(20.0, 25.0), b=(19.99, 40.0), c=(30.0, 50.0), d=(19.0, 60.0)),
        (50, 3.0): cell(a=(20.0, 30.0), b=(19.97, 29.0), c=(None, None), d=(20.0, 60.0)),
    }
    assert grid.best(found, "abcd") == "b"
    assert grid.best(found, "acd") == "a"
    assert grid.mean(found[50, 3.0], "c", "psnr") == -math.inf


def test_the_table_has_a_row_for_each_method_and_a_column_for_each_cell():
    found = {(5, 3.0): [record("a", psnr=20.0, reconstruction_psnr=30.0, success=0.5)]}
    assert grid.table(found, ["a"]).splitlines() == [
        "| method | 5 steps, scale 3 |",
        "| --- | --- |",
        "| a | 20.00 / 30.0 / 0.50 |",
    ]


@pytest.mark.slow
def test_a_run_chooses_tests_and_goes_on_where_it_stopped(tmp_path):
    words = ["--out", str(tmp_path), "--steps", "2", "--text-scales", "3", "--tasks", "colour change"]
    given = grid.arguments_of([*words, "--validation", "1", "--test", "1", "--strengths", "100"])
    pipe = nmg.load("menagerie")
    first = grid.report(pipe, given)
    assert "Chosen: " in first and first.count("| DDIM |") == 2
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    assert files and grid.report(pipe, given) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")} == files
