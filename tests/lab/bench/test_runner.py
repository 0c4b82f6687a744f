import argparse
import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch

import nmg
from nmg import CFG, NoiseMap
from nmg.editors import Editor, Pix2PixZero
from nmg.lab import scoring
from nmg.lab.bench import (
    METHODS,
    Item,
    Menagerie,
    Method,
    Record,
    command,
    meter,
    processes,
    read,
    records,
    run,
    runner,
    tune,
    tuning,
)
from nmg.lab.bench.runner import model_name
from nmg.menagerie import Scene
from nmg.menagerie.model import load_classifier
from scripts import card, evaluate

TASK, OTHER = "colour change", "pose modification"
STEPS = {"steps": 2, "progress": False}


@pytest.fixture
def pipe(tiny):
    return tiny()


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
    """DDIM and NMG on a scene of two tasks, and the folder."""
    folder = tmp_path_factory.mktemp("bench")
    return run(tiny(), Menagerie(), ["DDIM", "NMG"], [TASK, OTHER], 1, folder, **STEPS), folder


class Counting:
    """A callback that counts records, and fails when it has seen so many."""

    def __init__(self, most=None):
        self.keys, self.most = [], most

    def __call__(self, record):
        self.keys.append(record.key)
        if len(self.keys) == self.most:
            raise KeyboardInterrupt


# ---------------------------------------------------------------- a run


def test_every_item_is_measured_once_in_order(measured):
    found, folder = measured
    methods = ["identity", "ceiling", "DDIM", "NMG"]
    expected = [(task, 10_000, m) for task in (TASK, OTHER) for m in methods]
    assert [(r.task, r.item, r.method) for r in found] == expected
    lines = (folder / "records-0.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == sorted(record.key for record in found)


def test_a_record_holds_all_that_the_edit_depends_on(measured):
    found, folder = measured
    record = next(r for r in found if r.method == "NMG" and r.task == OTHER)
    assert record.key == "menagerie/test/pose modification/10000/NMG/30"
    assert (record.editor, record.scale, record.steps, record.refused) == ("MasaCtrl", 30.0, 2, None)
    assert record.settings["guidance"]["noise_map_scale"] == 30 and record.settings["guidance"]["text_scale"] == 3
    assert record.settings["inversion"]["method"] == "DDIM" and record.settings["editor"]["method"] == "MasaCtrl"
    assert record.source != record.target
    assert record.seconds > 0 and record.inversion_seconds > 0
    assert {"psnr", "mse", "ssim", "psnr_inside", "psnr_outside", "success", "kept"} <= set(record.metrics)
    assert {"reconstruction_psnr", "reconstruction_mse", "reconstruction_ssim"} <= set(record.metrics)
    assert set(record.pictures) == {"edit", "reconstruction"}
    assert all((folder / path).stat().st_size > 100 for path in record.pictures.values())
    assert Record.from_json(record.to_json()) == record


def test_the_references_stand_where_they_must(measured):
    found, _ = measured
    for task in (TASK, OTHER):
        identity, ceiling = (next(r for r in found if (r.task, r.method) == (task, m)) for m in ("identity", "ceiling"))
        assert identity.settings == ceiling.settings == {} and identity.seconds is None
        assert identity.metrics["success"] == 0
        assert identity.metrics["psnr_outside"] > identity.metrics["psnr_inside"]


def test_an_edit_is_what_the_package_makes_of_its_settings(measured, pipe):
    found, folder = measured
    record = next(r for r in found if r.method == "DDIM" and r.task == TASK)
    scene = Scene.sample(10_000, style="plain")
    editor = Menagerie().editor(TASK)
    result = nmg.edit(
        pipe,
        scene.render(32),
        record.source,
        [record.target],
        guidance=CFG(3.0),
        editor=editor,
        steps=2,
        progress=False,
    )
    from PIL import Image

    with Image.open(folder / record.pictures["edit"]) as saved:
        assert saved.tobytes() == result.pictures[0].tobytes()


def test_one_inversion_serves_all_methods_that_share_it(pipe, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(nmg, "invert", lambda *a, real=nmg.invert, **o: made.append(o["inversion"]) or real(*a, **o))
    run(pipe, Menagerie(), ["DDIM", "NMG", "NMG, regularised"], [TASK], 1, tmp_path, pictures=False, **STEPS)
    assert made == [nmg.DDIM(), nmg.Regularised()]
    assert not (tmp_path / "pictures").exists()


# ---------------------------------------------------------------- resuming


def test_warming_up_leaves_no_record(pipe, tmp_path):
    bench = runner.Bench.opened(pipe, Menagerie(), tmp_path, "test", 2, None, False)
    bench.warm_up(TASK, 10_000)
    assert read(tmp_path) == []


def test_what_is_known_is_not_measured_again(measured, pipe, tmp_path):
    found, folder = measured
    again = Counting()
    assert run(pipe, Menagerie(), ["DDIM", "NMG"], [TASK, OTHER], 1, folder, callback=again, **STEPS) == found
    assert again.keys == []


def test_more_of_the_same_measures_only_what_is_new(pipe, tmp_path):
    first, more = Counting(), Counting()
    run(pipe, Menagerie(), ["DDIM"], [TASK], 1, tmp_path, callback=first, **STEPS)
    found = run(pipe, Menagerie(), ["NMG", "DDIM"], [TASK], 1, tmp_path, callback=more, **STEPS)
    assert len(found) == 4 == len(set(first.keys) | set(more.keys)) and not set(first.keys) & set(more.keys)


@pytest.mark.parametrize("killed_after", [1, 6])
def test_a_killed_run_goes_on(measured, pipe, tmp_path, killed_after):
    with pytest.raises(KeyboardInterrupt):
        run(pipe, Menagerie(), ["DDIM", "NMG"], [TASK, OTHER], 1, tmp_path, callback=Counting(killed_after), **STEPS)
    path = tmp_path / "records-0.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert len(read(tmp_path)) == killed_after - 1

    rest = Counting()
    found = run(pipe, Menagerie(), ["DDIM", "NMG"], [TASK, OTHER], 1, tmp_path, callback=rest, **STEPS)
    assert [(r.key, r.metrics) for r in found] == [(r.key, r.metrics) for r in measured[0]]
    assert len(rest.keys) == 8 - (killed_after - 1)
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 3}, "steps 2 there, 3 now.*give another folder"),
        ({"text_scale": 7.5}, "text_scale 3.0 there, 7.5 now"),
    ],
    ids=str,
)
def test_records_of_another_configuration_are_refused(measured, pipe, change, message):
    with pytest.raises(ValueError, match=message):
        run(pipe, Menagerie(), ["DDIM"], [TASK], 1, measured[1], **{**STEPS, **change})


