import dataclasses
import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.testing import assert_close

from nmg import CFG, DDIM, Backbone, Editor, Regularised, Trajectory, denoise, edit, images, invert, prepare, transfer
from nmg.inversion import CONVENTIONS, rise
from nmg.inversion.base import Rise
from nmg.inversion.regularised import auto_correlation, divergence, draw_shifts

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


# ---------------------------------------------------------------- regularised


UP = Rise(1, 0.5, 0.5, 0.4)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def coloured():
    """Noise that is far from white: smooth, too wide and off centre."""
    noise = torch.randn(1, 4, 36, 36, generator=seeded())
    return 0.3 + 7 * F.avg_pool2d(noise, 5, 1)


def whitened(noise, seed=0, **options):
    return Regularised(**options).noise(lambda x: noise, torch.zeros_like(noise), UP, seeded(seed))


@pytest.mark.parametrize("seed", [0, 7])
def test_without_weights_a_regularised_inversion_is_ddim(backbone, picture, trajectory, seed):
    method = Regularised(auto_correlation=0, divergence=0, seed=seed)
    plain = invert(backbone, picture, trajectory.prompt, steps=4, inversion=method, progress=False)
    assert torch.equal(plain.maps, trajectory.maps)
    named = invert(backbone, picture, trajectory.prompt, steps=4, inversion=DDIM(), progress=False)
    assert torch.equal(named.maps, trajectory.maps)


def test_the_same_seed_gives_the_same_maps_and_another_seed_others(backbone, picture, trajectory):
    def maps(seed):
        method = Regularised(rounds=1, seed=seed)
        return invert(backbone, picture, SOURCE, steps=2, inversion=method, progress=False).maps

    first, again, other = maps(0), maps(0), maps(1)
    assert torch.equal(first, again)
    assert torch.equal(first[0], other[0]) and (first - other)[1:].abs().amax((1, 2, 3)).min() > 1e-6


@pytest.mark.parametrize("fixed", [[1, 1, 1], [3, 2, 2], [13, 6, 3]])
def test_regularised_noise_is_whiter(coloured, fixed):
    shifts = [fixed] * 4
    white, only_shifts = whitened(coloured), whitened(coloured, divergence=0)
    assert auto_correlation(only_shifts, shifts) < 0.9 * auto_correlation(coloured, shifts)
    assert auto_correlation(white, shifts) < auto_correlation(coloured, shifts)
    assert divergence(white) < 0.9 * divergence(coloured)


def test_the_divergence_alone_moves_mean_and_variance_to_a_standard_normals(coloured):
    white = whitened(coloured, auto_correlation=0, divergence=100, rounds=60)
    assert_close((white.mean(), white.var()), (torch.tensor(0.0), torch.tensor(1.0)), rtol=0.02, atol=0.02)


def test_more_rounds_and_larger_weights_move_the_noise_further(coloured):
    def moved(**options):
        return (whitened(coloured, **options) - coloured).square().mean()

    assert moved(rounds=1) < moved(rounds=5)
    assert moved(auto_correlation=5, divergence=5) < moved()


def test_a_regularised_inversion_starts_from_whiter_noise(backbone, picture, trajectory):
    method = Regularised()
    regularised = invert(backbone, picture, SOURCE, steps=4, inversion=method, progress=False)
    assert torch.equal(regularised.maps[0], trajectory.maps[0])
    assert regularised.maps.isfinite().all()
    assert divergence(regularised.start) < divergence(trajectory.start)


def test_the_auto_correlation_of_simple_patterns():
    def energy(noise):
        return auto_correlation(noise, [[1, 1]] * noise.shape[1])

    ones = torch.ones(1, 3, 16, 16)
    # Two axes, two levels, three channels, each of squared mean 1.
    assert_close(energy(ones), torch.tensor(12.0))
    assert_close(energy(2 * ones), torch.tensor(16 * 12.0))
    assert energy(0 * ones) == 0
    # Stripes are alike along their length and opposite across; halved, they vanish.
    stripes = (-ones).cumprod(-1)
    assert_close(energy(stripes), torch.tensor(6.0))


def test_the_auto_correlation_is_the_sum_of_equation_1():
    noise, expected = torch.randn(1, 2, 16, 20, generator=seeded()), 0.0
    shifts = [[5, 2], [1, 3]]
    for channel in range(2):
        n = noise[:, channel : channel + 1]
        for shift in shifts[channel]:
            for dim in (2, 3):
                expected += (n * torch.roll(n, shift, dim)).mean() ** 2
            n = F.avg_pool2d(n, 2)
    assert_close(auto_correlation(noise, shifts), expected)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 1.0), (0.0, 2.0), (-1.0, 0.3)])
