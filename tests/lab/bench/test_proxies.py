import csv

import numpy as np
import pytest
import torch
from PIL import Image

from nmg import images
from nmg.lab import metrics
from nmg.lab.bench import Menagerie, proxies
from nmg.lab.bench.proxies import PROXIES, agreement, correlations
from nmg.lab.bench.records import Writer
from tests.lab.bench.made import record

TASK = "colour change"


@pytest.mark.parametrize(
    "proxy, exact, expected",
    [
        ([1, 2, 3, 4], [10, 20, 30, 99], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        # Of three pairs one is right, one is wrong, and one tied by the proxy.
        ([1, 2, 1], [1, 2, 3], 0.0),
        # Two of three pairs have an order, and both are right.
        ([1, 2, 3], [1, 2, 2], 1.0),
        ([1, 2, float("inf")], [1, 2, 3], 1.0),
        ([1, 2, 0], [1, float("inf"), float("inf")], 0.0),
    ],
    ids=["same", "opposite", "proxy tied", "answer tied", "infinite", "equal infinities"],
)
def test_somers_d_is_the_right_pairs_share_minus_the_wrong_ones(proxy, exact, expected):
    assert proxies.somers(proxy, exact) == pytest.approx(expected)


def test_somers_d_of_a_yes_or_no_is_the_area_under_the_curve():
    proxy, exact = np.random.default_rng(0).normal(size=20), np.arange(20) % 2
    area = np.mean(proxy[exact == 1][:, None] > proxy[exact == 0][None])
    assert proxies.somers(proxy.tolist(), exact.tolist(), 0.5) == pytest.approx(2 * area - 1)


def test_answers_that_are_all_alike_have_no_order():
    assert proxies.somers([1, 2, 3], [0, 0, 0]) is None and proxies.somers([1, 1, 1], [1, 2, 3]) == 0


def test_nearly_equal_edits_have_no_order_to_be_got_wrong():
    """Two methods make the same edit but for 0.05 dB, which the proxy has the other way round."""
    found = edits(1, [20, 20.05, 25], [6, 5, 9])
    assert agreement(found, "proxy_psnr", "psnr").mean == 1


@pytest.mark.parametrize("scenes", [4, 5])
def test_few_scenes_have_no_interval_and_every_cell_its_number(scenes, tmp_path):
    found = [r for item in range(scenes) for r in edits(item, [1, 2, 3], [1, 2, 3] if item else [3, 2, 1])]
    text = proxies.write(tmp_path, found, tmp_path)[0].read_text()
    low = agreement(found, "proxy_psnr", "psnr").low
    assert np.isnan(low) == (scenes < 5)
    assert ("| PSNR outside | 0.50 (4)" if scenes < 5 else "| PSNR outside | 0.60 [−0.20, 1.00] (5)") in text


def edits(item, exact, proxy, task=TASK, name="proxy_psnr"):
    """The records of a scene's edits, with an exact answer and a proxy each."""
    pairs = enumerate(zip(exact, proxy, strict=True))
    return [record(f"m{i}", item, task, metrics={"psnr": float(e), name: float(p)}) for i, (e, p) in pairs]


def test_a_scene_counts_once_whatever_its_difficulty():
    """A hard scene and an easy one, each in the right order; pooled over both, the order would be another."""
    found = edits(1, [10, 11, 12], [30, 31, 32]) + edits(2, [20, 21, 22], [5, 6, 7])
    assert correlations(found, "proxy_psnr", "psnr") == {(TASK, "1"): pytest.approx(1), (TASK, "2"): pytest.approx(1)}
    assert agreement(found, "proxy_psnr", "psnr").mean == pytest.approx(1)


def test_a_measure_of_which_less_is_better_agrees_where_it_falls():
    found = edits(1, [1, 2, 3], [9, 8, 7], name="proxy_lpips")
    assert agreement(found, "proxy_lpips", "psnr").mean == pytest.approx(1)


def test_the_edits_of_a_scene_by_every_editor_are_ordered_together():
    found = edits(1, [1, 2], [1, 2]) + edits(1, [3, 4], [3, 4], f"{TASK} by FlowEdit")
    assert correlations(found, "proxy_psnr", "psnr") == {(TASK, "1"): pytest.approx(1)}
    assert agreement(found, "proxy_psnr", "psnr", TASK).n == 1


def test_too_few_edits_and_other_tasks_are_left_out():
    found = edits(1, [1, 2], [1, 2]) + edits(2, [1, 2, 3], [3, 2, 1], "object swap")
    assert agreement(found, "proxy_psnr", "psnr", TASK) is None
    assert agreement(found, "proxy_psnr", "psnr", "object swap").mean == pytest.approx(-1)


# ---------------------------------------------------------------- on kept pictures


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A folder of three edits of two scenes, each nearer to the truth than the one before; no network is here."""
    for name in ("ClipScore", "ClipDirection", "StructureDistance", "Lpips", "DinoSimilarity", "DreamSim"):
        monkeypatch.setattr(getattr(metrics, name), "__call__", absent)
    writer, suite = Writer(tmp_path), Menagerie()
    for seed in (10_000, 10_001):
        ((scene, target),) = suite.task(TASK).scenes(seed, 1)
        a, b = (np.asarray(s.render(32), float) for s in (scene, target))
        for i, share in enumerate((0.0, 0.5, 1.0)):
            # Nearer to the truth, and noisier in the background: the proxy is wrong on purpose.
            noise = np.random.default_rng(i).normal(0, 20 * share, a.shape) * ~scene.changed(target, 32)[..., None]
            path = f"{seed}-{i}.png"
            Image.fromarray((a + share * (b - a) + noise).clip(0, 255).astype(np.uint8)).save(tmp_path / path)
            own = {"metrics": {"psnr": 10.0 + i, "success": float(i == 2)}, "pictures": {"edit": path}}
            writer.write(record(f"m{i}", seed, TASK, **own))
        writer.write(record("identity", seed, TASK, metrics={"psnr": 9.0}))
    return tmp_path


def absent(self, *arguments):
    raise metrics.Missing(f"{type(self).__name__} is not here")


def test_proxies_are_measured_against_the_source_outside_the_edit(kept):
    found = proxies.measured(kept, Menagerie())
    assert len(found) == 6 and all(one.method != "identity" for one in found)
    one = found[1]
    ((scene, target),) = Menagerie().task(TASK).scenes(int(one.item), 1)
    source, edited = images.to_tensor(scene.render(32)), images.to_tensor(images.load(kept / one.pictures["edit"]))
    outside = ~torch.from_numpy(scene.changed(target, 32))[None, None]
    masked = [metrics.masked(x, outside) for x in (edited, source)]
    assert one.metrics["proxy_psnr"] == pytest.approx(metrics.psnr(*masked).item(), rel=1e-5)
    assert one.missing["proxy_clip"] == "ClipScore is not here"


def test_the_tables_say_which_proxy_is_right_and_which_is_missing(kept):
    found = proxies.measured(kept, Menagerie())
    markdown, table = proxies.write(kept, found, kept / "out")
    text = markdown.read_text()
    assert "| PSNR outside | −1.00" in text and "- CLIP: ClipScore is not here" in text
    assert "Measured here: PSNR outside, SSIM outside." in text and "| CLIP |" not in text
    with table.open() as file:
        lines = list(csv.DictReader(file))
    assert {line["proxy"] for line in lines} == {PROXIES["proxy_psnr"].heading, PROXIES["proxy_ssim"].heading}
    (own,) = (one for one in lines if (one["exact"], one["task"], one["proxy"]) == ("psnr", TASK, "PSNR outside"))
    assert float(own["mean"]) == -1 and own["scenes"] == "2"


def test_a_folder_without_edits_of_the_world_is_refused(tmp_path):
    Writer(tmp_path).write(record("NMG", "cat.png", suite="pie"))
    with pytest.raises(ValueError, match="holds no edits of the bundled world; run `nmg bench"):
        proxies.measured(tmp_path, Menagerie())
