import dataclasses

import pytest
import torch
from torch.testing import assert_close

from nmg import CFG, Backbone, Direct, Editor, GuideAndRescale, NoiseMap, Request, denoise, edit, prepare
from nmg.attention import attending, changing, probabilities
from nmg.rescale import rescaled
from tests.families import sd3

SOURCE = "a red cat sitting in the forest, front view"
BLUE, DOG = SOURCE.replace("red", "blue"), SOURCE.replace("cat", "dog")
QUIET = {"progress": False}


def energy(backbone, step, text, x, source):
    """The paper's energy, by hooks of its own."""

    def seen(z):
        maps, features = [], []

        def attend(site, q, k, v, mask=None):
            if not site.is_cross:
                maps.append(probabilities(q, k))

        last = f"up_blocks.{len(backbone.network.up_blocks) - 1}"
        keep = {last: lambda out: features.append(out) or out}
        with attending(backbone.network, attend), changing(backbone.network, keep):
            backbone.network(z.double(), step.timestep, text.tokens.double())
        return maps, features[0]

    (maps, features), (theirs, wanted) = seen(x), seen(source)
    distances = sum((a - b).square().mean() for a, b in zip(maps, theirs, strict=True))
    return 3e5 * distances + 500 * (features - wanted).abs().mean()


def test_the_noise_is_the_texts_and_the_rescaled_gradient(backbone, trajectory):
    run = prepare(backbone, trajectory, [BLUE])
    step, x = run.steps[1], trajectory.maps[1:3].clone()
    eps = torch.cat([run.predict(x, step, half) for half in (run.null, run.text)])
    noise = CFG(7.5).combine(run, step, eps)
    found = GuideAndRescale().follow(run, step, x, eps, noise)

    with torch.enable_grad():
        z = x[1:].clone().requires_grad_()
        value = energy(backbone, step, run.text[:1], z, x[:1])
        (gradient,) = torch.autograd.grad(value, z)
    assert torch.equal(found[0], noise[0])
    assert_close(found[1:] - noise[1:], rescaled(gradient, (noise - eps[:2])[1:]), rtol=1e-3, atol=1e-4)


def test_a_target_at_the_source_has_nothing_to_go_to(sample):
    plain, guided = (sample((SOURCE,), CFG(1.0), editor)[1] for editor in (Editor(), GuideAndRescale()))
    assert_close(guided, plain, rtol=1e-3, atol=1e-3)


def test_over_no_steps_it_changes_nothing(sample):
    assert torch.equal(sample((BLUE,), editor=GuideAndRescale(until=0)), sample((BLUE,), editor=Editor()))


@pytest.mark.parametrize("guidance", [CFG(), Direct()], ids=lambda guidance: type(guidance).__name__)
def test_the_source_row_takes_nothing_from_the_targets(sample, guidance):
    assert_close(sample((BLUE,), guidance, GuideAndRescale())[0], sample((), guidance)[0], rtol=1e-5, atol=1e-5)


def test_several_targets_together_are_each_alone(sample):
    together = sample((BLUE, DOG), Direct(), GuideAndRescale())
    for row, target in enumerate((BLUE, DOG), 1):
        assert_close(together[row], sample((target,), Direct(), GuideAndRescale())[1], rtol=1e-4, atol=1e-4)


def test_it_guides_in_its_share_of_the_steps(backbone, trajectory):
    run = prepare(backbone, trajectory, [BLUE])
    x, eps = trajectory.maps[1:3], torch.randn(4, 4, 16, 16)
    changed = [not torch.equal(GuideAndRescale(until=0.5).follow(run, s, x, eps, eps[2:]), eps[2:]) for s in run.steps]
    assert changed == [True, True, False, False]


@pytest.mark.parametrize(
    "options, skip, said",
    [
        ({}, None, ""),
        ({"until": 0}, None, "until=0 holds none of the 4 steps that are sampled"),
        ({"until": 0.5}, 0.5, "until=0.5 holds none of the 2 steps that are sampled"),
        ({"attention_scale": 0}, None, ""),
        ({"attention_scale": 0, "feature_scale": 0}, None, "attention_scale=0 and feature_scale=0 guide nowhere"),
    ],
    ids=str,
)
def test_what_guides_in_no_step_is_said(backbone, trajectory, options, skip, said):
    request = Request(trajectory, trajectory.prompt, [BLUE], editor=GuideAndRescale(**options), steps=4, skip=skip)
    found = request.remarks(backbone)
    assert len(found) == bool(said) and said in "".join(found)


def test_no_parameter_gets_a_gradient_and_no_hook_stays(backbone, trajectory):
    next(denoise(prepare(backbone, trajectory, [BLUE]), Direct(), GuideAndRescale()))
    assert all(parameter.grad is None for parameter in backbone.network.parameters())
    assert not any(module._forward_hooks for module in backbone.network.modules())


def test_the_source_is_read_off_its_noise_maps_where_no_guidance_is_given(backbone, trajectory):
    made = edit(backbone, trajectory, targets=[BLUE], editor=GuideAndRescale(), **QUIET)
    assert made.request.guidance == Direct(7.5) and made.drift == 0


def test_a_network_without_a_decoder_is_refused(picture):
    with pytest.raises(ValueError, match="GuideAndRescale works on the features of a UNet's decoder"):
        edit(sd3(), picture, "a cat", ["a dog"], editor=GuideAndRescale(), steps=2, **QUIET)


@pytest.mark.parametrize(
    "options", [{"until": 1.1}, {"attention_scale": float("nan")}, {"feature_scale": None}], ids=str
)
def test_settings_out_of_range_are_refused(options, unchecked):
    with pytest.raises(ValueError, match="GuideAndRescale: "):
        dataclasses.replace(GuideAndRescale(), **options)


# ---------------------------------------------------------------- the norm rule for noise map guidance


def corrections(backbone, trajectory, bound):
    """By how much a noise-map step moves the noise, and how far the text does, at the second step."""
    guidance = NoiseMap(gradient_scale=5.0, text_scale=7.5, bound=bound)
    run = prepare(backbone, trajectory)
    step = run.steps[1]
    x = trajectory.origin(step) + 0.1
    null = run.predict(x, step, run.null)
    plain = run.down(x, null, step)
    text = 7.5 * (run.predict(x, step, run.text) - null)
    length = (run.down(x, null + 1, step) - plain).mean()
    return (guidance.steer(run, step, x) - plain) / length, text


def test_a_noise_map_step_can_be_as_long_as_the_texts(backbone, trajectory):
    free, text = corrections(backbone, trajectory, None)
    bounded, _ = corrections(backbone, trajectory, "rescale")
    assert_close(bounded, rescaled(free, text), rtol=1e-3, atol=1e-4)
    assert 0.32 <= (bounded.norm() / text.norm()).item() <= 3.01


def test_a_network_in_half_precision_works(build, picture):
    pipe = build()
    pipe.unet.to(torch.bfloat16)
    made = edit(Backbone(pipe), picture, SOURCE, [BLUE], editor=GuideAndRescale(), steps=2, **QUIET)
    assert len(made.pictures) == 1
