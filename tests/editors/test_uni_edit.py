import pytest
import torch
from torch.testing import assert_close

from nmg import (
    CFG,
    Backbone,
    Direct,
    EditFriendly,
    FixedPoint,
    NegativePrompt,
    NoiseMap,
    Request,
    UniEdit,
    UniInv,
    denoise,
    edit,
    invert,
    prepare,
)
from nmg.levels import predict_clean, predict_noise

SOURCE = "a red cat sitting in the forest, front view"
BLUE, DOG = SOURCE.replace("red", "blue"), SOURCE.replace("cat", "dog")
QUIET = {"progress": False}
STEPS = 5


@pytest.fixture
def inverted(model, picture):
    return invert(model, picture, SOURCE, steps=STEPS, inversion=UniInv(), **QUIET)


def edited(model, trajectory, targets, editor=None, guidance=None, skip=0.4):
    """The latents of all rows at the end."""
    run = prepare(model, trajectory, targets, SOURCE, skip=skip)
    return list(denoise(run, guidance or Direct(), (editor or UniEdit()).prepare(run)))[-1][1]


@torch.no_grad()
def published(model, trajectory, target, omega, skip):
    """The paper's algorithm 2, on the flow x_τ = z / (a + s), τ = s / (a + s), of any network."""
    source, text = model.text([SOURCE, target]).split(1)
    first = trajectory.steps[skip]
    x = trajectory.origin(first) / (first.here.a + first.here.s)
    for step in trajectory.steps[skip:]:
        z = x * (step.here.a + step.here.s)
        said = [model.predict(z, step, held) for held in (source, text)]
        v_s, v_t = (predict_noise(z, v, step.here) - predict_clean(z, v, step.here) for v in said)
        m = (v_t - v_s).mean(1, keepdim=True)
        m = (m - m.min()) / (m.max() - m.min())
        length = step.there.s / (step.there.a + step.there.s) - step.here.s / (step.here.a + step.here.s)
        x = x + omega * length * (1 + m) * (v_t - v_s) + length * (m * v_t + (1 - m) * v_s)
    return x * (trajectory.steps[-1].there.a + trajectory.steps[-1].there.s)


def test_it_is_the_papers_algorithm_on_the_flow_of_any_network(model, inverted):
    found = edited(model, inverted, [BLUE], UniEdit(omega=3.0))[1:]
    assert_close(found, published(model, inverted, BLUE, 3.0, 2), rtol=1e-3, atol=1e-3)


def test_with_equal_prompts_it_returns_the_picture_where_the_maps_are_joined(build, picture):
    # A small network that says little, on which the fixed point is found.
    pipe = build(size=8, levels=1)
    pipe.unet.double()
    pipe.unet.conv_out.weight.data *= 0.1
    smooth = Backbone(pipe)
    joined = invert(smooth, picture, SOURCE, steps=STEPS, inversion=FixedPoint(100, 1e-9), **QUIET)
    assert_close(edited(smooth, joined, [SOURCE])[1:], joined.maps[:1], rtol=1e-4, atol=1e-4)


def test_with_equal_prompts_it_is_the_source_sampled_alone(model, inverted):
    source, target = edited(model, inverted, [SOURCE], guidance=CFG(7.5))
    assert_close(target, source, rtol=1e-5, atol=1e-5)


def test_several_targets_together_are_each_alone(model, inverted):
    together = edited(model, inverted, [BLUE, DOG])
    for row, target in enumerate((BLUE, DOG), 1):
        assert_close(together[row], edited(model, inverted, [target])[1], rtol=1e-5, atol=1e-5)


def test_direct_leaves_the_source_out_of_every_call(backbone, picture, monkeypatch):
    inverted = invert(backbone, picture, SOURCE, steps=STEPS, inversion=UniInv(), **QUIET)
    seen, own = [], backbone.predict

    def predict(x, *args, **options):
        seen.append(len(x))
        return own(x, *args, **options)

    monkeypatch.setattr(backbone, "predict", predict)
    direct, sampled = (edited(backbone, inverted, [BLUE], guidance=how)[1] for how in (Direct(), CFG()))
    assert seen == [2] * 3 + [3] * 3
    assert_close(direct, sampled, rtol=1e-5, atol=1e-5)


def test_its_habits_are_the_papers(backbone, picture):
    request = edit(backbone, picture, SOURCE, [BLUE], editor=UniEdit(), steps=STEPS, **QUIET).request
    assert (request.inversion, request.negative, request.skip) == (UniInv(), SOURCE, 0.4)
    assert request.guidance == Direct(1.0)


@pytest.mark.parametrize("scale, said", [(1.0, False), (7.5, True)])
def test_a_text_scale_that_does_nothing_is_said(backbone, scale, said):
    request = Request("picture", SOURCE, [BLUE], guidance=Direct(scale), editor=UniEdit(), steps=STEPS)
    found = request.remarks(backbone)
    assert (
        found == ["UniEdit follows the prompts' difference by omega alone, so that text_scale=7.5 does nothing"] * said
    )


def test_the_models_own_text_scale_is_not_said_to_do_nothing(build, tmp_path):
    (tmp_path / "nmg.json").write_text('{"text_scale": 3.0}')
    (pipe := build()).register_to_config(_name_or_path=str(tmp_path))
    request = Request("picture", SOURCE, [BLUE], editor=UniEdit(), steps=STEPS).resolved(Backbone(pipe))
    assert request.guidance == Direct(3.0) and request.remarks(Backbone(pipe)) == []


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "options, said",
    [
        ({"guidance": NoiseMap()}, "reads nothing of the source row, so that NoiseMap"),
        ({"guidance": NegativePrompt()}, "NegativePrompt would change no edit"),
        ({"negative": "blurry"}, "negative='blurry' would do nothing"),
        ({"inversion": EditFriendly()}, "no DDIM step joins the noise maps of EditFriendly"),
    ],
    ids=["noise-map", "negative-prompt", "negative", "edit-friendly"],
)
def test_what_would_do_nothing_is_refused(backbone, picture, options, said):
    with pytest.raises(ValueError, match=said):
        edit(backbone, picture, SOURCE, [BLUE], editor=UniEdit(), steps=2, **options, **QUIET)


def test_an_infinite_scale_is_refused():
    with pytest.raises(ValueError, match="UniEdit: omega=inf must be a finite number"):
        UniEdit(omega=float("inf"))