def test_another_model_is_refused(measured, build):
    pipe = build()
    name = model_name(nmg.Backbone(pipe))
    next(pipe.unet.parameters()).data.view(-1)[0] += 1
    assert model_name(nmg.Backbone(pipe)) != name
    with pytest.raises(ValueError, match="model 'unnamed@.* there"):
        run(pipe, Menagerie(), ["DDIM"], [TASK], 1, measured[1], **STEPS)


def test_a_method_with_other_settings_under_the_same_name_is_refused(measured, pipe):
    other = Method("DDIM", lambda text_scale, scale: CFG(5.0))
    with pytest.raises(ValueError, match="DDIM.*another guidance.*'text_scale': 3.*'text_scale': 5"):
        run(pipe, Menagerie(), [other], [TASK], 1, measured[1], **STEPS)


# ---------------------------------------------------------------- refusals and errors


def test_a_combination_that_the_package_refuses_is_a_record(pipe, tmp_path):
    def refuses(text_scale, scale):
        @dataclasses.dataclass(frozen=True)
        class Refusing(CFG):
            def prepare(self, run):
                raise ValueError("these two don't go together")

        return Refusing(text_scale)

    found = run(pipe, Menagerie(), [Method("none", refuses), "DDIM"], [TASK], 1, tmp_path, **STEPS)
    refused, plain = found[2:]
    assert refused.refused == "these two don't go together" and refused.metrics == {} and refused.seconds is None
    assert not refused.failed
    assert plain.refused is None and plain.metrics
    assert run(pipe, Menagerie(), [Method("none", refuses), "DDIM"], [TASK], 1, tmp_path, **STEPS) == found


