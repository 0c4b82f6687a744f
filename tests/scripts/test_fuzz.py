import random
import signal

import pytest
import torch

from scripts import fuzz

# In the tests the shape checks refuse arguments by errors of their own.
pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize("name", ["command lines", *fuzz.INPUTS])
def test_wrong_inputs_are_refused_and_nothing_is_lost(name):
    tally = fuzz.fuzzed(name, 4 if name == "command lines" else 12, seed=1)
    assert tally.inputs >= 4 and (tally.tracebacks, tally.accepted, tally.lost) == ([], [], [])


def test_a_weight_acts_or_is_refused():
    tally = fuzz.words(20, random.Random(1))
    assert tally.inputs == 20 and not tally.accepted and not tally.tracebacks


def test_edits_in_half_precision_are_finite():
    tally = fuzz.half(2)
    assert tally.inputs == 2 and not tally.accepted and not tally.tracebacks


def test_a_wrong_input_that_is_accepted_and_a_traceback_are_counted():
    tally = fuzz.Tally()
    tally.count("accepted", lambda: None)
    tally.count("harmless", lambda: None, wrong=False)
    tally.count("broken", lambda: {}["missing"])
    tally.count(fuzz.WHOLE, lambda: int("refused"))
    assert (tally.inputs, tally.accepted, len(tally.tracebacks)) == (4, ["accepted"], 2)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
def test_an_interrupt_leaves_nothing_behind():
    with torch.enable_grad():
        tally = fuzz.job("interrupts", 10, 9)
    assert tally.inputs == 10 and not tally.accepted


def test_the_page_holds_the_counts():
    page = fuzz.table({"recipes": fuzz.Tally(3, lost=["a"]), "interrupts": fuzz.Tally(5)}, 200.0)
    assert "| recipes | 3 | 0 | 1 | 0 |" in page and "| interrupts | 5 | 0 | 0 | 0 |" in page and "3 minutes" in page
