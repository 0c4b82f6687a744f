import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from nmg import CFG, Backbone, Editor, LocalBlend, MasaCtrl, PromptToPrompt, denoise, edit, prepare
from nmg import attention as attention_module
from nmg.attention import attending, attention, changing, probabilities, sites, spatial_size
from tests.families import FAMILIES


@pytest.fixture(params=["sd-shaped", "tiny"])
def unet(request, sd_shaped, tiny):
    return sd_shaped.unet if request.param == "sd-shaped" else tiny().unet


@pytest.fixture
def call():
    """Calls a UNet on fixed inputs; `options` go to the UNet."""
    random = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def call(unet, size=(8, 8), rows=2, **options):
        random.manual_seed(0)
        x = torch.randn(rows, unet.config.in_channels, *size, generator=random)
        text = torch.randn(rows, 9, unet.config.cross_attention_dim, generator=random)
        return unet(x, 500, text, **options).sample

    return call


def explicit(site, q, k, v, mask):
    return probabilities(q, k) @ v


@pytest.mark.parametrize(
    "attend",
    [lambda site, q, k, v, mask: attention(q, k, v), lambda site, q, k, v, mask: None, explicit],
    ids=["attention", "None", "probabilities"],
)
def test_an_identity_attend_changes_nothing(unet, call, attend):
    expected = call(unet)
    with attending(unet, attend):
        hooked = call(unet)
    assert_close(hooked, expected, rtol=1e-4, atol=1e-5)


def test_no_attend_is_no_hook(unet, call):
    before = unet.attn_processors
    with attending(unet, None):
        assert unet.attn_processors == before


def test_an_attend_that_returns_something_else_is_obeyed(unet, call):
    with attending(unet, lambda site, q, k, v, mask: torch.zeros_like(q)):
        hooked = call(unet)
    assert (hooked - call(unet)).abs().max() > 1e-3


def test_sites_are_in_the_order_they_run(unet, call):
    seen = []
    with attending(unet, lambda site, q, k, v, mask: seen.append(site)):
        call(unet)
    assert seen == list(sites(unet).values())


def test_stable_diffusion_has_16_self_and_16_cross_attention_layers(sd_shaped):
    found = list(sites(sd_shaped.unet).values())
    for is_cross in (False, True):
        assert [site.layer for site in found if site.is_cross is is_cross] == list(range(16))
    assert {site.place for site in found} == {"down", "mid", "up"}


def test_queries_of_cross_attention_are_positions_and_keys_are_tokens(unet, call):
    shapes = {}
    with attending(unet, lambda site, q, k, v, mask: shapes.update({site: (q.shape, k.shape, v.shape)})):
        call(unet)
    for site, (q, k, v) in shapes.items():
        assert k == v and q[:2] == k[:2] and q[3] == k[3]
        assert k[2] == (9 if site.is_cross else q[2])


def test_probabilities_of_every_query_sum_to_one_and_make_the_fused_attention():
    q, k, v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 4)
    assert_close(probabilities(q, k).sum(-1), torch.ones(2, 3, 5))
    assert_close(probabilities(q, k) @ v, attention(q, k, v))
    assert probabilities(q.bfloat16(), k.bfloat16()).dtype == torch.bfloat16


# ---------------------------------------------------------------- hooks live for one call


class Stop(Exception):
    pass


def raising(error):
    def attend(site, q, k, v, mask):
        raise error

    return attend


def same_objects(first, second):
    return first.keys() == second.keys() and all(first[name] is second[name] for name in first)


def hooks_of(network):
    return [
        hook for module in network.modules() for hook in (*module._forward_pre_hooks, *module._forward_hooks)
    ] + list(attention_module._RUNNING)


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, GeneratorExit])
def test_nothing_is_left_of_a_hook_after_an_exception(unet, call, error):
    before, expected = dict(unet.attn_processors), call(unet)
    with pytest.raises(error), attending(unet, raising(error)):
        call(unet)
    assert same_objects(unet.attn_processors, before) and not hooks_of(unet)
    assert torch.equal(call(unet), expected)


def test_nothing_is_left_of_a_hook_after_an_interrupt_inside_a_layer(build, call):
    unet = build().unet

    def interrupted(*_):
        raise KeyboardInterrupt

    handle = unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_v.register_forward_hook(interrupted)
    with pytest.raises(KeyboardInterrupt), attending(unet, explicit):
        call(unet)
    handle.remove()
    assert not hooks_of(unet)