def test_values_that_are_not_finite_are_a_failure_on_the_item(pipe, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Diverging(CFG):
        def correct(self, run, step, x, eps):
            return x / 0

    (*_, found) = run(pipe, Menagerie(), [Method("none", lambda *scales: Diverging())], [TASK], 1, tmp_path, **STEPS)
    assert found.failed and "not finite" in found.refused and found.metrics == {}
    assert read(tmp_path)[-1] == found


def test_any_other_error_stops_the_run(pipe, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Broken(CFG):
        def prepare(self, run):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(pipe, Menagerie(), [Method("broken", lambda *scales: Broken())], [TASK], 1, tmp_path, **STEPS)
    assert [record.method for record in read(tmp_path)] == ["identity", "ceiling"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["NGM"]}, "no method 'NGM'; DDIM; NMG"),
        ({"tasks": ["juggling"]}, "no task 'juggling'; its tasks are object swap"),
        ({"split": "train"}, "menagerie has validation, test"),
        ({"count": 0}, "give a number from 1 to"),
        ({"count": None}, "give a number from 1 to"),
    ],
    ids=str,
)
def test_what_does_not_exist_is_refused(pipe, tmp_path, options, message):
    asked = {"methods": ["DDIM"], "tasks": [TASK], "count": 1, "folder": tmp_path / "new", **STEPS, **options}
    with pytest.raises(ValueError, match=message):
        run(pipe, Menagerie(), **asked)


# ---------------------------------------------------------------- scales


def test_the_scale_with_the_best_mean_is_chosen_per_editor(pipe, tmp_path):
    counting = Counting()
    method = dataclasses.replace(METHODS["NMG"], grid=(0.0, 50.0))
    chosen = tune(pipe, Menagerie(), [method, "DDIM"], [TASK, OTHER], 2, tmp_path, callback=counting, **STEPS)
    rows = read(tmp_path)
    assert {r.split for r in rows} == {"validation"} and {r.item for r in rows} == {0, 1}
    assert {r.method for r in rows} == {"NMG"} and len(counting.keys) == 8
    report = json.loads((tmp_path / "scales.json").read_text())
    assert report["scales"] == chosen == runner.chosen_scales(tmp_path) and report["split"] == "validation"
    for editor, task in (("PromptToPrompt", TASK), ("MasaCtrl", OTHER)):
        tried = {scale: [r for r in rows if (r.task, r.scale) == (task, scale)] for scale in method.grid}
        means = {f"{k:g}": sum(r.metrics["psnr"] for r in some) / 2 for k, some in tried.items()}
        assert chosen["NMG"][editor] == tuning.best(tried)
        assert {k: v["psnr"] for k, v in report["means"]["NMG"][editor].items()} == pytest.approx(means)
    found = run(pipe, Menagerie(), [method], [TASK], 1, tmp_path, scales=chosen, **STEPS)
    assert found[-1].scale == chosen["NMG"]["PromptToPrompt"] and found[-1].split == "test"


def tried(edits, kept):
    """Records of an editor by scale, with these PSNRs of edit and reconstruction; None is an exact reconstruction."""

    def measured(scale, item, psnr, reconstruction):
        exact = {} if reconstruction is None else {"reconstruction_psnr": float(reconstruction)}
        one = record(f"menagerie/validation/{TASK}/{item}/NMG/{scale}")
        return dataclasses.replace(one, scale=scale, metrics={"psnr": float(psnr), **exact})

    return {
        scale: [measured(scale, i, *both) for i, both in enumerate(zip(edits[scale], kept[scale], strict=True))]
        for scale in edits
    }


