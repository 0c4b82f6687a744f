"""What the tests share: shapes checked at run time, a quiet library, and small random-weight models."""

from __future__ import annotations

import copy
import functools
import os
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"
# For the processes that tests start: several tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Whole numbers pass where the annotations say float, as PEP 484 has it.
jaxtyping.install_import_hook("nmg", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
torch.set_num_threads(1)

SOURCE = "a red cat sitting in the forest, front view"
TARGET = "a blue cat sitting in the forest, front view"


def pytest_terminal_summary(terminalreporter):
    """What tests recorded as `recording`, in whichever process they ran."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    if lines := sorted(line for report in reports for name, line in report.user_properties if name == "recording"):
        terminalreporter.section("largest error against the authors' recordings")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def quiet():
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def no_graph():
    """The shape checks hide from `torch.no_grad` that `denoise` is a generator, so it is said here."""
    with torch.no_grad():
        yield


@pytest.fixture
def unchecked():
    """Shape checks off, so that the package's own errors for wrong types come through."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# ---------------------------------------------------------------- models


@pytest.fixture(scope="session")
def sd_shaped():
    """A Stable Diffusion 1.4 in shape, with tiny widths and random weights, in which attention is far from uniform."""
    from diffusers import StableDiffusionPipeline

    folder = Path(__file__).parent / "reference" / "sd-shaped"
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Builds a fresh random pipeline in memory that shares no number with Stable Diffusion."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    from nmg.menagerie import networks

    tokenizer = networks.build_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    tokenizer.model_max_length = 24

    def build(prediction_type: str = "epsilon", channels: int = 4, size: int = 16, heads: int = 2, levels: int = 2):
        torch.manual_seed(0)
        widths, twice = (16, 32, 32)[:levels], (8, 8)
        unet = UNet2DConditionModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=widths,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            cross_attention_dim=networks.TEXT_WIDTH,
            attention_head_dim=heads,
            norm_num_groups=4,
        )
        for name, weight in unet.named_parameters():
            if ".to_q." in name or ".to_k." in name:
                weight.data *= 4
        vae = AutoencoderKL(
            block_out_channels=twice,
            latent_channels=channels,
            norm_num_groups=4,
            sample_size=2 * size,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        )
        scheduler = DDIMScheduler.from_config(networks.build_scheduler().config, prediction_type=prediction_type)
        return StableDiffusionPipeline(
            vae=vae.eval(),
            unet=unet.eval(),
            text_encoder=networks.build_text_encoder(tokenizer, layers=2).eval(),
            # Its own: a textual inversion adds tokens to it.
            tokenizer=copy.deepcopy(tokenizer),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    return build


@pytest.fixture(scope="session")
def tiny(build):
    """As `build`, but each model is built once and shared: leave it as it is."""
    return functools.cache(build)


KINDS = (
    {},
    {"prediction_type": "v_prediction"},
    {"prediction_type": "sample"},
    {"channels": 8},
    {"size": 12},
    {"heads": 4},
    {"levels": 3},
)


@pytest.fixture(params=KINDS, ids=str)
def any_model(request, tiny):
    """A tiny pipeline of every kind: what differs from Stable Diffusion 1.4 must not matter."""
    return tiny(**request.param)


@pytest.fixture(scope="session")
def backbone(build):
    """A tiny model in double precision: two ways to compute the same are told from rounding on every processor."""
    from nmg import Backbone

    pipe = build()
    pipe.unet.double()
    return Backbone(pipe)


# ---------------------------------------------------------------- pictures and runs


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """A smooth coloured picture of 48×40 pixels."""
    rows, columns = np.mgrid[0:40, 0:48] / 40
    pixels = np.stack([rows, columns * 0.8, 0.5 + 0.4 * np.sin(6 * rows * columns)], -1)
    return Image.fromarray((pixels * 255).astype(np.uint8))


@pytest.fixture(scope="session")
def trajectory(backbone, picture):
    """The picture inverted in four steps by the tiny model."""
    from nmg import invert

    return invert(backbone, picture, SOURCE, steps=4, progress=False)


@pytest.fixture(scope="session")
def sample(backbone, trajectory):
    """Runs guidance and editor on the shared trajectory and returns the final latents of all rows."""
    from nmg import CFG, Editor, Request, denoise, prepare

    def sample(targets=(TARGET,), guidance=None, editor=None, **options):
        guidance, editor = guidance or CFG(), editor or Editor()
        asked = Request(trajectory, targets=list(targets), guidance=guidance, editor=editor, **options)
        asked = asked.resolved(backbone).opened()
        asked.check(backbone)
        run = prepare(backbone, trajectory, list(targets), asked.negative, skip=asked.skip)
        return [x for _, x in denoise(run, guidance, editor)][-1]

    return sample
