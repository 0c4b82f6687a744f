"""What a field shows is read back as it was written."""

import argparse

import pytest

from nmg.lab import values
from nmg.lab.values import Direction, Number, Numbers, Prompt, Weights, Words


@pytest.mark.parametrize(
    ("value", "text", "read"),
    [
        (Weights(), "", {}),
        (Weights(), "tiger=2, oil painting=0.5", {"tiger": 2.0, "oil painting": 0.5}),
        (Words(nothing=()), "", ()),
        (Words(), "", None),
        (Words(), "cat, tiger", ("cat", "tiger")),
        (Words(), "cat, big + tiger", ("cat", ("big", "tiger"))),
        (Direction(), "", None),
        (Direction(), "cat, dog", ("cat", "dog")),
        (Prompt(), "", None),
        (Prompt(), "a cat", "a cat"),
        (Prompt(repeated=True, nothing=()), "a cat", ("a cat",)),
        (Prompt(repeated=True, nothing=()), "", ()),
        (Number(), 0.5, 0.5),
        (Number(type=int), 3, 3),
    ],
)
def test_fields_are_read_as_they_are_written(value, text, read):
    assert value.read(text) == read and value.shown(read) == text


def test_one_word_stands_for_both_prompts_and_what_a_field_can_not_show_is_none():
    assert Words().read("cup") == ("cup", "cup")
    assert Words().shown("saved.safetensors") is None and Words().shown(("a", "b", "c")) is None
    assert Numbers().shown((1.0, 2.0)) is None and Number().shown(True) is None and Number(type=int).shown(None) is None


@pytest.mark.parametrize("text", ["tiger", "=2", "tiger=", "tiger=big"])
def test_a_weight_of_another_form_is_refused(text):
    with pytest.raises(ValueError, match=f"'{text}' is no word weight; write WORD=FACTOR, such as tiger=2"):
        Weights().read(f"cat=1, {text}")
    with pytest.raises(argparse.ArgumentTypeError, match="write WORD=FACTOR"):
        values.weight(text)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (values.pair, "place=beach", ("place", "beach")),
        (values.step, "4", 4),
        (values.step, "0.2", 0.2),
        (values.size, "64x48", (64, 48)),
        (values.pair, "place", "'place' must look like NAME=VALUE"),
        (values.step, "soon", "'soon' must look like 4 or 0.2"),
        (values.size, "64", "'64' must look like 512x512"),
    ],
)
def test_one_word_of_the_command_line(read, text, value):
    if not isinstance(value, str):
        assert read(text) == value
        return
    with pytest.raises(argparse.ArgumentTypeError, match=value):
        read(text)