@pytest.mark.parametrize(
    ("edits", "kept", "expected"),
    [
        # Clearly the best edit, whatever it keeps.
        ({3.0: [20, 21, 22], 30.0: [18, 19.1, 20]}, {3.0: [20] * 3, 30.0: [40] * 3}, 3.0),
        # Edits that can't be told apart: what keeps the source better.
        ({3.0: [20, 21, 22.2], 30.0: [20.1, 20.9, 22]}, {3.0: [20] * 3, 30.0: [40] * 3}, 30.0),
        # Equal edits and equal reconstructions: the smaller.
        ({30.0: [20, 21], 3.0: [20, 21]}, {30.0: [30, 30], 3.0: [30, 30]}, 3.0),
        # A reconstruction without an error has no finite PSNR, and is the best.
        ({3.0: [20, 21], 30.0: [20, 21]}, {3.0: [50, 50], 30.0: [None, None]}, 30.0),
        # One edit has no standard error.
        ({3.0: [20], 30.0: [19.99]}, {3.0: [20], 30.0: [40]}, 3.0),
    ],
)
def test_a_scale_is_chosen_by_the_one_standard_error_rule(edits, kept, expected):
    assert tuning.best(tried(edits, kept)) == expected


def test_a_method_takes_over_the_scale_of_another(pipe, tmp_path):
    nmg_method = dataclasses.replace(METHODS["NMG"], grid=(7.0,))
    other = Method("both", METHODS["NMG"].guidance, scale_of="NMG")
    assert tune(pipe, Menagerie(), [other, nmg_method], [TASK], 1, tmp_path, **STEPS)["both"] == {"PromptToPrompt": 7.0}


@pytest.mark.parametrize(("scales", "used"), [(None, 30.0), (5, 5.0), ({"NMG": {"PromptToPrompt": 4.0}}, 4.0)], ids=str)
def test_scales_are_the_suites_or_given(pipe, tmp_path, scales, used):
    found = run(pipe, Menagerie(), ["DDIM", "NMG"], [TASK], 1, tmp_path, scales=scales, **STEPS)
    assert [r.scale for r in found] == [None, None, None, used]
    assert found[-1].settings["guidance"]["noise_map_scale"] == used


def test_every_method_follows_the_text_scale():
    for method in METHODS.values():
        guidance = method.guidance(4.0, 6.0 if method.scaled else None)
        assert guidance.text_scale == 4
        parts = getattr(guidance, "parts", (guidance,))
        steered = [part for part in parts if isinstance(part, NoiseMap)]
        assert bool(steered) == method.scaled and all(part.noise_map_scale == 6 for part in steered)
        inversion = method.inversion_at(4.0)
        assert getattr(inversion, "text_scale", 4.0) == 4


# ---------------------------------------------------------------- records


def record(key="menagerie/test/t/1/m/-", **changes):
    suite, split, task, item, method, _ = key.split("/")
    values = {
        "source": "a",
        "target": "b",
        "device": "cpu",
        "version": "0",
        "model": "m",
        "editor": "Editor",
        "steps": 2,
    }
    return Record(
        key=key, suite=suite, split=split, task=task, item=item, method=method, scale=None, **{**values, **changes}
    )


def test_a_torn_last_line_is_ignored_and_mended(tmp_path):
    records.Writer(tmp_path).write(record("menagerie/test/t/1/m/-", source="Fähre"))
    path = tmp_path / "records-0.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + record("menagerie/test/t/2/m/-").to_json().encode())
    assert [r.item for r in read(tmp_path)] == ["1"]
    records.Writer(tmp_path).write(record("menagerie/test/t/3/m/-"))
    assert [r.item for r in read(tmp_path)] == ["1", "3"]


def test_of_the_same_key_the_first_counts(tmp_path):
    records.Writer(tmp_path, 1).write(record(seconds=2.0))
    records.Writer(tmp_path, 0).write(record(seconds=1.0))
    records.Writer(tmp_path, 10).write(record(seconds=3.0))
    assert [r.seconds for r in read(tmp_path)] == [1.0]


def test_a_whole_line_that_is_no_record_is_an_error(tmp_path):
    (tmp_path / "records-0.jsonl").write_text('{"key": 1}\n')
    with pytest.raises(ValueError, match="can't be read by this version"):
        read(tmp_path)


def test_keys_tell_every_item_from_every_other():
    items = [Item("menagerie", "test", "t", 1, "NMG", scale) for scale in (None, 3.0, 30.0)]
    items += [Item("pie", "test", "t", 1, "NMG"), Item("menagerie", "test", "t", 11, "NMG")]
    assert len({item.key for item in items}) == len(items)


# ---------------------------------------------------------------- scoring


