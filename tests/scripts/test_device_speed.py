"""The measurement on a GPU, on tiny networks and a CPU."""

import json

import pytest
import torch

from scripts import device_speed
from tests import families

LATE = {"Stable Diffusion 3.5 medium": families.needs_sd35, "FLUX.1 dev": families.flux, "Qwen-Image": families.qwen}
"""What skips a test where the installed release lacks a family."""


@pytest.mark.parametrize("name", device_speed.FAMILIES)
def test_every_family_is_measured_and_written_down(name, tmp_path, capsys):
    LATE.get(name, lambda: None)()
    device_speed.main([str(tmp_path), "--family", name, "--small", "--device", "cpu", "--rounds", "1"])
    (file,) = tmp_path.iterdir()
    found = json.loads(file.read_text())
    assert found["family"] == name and found["parameters"] > 1e4 and "error" not in found
    assert all(found[what]["seconds"] > 0 for what in ("call", "step", "jacobian"))
    assert capsys.readouterr().out.startswith(f"{name}: ")
    assert torch.get_default_dtype() == torch.float32


def test_a_family_that_fails_says_why_and_the_next_one_follows(tmp_path, capsys, monkeypatch):
    def failing(name, *_):
        raise torch.OutOfMemoryError("no memory") if name == "FLUX.1 dev" else RuntimeError("another reason")

    monkeypatch.setattr(device_speed, "measured", failing)
    device_speed.main([str(tmp_path), "--small", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[3] == "FLUX.1 dev: failed: OutOfMemoryError: no memory"
    assert json.loads((tmp_path / "flux.1-dev.json").read_text())["error"] == "OutOfMemoryError: no memory"


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Stable Diffusion 1.5", 0.86),
        ("Stable Diffusion XL", 2.57),
        ("Stable Diffusion 3.5 medium", 2.24),
        ("FLUX.1 dev", 11.9),
        ("Qwen-Image", 20.4),
    ],
)
def test_the_full_sizes_are_the_real_ones(name, billions):
    import diffusers

    LATE.get(name, lambda: None)()
    family = device_speed.FAMILIES[name]
    with torch.device("meta"):
        network = getattr(diffusers, family.network)(**family.config)
    assert sum(p.numel() for p in network.parameters()) / 1e9 == pytest.approx(billions, rel=0.01)
