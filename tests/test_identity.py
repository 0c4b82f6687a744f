import copy
import dataclasses
import functools

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import nmg
from nmg import Backbone, EditDirection, Identity, NullText, Pix2PixZero, Trajectory, invert, prepare
from nmg.guidance import NullTexts
from nmg.identity import FARTHEST, rounding_of
from tests import families

SOURCE, TARGET = "a red cat sitting in the forest", "a blue cat sitting in the forest"


def flow(build):
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipe = build()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    return pipe


KINDS = {
    "noise": lambda build: build(),
    "velocity": lambda build: build("v_prediction"),
    "flow": flow,
    "XL": lambda build: families.sdxl(),
    "3": lambda build: families.sd3(),
}


@pytest.fixture(scope="module")
def made(build):
    """A pipeline of each kind, built once: what is changed is a copy."""
    return functools.cache(lambda kind: KINDS[kind](build))


def network(pipe):
    return Backbone(pipe).network


@torch.no_grad()
def scaled(pipe, factor):
    for weight in network(pipe).parameters():
        weight.mul_(factor)


# ---------------------------------------------------------------- one network


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_network_is_the_same_in_another_precision(made, kind, dtype):
    own, half = Identity.of(made(kind), SOURCE), copy.deepcopy(made(kind)).to(dtype=dtype)
    other = Identity.of(half, SOURCE)
    assert own.apart(other) > 0 and own.is_same(other) and other.is_same(own)


def renamed(pipe):
    pipe.register_to_config(_name_or_path="some/other-name")


def fused(pipe):
    pipe.fuse_qkv_projections()


def sliced(pipe):
    pipe.enable_attention_slicing()


def cast(pipe):
    families.cast_layers(pipe.unet)


def rescheduled(pipe):
    pipe.scheduler.register_to_config(steps_offset=0)


@pytest.mark.parametrize("change", [renamed, fused, sliced, cast, families.offload, rescheduled])
def test_a_network_is_the_same_however_it_is_called_and_run(build, change):
    pipe = build()
    before = Identity.of(pipe, SOURCE)
    change(pipe)
    assert before.is_same(Identity.of(pipe, SOURCE))


def test_a_compiled_network_is_not_compiled_anew_for_it(build):
    if not hasattr(torch.compiler, "set_stance"):
        pytest.skip("this release of torch compiles every shape")
    pipe, graphs = build(), []
    before = Identity.of(pipe, SOURCE)
    pipe.unet.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    assert before.apart(Identity.of(pipe, SOURCE)) == 0 and not graphs


def test_it_takes_one_call_of_the_network_on_a_small_latent(build):
    pipe, seen = build(), []
    pipe.unet.register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape)))
    Identity.of(pipe, SOURCE)
    assert seen == [(1, 4, 8, 8)]


# ---------------------------------------------------------------- another network


@pytest.mark.parametrize("kind", KINDS)
def test_other_weights_are_another_network(made, kind):
    other = copy.deepcopy(made(kind))
    own = Identity.of(made(kind), SOURCE)
    assert own.apart(Identity.of(other, SOURCE)) == 0
    scaled(other, 1.02)
    assert not own.is_same(Identity.of(other, SOURCE))


class LowRank(nn.Module):
    """A layer with a LoRA of a scale."""

    def __init__(self, layer, scale):
        super().__init__()
        self.layer, self.scale = layer, scale
        self.low, self.up = nn.Linear(layer.in_features, 2), nn.Linear(2, layer.out_features)

    def forward(self, x):
        return self.layer(x) + self.scale * self.up(self.low(x))


def test_a_lora_and_its_scale_tell(build):
    pipe = build()
    plain, adapted = Identity.of(pipe, SOURCE), []
    for module in list(pipe.unet.modules()):
        for name, layer in list(module.named_children()):
            if name in ("to_q", "to_v"):
                adapted.append(LowRank(layer, 1.0))
                setattr(module, name, adapted[-1])
    full = Identity.of(pipe, SOURCE)
    assert not full.is_same(plain)
    for layer in adapted:
        layer.scale = 0.5
    assert not full.is_same(Identity.of(pipe, SOURCE))
    for layer in adapted:
        layer.scale = 0.0
    assert plain.is_same(Identity.of(pipe, SOURCE))


def test_another_text_encoder_tells(build):
    pipe = build()
    before = Identity.of(pipe, SOURCE)
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight.mul_(1.5)
    assert not before.is_same(Identity.of(pipe, SOURCE))