def test_the_truth_scores_full_marks_and_the_source_none():
    scene = Scene(kind="cat", colour="red", seed=3)
    target = scene.edit(colour="blue")
    values, missing = scoring.score(scoring.pixels([target]), scene, target, "colour", load_classifier())
    assert (values["success"], values["kept"], values["mse"], values["ssim"]) == (1, 1, 0, 1)
    assert missing == dict.fromkeys(["psnr", "psnr_inside", "psnr_outside"], scoring.INFINITE)
    values, _ = scoring.score(scoring.pixels([scene]), scene, target, "colour", load_classifier())
    assert (values["success"], values["kept"]) == (0, 1) and values["psnr_inside"] < 15 < 40 < values["psnr_outside"]


def test_a_region_without_pixels_is_missing_with_its_reason():
    scene = Scene(seed=3)
    values, missing = scoring.score(
        scoring.pixels([scene.edit(place="snow")]), scene, scene, "colour", load_classifier()
    )
    assert missing["psnr_inside"] == scoring.EMPTY and "psnr_inside" not in values


def test_scenes_of_any_size_are_read():
    scene = Scene(kind="dog", colour="blue", seed=1)
    for size in (64, 128, 256):
        assert scoring.accuracy(load_classifier(), scoring.pixels([scene], size), [scene])["colour"] == 1


def test_the_splits_share_no_scene():
    suite = Menagerie()
    assert not set(suite.items(TASK, "validation", 10_000)) & set(suite.items(TASK, "test", 10_000))


# ---------------------------------------------------------------- cost


def test_the_peak_is_of_the_block_alone():
    cpu = torch.device("cpu")
    with meter.metered(cpu) as large:
        torch.ones(64 * 2**20).sum()
    with meter.metered(cpu) as small:
        torch.ones(2**10).sum()
    if large.peak_mib is None:
        pytest.skip("this system doesn't tell a process's peak memory")
    assert large.peak_mib > small.peak_mib + 200 and large.seconds > small.seconds > 0


def test_a_peak_that_can_not_be_reset_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(meter, "PROCESS", tmp_path / "none")
    with meter.metered(torch.device("cpu")) as cost:
        pass
    assert cost.peak_mib is None


# ---------------------------------------------------------------- the command and its processes


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
    assert own["methods"] == ["NMG"] and own["scales"] == 3 and own["tasks"] == ["pose modification"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "NGM"], "no method 'NGM'"),
        (["--tasks", "juggling"], "no task 'juggling'"),
        (["--editors", "Imagic"], "the suite has PromptToPrompt, MasaCtrl, Pix2PixZero"),
        (["--editors", "MasaCtrl", "Imagic"], "no editor 'Imagic'"),
        (["--editors", "MasaCtrl", "--tasks", TASK], "no task is left by --editors MasaCtrl"),
    ],
    ids=str,
)
def test_unknown_names_are_refused_before_the_model_is_loaded(words, message):
    with pytest.raises(ValueError, match=message):
        command._chosen(parsed(*words), Menagerie())


SCRIPT = """
import argparse, torch
from nmg.lab.bench import command
torch.set_num_threads(1)
command._report = lambda *given: None
parser = argparse.ArgumentParser()
command.add(parser.add_subparsers(required=True))
command.run_bench(parser.parse_args())
"""


