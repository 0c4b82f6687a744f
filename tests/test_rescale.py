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


def test_where_either_is_nothing_it_stays_as_it_is(text):
    assert torch.equal(rescaled(text, torch.zeros_like(text)), text)
    assert torch.equal(rescaled(torch.zeros_like(text), text), torch.zeros_like(text))
