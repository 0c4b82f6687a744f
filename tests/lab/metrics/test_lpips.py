import pytest
import torch

from nmg.lab import metrics


def test_lpips_is_the_packages(packages, pair, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth").touch()
    for _ in range(2):
        torch.testing.assert_close(metrics.Lpips("squeeze", "cpu")(*pair), (pair[0] - pair[1]).abs().mean((1, 2, 3)))
    assert packages == ["squeeze"], "the network is built once"


def test_lpips_fetches_nothing_offline(packages, pair):
    with pytest.raises(metrics.Missing, match=r"LPIPS can't .* HF_HUB_OFFLINE .* alexnet-owt-\*\.pth once, or copy"):
        metrics.Lpips(device="cpu")(*pair)
    assert packages == []


def test_an_unknown_lpips_network_is_an_error():
    with pytest.raises(ValueError, match="net='vgg' is unknown; alex and squeeze work"):
        metrics.Lpips("vgg")
