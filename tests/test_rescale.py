import pytest
import torch
from torch.testing import assert_close

from nmg.rescale import rescaled


@pytest.fixture
def text():
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("length, kept", [(0.01, 0.33), (0.33, 0.33), (1.0, 1.0), (2.5, 2.5), (40.0, 3.0)])
def test_the_length_is_brought_into_bounds(text, length, kept):
    assert_close(rescaled(length * text, text), kept * text)


def test_each_row_is_rescaled_by_its_own_length(text):
    lengths, kept = (torch.tensor(values).view(3, 1, 1, 1) for values in ([0.1, 1.0, 10.0], [0.33, 1.0, 3.0]))
    assert_close(rescaled(lengths * text, text), kept * text)


def test_a_guidance_that_is_nothing_stays_nothing(text):
    assert torch.equal(rescaled(torch.zeros_like(text), text), torch.zeros_like(text))


@pytest.mark.parametrize("size", [1e-3, 1e-6, 0.0])
def test_the_less_the_text_adds_the_less_is_left_down_to_nothing(text, size):
    found = rescaled(1000 * text, size * text)
    assert_close(found, 3 * size * text, rtol=1e-5, atol=0)
    assert torch.equal(rescaled(0 * text, size * text), 0 * text)