def test_different_processors_on_different_layers_come_back(build, call):
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    unet = build().unet
    unet.set_attn_processor(
        {name: AttnProcessor() if "attn2" in name else AttnProcessor2_0() for name in unet.attn_processors}
    )
    before = dict(unet.attn_processors)
    expected = call(unet)
    seen = []
    with attending(unet, lambda site, q, k, v, mask: seen.append(site)):
        assert_close(call(unet), expected, rtol=1e-4, atol=1e-5)
    assert seen == list(sites(unet).values())
    assert same_objects(unet.attn_processors, before)


def test_a_backend_that_was_chosen_is_held_back_and_restored(build, call):
    unet, expected = build().unet, call(build().unet)
    for layer in unet.attn_processors.values():
        layer._attention_backend = "flash"
    with attending(unet, explicit):
        assert {layer._attention_backend for layer in unet.attn_processors.values()} == {None}
        assert_close(call(unet), expected, rtol=1e-4, atol=1e-5)
    assert {layer._attention_backend for layer in unet.attn_processors.values()} == {"flash"}


class Everywhere(Editor):
    """Edits attention at every step."""

    def attend(self, run, step):
        return explicit


def test_no_hook_is_left_between_steps_nor_by_an_abandoned_iterator(backbone, trajectory):
    run = prepare(backbone, trajectory, ["a blue cat"])
    iterator = denoise(run, CFG(), Everywhere())
    next(iterator)
    assert not hooks_of(backbone.unet)
    next(iterator)
    del iterator
    assert not hooks_of(backbone.unet)


# ---------------------------------------------------------------- what can't be edited


class IPAdapterAttnProcessor(nn.Module):
    def __call__(self, attn, hidden_states, **_):
        return hidden_states


def test_processors_that_a_hook_would_bypass_are_refused(build):
    unet = build().unet
    unet.set_attn_processor(IPAdapterAttnProcessor())
    with pytest.raises(TypeError, match="IPAdapterAttnProcessor.*unload"):
        sites(unet)
    with pytest.raises(TypeError, match="IPAdapterAttnProcessor"), attending(unet, explicit):
        pass


def test_a_network_without_attention_is_refused():
    with pytest.raises(TypeError, match="Linear has no attention layers"):
        sites(nn.Linear(2, 2))


def test_a_block_in_which_no_hook_ran_is_an_error(unet):
    with pytest.raises(RuntimeError, match="without calling any attention hook"), attending(unet, explicit):
        pass


def test_an_error_inside_the_block_is_not_hidden_by_the_missing_calls(unet):
    with pytest.raises(Stop), attending(unet, explicit):
        raise Stop


# ---------------------------------------------------------------- what a network may carry


class LowRank(nn.Module):
    """A projection with an addition to its weights, as LoRA wraps it."""

    def __init__(self, base):
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def test_wrapped_projections_are_seen_by_the_hook(build, call):
    unet = build().unet
    plain = call(unet)
    for name, module in list(unet.named_modules()):
        if name.endswith((".attn1", ".attn2")):
            module.to_q, module.to_v = LowRank(module.to_q), LowRank(module.to_v)
    wrapped = call(unet)
    with attending(unet, explicit):
        hooked = call(unet)
    assert (wrapped - plain).abs().max() > 1e-3
    assert_close(hooked, wrapped, rtol=1e-4, atol=1e-5)


def test_fused_projections_are_seen_by_the_hook(build, call):
    unet = build().unet
    unet.fuse_qkv_projections()
    for name, module in unet.named_modules():
        if name.endswith("attn1"):
            module.to_qkv.weight.data *= 1.5
    expected = call(unet)
    with attending(unet, explicit):
        assert_close(call(unet), expected, rtol=1e-4, atol=1e-5)
    unet.unfuse_qkv_projections()
    assert (expected - call(unet)).abs().max() > 1e-3


def test_checkpointed_layers_are_hooked_again_in_the_backward_pass(build):
    unet = build().unet.train().requires_grad_(False)
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 9, unet.config.cross_attention_dim)

    def gradient():
        z = x.clone().requires_grad_()
        with torch.enable_grad(), attending(unet, lambda site, q, k, v, mask: attention(2 * q, k, v)):
            return torch.autograd.grad(unet(z, 500, text).sample.square().sum(), z)[0]

    expected = gradient()
    unet.enable_gradient_checkpointing()
    assert_close(gradient(), expected, rtol=1e-4, atol=1e-5)


def test_an_attend_may_ask_for_attention_itself(unet, call):
    with attending(unet, lambda site, q, k, v, mask: torch.nn.functional.scaled_dot_product_attention(q, k, v)):
        hooked = call(unet)
    assert torch.equal(hooked, call(unet))


