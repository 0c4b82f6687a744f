"""Sizes and prompts that the tests of metrics share."""

SIDE = 32
PROMPTS = ["a red cat sitting in the forest", "a blue car at night"]
# Sixteen tokens are the longest that the tiny network reads.
LONG = " ".join(["a red cat sitting in the forest"] * 4)
