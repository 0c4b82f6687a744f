"""What the panel's tests share: an engine over the tiny model, and a request of two steps."""

import pytest

import nmg
from nmg.lab.panel import Desk, Engine
from nmg.request import Request
from tests.conftest import SOURCE, TARGET

PATIENCE = 60.0
REQUEST = Request("", SOURCE, (TARGET,), None, nmg.NoiseMap(), nmg.PromptToPrompt(), None, 2)
METHODS = (
    (nmg.NoiseMap(noise_map_scale=3.0, energy="l2", during=(0, 0.5)), nmg.PromptToPrompt(self_replace=(0.2, 0.7))),
    (nmg.NoiseMap(noise_map_scale=(1.0, 2.0)), nmg.PromptToPrompt(None, {"default_": 0.8, "cat": 0.1})),
    (nmg.CFG(2.0), nmg.PromptToPrompt(weights={"cat": 2.0}, local_blend=nmg.LocalBlend(("cat", "cat"), threshold=0.4))),
    (nmg.NullText(5.0, iterations=2) + nmg.NoiseMap(text_scale=5.0), nmg.MasaCtrl(0.2, 1, words=("cat", "cat"))),
    (nmg.ProxNegativePrompt(4.0, quantile=0.5), nmg.Pix2PixZero((("a cat",), ("a dog",)), amount=0.1)),
    (nmg.Direct(3.0), nmg.Editor()),
)


def changed(**changes) -> Request:
    """The request with some controls turned."""
    return Desk.of(REQUEST).turned(**changes).request


@pytest.fixture
def engine(tiny, picture):
    return Engine(tiny(), picture)