def test_masked_tokens_stay_masked_where_the_hook_declines(build, call):
    unet, mask = build().unet, torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0, 0]] * 2)
    expected = call(unet, encoder_attention_mask=mask)
    assert (expected - call(unet)).abs().max() > 1e-3
    with attending(unet, lambda site, q, k, v, mask: None):
        assert_close(call(unet, encoder_attention_mask=mask), expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (7, 16), (11, 11)])
def test_spatial_size_is_known_for_every_layer_of_any_latent(unet, call, size):
    positions = set()
    with attending(unet, lambda site, q, k, v, mask: positions.add(q.shape[2])):
        call(unet, size)
    for count in positions:
        height, width = spatial_size(count, size)
        assert math.prod((height, width)) == count
        assert abs(height * size[1] - width * size[0]) <= 8 * max(size)


@pytest.mark.parametrize(
    ("positions", "expected"), [(135, (9, 15)), (40, (5, 8)), (12, (3, 4)), (4, (2, 2)), (1, (1, 1))]
)
def test_spatial_size_halves_odd_sizes_upwards(positions, expected):
    assert spatial_size(positions, (9, 15)) == expected


def test_a_number_of_positions_that_no_halving_gives_is_refused():
    with pytest.raises(ValueError, match="no halving of a 9×15 latent has 41 positions"):
        spatial_size(41, (9, 15))


def test_threads_that_share_a_network_do_not_meet_each_others_hooks(backbone, trajectory):
    def edited(editor):
        run = prepare(backbone, trajectory, ["a blue cat sitting in the forest, front view"])
        return [x for _ in range(4) for _, x in denoise(run, CFG(2.0), editor)]

    editors = [Editor(), PromptToPrompt(self_replace=1.0), MasaCtrl(0, 0)]
    expected = [edited(editor) for editor in editors]
    with ThreadPoolExecutor(len(editors)) as pool:
        found = list(pool.map(edited, editors))
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_networks_in_two_threads_do_not_meet_each_others_hooks(build, call):
    hooked, plain = build().unet, build().unet
    expected, inside, done = call(plain), threading.Event(), threading.Event()

    def zeros(site, q, k, v, mask):
        inside.set()
        assert done.wait(60)
        return torch.zeros_like(q)

    with ThreadPoolExecutor(1) as pool:

        def edited():
            with attending(hooked, zeros):
                return call(hooked)

        running = pool.submit(edited)
        assert inside.wait(60)
        found = call(plain)
        done.set()
        assert (running.result() - expected).abs().max() > 1e-3
    assert torch.equal(found, expected)


# ---------------------------------------------------------------- what layers put out


def test_a_layer_puts_out_what_it_is_changed_to(unet, call):
    path, seen = "up_blocks.0.resnets.1.conv2", []
    with changing(unet, {path: lambda output: output}):
        assert torch.equal(call(unet), call(unet))
    with changing(unet, {path: lambda output: seen.append(output) or torch.zeros_like(output)}):
        changed = call(unet)
    assert len(seen) == 1 and (changed - call(unet)).abs().max() > 1e-4


def test_no_change_is_left_after_an_exception(unet):
    layer = unet.get_submodule("up_blocks.0.resnets.1.conv2")
    with pytest.raises(KeyError), changing(unet, {"up_blocks.0.resnets.1.conv2": torch.zeros_like}):
        assert len(layer._forward_hooks) == 1
        raise KeyError
    assert not layer._forward_hooks


def test_a_layer_that_is_not_there_is_said(unet):
    with (
        pytest.raises(AttributeError, match="up_blocks.99|99"),
        changing(unet, {"up_blocks.99.conv": torch.zeros_like}),
    ):
        pass


@pytest.mark.parametrize("family", ["sd1", "xl", "sd3"])
def test_an_edit_searches_the_network_for_its_layers_once_a_call(family, picture, monkeypatch):
    backbone = Backbone(FAMILIES[family]())
    searches, calls, search = [], [], attention_module._layers
    monkeypatch.setattr(attention_module, "_layers", lambda network: searches.append(network) or search(network))
    backbone.network.register_forward_hook(lambda *_: calls.append(1))
    editor = PromptToPrompt(local_blend=LocalBlend(("cat", "dog")))
    edit(backbone, picture, "a red cat", ["a red dog"], editor=editor, steps=2, progress=False)
    assert calls and len(searches) <= len(calls)