def test_two_processes_share_the_work(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = [
        "bench",
        "--device",
        "cpu",
        "--steps",
        "2",
        "--scenes",
        "1",
        "--methods",
        "DDIM",
        "NMG",
        "--scales",
        "tune",
        "--validation",
        "1",
        "--no-pictures",
    ]
    tasks = ["--tasks", TASK, "contextual change"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    out = tmp_path / "out"
    done = subprocess.run(
        [*launch, *words, *tasks, "--out", str(out)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    lines = [(out / f"records-{rank}.jsonl").read_text().splitlines() for rank in (0, 1)]
    keys = [json.loads(line)["key"] for line in sum(lines, [])]
    grid = len(METHODS["NMG"].grid)
    assert len(keys) == len(set(keys)) == 2 * (4 + grid) and len(lines[0]) == len(lines[1]) == 4 + grid
    scale = json.loads((out / "scales.json").read_text())["scales"]["NMG"]["PromptToPrompt"]
    assert {r.scale for r in read(out) if r.method == "NMG" and r.split == "test"} == {scale}

    # One of the two was killed while it wrote; one process goes on alone.
    torn = out / "records-1.jsonl"
    torn.write_bytes(torn.read_bytes()[:-9])
    again = Counting()
    options = {"scales": runner.chosen_scales(out), "callback": again, **STEPS}
    found = run(nmg.load("menagerie", "cpu"), Menagerie(), ["DDIM", "NMG"], tasks[1:], 1, out, **options)
    assert len(found) == 8 and again.keys == [json.loads(lines[1][-1])["key"]]


def test_one_process_is_alone_without_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = processes.joined(cpu=True)
    assert (alone.rank, alone.count, alone.first, alone.share([1, 2, 3])) == (0, 1, True, [1, 2, 3])
    shares = [processes.Processes(rank, 3).share(range(10)) for rank in range(3)]
    assert sorted(sum(map(list, shares), [])) == list(range(10))


def test_the_identity_editor_reconstructs_in_a_suite_of_ones_own(pipe, tmp_path):
    class Reconstruction(Menagerie):
        def editor(self, task, item=None):
            return Editor()

    (*_, found) = run(pipe, Reconstruction(), ["DDIM"], [TASK], 1, tmp_path, **STEPS)
    assert found.editor == found.settings["editor"]["method"] == "Editor"


def test_noise_maps_that_no_guidance_can_follow_cost_no_inversion(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(nmg, "invert", lambda *given, **options: pytest.fail("inverted"))
    method = dataclasses.replace(METHODS["NMG"], inversion=METHODS["DDIM, edit-friendly"].inversion)
    (*_, found) = run(pipe, Menagerie(), [method], [TASK], 1, tmp_path, **STEPS)
    assert "EditFriendly" in found.refused and found.settings["inversion"]["text_scale"] == 3


@pytest.mark.parametrize("task", [TASK, OTHER, "cat to dog"])
def test_every_method_runs_under_every_editor(pipe, tmp_path, task):
    class Short(Menagerie):
        def editor(self, task, item=None):
            # The tiny model reads no sentence as long as those that make a direction.
            return Pix2PixZero() if task == "cat to dog" else super().editor(task, item)

    found = run(pipe, Short(), list(METHODS), [task], 1, tmp_path, pictures=False, **STEPS)
    assert [r.method for r in found[2:]] == list(METHODS)
    assert {r.method: r.refused for r in found if r.refused} == {}
    if task == "cat to dog":
        metrics = {r.method: r.metrics for r in found}
        assert metrics["DDIM"] == metrics["NPI"]


def test_the_split_that_was_measured_is_tabulated(measured, tmp_path, capsys):
    found, folder = measured
    rest = [dataclasses.replace(r, key=f"validation {r.key}", split="validation") for r in found]
    for one in (*found, *rest):
        records.Writer(tmp_path).write(one)
    command._report(tmp_path, rest, "validation", True)
    assert "split validation" in (tmp_path / "table.md").read_text()
    assert str(tmp_path / "table.md") in capsys.readouterr().out


def test_a_model_card_s_edits_say_what_they_have_no_number_for():
    def one(psnr, **fields):
        equal = {"missing": {"psnr": scoring.INFINITE}} if psnr is None else {}
        return record(**{**equal, "metrics": {"success": 1.0} | ({} if psnr is None else {"psnr": psnr}), **fields})

    assert evaluate.summary([one(20.0), one(30.0)]) == {"psnr": 25.0, "success": 1.0}
    exact = evaluate.summary([one(20.0), one(None)])
    assert exact == {"psnr": None, "success": 1.0, "exact": 1} and card._edit(exact) == "1.00 / ∞"
    lost = evaluate.summary([one(20.0), one(None, metrics={}, missing={}, refused="too large")])
    assert card._edit(lost) == "none for 1 scenes: too large" and json.dumps(lost)


def test_the_package_names_what_it_has_and_draws_only_when_asked():
    script = (
        "import sys, nmg.lab.bench as b; assert 'matplotlib' not in sys.modules; [getattr(b, n) for n in b.__all__]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
