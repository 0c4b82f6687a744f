import dataclasses

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from nmg import CFG, Backbone, Editor, Trajectory, denoise, images, invert, prepare, transfer
from nmg.inversion import CONVENTIONS, rise

SOURCE = "a red cat sitting in the forest"


@pytest.fixture(scope="module")
def latents(backbone, picture):
    return backbone.encode(images.to_tensor(backbone.prepare(picture)))


def constant(pipe, monkeypatch):
    """Lets a pipeline's network predict the same noise everywhere, and returns the noise."""
    noise = torch.randn(1, pipe.unet.config.in_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(pipe.unet, "forward", lambda x, *given, **options: (noise.expand_as(x),))
    return noise


# ---------------------------------------------------------------- levels


@pytest.mark.parametrize("count", [1, 4, 50])
@pytest.mark.parametrize("offset", [None, 0])
def test_aligned_maps_lie_where_the_steps_that_they_guide_end(build, monkeypatch, latents, count, offset):
    pipe = build()
    constant(pipe, monkeypatch)
    trajectory = rise(Backbone(pipe), latents, SOURCE, count, offset=offset)
    for step in trajectory.steps:
        assert trajectory.levels[count - 1 - step.index] == step.alpha_prev
        assert trajectory.levels[count - step.index] == step.alpha
        assert torch.equal(trajectory.target(step)[0], trajectory.maps[count - 1 - step.index])


def test_the_authors_maps_lie_one_level_above(build, monkeypatch, latents):
    pipe = build()
    constant(pipe, monkeypatch)
    trajectory = rise(Backbone(pipe), latents, SOURCE, 10, "diffusers-0.18", 0)
    for step in trajectory.steps:
        assert trajectory.levels[9 - step.index] == step.alpha
    assert trajectory.levels[-1] == float(pipe.scheduler.alphas_cumprod[-1])


@pytest.mark.parametrize(("convention", "offset"), [("aligned", None), ("diffusers-0.18", 0)])
def test_maps_are_at_the_levels_that_they_name(build, monkeypatch, latents, convention, offset):
    pipe = build()
    noise = constant(pipe, monkeypatch)
    trajectory = rise(Backbone(pipe), latents, SOURCE, 10, convention, offset)
    assert len(trajectory.maps) == len(trajectory.levels) == 11
    for z, level in zip(trajectory.maps, trajectory.levels, strict=True):
        assert_close(z[None], transfer(latents, noise, trajectory.levels[0], level), rtol=1e-4, atol=1e-4)


def test_sampling_with_the_noise_that_inverted_walks_back_over_every_map(build, monkeypatch, latents):
    pipe = build()
    constant(pipe, monkeypatch)
    trajectory = rise(Backbone(pipe), latents, SOURCE, 10)
    for step, x in denoise(prepare(pipe, trajectory), CFG(), Editor()):
        assert_close(x, trajectory.target(step), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_aligned_inversion_asks_the_network_at_the_level_above(tiny, picture, prediction_type):
    backbone = Backbone(tiny(prediction_type=prediction_type))
    trajectory = invert(backbone, picture, SOURCE, steps=4, progress=False)
    text = backbone.text([SOURCE])
    for k, step in enumerate(reversed(trajectory.steps)):
        z = trajectory.maps[k : k + 1]
        expected = transfer(z, backbone.eps(z, step, text), step.alpha_prev, step.alpha)
        assert_close(trajectory.maps[k + 1 : k + 2], expected, rtol=1e-4, atol=1e-4)


def test_the_first_map_is_the_picture_and_the_last_the_start(trajectory, latents):
    assert torch.equal(trajectory.maps[:1], latents)
    assert torch.equal(trajectory.maps[-1:], trajectory.start)


def test_inversion_and_sampling_at_guidance_1_meet_the_picture_more_closely_with_more_steps(
    build, monkeypatch, latents
):
    pipe, errors = build(), []
    alphas, variance = pipe.scheduler.alphas_cumprod, 3.0
    latents = latents * (variance**0.5 / latents.std())

    def ideal(x, t, **_):
        """The noise that the best denoiser predicts when pictures are Gaussian."""
        return ((1 - alphas[t]).sqrt() * x / (alphas[t] * variance + 1 - alphas[t]),)

    monkeypatch.setattr(pipe.unet, "forward", ideal)
    for count in (5, 20, 80):
        run = prepare(pipe, rise(Backbone(pipe), latents, SOURCE, count))
        *_, (_, x) = denoise(run, CFG(1), Editor())
        errors.append((x - latents).square().mean().sqrt() / latents.std())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.05


# ---------------------------------------------------------------- invert


def test_inversion_is_deterministic(backbone, picture, trajectory):
    torch.manual_seed(5)
    again = invert(backbone, picture, trajectory.prompt, steps=4, progress=False)
    assert torch.equal(again.maps, trajectory.maps)
    assert (again.steps, again.levels, again.model) == (trajectory.steps, trajectory.levels, trajectory.model)


def test_a_pipeline_and_its_backbone_give_the_same_trajectory(tiny, backbone, picture):
    first, second = (invert(given, picture, SOURCE, steps=2, progress=False) for given in (tiny(), backbone))
    assert torch.equal(first.maps, second.maps)


def test_every_kind_of_model_inverts(any_model, picture):
    pipe = any_model
    trajectory = invert(pipe, picture, SOURCE, steps=3, progress=False)
    size = pipe.unet.config.sample_size
    assert trajectory.maps.shape == (4, pipe.unet.config.in_channels, size, size)
    assert trajectory.maps.isfinite().all()


@pytest.mark.parametrize("size", [(40, 24), (18, 34)])
def test_other_sizes_and_shapes_invert(backbone, picture, size):
    trajectory = invert(backbone, picture, SOURCE, steps=2, size=size, progress=False)
    assert trajectory.latent_size == (size[1] // 2, size[0] // 2)


def test_an_empty_prompt_inverts(backbone, picture):
    assert invert(backbone, picture, steps=2, progress=False).prompt == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "whole number from 1 to 1000"),
        ({"convention": "odd"}, "aligned, diffusers-0.18 work"),
        ({"size": (33, 32)}, "multiples of 2"),
        ({"prompt": "cat " * 30}, "shorten"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_settings_that_can_not_be_used_are_refused(backbone, picture, options, message):
    with pytest.raises(ValueError, match=message):
        invert(backbone, picture, **{"prompt": SOURCE, **options, "progress": False})


def test_a_network_that_predicts_nan_is_stopped_at_its_step(build, picture, monkeypatch):
    pipe = build()
    constant(pipe, monkeypatch).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"inversion step 0 \(t = 1\)"):
        invert(pipe, picture, SOURCE, steps=4, progress=False)


def test_conventions_have_names():
    assert set(CONVENTIONS) == {"aligned", "diffusers-0.18"}


# ---------------------------------------------------------------- files


def test_what_is_saved_is_loaded_exactly(trajectory, tmp_path):
    described = dataclasses.replace(
        trajectory, prompt="a “café” cat\n🐱", model="owner/model", convention="diffusers-0.18"
    )
    described.save(tmp_path / "cat.safetensors")
    loaded = Trajectory.load(tmp_path / "cat.safetensors")
    assert torch.equal(loaded.maps, described.maps)
    for field in ("levels", "steps", "prompt", "model", "convention"):
        assert getattr(loaded, field) == getattr(described, field)
    assert [path.name for path in tmp_path.iterdir()] == ["cat.safetensors"]


def test_saving_again_replaces_the_file(trajectory, tmp_path):
    path = str(tmp_path / "cat.safetensors")
    trajectory.save(path)
    dataclasses.replace(trajectory, prompt="another").save(path)
    assert Trajectory.load(path).prompt == "another"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no trajectory at .*none\.safetensors"):
        Trajectory.load(tmp_path / "none.safetensors")


def test_a_file_of_something_else_is_refused(trajectory, tmp_path):
    words, other, half = (tmp_path / name for name in ("words", "other", "half"))
    words.write_text("these are words, and quite a lot of them")
    save_file({"maps": torch.zeros(2)}, other)
    trajectory.save(half)
    half.write_bytes(half.read_bytes()[:-100])
    for path, message in ((words, "can't be read"), (other, "holds no trajectory"), (half, "can't be read")):
        with pytest.raises(ValueError, match=message):
            Trajectory.load(path)


def test_a_trajectory_is_not_changed_in_place(trajectory):
    with pytest.raises(dataclasses.FrozenInstanceError):
        trajectory.prompt = "another"
