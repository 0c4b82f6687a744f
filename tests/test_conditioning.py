import pytest
import torch
from torch.testing import assert_close

from nmg import rows
from nmg.conditioning import Conditioning

FULL = {"tokens": (5, 4), "pooled": (3,), "mask": (5,)}


@pytest.fixture(params=[("tokens",), ("tokens", "pooled"), ("tokens", "mask"), ("tokens", "pooled", "mask")], ids=str)
def made(request):
    """Makes a conditioning of so many rows, of numbers that are all different."""

    def made(count):
        tensors = {name: torch.randn(count, *FULL[name]) for name in request.param}
        return Conditioning(**{name: tensor > 0 if name == "mask" else tensor for name, tensor in tensors.items()})

    return made


def test_it_is_cut_and_joined_by_rows_as_a_tensor_is(made):
    whole = made(4)
    assert len(whole) == 4 and whole.shape == (4, 5, 4)
    null, text = rows.halves(whole)
    assert torch.equal(torch.cat([null, text]), whole)
    assert torch.equal(rows.cat(whole.split(1)), whole)
    for name, tensor in whole.tensors().items():
        assert torch.equal(whole[1:3].tensors()[name], tensor[1:3])


def test_every_part_counts_in_a_comparison(made):
    one = made(2)
    assert torch.equal(one, one.clone())
    for name, tensor in one.tensors().items():
        other = one.clone()
        other.tensors()[name][0] = ~tensor[0] if name == "mask" else tensor[0] + 1
        assert not torch.equal(one, other)
    assert torch.equal(Conditioning(one.tokens), one) == (one.pooled is None and one.mask is None)


def test_one_row_stands_for_many(made):
    row, many = made(1), made(3)
    assert len(row.expand_as(many)) == 3 and torch.equal(row.expand(3)[2:], row)
    mixed = rows.with_targets(row, many)
    assert torch.equal(mixed[:1], many[:1]) and torch.equal(mixed[1:2], row)


def test_other_tokens_leave_the_rest_alone(made):
    many, tokens = made(3), torch.randn(1, 5, 4)
    changed = many.with_tokens(tokens)
    assert_close(changed.tokens, tokens.expand(3, -1, -1))
    assert {"tokens"} >= {name for name, t in changed.tensors().items() if not torch.equal(t, many.tensors()[name])}


def test_a_move_takes_the_pooled_embedding_along_where_there_is_one(made):
    one, tokens, pooled = made(2), torch.randn(1, 5, 4), torch.randn(1, 3)
    moved = one.moved(tokens, pooled)
    assert_close(moved.tokens, one.tokens + tokens)
    assert moved.pooled is None if one.pooled is None else torch.equal(moved.pooled, one.pooled + pooled)


def test_rows_of_the_same_prompts_are_known_to_be_equal():
    tokens = torch.randn(3, 5, 4)
    named = Conditioning(tokens, prompts=("a cat", "a dog", "a cat"))
    assert named[:1].same(named[2:]) and named[2:].expand(3)[1:2].same(named.clone()[:1])
    assert rows.cat(named.split(1)).same(named) and not named[:1].same(named[1:2])
    # What was changed is of no prompt, and what is not known to be equal counts as different.
    zeros, moved = named.each(torch.zeros_like), named.moved(tokens)
    assert zeros.prompts == moved.prompts == named.with_tokens(tokens).prompts == (None,) * 3
    assert not zeros.same(zeros) and not Conditioning(tokens).same(named)
    assert rows.with_targets(moved[:1], named).prompts == ("a cat", None, None)
