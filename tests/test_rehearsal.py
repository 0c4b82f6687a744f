"""Edits on a device that is not there: the same as on the CPU, nothing is left behind there, and each step looks at it
once."""

import functools
import itertools
import warnings

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import nmg
from nmg import (
    CFG,
    Direct,
    EditFriendly,
    Editor,
    FixedPoint,
    FlowEdit,
    GuideAndRescale,
    MasaCtrl,
    NegativePrompt,
    NoiseMap,
    NullText,
    Pix2PixZero,
    PlugAndPlay,
    PromptToPrompt,
    ProxNegativePrompt,
    Regularised,
    UniEdit,
    UniInv,
)
from nmg.editors import LocalBlend
from tests.families import FAMILIES, OTHERS
from tests.rehearsal import DEVICE, There, moved, rehearsal

SOURCE, TARGET = "a red cat sitting in the forest", "a blue cat sitting in the forest"
STEPS = 2
LEFT = np.arange(16) < np.full((16, 1), 8)
FROM_START = {"start_step": 0, "start_layer": 0}
GENTLE = {"text_scale": 3.0, "gradient_scale": 2.0}

EDITORS = {
    "none": Editor(),
    "layout": PromptToPrompt(self_replace=1.0),
    "words": PromptToPrompt(local_blend=LocalBlend(("cat", "cat"), threshold="otsu"), weights={"blue": 2.0}),
    "masactrl": MasaCtrl(**FROM_START),
    "masactrl, masks": MasaCtrl(**FROM_START, source_mask=LEFT, target_mask=~LEFT),
    "masactrl, words": MasaCtrl(**FROM_START, words=("cat", "cat")),
    "pix2pix-zero": Pix2PixZero(),
    "direction": Pix2PixZero(("cat", "dog"), amount=0),
    "plug-and-play": PlugAndPlay(1, 1),
    "flow-edit": FlowEdit(),
    "uni-edit": UniEdit(),
    "guide-and-rescale": GuideAndRescale(until=1),
}
GUIDANCES = {
    "cfg": CFG(3.0),
    "noise map": NoiseMap(**GENTLE),
    "noise map, masked": NoiseMap(**GENTLE, jacobian=False, reuse_null=True, mask=LEFT, outside=0.5),
    "noise map, fast": NoiseMap.fast(text_scale=3.0),
    "null text": NullText(3.0, iterations=1),
    "negative prompt": NegativePrompt(3.0),
    "proximal": ProxNegativePrompt(3.0, below=1000),
    "proximal, clean": ProxNegativePrompt(3.0, below=1000, pooled=True, threshold="soft", pull="reconstruction"),
    "direct": Direct(3.0),
    "stack": NoiseMap(**GENTLE) + NullText(3.0, iterations=1),
}
INVERSIONS = {
    "ddim": nmg.DDIM(),
    "fixed point": FixedPoint(2),
    "edit-friendly": EditFriendly(),
    "regularised": Regularised(rounds=1),
    "uni": UniInv(),
}
WAITS = {"fixed point": 3, "null text": 2, "stack": 2}
"""How often a step of an inversion or an edit waits for the device: once, to see whether its values are finite. What
iterates looks after each iteration whether it is done."""
IN_DIFFUSERS = "a copy at nmg/backbones/mmdit.py _called"
"""A wait that is not ours: in each call, Qwen-Image's network copies the text's length to the device."""
CHOSEN = [
    ("flux", "layout", "noise map", "uni"),
    ("flux", "masactrl", "direct", "ddim"),
    ("flux", "direction", "cfg", "fixed point"),
    ("flux", "masactrl, masks", "cfg", "ddim"),
    ("qwen", "layout", "noise map", "uni"),
    ("qwen", "words", "direct", "uni"),
    ("qwen", "masactrl, words", "direct", "uni"),
    ("qwen", "masactrl", "negative prompt", "ddim"),
    ("qwen", "direction", "cfg", "fixed point"),
]
"""Cases of the other families."""


def refused(family, editor, guidance, inversion):
    """How a case is refused by name, if it is."""
    if family == "sd3" and editor in ("plug-and-play", "guide-and-rescale"):
        return "features of a UNet's decoder"
    if editor == "flow-edit" and guidance != "direct":
        return "lets the source row leave"
    if editor == "uni-edit" and guidance not in ("direct", "cfg"):
        return "would change no edit"
    if editor in ("flow-edit", "uni-edit") and inversion == "edit-friendly":
        return "stored beside them|no DDIM step joins"
    joined = ("noise map", "noise map, masked", "noise map, fast", "null text", "proximal, clean", "stack")
    steering = guidance in joined
    return "joined by the noise" if inversion == "edit-friendly" and steering else None


ALL = list(itertools.product(FAMILIES, EDITORS, GUIDANCES, INVERSIONS))


def covering():
    """Cases that hold every pair of family, editor, guidance and inversion which is not refused."""
    pairs = {case: set(itertools.combinations(enumerate(case), 2)) for case in ALL if not refused(*case)}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        chosen.append(max(pairs, key=lambda case: len(pairs[case] & missing)))
        missing -= pairs[chosen[-1]]
    return chosen


@functools.cache
def models(family):
    """A model on the CPU, and the same on the device."""
    build = (FAMILIES | OTHERS)[family]
    pipe, twin = build(), build()
    moved(*(part for part in twin.components.values() if isinstance(part, torch.nn.Module)))
    assert twin._execution_device == DEVICE
    return pipe, twin


