import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from nmg import (
    CFG,
    Direct,
    Editor,
    NegativePrompt,
    NoiseMap,
    NullText,
    PromptToPrompt,
    ProxNegativePrompt,
    Request,
    denoise,
    edit,
    prepare,
    transfer,
)
from nmg.guidance import Stack
from nmg.inversion import rise

TARGET = "a blue cat sitting in the forest, front view"
GENTLE = NoiseMap(gradient_scale=5.0, text_scale=7.5)
"""At these scales the network of random weights stays near its maps."""


@pytest.fixture(scope="module")
def run(backbone, trajectory):
    """Of two steps."""
    return prepare(backbone, rise(backbone, trajectory.maps[:1], trajectory.prompt, 2), [TARGET])


def rows_of(run, guidance, editor=None):
    return [x for _, x in denoise(run, guidance, editor or Editor())]


# ---------------------------------------------------------------- sums


def test_a_sum_holds_its_parts_in_order_and_their_text_scale():
    stack = GENTLE + Direct()
    assert isinstance(stack, Stack) and stack.parts == (GENTLE, Direct()) and stack.text_scale == 7.5
    assert stack == Stack((GENTLE, Direct())) and stack != Direct() + GENTLE
    assert (Direct(3) + CFG(3)).text_scale == 3


def test_sums_associate():
    a, b, c = GENTLE, NegativePrompt(), Direct()
    assert (a + b) + c == a + (b + c) == a + b + c == Stack((a, b, c))
    # What replaces the null prompt comes last.
    assert ((a + b) + (c + CFG())).parts == (a, c, CFG(), b)


def test_a_sum_leaves_its_parts_alone():
    first, second = GENTLE + Direct(), NegativePrompt()
    assert (first + second).parts == (GENTLE, Direct(), NegativePrompt()) and first.parts == (GENTLE, Direct())
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.parts = ()


@pytest.mark.parametrize("other", [1, "CFG", None, Editor()])
def test_only_guidances_are_added(other, unchecked):
    with pytest.raises(TypeError, match="unsupported operand"):
        CFG() + other


# ---------------------------------------------------------------- hooks


@dataclasses.dataclass(frozen=True)
class Adding(CFG):
    """Marks every hook that it is called by: the latents times ten plus its digit."""

    digit: int = 1

    def steer(self, run, step, x):
        return 10 * x + self.digit

    def correct(self, run, step, x, eps):
        return 10 * x + self.digit


def test_the_hooks_are_called_one_after_the_other_in_the_order_of_the_sum(run):
    x, step, eps = torch.zeros(2, 4, 16, 16), run.steps[0], torch.zeros(4, 4, 16, 16)
    for digits in itertools.permutations((1, 2, 3)):
        first, second, third = (Adding(digit=digit) for digit in digits)
        stack = (first + second + third).prepare(run)
        for moved in (stack.steer(run, step, x), stack.correct(run, step, x, eps)):
            assert (moved == int("".join(map(str, digits)))).all()


def test_every_part_is_prepared_for_the_run(run):
    stack = GENTLE + NullText(iterations=1)
    prepared = stack.prepare(run)
    assert isinstance(prepared, Stack) and prepared.parts[0] is GENTLE and not isinstance(prepared.parts[1], NullText)
    assert stack.prepare(run).parts[1] is not prepared.parts[1] and stack.parts[1] == NullText(iterations=1)


def test_null_prompt_and_combination_are_those_of_the_part_that_has_its_own(run):
    eps, step = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0)), run.steps[0]
    prox = ProxNegativePrompt()
    for stack in (prox + Direct(), Direct() + prox, CFG() + prox + GENTLE):
        stack = stack.prepare(run)
        assert torch.equal(stack.null(run, step), prox.null(run, step))
        assert torch.equal(stack.combine(run, step, eps), prox.combine(run, step, eps))
    plain = (Direct() + GENTLE).prepare(run)
    assert torch.equal(plain.null(run, step), run.null)
    assert torch.equal(plain.combine(run, step, eps), CFG().combine(run, step, eps))


# ---------------------------------------------------------------- identities


def test_cfg_adds_nothing(run):
    assert torch.equal(rows_of(run, CFG() + CFG())[-1], rows_of(run, CFG())[-1])
    for guidance in (GENTLE, Direct(), ProxNegativePrompt(below=1000), NullText(iterations=1)):
        expected = rows_of(run, guidance)[-1]
        for stack in (guidance + CFG(), CFG() + guidance):
            assert torch.equal(rows_of(run, stack)[-1], expected)


@pytest.mark.parametrize("editor", [Editor(), PromptToPrompt()], ids=lambda editor: type(editor).__name__)
@pytest.mark.parametrize(
    "stack",
    [GENTLE + Direct(), Direct() + GENTLE, NegativePrompt() + Direct(), NullText(iterations=1) + Direct()],
    ids=["NoiseMap + Direct", "Direct + NoiseMap", "NegativePrompt + Direct", "NullText + Direct"],
)
def test_with_direct_inversion_the_source_row_is_the_trajectory(run, stack, editor):
    for step, x in denoise(run, stack, editor):
        assert torch.equal(x[:1], run.trajectory.target(step))


def test_noise_map_guidance_under_direct_inversion_still_decides_what_the_targets_see(run):
    """Prompt-to-Prompt's targets read the attention of the steered row, not that of the row that is put back."""
    steered, alone = (rows_of(run, guidance, PromptToPrompt())[-1] for guidance in (GENTLE + Direct(), Direct()))
    assert (steered[1] - alone[1]).abs().max() > 1e-3


