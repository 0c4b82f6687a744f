"""What the benchmark's tests share: a tiny model, one small run of it, and a folder of records with pictures."""

import itertools

import numpy as np
import pytest
from PIL import Image

from nmg.lab import metrics
from nmg.lab.bench import Menagerie, run
from nmg.lab.bench.records import Writer
from tests.lab.bench.made import OTHER, STEPS, TASK, record


@pytest.fixture
def pipe(tiny):
    return tiny()


@pytest.fixture(scope="session")
def measured(tiny, tmp_path_factory):
    """DDIM and NMG on a scene of two tasks, and the folder."""
    folder = tmp_path_factory.mktemp("bench")
    return run(tiny(), Menagerie(), ["DDIM", "NMG"], [TASK, OTHER], 1, folder, **STEPS), folder


@pytest.fixture
def folder(tmp_path):
    """Records of a killed run, with pictures, as it leaves them."""
    writer = Writer(tmp_path)
    rng = np.random.default_rng(0)
    for index, (method, item) in enumerate(itertools.product(("identity", "DDIM", "NMG", "ceiling"), range(4))):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        values = {"psnr": 15.0 + index + item, "success": float(item % 2), "reconstruction_psnr": 20.0 + index}
        writer.write(record(method, item, metrics=values, seconds=1.0, pictures={"edit": f"{index}.png"}))
    with writer.path.open("ab") as file:
        file.write(b'{"key": "torn')
    return tmp_path


@pytest.fixture
def unmeasured(monkeypatch):
    """No learned metric can be had."""

    def absent(self, *arguments):
        raise metrics.Missing(f"{type(self).__name__} is not here")

    for name in ("ClipScore", "Lpips", "Tifa"):
        monkeypatch.setattr(getattr(metrics, name), "__call__", absent)
