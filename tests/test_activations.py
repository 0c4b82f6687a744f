"""A gradient pass that keeps less gives the same gradient."""

import weakref

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch.autograd.graph import saved_tensors_hooks

from nmg import Backbone, NoiseMap, Pix2PixZero, activations, edit, prepare, steps
from nmg.activations import sparing
from nmg.backbones.unet import frozen
from nmg.inversion import rise

SOURCE, TARGET = "a red cat sitting in the forest", "a blue cat sitting in the forest"


@pytest.fixture
def everywhere(monkeypatch):
    """Small layers are spared, too."""
    monkeypatch.setattr(activations, "WORTHWHILE", 1)


@pytest.fixture
def run(build):
    backbone = Backbone(build())
    return prepare(backbone, rise(backbone, torch.randn(1, 4, 16, 16), SOURCE, 2))


def gradient_of(run, x):
    """The gradient, and the bytes that the pass kept."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    step = steps(run.backbone.scheduler, 10)[3]
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        gradient, eps = run.gradient(x, step, run.null, lambda z, eps: (eps**2).sum())
    weights = {p.untyped_storage().data_ptr() for p in run.backbone.unet.parameters()}
    return gradient, eps, sum(size for place, size in kept.items() if place not in weights)


def forwards(unet):
    return {name: (m.__dict__.get("forward"), m.__dict__.get("_conv_forward")) for name, m in unet.named_modules()}


def test_the_gradient_is_the_same_and_less_is_kept(run, monkeypatch):
    x = torch.randn(1, 4, 16, 16)
    found = {}
    for worthwhile in (1, 2**60):
        monkeypatch.setattr(activations, "WORTHWHILE", worthwhile)
        found[worthwhile] = gradient_of(run, x)
    (spared, eps, less), (expected, expected_eps, more) = found.values()
    assert expected.abs().max() > 0
    assert torch.equal(spared, expected) and torch.equal(eps, expected_eps)
    assert less < 0.6 * more


def test_the_gradient_of_a_text_is_the_same(run, monkeypatch):
    x, step = torch.randn(1, 4, 16, 16), steps(run.backbone.scheduler, 10)[3]
    found = []
    for worthwhile in (1, 2**60):
        monkeypatch.setattr(activations, "WORTHWHILE", worthwhile)
        found.append(run.text_gradient(x, step, run.text, lambda eps: (eps**2).sum())[0])
    assert found[1].abs().max() > 0 and torch.equal(*found)


@pytest.mark.parametrize("editor", [None, Pix2PixZero()], ids=["p2p", "pix2pix-zero"])
def test_an_edit_is_the_same(build, picture, monkeypatch, editor):
    pipe, found = build(), []
    for worthwhile in (1, 2**60):
        monkeypatch.setattr(activations, "WORTHWHILE", worthwhile)
        options = {"guidance": NoiseMap(noise_map_scale=1.0), "editor": editor, "steps": 2, "progress": False}
        found.append(edit(pipe, picture, SOURCE, [TARGET], **options).latents)
    assert torch.equal(*found)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_every_forward_is_put_back(build, everywhere, error):
    unet = build().unet
    own = unet.conv_in.forward = lambda x: x
    before = forwards(unet)
    try:
        with frozen(unet), sparing(unet):
            assert forwards(unet) != before
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert forwards(unet) == before and unet.conv_in.forward is own


def test_weights_that_need_a_gradient_get_the_right_one(build, everywhere):
    torch.manual_seed(0)
    unet, x = build().unet, torch.randn(1, 4, 16, 16)
    text = torch.randn(1, 5, unet.config.cross_attention_dim)
    norms = [m.weight for m in unet.modules() if isinstance(m, torch.nn.GroupNorm | torch.nn.LayerNorm)]
    weights, found = [unet.conv_in.weight, unet.conv_out.weight, *norms], []
    with torch.enable_grad():
        for block in (sparing(unet), torch.enable_grad()):
            with block:
                eps = unet(x, 5, text).sample
                found.append(torch.autograd.grad((eps**2).sum(), weights))
    for spared, expected in zip(*found, strict=True):
        assert expected.abs().max() > 0
        assert torch.equal(spared, expected)


@pytest.mark.parametrize("way", ["checkpointed", "compiled", "part compiled"])
def test_networks_that_decide_for_themselves_are_left_alone(build, everywhere, way):
    unet = build().unet
    if way == "checkpointed":
        unet.enable_gradient_checkpointing()
    elif way == "compiled":
        unet = torch.compile(unet, backend="eager")
    else:
        unet.mid_block.compile(backend="eager")
    before = forwards(unet)
    with frozen(unet), sparing(unet):
        assert forwards(unet) == before


def test_small_layers_are_not_worth_it(run):
    x = torch.randn(1, 4, 16, 16)
    seen = gradient_of(run, x)[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activations, "WORTHWHILE", 2**60)
        assert gradient_of(run, x)[2] == seen


def test_layers_that_are_loaded_when_they_run(run, everywhere):
    """Sequential offload has forwards of its own in the layers, and loads and unloads in them."""
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    calls = {"before": 0, "after": 0}

    class Loading(ModelHook):
        def pre_forward(self, module, *args, **options):
            calls["before"] += 1
            return args, options

        def post_forward(self, module, output):
            calls["after"] += 1
            return output

    x = torch.randn(1, 4, 16, 16)
    expected = gradient_of(run, x)[0]
    kinds = torch.nn.Conv2d | torch.nn.Linear | torch.nn.GroupNorm | torch.nn.LayerNorm
    layers = [m for m in run.backbone.unet.modules() if isinstance(m, kinds)]
    # It is called several times, and before diffusers 0.31 belongs to every network.
    for module in (*layers, run.backbone.unet.conv_act):
        add_hook_to_module(module, Loading())
    try:
        assert torch.equal(gradient_of(run, x)[0], expected)
        assert calls["before"] == calls["after"] >= len(layers)
        calls.update(before=0)
        assert torch.equal(gradient_of(run, x)[0], expected)
        assert calls["before"] >= len(layers)
    finally:
        remove_hook_from_module(run.backbone.unet.conv_act)


def both_ways(layer, x, watched):
    """Of a plain and of a spared pass: whether what is watched is kept for the way back, the output and the gradient.

    Args:
        watched: given a weak reference to the layer's input, the one to look at.
    """
    found = []
    for spared in (False, True):
        torch.manual_seed(3)
        with torch.enable_grad(), frozen(layer):
            z = x.clone(memory_format=torch.preserve_format).requires_grad_()
            with sparing(layer) if spared else torch.enable_grad():
                # Not a leaf, as in a network: only the graph holds it.
                held = z * 1
                y, weak = layer(held), weakref.ref(held)
                del held
                kept = watched(weak)() is not None
                torch.rand(5)
                found.append((kept, y, *torch.autograd.grad((y**2).sum(), z)))
    return found


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
def test_a_convolution_keeps_no_input(everywhere, order):
    layer = torch.nn.Conv2d(4, 4, 3, padding=1).to(memory_format=order)
    plain, spared = both_ways(layer, torch.randn(2, 4, 8, 8).to(memory_format=order), lambda held: held)
    assert (plain[0], spared[0]) == (True, False)
    for one, other in zip(plain[1:], spared[1:], strict=True):
        assert torch.equal(one, other) and one.stride() == other.stride()


class Normed(torch.nn.Module):
    """A normalisation and what follows it in a network."""

    def __init__(self, kind, changed=False):
        super().__init__()
        self.norm = torch.nn.GroupNorm(2, 8) if kind == "activation" else torch.nn.LayerNorm(8)
        self.after = torch.nn.SiLU() if kind == "activation" else FeedForward(8, dropout=0.5)
        self.changed = changed

    def forward(self, x):
        y = self.norm(x)
        self.given = weakref.ref(y)
        return self.after(y.mul_(2) if self.changed else y)


@pytest.mark.parametrize(
    "kind, shape, order",
    [
        ("activation", (2, 8, 4, 4), torch.contiguous_format),
        ("activation", (2, 8, 4, 4), torch.channels_last),
        ("feed-forward", (2, 8, 8), torch.contiguous_format),
    ],
    ids=["activation", "activation, channels last", "feed-forward"],
)
@pytest.mark.parametrize("changed", [False, True], ids=["as it is", "changed in place"])
def test_what_a_normalisation_gave_is_not_kept(everywhere, kind, shape, order, changed):
    block = Normed(kind, changed)

    def given(held):
        # Its own input it needs in either case.
        assert held() is not None
        return block.given

    plain, spared = both_ways(block, torch.randn(shape).to(memory_format=order), given)
    # A feed-forward layer that isn't spared begins with a projection, which keeps no input.
    assert (plain[0], spared[0]) == (kind == "activation", changed)
    for one, other in zip(plain[1:], spared[1:], strict=True):
        assert one.abs().max() > 0 and torch.equal(one, other)


def test_an_activation_of_two_networks_is_put_back_once(everywhere):
    """diffusers before 0.31 has one SiLU for all networks."""
    shared = torch.nn.SiLU()
    one, other = sparing(torch.nn.ModuleList([shared])), sparing(torch.nn.ModuleList([shared]))
    one.__enter__()
    # Both saw it as it was.
    del shared.forward
    other.__enter__()
    one.__exit__(None, None, None)
    other.__exit__(None, None, None)
    assert "forward" not in shared.__dict__


def test_a_normalisation_that_changes_the_type_is_kept(everywhere, monkeypatch):
    """As under autocast on a GPU; the way back, which knows nothing of it, could not compute the same again."""
    block, x, found, wide = Normed("activation").requires_grad_(False), torch.randn(2, 8, 8).bfloat16(), [], []

    def forward(norm, x):
        return torch.nn.functional.group_norm(x.float() if wide else x, norm.num_groups)

    monkeypatch.setattr(torch.nn.GroupNorm, "forward", forward)
    for spared in (False, True):
        with torch.enable_grad():
            z = x.clone().requires_grad_()
            with sparing(block) if spared else torch.enable_grad():
                wide.append(True)
                y = block(z)
                wide.clear()
                found.append(torch.autograd.grad((y**2).sum(), z)[0])
    assert found[0].abs().max() > 0 and torch.equal(*found)


def test_a_convolution_of_another_kind_is_left_alone(everywhere):
    class Squared(torch.nn.Conv2d):
        def forward(self, x):
            return super().forward(x) * x

    class Wrapping(torch.nn.Conv2d):
        def _conv_forward(self, x, weight, bias):
            return x * super()._conv_forward(x, weight, bias)

    for kind in (Squared, Wrapping):
        layer, x = kind(4, 4, 3, padding=1).requires_grad_(False), torch.randn(1, 4, 8, 8)
        found = []
        for block in (torch.enable_grad(), sparing(layer)):
            with torch.enable_grad(), block:
                z = x.clone().requires_grad_()
                found.append(torch.autograd.grad(layer(z).sum(), z)[0])
        assert torch.equal(*found)


def test_dropout_is_the_same_on_the_way_back(everywhere):
    layer = FeedForward(8, dropout=0.5).requires_grad_(False).train()
    x, found = torch.randn(1, 16, 8), []
    for block in (torch.enable_grad(), sparing(layer)):
        torch.manual_seed(3)
        with torch.enable_grad(), block:
            z = x.clone().requires_grad_()
            y = layer(z)
            torch.rand(5)
            found.append((y, *torch.autograd.grad(y.sum(), z)))
    for plain, spared in zip(*found, strict=True):
        assert torch.equal(plain, spared)
