import dataclasses

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from nmg.lab import metrics
from nmg.lab.bench.judges import Lacking, clip_judge, judged, opened, tifa_judge, vie_judged
from tests import families
from tests.lab.bench.made import record


@pytest.fixture
def kept(tmp_path):
    """A record with a picture, in its folder."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "edit.png")
    return record(item="one", pictures={"edit": "edit.png"}), tmp_path, torch.from_numpy(pixels).permute(2, 0, 1) / 255


def test_a_further_metric_is_measured_on_the_kept_pictures(kept, monkeypatch):
    own, folder, pixels = kept
    asked = []

    def score(self, pictures, prompts):
        asked.append((pictures, prompts))
        return torch.tensor([31.0])

    monkeypatch.setattr(metrics.ClipScore, "__call__", score)
    (found,) = judged([own], folder, {"clip": clip_judge("cpu")})
    assert found.metrics["clip"] == 31
    ((pictures, prompts),) = asked
    torch.testing.assert_close(pictures[0], pixels)
    assert prompts == [own.target]


def test_a_metric_that_can_not_be_measured_is_tried_once_and_missing_everywhere(kept):
    own, folder, _ = kept
    tried = []

    def absent(record, folder):
        tried.append(record)
        raise metrics.Missing("no network")

    lost = record(refused="no maps")
    found = judged([own, own, lost], folder, {"clip": absent})
    assert [r.missing for r in found] == [{"clip": "no network"}] * 2 + [{}] and len(tried) == 1


def test_what_a_single_picture_lacks_is_missing_there_alone(kept, unmeasured):
    own, folder, _ = kept
    with pytest.raises(Lacking, match="was not kept"):
        opened(own, "reconstruction", folder)
    other = record(item="two", pictures=own.pictures)
    found = judged([own, other], folder, {"tifa": tifa_judge({"one": [{"question": "is it a dog?"}]})})
    assert "Tifa is not here" in found[0].missing["tifa"] and "is not here" in found[1].missing["tifa"]
    (alone,) = judged([other], folder, {"tifa": tifa_judge({})})
    assert "needs questions" in alone.missing["tifa"]


def test_a_judge_without_weights_is_missing_and_one_that_comes_later_is_asked(kept, monkeypatch):
    families.classes(transformers, "AutoModelForImageTextToText")
    own, folder, pixels = kept
    own = dataclasses.replace(own, missing={"viescore": "nobody was asked"})
    (found,) = vie_judged([own], folder, "./nowhere", lambda record: pixels[None], "cpu")
    assert "VIEScore can't be measured here: there is no folder" in found.missing["viescore"]
    answers = iter(["7.5", "6"])
    monkeypatch.setattr(metrics.VieScore, "__call__", lambda *given: torch.tensor([float(next(answers))]))
    for _ in range(2):
        (found,) = vie_judged([own], folder, "./nowhere", lambda record: pixels[None], "cpu")
        assert found.metrics["viescore"] == 7.5 and not found.missing
    # An edit that was measured again is another.
    (found,) = vie_judged([dataclasses.replace(own, seconds=9.0)], folder, "./nowhere", lambda r: pixels[None], "cpu")
    assert found.metrics["viescore"] == 6


def test_an_answer_without_scores_is_missing_there_alone(kept, monkeypatch):
    own, folder, pixels = kept

    def score(self, edited, sources, prompts):
        raise metrics.Unreadable("the judge gave no scores: 'nice'")

    monkeypatch.setattr(metrics.VieScore, "__call__", score)
    (found,) = vie_judged([own], folder, "a/judge", lambda record: pixels[None])
    assert "no scores" in found.missing["viescore"]