def test_answers_of_two_shapes_are_two_networks(tiny):
    assert not Identity.of(tiny(), SOURCE).is_same(Identity.of(tiny(channels=8), SOURCE))


def test_coarse_weights_widen_the_distance_up_to_a_limit():
    assert rounding_of(torch.float32) == rounding_of(torch.float64) < rounding_of(torch.bfloat16)
    assert rounding_of(torch.float32, torch.bfloat16) == rounding_of(torch.bfloat16)
    assert rounding_of(torch.float16, torch.uint8) > rounding_of(torch.float16)
    one = Identity(torch.ones(1, 4, 8, 8), 0.125)
    for apart, same in ((0.9 * FARTHEST, True), (1.1 * FARTHEST, False)):
        assert one.is_same(Identity(one.answer * (1 + apart), 0.125)) == same
    assert not one.is_same(Identity(one.answer * torch.nan, 0.125))


# ---------------------------------------------------------------- trajectories, null texts, directions


@pytest.mark.parametrize("kind", KINDS)
def test_a_trajectory_knows_its_network_not_its_name(made, kind, picture, tmp_path):
    pipe = copy.deepcopy(made(kind))
    size = Backbone(pipe).native_size
    invert(pipe, picture, SOURCE, steps=2, size=size, progress=False).save(tmp_path / "path.safetensors")
    trajectory = Trajectory.load(tmp_path / "path.safetensors")
    assert_close(trajectory.network.answer, Identity.of(pipe, SOURCE).answer)
    prepare(pipe, dataclasses.replace(trajectory, model="another/name"))
    scaled(pipe, 1.05)
    for named in (trajectory, dataclasses.replace(trajectory, model=Backbone(pipe).name)):
        with pytest.raises(ValueError, match="the trajectory was made by another network .* % apart .* invert again"):
            prepare(pipe, named)


@pytest.mark.parametrize(
    ("made_with", "used"), [("a/model", "other/model"), ("unnamed", "unnamed"), ("a/model", "unnamed")]
)
def test_without_an_identity_the_name_counts_and_no_name_is_like_no_other(build, trajectory, made_with, used):
    pipe, old = build(), dataclasses.replace(trajectory, model=made_with, network=None)
    pipe.register_to_config(_name_or_path="" if used == "unnamed" else used)
    with pytest.raises(ValueError, match=f"made with '{made_with}', and the pipeline is '{used}'; invert again, or"):
        prepare(pipe, old)
    prepare(pipe, dataclasses.replace(old, network=Identity.of(pipe, old.prompt)))
    pipe.register_to_config(_name_or_path="a/model")
    prepare(pipe, dataclasses.replace(old, model="a/model"))


def test_null_texts_know_their_network(build, trajectory, tmp_path):
    pipe = build()
    texts = nmg.find_null_texts(pipe, trajectory, NullText(iterations=1), progress=False)
    texts.save(tmp_path / "nulls.safetensors")
    texts = NullTexts.load(tmp_path / "nulls.safetensors")
    along = {"targets": [TARGET], "guidance": NullText(embeddings=texts), "progress": False}
    nmg.edit(pipe, trajectory, **along)
    scaled(pipe, 1.05)
    # A trajectory of the changed network.
    other = dataclasses.replace(trajectory, network=Identity.of(pipe, trajectory.prompt))
    with pytest.raises(ValueError, match="NullText: what embeddings holds was made by another network .* find them"):
        nmg.edit(pipe, other, **along)


def test_a_direction_knows_its_text_encoder(build, tmp_path):
    pipe = build()
    EditDirection.between(pipe, "cat", "dog", "a red cat").save(tmp_path / "dog.safetensors")
    direction = EditDirection.load(tmp_path / "dog.safetensors")
    direction.check(Backbone(pipe))
    direction.check(Backbone(copy.deepcopy(pipe).to(dtype=torch.bfloat16)))
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight.mul_(1.5)
    with pytest.raises(ValueError, match="made by another text encoder .* say of 'a red cat' is .* % apart; make it"):
        Pix2PixZero(direction).resolved(Backbone(pipe))
    # One of an earlier version holds none, and is taken as it is.
    dataclasses.replace(direction, encoder=None).check(Backbone(pipe))


def test_half_an_identity_in_a_file_is_damage():
    assert Identity.read(None, None) is None
    for half in ((torch.ones(1, 4, 8, 8), None), (None, 0.1)):
        with pytest.raises(ValueError, match="half of what its network is known by"):
            Identity.read(*half)
