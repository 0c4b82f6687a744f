import gc

import pytest
import torch
from torch import nn

from nmg.undo import gradients_kept, undoing


def changing(network, names, strike=None):
    """A block that changes attributes, and that is struck after the one named."""
    with undoing(network) as note:
        for name in names:
            note(lambda name=name: network.__dict__.pop(name, None))
            setattr(network, name, 1)
            if name == strike:
                raise KeyboardInterrupt
        yield


@pytest.mark.parametrize("strike", [None, "a", "b"], ids=str)
def test_what_a_block_changes_is_undone_when_it_ends(strike):
    network = nn.Identity()
    block = changing(network, "ab", strike)
    try:
        next(block)
    except KeyboardInterrupt:
        assert strike
    block.close()
    assert not {"a", "b"} & vars(network).keys()


def test_an_inner_block_leaves_the_outer_ones_changes():
    network = nn.Identity()
    outer, inner = changing(network, "a"), changing(network, "b")
    next(outer)
    next(inner)
    inner.close()
    assert "a" in vars(network) and "b" not in vars(network)
    outer.close()
    assert "a" not in vars(network)


def test_an_interrupt_in_the_middle_of_undoing_waits_until_all_is_undone():
    network, struck = nn.Identity(), []

    def undo():
        if not struck:
            struck.append(True)
            raise KeyboardInterrupt
        network.changed = False

    with pytest.raises(KeyboardInterrupt), undoing(network) as note:
        note(undo)
        note(lambda: None)
        network.changed = True
    assert network.changed is False


def test_what_a_dead_block_left_the_next_one_undoes():
    network = nn.Identity()
    block = changing(network, "a")
    next(block)
    # A signal that strikes before the clean-up begins leaves a block that nobody ends.
    frame = block.gi_frame
    frame.f_locals["note"](lambda: setattr(network, "undone", True))
    block.close()
    del block, frame
    gc.collect()
    with undoing(network):
        assert network.undone and "a" not in vars(network)


def test_gradients_are_on_after_a_call_that_was_struck():
    @gradients_kept
    def call():
        torch.set_grad_enabled(False)
        raise KeyboardInterrupt

    with torch.enable_grad():
        with pytest.raises(KeyboardInterrupt):
            call()
        assert torch.is_grad_enabled()