def rehearsed(run):
    """What `run(callback)` gives on the device, the most waits of a step, and what happened."""
    marks = []
    with rehearsal() as log:
        found = run(lambda *_: marks.append(log.waits.total() - log.waits[IN_DIFFUSERS]))
    assert not log.mixed and not log.phantoms, (log.mixed, log.phantoms)
    assert len(marks) == STEPS
    return found, max(after - before for before, after in itertools.pairwise(marks)), log


@functools.cache
def inverted(family, inversion):
    """A trajectory on the CPU, and what `rehearsed` says of it."""
    pipe, twin = models(family)
    squares = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    picture = np.kron(squares, np.ones((8, 8, 1), np.uint8))
    options = {"steps": STEPS, "inversion": INVERSIONS[inversion], "progress": False}
    expected = nmg.invert(pipe, picture, SOURCE, **options)
    return expected, *rehearsed(lambda each: nmg.invert(twin, picture, SOURCE, callback=each, **options))


def edited(pipe, trajectory, editor, guidance, **options):
    targets = [] if editor == "direction" else [TARGET]
    methods = {"editor": EDITORS[editor], "guidance": GUIDANCES[guidance], "skip": 0}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the direction|text_scale=3 is classifier-free")
        return nmg.edit(pipe, trajectory, targets=targets, progress=False, **methods, **options)


@pytest.mark.parametrize("inversion", INVERSIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_inversion_on_a_device_is_the_inversion_on_the_cpu(family, inversion):
    expected, found, waits, log = inverted(family, inversion)
    assert isinstance(found.maps, There)
    assert_close(found.maps.held, expected.maps, rtol=1e-3, atol=1e-3)
    assert waits <= WAITS.get(inversion, 1), log.waits


@pytest.mark.parametrize("case", [*covering(), *CHOSEN], ids=" | ".join)
def test_an_edit_on_a_device_is_the_edit_on_the_cpu(case):
    family, editor, guidance, inversion = case
    pipe, twin = models(family)
    here, there, *_ = inverted(family, inversion)
    expected = edited(pipe, here, editor, guidance)
    found, waits, log = rehearsed(lambda each: edited(twin, there, editor, guidance, callback=each))
    assert isinstance(found.latents, There)
    assert_close(found.latents.held, expected.latents, rtol=1e-3, atol=1e-3)
    assert waits <= WAITS.get(guidance, 1), log.waits


@pytest.mark.parametrize("family", FAMILIES)
def test_what_can_not_be_had_is_refused_by_name(family):
    pipe, _ = models(family)
    for case in ALL:
        if case[0] == family and (reason := refused(*case)):
            with pytest.raises(ValueError, match=reason):
                edited(pipe, inverted(family, case[3])[0], *case[1:3])


def test_attention_maps_are_not_waited_for():
    there = inverted("sd1", "ddim")[1]
    found, waits, log = rehearsed(
        lambda each: edited(models("sd1")[1], there, "words", "cfg", attention=True, callback=each)
    )
    assert waits == 1, log.waits
    assert len(found.attention.steps) == STEPS and found.attention.steps.device.type == "cpu"


# ---------------------------------------------------------------- what a rehearsal sees


def edited_by(editor, each=None):
    options = {"guidance": CFG(), "editor": editor, "callback": each, "progress": False}
    return nmg.edit(models("sd1")[1], inverted("sd1", "ddim")[1], targets=[TARGET], **options)


def test_a_conjugate_is_computed_with_as_one():
    """As in the backward pass of Qwen-Image's positions."""
    x = torch.complex(*torch.randn(2, 5))
    with rehearsal():
        found = There(x).conj() * There(x)
    assert_close(found.held, x.conj() * x)


def test_a_tensor_that_an_editor_left_on_the_cpu_is_seen():
    class Forgetful(Editor):
        def blend(self, run, step, x):
            return x + torch.zeros(x.shape)

    inverted("sd1", "ddim")
    with rehearsal() as log:
        edited_by(Forgetful())
    assert log.mixed.total() == STEPS


def test_a_wait_that_an_editor_adds_to_each_step_is_counted():
    class Looking(Editor):
        def blend(self, run, step, x):
            return x if x.abs().max() > 0 else -x

    _, waits, _ = rehearsed(lambda each: edited_by(Looking(), each))
    assert waits == 2


@pytest.mark.parametrize(
    "look",
    [
        lambda x: bool(x.all()),
        lambda x: x[x > 0],
        lambda x: x[[0, 1]],
        lambda x: x.cpu(),
        lambda x: x + torch.ones(2).to(DEVICE),
        lambda x: x + torch.tensor([1.0, 2.0], device=DEVICE),
        lambda x: torch.equal(x, x),
    ],
    ids=["a number", "a boolean index", "a list", "from there", "to there", "made there", "a comparison"],
)
def test_a_wait_for_the_device_is_counted(look):
    with rehearsal() as log:
        look(There(torch.ones(2)))
    assert log.waits.total() == 1 and not log.mixed and not log.phantoms


def test_what_is_not_waited_for_is_not_counted():
    with rehearsal() as log:
        there = There(torch.ones(2))
        there = there + torch.ones(2).to(DEVICE, non_blocking=True) + torch.full((2,), 3.0, device=DEVICE)
        there.new_zeros(2)[:1] = 1
    assert not log.waits and not log.mixed and not log.phantoms
