import pytest
import torch
from torch.testing import assert_close

from nmg import CFG, DDIM, Direct, Drawn, Editor, NoiseMap, NullText, Trajectory, edit, invert
from nmg.levels import transfer

SOURCE = "a red cat sitting in the forest, front view"
BLUE = SOURCE.replace("red", "blue")
QUIET = {"progress": False}


@pytest.mark.parametrize("inversion, calls", [(Drawn(), 0), (DDIM(), 3)], ids=["drawn", "ddim"])
def test_no_call_of_the_network_is_made(backbone, picture, monkeypatch, inversion, calls):
    sizes, own = [], backbone.network.forward

    def forward(x, *args, **options):
        sizes.append(x.shape[-1])
        return own(x, *args, **options)

    monkeypatch.setattr(backbone.network, "forward", forward)
    made = invert(backbone, picture, SOURCE, steps=3, inversion=inversion, **QUIET)
    # What tells the network from others is asked on a smaller latent.
    assert sizes.count(made.maps.shape[-1]) == calls


def test_every_map_is_the_picture_with_noise_of_its_own(backbone, picture):
    made = invert(backbone, picture, SOURCE, steps=3, inversion=Drawn(), **QUIET)
    noises = [(z - level.a * made.maps[0]) / level.s for z, level in zip(made.maps[1:], made.levels[1:], strict=True)]
    random = torch.Generator().manual_seed(0)
    for noise in noises:
        assert_close(noise, torch.randn(noise[None].shape, generator=random)[0], rtol=1e-4, atol=1e-4)


def test_a_seed_gives_the_same_maps_and_another_seed_others(backbone, picture):
    one, again, other = (
        invert(backbone, picture, SOURCE, steps=2, inversion=Drawn(seed), **QUIET).maps for seed in (0, 0, 1)
    )
    assert torch.equal(one, again) and not torch.allclose(one[1:], other[1:])


def test_the_noise_between_two_maps_leads_from_the_one_to_the_other(backbone, picture):
    made = invert(backbone, picture, SOURCE, steps=3, inversion=Drawn(), **QUIET)
    for step in made.steps:
        led = transfer(made.origin(step), made.noise(step), step.here, step.there)
        assert_close(led, made.target(step), rtol=1e-4, atol=1e-4)


def test_they_can_be_saved(backbone, picture, tmp_path):
    made = invert(backbone, picture, SOURCE, steps=2, inversion=Drawn(3), **QUIET)
    made.save(tmp_path / "drawn.safetensors")
    assert Trajectory.load(tmp_path / "drawn.safetensors").inversion == Drawn(3)


@pytest.mark.parametrize("guidance", [CFG(), Direct()], ids=lambda guidance: type(guidance).__name__)
def test_without_an_editor_they_are_sdedit(backbone, picture, guidance):
    made = edit(
        backbone, picture, SOURCE, [BLUE], editor=Editor(), guidance=guidance, inversion=Drawn(), skip=0.5, steps=4,
        **QUIET,
    )  # fmt: skip
    assert len(made.pictures) == 1


@pytest.mark.parametrize("guidance", [NoiseMap(), NullText()], ids=lambda guidance: type(guidance).__name__)
def test_guidances_that_follow_a_path_refuse_them(backbone, picture, guidance):
    with pytest.raises(ValueError, match="no step joins the noise maps of Drawn"):
        edit(backbone, picture, SOURCE, editor=Editor(), guidance=guidance, inversion=Drawn(), steps=2, **QUIET)
