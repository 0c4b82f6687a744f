import csv

import numpy as np
import pytest
import torch
from PIL import Image

from nmg import images
from nmg.lab import metrics
from nmg.lab.bench import Menagerie, proxies
from nmg.lab.bench.proxies import PROXIES, agreement, correlations, spearman
from nmg.lab.bench.records import Writer
from tests.lab.bench.made import record

TASK = "colour change"


@pytest.mark.parametrize(
    "a, b, expected",
    [
        ([1, 2, 3, 4], [10, 20, 30, 99], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 2, 3], [1, 3, 2, 4], 0.9486833),
        ([1, 2, float("inf")], [1, 2, 3], 1.0),
    ],
    ids=["same", "opposite", "ties", "infinite"],
)
def test_spearman_is_the_correlation_of_ranks(a, b, expected):
    assert spearman(a, b) == pytest.approx(expected)


def test_values_that_are_all_alike_have_no_order():
    assert spearman([1, 1, 1], [1, 2, 3]) is None and spearman([1, 2, 3], [0, 0, 0]) is None


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
    assert "| PSNR outside | −1.00" in text and "CLIP is missing: ClipScore is not here." in text
    with table.open() as file:
        lines = list(csv.DictReader(file))
    assert {line["proxy"] for line in lines} == {PROXIES["proxy_psnr"].heading, PROXIES["proxy_ssim"].heading}
    (own,) = (one for one in lines if (one["exact"], one["task"], one["proxy"]) == ("psnr", TASK, "PSNR outside"))
    assert float(own["mean"]) == -1 and own["scenes"] == "2"


def test_a_folder_without_edits_of_the_world_is_refused(tmp_path):
    Writer(tmp_path).write(record("NMG", "cat.png", suite="pie"))
    with pytest.raises(ValueError, match="holds no edits of the bundled world; run `nmg bench"):
        proxies.measured(tmp_path, Menagerie())