def test_the_divergence_is_twice_that_of_two_normals(mean, std):
    noise = torch.randn(1, 4, 16, 16, generator=seeded())
    noise = mean + std * (noise - noise.mean()) / noise.std()
    normal = torch.distributions.Normal
    expected = 2 * torch.distributions.kl_divergence(normal(mean, std), normal(0.0, 1.0))
    assert_close(divergence(noise), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "sizes"), [((64, 64), [64, 32, 16, 8]), ((16, 40), [16, 8]), ((12, 9), [9, 4]), ((6, 6), [6])]
)
def test_shifts_go_from_1_to_below_half_of_every_level(shape, sizes):
    generator = seeded()
    drawn = torch.tensor([draw_shifts((1, 4, *shape), generator) for _ in range(200)])
    assert drawn.shape == (200, 4, len(sizes))
    for level, size in enumerate(sizes):
        assert set(drawn[..., level].flatten().tolist()) == set(range(1, max(2, size // 2)))


@pytest.mark.parametrize("size", [(40, 24), (18, 34)])
def test_other_sizes_and_shapes_invert_regularised(backbone, picture, size):
    trajectory = invert(backbone, picture, SOURCE, steps=1, size=size, inversion=Regularised(), progress=False)
    assert trajectory.latent_size == (size[1] // 2, size[0] // 2) and trajectory.maps.isfinite().all()


def test_a_regularised_inversion_works_in_inference_mode(backbone, picture):
    given = {"steps": 1, "inversion": Regularised(rounds=1), "progress": False}
    expected = invert(backbone, picture, SOURCE, **given).maps
    with torch.inference_mode():
        assert torch.equal(invert(backbone, picture, SOURCE, **given).maps, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auto_correlation": math.nan}, "auto_correlation=nan must be a finite number"),
        ({"divergence": math.inf}, "divergence=inf must be a finite number"),
        ({"rounds": 0}, "rounds=0 must be a whole number from 1 on"),
        ({"shifts": -1}, "shifts=-1 must be a whole number from 1 on"),
        ({"rounds": True}, "rounds=True must be a whole number"),
        ({"shifts": 2.5}, r"shifts=2\.5 must be a whole number"),
    ],
    ids=str,
)
def test_a_regularisation_that_can_not_be_used_is_refused(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        Regularised(**options)


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


@pytest.mark.parametrize("method", [DDIM(), Regularised(), Regularised(3.0, 0.5, 2, 1, 7)], ids=str)
def test_a_trajectory_remembers_its_method(trajectory, tmp_path, method):
    dataclasses.replace(trajectory, inversion=method).save(tmp_path / "cat.safetensors")
    assert Trajectory.load(tmp_path / "cat.safetensors").inversion == method


def test_inverting_says_by_what_method(backbone, picture, trajectory):
    method = Regularised(rounds=1)
    assert invert(backbone, picture, SOURCE, steps=1, inversion=method, progress=False).inversion == method
    assert trajectory.inversion == DDIM()


def test_a_file_from_before_there_were_methods_is_of_ddim(trajectory, tmp_path):
    path = tmp_path / "cat.safetensors"
    trajectory.save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    described = json.loads(metadata["trajectory"])
    assert described.pop("inversion") == {"method": "DDIM"}
    save_file({"maps": trajectory.maps}, path, metadata={**metadata, "trajectory": json.dumps(described)})
    assert Trajectory.load(path).inversion == DDIM()


@pytest.mark.parametrize(
    ("own", "other"), [(DDIM(), Regularised()), (Regularised(), DDIM()), (Regularised(), Regularised(seed=1))], ids=str
)
def test_an_edit_refuses_an_inversion_that_is_not_the_trajectorys(tiny, trajectory, own, other):
    made = dataclasses.replace(trajectory, inversion=own)
    with pytest.raises(ValueError, match=r"inversion=.* is not the trajectory's .*; leave it out, or invert again"):
        edit(tiny(), made, inversion=other, progress=False)
    assert edit(tiny(), made, inversion=own, progress=False).trajectory.inversion == own


def test_an_edit_inverts_by_the_method_that_is_asked_for(tiny, picture):
    given = {"steps": 1, "progress": False}
    method = Regularised(rounds=1, seed=3)
    result = edit(tiny(), picture, SOURCE, inversion=method, **given)
    expected = invert(tiny(), result.source, SOURCE, inversion=method, **given)
    assert result.trajectory.inversion == method and torch.equal(result.trajectory.maps, expected.maps)


def test_a_trajectory_of_an_inversion_that_could_not_be_read_again_is_not_saved(trajectory, tmp_path):
    class Another(DDIM):
        pass

    with pytest.raises(
        ValueError, match="Another is no inversion of this package, so the file could not be read again"
    ):
        dataclasses.replace(trajectory, inversion=Another()).save(tmp_path / "cat.safetensors")
    assert not list(tmp_path.iterdir())


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
