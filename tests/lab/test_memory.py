"""What an edit takes of memory, computed from its networks' configurations, and what PyTorch then allocates."""

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from torch.profiler import ProfilerActivity, profile

import nmg
from nmg import CFG, Editor, Identity, NoiseMap, Pix2PixZero, PromptToPrompt, Request
from nmg.inversion import Trajectory
from nmg.lab import memory
from nmg.sampling import denoise, prepare
from tests import families

SOURCE, TARGET = "a red cat sitting in the forest", "a blue cat sitting in the forest"
CASES = {
    "sd1, noise map": ("sd1", NoiseMap(), PromptToPrompt()),
    "xl, pix2pix-zero": ("xl", NoiseMap(jacobian=False), Pix2PixZero()),
    "sd3, noise map": ("sd3", NoiseMap(), PromptToPrompt()),
}


def asked(picture, guidance=None, editor=None, size=None):
    return Request(picture, SOURCE, (TARGET,), guidance=guidance or NoiseMap(), editor=editor, size=size)


def allocated(compute):
    """The most bytes that PyTorch's own allocator held at one time, above those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        compute()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    live, most = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_computed_is_what_is_allocated(picture, case):
    family, guidance, editor = case
    pipe = families.FAMILIES[family]()
    backbone = nmg.Backbone(pipe)
    needs = memory.needed(pipe, asked(picture, guidance, editor, size=(64, 48)))

    size = backbone.latent_size((64, 48))
    down = backbone.steps(2, size)
    levels = (down[-1].there, *(step.here for step in reversed(down)))
    network = Identity.of(backbone, SOURCE)
    trajectory = Trajectory(torch.randn(3, 4, *size), levels, down, SOURCE, backbone.name, network=network)
    run = prepare(backbone, trajectory, [TARGET], negative=editor.negative(SOURCE))
    assert needs.step == pytest.approx(allocated(lambda: next(denoise(run, guidance, editor))), rel=0.02)
    pixels, latent = torch.randn(1, 3, 48, 64), torch.randn(1, 4, *size)
    pictures = [allocated(lambda: pipe.vae.encode(pixels)), allocated(lambda: pipe.vae.decode(latent))]
    # A convolution takes a little for itself.
    assert needs.picture <= max(pictures) <= needs.picture + 2**18


def test_the_pipelines_own_networks_stay_as_they_are(picture):
    pipe = families.sd()
    held = {name: parameter.clone() for name, parameter in pipe.unet.named_parameters()}
    known = set(map(id, pipe.unet.parameters()))
    assert memory.needed(pipe, asked(picture, CFG())).step > 0
    assert known == set(map(id, pipe.unet.parameters())) and pipe.unet is pipe.components["unet"]
    assert all(torch.equal(parameter, held[name]) for name, parameter in pipe.unet.named_parameters())


def test_a_gradient_keeps_less_where_less_is_kept(picture):
    pipe = families.sd()
    full, none = (memory.needed(pipe, asked(picture, NoiseMap(jacobian=jacobian))) for jacobian in (True, False))
    assert full.largest <= full.step and full.total == full.weights + max(full.step, full.picture)
    families.checkpoint(pipe.unet)
    assert none.kept < memory.needed(pipe, asked(picture)).kept < full.kept


def test_in_half_precision_all_but_xls_autoencoder_takes_half(picture):
    dtypes, request = (torch.float32, torch.float16), asked(picture, CFG(), Editor())
    full, half = (memory.needed(families.sdxl().to(dtype), request) for dtype in dtypes)
    assert half.weights == pytest.approx(full.weights / 2, rel=0.01)
    # A step's own latents are in float32.
    assert half.step < 0.7 * full.step
    assert half.picture > full.picture


def test_weights_count_where_they_lie():
    pipe = families.sdxl()
    sizes = {
        name: sum(p.nbytes for p in pipe.components[name].parameters()) for name in ("unet", "text_encoder", "vae")
    }
    everything = memory.weights(pipe)
    assert everything > sum(sizes.values())
    cpu_offload_with_hook(pipe.unet, "cpu")
    assert memory.weights(pipe) == pytest.approx(max(sizes.values()), rel=0.01)
    pipe = families.sdxl()
    cpu_offload(pipe.unet, execution_device="cpu")
    assert memory.weights(pipe) == 0


@pytest.fixture
def needs(monkeypatch):
    """What every edit takes, in GiB: 6 of weights, and a step of 9 with a gradient and 3 without."""

    def needed(pipe, request):
        kept = 0 if pipe.unet.is_gradient_checkpointing or not request.guidance.jacobian else 6 * memory.GIB
        step = 3 * memory.GIB + kept
        return memory.Needs(6 * memory.GIB, step, kept, largest=memory.GIB, picture=2 * memory.GIB)

    monkeypatch.setattr(memory, "needed", needed)
    monkeypatch.setattr(memory, "_parts", lambda pipe: [4 * memory.GIB, 2 * memory.GIB])


def test_what_fits_the_card_is_not_spoken_of(picture, needs):
    pipe, request = families.sd(), asked(picture)
    assert memory.said(pipe, request) is None, "there is no card"
    # The weights lie there already.
    assert memory.said(pipe, request, left=9 * memory.GIB) is None
    assert memory.said(pipe, request, left=8 * memory.GIB) == (
        "the edit takes about 15.00 GiB: weights 6.00, and then either a step 9.00 (kept for its gradient 6.00) or a "
        "picture 2.00, and the card has 14.00 GiB for it; these take less: NoiseMap(jacobian=False) or "
        "--no-jacobian (9.00 GiB), pipe.unet.enable_gradient_checkpointing() (9.00 GiB), "
        "pipe.enable_model_cpu_offload() (13.00 GiB), a smaller size"
    )
    assert not pipe.unet.is_gradient_checkpointing


def test_what_is_done_already_is_no_advice(picture, needs):
    pipe = families.sd()
    pipe.unet.enable_gradient_checkpointing()
    cpu_offload_with_hook(pipe.unet, "cpu")
    said = memory.said(pipe, asked(picture, NoiseMap(jacobian=False)), left=8 * memory.GIB)
    # Offloaded weights are brought there.
    assert said.endswith("the card has 8.00 GiB for it; these take less: a smaller size")


def test_the_command_line_says_it_before_the_edit(picture, tmp_path, monkeypatch, capsys):
    from nmg.lab.cli import main

    picture.save(tmp_path / "cat.png")
    families.sd().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(memory, "free", lambda device: 0)
    command = ["edit", str(tmp_path / "cat.png"), "--source", SOURCE, "--target", TARGET, "--steps", "1"]
    options = ["--model", str(tmp_path / "model"), "--guidance", "none", "--out", str(tmp_path / "edit.png")]
    assert main([*command, *options]) == 0
    said = capsys.readouterr().err
    assert "nmg: note: the edit takes about" in said and "enable_model_cpu_offload" in said

    # Of many pictures, once.
    (tmp_path / "cats").mkdir()
    for name in ("a.png", "b.png"):
        picture.save(tmp_path / "cats" / name)
    options = ["--model", str(tmp_path / "model"), "--guidance", "none"]
    many = ["edit", str(tmp_path / "cats"), *command[2:], *options, "--out", str(tmp_path / "edits")]
    assert main(many) == 0
    assert capsys.readouterr().err.count("the edit takes about") == 1