def test_noise_map_guidance_and_negative_prompt_inversion_in_one_run(run):
    """Steered without a prompt, then led by the source prompt alone."""
    x = run.start
    for step, latents in denoise(run, GENTLE + NegativePrompt(), Editor()):
        x = GENTLE.steer(run, step, x)
        text = torch.cat([run.text[:1].expand(2, -1, -1), run.text])
        eps = run.eps(torch.cat([x, x]), step, text)
        x = transfer(x, CFG(7.5).combine(run, step, eps), step.alpha, step.alpha_prev)
        assert_close(latents, x, rtol=1e-3, atol=1e-3)
        x = latents


def test_a_stack_can_run_twice_with_the_same_result(run):
    stack = GENTLE + NullText(iterations=1) + Direct()
    assert torch.equal(rows_of(run, stack)[-1], rows_of(run, stack)[-1])


@pytest.mark.parametrize(
    ("stack", "copies"),
    [
        (GENTLE + Direct(), "none"),
        (Direct() + GENTLE, "none"),
        (NullText(iterations=1) + Direct(), "none"),
        (NegativePrompt() + Direct(), "none"),
        (Adding() + Direct(), "none"),
        (Direct() + Adding(), "both"),
        # Its correction comes after that of direct inversion, and looks at the source's noise.
        (Direct() + ProxNegativePrompt(), "text"),
        (GENTLE + NegativePrompt(), "text"),
        (GENTLE + CFG(), "both"),
        (NullText(iterations=1) + GENTLE, "both"),
    ],
    ids=lambda value: " + ".join(type(part).__name__ for part in value.parts) if isinstance(value, Stack) else "",
)
def test_the_last_to_correct_says_which_copies_of_the_source_are_needed(run, stack, copies):
    stack = stack.prepare(run)
    stack.steer(run, run.steps[0], run.start)
    assert stack.copies(run, run.steps[0]) == copies


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            (NoiseMap(), Direct()),
            r"NoiseMap \+ Direct: the parts have the text scales 10, 7.5, and a run has one; give every",
        ),
        ((CFG(1), CFG(2), CFG(1)), r"CFG \+ CFG \+ CFG: the parts have the text scales 1, 2, 1"),
        ((NullText(), NegativePrompt()), "NullText and NegativePrompt both replace the null prompt, and only one can"),
        ((ProxNegativePrompt(), CFG(), NullText()), "ProxNegativePrompt and NullText both replace the null prompt"),
        (
            (NegativePrompt(), NegativePrompt()),
            "NegativePrompt and NegativePrompt both replace the null prompt",
        ),
        ((ProxNegativePrompt(), ProxNegativePrompt()), "both replace the null prompt"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_parts_that_can_not_be_had_together_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Stack(parts)
    first, *others = parts
    with pytest.raises(ValueError):
        sum(others, first)


@dataclasses.dataclass(frozen=True)
class Averaging(CFG):
    def combine(self, run, step, eps):
        return sum(eps.chunk(2)) / 2


@dataclasses.dataclass(frozen=True)
class Tilting(CFG):
    def combine(self, run, step, eps):
        return eps.chunk(2)[0]


def test_two_parts_that_combine_in_their_own_way_are_refused():
    message = (
        r"Averaging \+ Tilting: Averaging and Tilting both combine null and text in their own way, and only one can"
    )
    with pytest.raises(ValueError, match=message):
        Averaging() + Tilting()
    assert (Averaging() + Direct()).parts == (Averaging(), Direct())


def test_a_stack_of_nothing_is_refused():
    with pytest.raises(ValueError):
        Stack(())


def test_an_edit_takes_a_stack(tiny, picture):
    result = edit(tiny(), picture, "a red cat", ["a blue cat"], guidance=GENTLE + Direct(), steps=2, progress=False)
    assert torch.equal(result.latents[:1], result.trajectory.maps[:1])
    assert result.pictures[0].size == (32, 32)


# ---------------------------------------------------------------- settings that act in no step

EMPTY_MASK = np.eye(16, dtype=bool)


@pytest.mark.parametrize(
    ("guidance", "negative", "said"),
    [
        (CFG(), "a dog", []),
        (CFG(1.0), None, []),
        (CFG(1.0), "a dog", ["negative='a dog' does nothing"]),
        (NoiseMap(text_scale=1), "a dog", []),
        (NoiseMap(mask=EMPTY_MASK, outside=0.5), None, []),
        (NoiseMap(mask=EMPTY_MASK, outside=1), None, ["outside=1 is the full strength"]),
        (ProxNegativePrompt(), None, []),
        (ProxNegativePrompt(quantile=1), None, ["quantile=1 leaves out every difference"]),
        (ProxNegativePrompt(rate=0), None, ["rate=0 holds nothing"]),
        (ProxNegativePrompt(below=0, pull="none"), None, []),
        (ProxNegativePrompt(below=0, quantile=1), None, ["quantile=1", "below=0 holds nothing"]),
        (Direct(1.0) + NoiseMap(text_scale=1.0), "a dog", []),
        (Direct(1.0) + CFG(1.0), "a dog", ["negative='a dog' does nothing"]),
    ],
    ids=lambda value: "",
)
def test_settings_that_would_act_in_no_step_are_said(guidance, negative, said):
    found = guidance.remarks(Request("picture", "a cat", ["a fox"], negative=negative))
    assert [words in remark for words, remark in zip(said, found, strict=True)] == [True] * len(said)
