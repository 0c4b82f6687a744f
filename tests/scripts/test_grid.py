import math
from types import SimpleNamespace

import pytest

import nmg
from scripts import grid


def record(method, **metrics):
    return SimpleNamespace(method=method, value=metrics.get)


def test_the_grid_holds_every_bound_energy_and_gradient_once_and_the_default():
    found = grid.settings(nmg.NoiseMap())
    names = [grid.described(guidance) for guidance in found]
    assert len(found) == len(set(names)) == 3 * 2 * 2 + 2
    assert nmg.NoiseMap() in found and nmg.NoiseMap(bound=None) in found and nmg.NoiseMap.fast() in found
    assert grid.method(found[0]).guidance(3.0, None) == nmg.NoiseMap(text_scale=3.0, bound=None)


def test_the_best_has_the_highest_mean_over_all_cells_and_none_that_failed():
    found = {
        (5, 3.0): [record("a", psnr=20.0), record("b", psnr=19.0), record("c", psnr=30.0), record("c", psnr=None)],
        (50, 3.0): [record("a", psnr=20.0), record("b", psnr=22.0), record("c", psnr=30.0)],
    }
    assert grid.best(found, ["a", "b", "c"]) == "b"
    assert grid.mean(found[5, 3.0], "c", "psnr") == -math.inf


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
    given = grid.arguments_of([*words, "--validation", "1", "--test", "1"])
    pipe = nmg.load("menagerie")
    first = grid.report(pipe, given)
    assert "Chosen: " in first and first.count("| DDIM |") == 2
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    assert files and grid.report(pipe, given) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")} == files
