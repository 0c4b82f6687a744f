import dataclasses

import pytest
import torch

from nmg import Backbone
from nmg.lab import metrics
from nmg.lab.bench import contradiction, read
from nmg.lab.bench.contradiction import checked
from nmg.lab.bench.pie import PieBench
from nmg.lab.bench.processes import Processes
from nmg.menagerie import Scene
from tests.lab.bench.drawn import write
from tests.lab.bench.made import rows


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """The run on one picture by a tiny model, whose checker flags everything."""
    scenes = {"000000000000": (Scene("cat", "red", "forest", seed=1), {"colour": "blue"}, 6, "")}
    suite = PieBench(write(tmp_path_factory.mktemp("pie"), scenes))
    folder = tmp_path_factory.mktemp("contradiction")
    paths = contradiction.contradiction(tiny(), suite, folder, 1, 2, lambda x: torch.tensor([True]), progress=False)
    return suite, folder, paths


def test_every_combination_has_a_row(made):
    table = rows(made[2][0].read_text())
    ours = [name for name in table if "text scale" in name]
    assert len(ours) == 8 and sum(name.endswith("checked") for name in ours) == 4
    assert "NMG, unbounded, authors' levels, text scale 10, checked" in ours
    assert any("published" in name for name in table)


def test_flagged_pictures_are_black(made, tiny):
    suite, folder, _ = made
    (record,) = (one for one in read(folder / "text-scale-7.5") if one.method == "NMG, unbounded")
    options = suite, folder / "text-scale-7.5", Backbone(tiny())
    black = checked(record, *options, lambda x: torch.tensor([True]))
    assert black.metrics["black"] == 1 and black.metrics["psnr_outside"] < record.metrics["psnr_outside"]
    assert checked(record, *options, lambda x: torch.tensor([False])) == record


def test_only_the_first_of_several_processes_checks_and_writes(made, tiny, monkeypatch):
    suite, folder, (table, _) = made

    def unasked(picture):
        raise AssertionError("the checker was run")

    monkeypatch.setattr(contradiction, "joined", lambda cpu: Processes(1, 2))
    before = table.stat().st_mtime_ns
    assert contradiction.contradiction(tiny(), suite, folder, 1, 2, unasked, progress=False) == []
    assert table.stat().st_mtime_ns == before


def test_without_the_checker_the_reason_stands_in_the_row(made, tiny):
    suite, folder, _ = made
    record = next(one for one in read(folder / "text-scale-7.5") if one.method == "NMG, unbounded")

    def absent(picture):
        raise metrics.Missing("no checker")

    found = checked(record, suite, folder / "text-scale-7.5", Backbone(tiny()), absent)
    assert found.metrics == {} and set(found.missing.values()) == {"no checker"}
    assert found == dataclasses.replace(record, metrics={}, missing=found.missing)


def test_the_checker_without_its_weights_is_missing():
    with pytest.raises(metrics.Missing, match="the safety checker can't .* 'CompVis/stable-diffusion-safety-checker'"):
        metrics.SafetyChecker(device="cpu")(torch.rand(1, 3, 32, 32))
