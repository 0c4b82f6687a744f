import json

import pytest

import nmg
from nmg import CFG
from nmg.lab.bench import Menagerie, Method, read, run, runner
from nmg.lab.bench.suites import SEEDS
from tests.lab.bench.made import OTHER, STEPS, TASK, Counting

FIRST = SEEDS["test"][0]


def test_every_item_is_measured_once_in_order(measured):
    found, folder = measured
    expected = [(task, FIRST, m) for task in (TASK, OTHER) for m in ("identity", "ceiling", "DDIM", "NMG")]
    assert [(r.task, r.item, r.method) for r in found] == expected
    lines = (folder / "records-0.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == sorted(record.key for record in found)


def test_what_is_known_is_not_measured_again(measured, pipe):
    found, folder = measured
    again = Counting()
    assert run(pipe, Menagerie(), ["DDIM", "NMG"], [TASK, OTHER], 1, folder, callback=again, **STEPS) == found
    assert again.keys == []


def test_a_killed_run_goes_on_and_measures_only_what_is_new(measured, pipe, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(pipe, Menagerie(), ["DDIM"], [TASK], 1, tmp_path, callback=Counting(3), **STEPS)
    path = tmp_path / "records-0.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert len(read(tmp_path)) == 2

    rest = Counting()
    found = run(pipe, Menagerie(), ["DDIM", "NMG"], [TASK], 1, tmp_path, pictures=False, callback=rest, **STEPS)
    assert [(r.key, r.metrics) for r in found] == [(r.key, r.metrics) for r in measured[0] if r.task == TASK]
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 4 and rest.keys == keys[2:]


def test_warming_up_leaves_no_record(pipe, tmp_path):
    runner.Bench.opened(pipe, Menagerie(), tmp_path, "test", 2, None, False).warm_up(TASK, FIRST)
    assert read(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 3}, "steps 2 there, 3 now.*give another folder"),
        ({"text_scale": 7.5}, "text_scale .* there, 7.5 now"),
        ({"methods": [Method("DDIM", lambda *scales: CFG(55.0))]}, "DDIM.*another guidance.*'text_scale': 55"),
        ({"methods": ["NGM"]}, "no method 'NGM'"),
        ({"tasks": ["juggling"]}, "no task 'juggling'"),
        ({"split": "train"}, "menagerie has validation, test"),
        ({"count": 0}, "give a number from 1 to"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_does_not_exist_or_fit_the_folder_is_refused(measured, pipe, change, message):
    asked = {"methods": ["DDIM"], "tasks": [TASK], "count": 1, "folder": measured[1], **STEPS, **change}
    with pytest.raises(ValueError, match=message):
        run(pipe, Menagerie(), **asked)


def test_another_model_is_refused(measured, build):
    pipe = build()
    name = runner.model_name(nmg.Backbone(pipe))
    next(pipe.unet.parameters()).data.view(-1)[0] += 1
    assert runner.model_name(nmg.Backbone(pipe)) != name
    with pytest.raises(ValueError, match="model 'unnamed@.* there"):
        run(pipe, Menagerie(), ["DDIM"], [TASK], 1, measured[1], **STEPS)
