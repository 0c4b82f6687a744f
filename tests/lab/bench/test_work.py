import dataclasses

import pytest
from PIL import Image

import nmg
from nmg import CFG, Editor, Pix2PixZero
from nmg.lab.bench import METHODS, Menagerie, Method, Record, read, run
from nmg.lab.bench.suites import SEEDS
from nmg.menagerie.tasks import TASKS
from tests.lab.bench.made import OTHER, STEPS, TASK, THIRD


def test_a_record_holds_all_that_the_edit_depends_on(measured):
    found, folder = measured
    record = next(r for r in found if r.method == "NMG" and r.task == OTHER)
    suite = Menagerie()
    assert record.key == f"menagerie/test/{OTHER}/{SEEDS['test'][0]}/NMG/-"
    assert (record.editor, record.scale, record.steps, record.refused) == ("MasaCtrl", None, 2, None)
    guidance = record.settings["guidance"]
    assert (guidance["noise_map_scale"], guidance["text_scale"]) == (None, suite.text_scale)
    assert record.settings["inversion"]["method"] == "DDIM" and record.settings["editor"]["method"] == "MasaCtrl"
    assert record.source != record.target
    assert record.seconds > 0 and record.inversion_seconds > 0
    assert {"psnr", "mse", "ssim", "psnr_inside", "psnr_outside", "success", "kept"} <= set(record.metrics)
    assert {"reconstruction_psnr", "reconstruction_mse", "reconstruction_ssim"} <= set(record.metrics)
    assert set(record.pictures) == {"edit", "reconstruction"}
    assert all((folder / path).stat().st_size > 100 for path in record.pictures.values())
    assert Record.from_json(record.to_json()) == record


def test_an_edit_is_what_the_package_makes_of_its_settings(measured, pipe):
    found, folder = measured
    record = next(r for r in found if r.method == "DDIM" and r.task == TASK)
    ((scene, _),) = TASKS[TASK].scenes(record.item, 1)
    picture = scene.render(nmg.Backbone(pipe).native_size[0])
    guidance, editor = CFG(Menagerie.text_scale), Menagerie().editor(TASK)
    result = nmg.edit(pipe, picture, record.source, [record.target], guidance=guidance, editor=editor, **STEPS)
    with Image.open(folder / record.pictures["edit"]) as saved:
        assert saved.tobytes() == result.pictures[0].tobytes()


def test_one_inversion_serves_all_methods_that_share_it(pipe, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(nmg, "invert", lambda *a, real=nmg.invert, **o: made.append(o["inversion"]) or real(*a, **o))
    run(pipe, Menagerie(), ["DDIM", "NMG", "NMG, regularised"], [TASK], 1, tmp_path, pictures=False, **STEPS)
    assert made == [nmg.DDIM(), nmg.Regularised()]
    assert not (tmp_path / "pictures").exists()


def raising(error):
    """A method whose guidance raises."""

    @dataclasses.dataclass(frozen=True)
    class Raising(CFG):
        def prepare(self, run):
            raise error("these two don't go together")

    return Method("none", lambda *scales: Raising())


@pytest.mark.parametrize("error", [ValueError, FloatingPointError])
def test_a_refusal_or_a_failure_is_a_record(pipe, tmp_path, error):
    methods = [raising(error), "DDIM"]
    found = run(pipe, Menagerie(), methods, [TASK], 1, tmp_path, **STEPS)
    lost, plain = found[2:]
    assert lost.refused == "these two don't go together" and lost.metrics == {} and lost.seconds is None
    assert lost.failed == (error is FloatingPointError) and plain.refused is None and plain.metrics
    assert run(pipe, Menagerie(), methods, [TASK], 1, tmp_path, **STEPS) == found


def test_values_that_are_not_finite_are_a_failure(pipe, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Diverging(CFG):
        def correct(self, run, step, x, eps):
            return x / 0

    (*_, found) = run(pipe, Menagerie(), [Method("none", lambda *scales: Diverging())], [TASK], 1, tmp_path, **STEPS)
    assert found.failed and "not finite" in found.refused


def test_any_other_error_stops_the_run(pipe, tmp_path):
    with pytest.raises(RuntimeError, match="go together"):
        run(pipe, Menagerie(), [raising(RuntimeError)], [TASK], 1, tmp_path, **STEPS)
    assert [record.method for record in read(tmp_path)] == ["identity", "ceiling"]


def test_noise_maps_that_no_guidance_can_follow_cost_no_inversion(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(nmg, "invert", lambda *given, **options: pytest.fail("inverted"))
    method = dataclasses.replace(METHODS["NMG"], inversion=METHODS["DDIM, edit-friendly"].inversion)
    (*_, found) = run(pipe, Menagerie(), [method], [TASK], 1, tmp_path, **STEPS)
    assert "EditFriendly" in found.refused and found.settings["inversion"]["text_scale"] == Menagerie.text_scale


def test_the_identity_editor_reconstructs_in_a_suite_of_ones_own(pipe, tmp_path):
    class Reconstruction(Menagerie):
        def editor(self, task, item=None):
            return Editor()

    (*_, found) = run(pipe, Reconstruction(), ["DDIM"], [TASK], 1, tmp_path, **STEPS)
    assert found.editor == found.settings["editor"]["method"] == "Editor"


@pytest.mark.parametrize("task", [TASK, OTHER, THIRD])
def test_every_method_runs_under_every_editor(pipe, tmp_path, task):
    class Short(Menagerie):
        def editor(self, task, item=None):
            # The tiny model reads no sentence as long as those that make a direction.
            return Pix2PixZero() if task == THIRD else super().editor(task, item)

    # Under the other editors the inversions are the same.
    methods = list(METHODS) if task == TASK else [name for name in METHODS if "," not in name]
    found = run(pipe, Short(), methods, [task], 1, tmp_path, pictures=False, **STEPS)
    assert [r.method for r in found[2:]] == methods
    # No step joins drawn noise maps, whose attention tells these editors nothing.
    refused = {r.method: r.refused for r in found if r.refused}
    assert refused.keys() == {"Direct, drawn"} & {*methods} and all(
        "another noise at every" in r for r in refused.values()
    )
    if task == THIRD:
        metrics = {r.method: r.metrics for r in found}
        assert metrics["DDIM"] == metrics["NPI"]


PUBLISHED = {"Plug-and-Play": "Direct", "FlowEdit": "Direct, drawn", "Uni-Edit": "Direct, Uni-Inv"}
"""The further editors, and the method that each is published with."""


@pytest.mark.parametrize("editor", PUBLISHED)
def test_a_further_editor_runs_by_its_own_method_and_says_why_not_by_others(pipe, tmp_path, editor):
    task, methods = f"{TASK} by {editor}", ["DDIM", "NMG", PUBLISHED[editor]]
    found = {r.method: r for r in run(pipe, Menagerie(), methods, [task], 1, tmp_path, pictures=False, **STEPS)}
    assert not found[PUBLISHED[editor]].refused and "psnr" in found[PUBLISHED[editor]].metrics
    said = {
        "Plug-and-Play": (None, None),
        "FlowEdit": ("use Direct", "use Direct"),
        "Uni-Edit": (None, "change no edit"),
    }
    for method, words in zip(("DDIM", "NMG"), said[editor], strict=True):
        assert words in found[method].refused if words else found[method].refused is None
