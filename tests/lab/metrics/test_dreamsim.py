import sys
from types import ModuleType

import pytest
import torch

from nmg.lab import metrics
from nmg.lab.metrics import dreamsim as module


@pytest.fixture(autouse=True)
def fresh():
    module._dreamsim.cache_clear()
    yield
    module._dreamsim.cache_clear()


def test_without_the_package_it_is_missing(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "dreamsim", None)
    with pytest.raises(metrics.Missing, match="DreamSim can't .* pip install dreamsim"):
        metrics.DreamSim("cpu")(*pair)


def test_the_package_measures_pairs_of_224_pixels(pair, monkeypatch):
    package, seen = ModuleType("dreamsim"), []

    def network(a, b):
        seen.append((a.shape, b.shape))
        return (a - b).abs().mean((1, 2, 3))

    package.dreamsim = lambda pretrained, device: (network, None)
    monkeypatch.setitem(sys.modules, "dreamsim", package)
    assert metrics.DreamSim("cpu")(pair[0], pair[0]).tolist() == [0, 0]
    assert (metrics.DreamSim("cpu")(*pair) > 0).all()
    assert set(seen) == {(torch.Size([2, 3, 224, 224]),) * 2}
