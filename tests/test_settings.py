import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nmg import (
    CFG,
    DDIM,
    EditDirection,
    Editor,
    LocalBlend,
    MasaCtrl,
    NoiseMap,
    Pix2PixZero,
    PromptToPrompt,
    Regularised,
    editors,
    guidance,
    inversion,
)
from nmg.settings import packed, unpacked

MASK = np.zeros((16, 24), bool)
MASK[4:12, 3:9] = True
MASKS = {"source_mask": MASK, "target_mask": ~MASK}


def there_and_back(method, module=editors):
    return unpacked(json.loads(json.dumps(packed(method))), module)


# ---------------------------------------------------------------- identities


@pytest.mark.parametrize(
    ("method", "module"),
    [
        (CFG(2.0), guidance),
        (NoiseMap(text_scale=3.0, energy="l2"), guidance),
        (DDIM(), inversion),
        (Regularised(auto_correlation=3.0, divergence=0.0, rounds=2, shifts=1, seed=7), inversion),
        (Editor(), editors),
        (PromptToPrompt("refine", {"default_": 0.8, "dog": (0.1, 0.5)}, (0.2, 0.7), {"dog": 2.0}), editors),
        (PromptToPrompt(local_blend=LocalBlend(("cat", ("dog", "fox")), ("cat", "dog"), (0.3, 0.4))), editors),
        (MasaCtrl(2, 3), editors),
        (MasaCtrl(words=("cat", "blue dog"), threshold=0.3), editors),
        (MasaCtrl(**MASKS), editors),
        (MasaCtrl(source_mask=torch.from_numpy(MASK), target_mask=torch.from_numpy(~MASK).float()), editors),
        (MasaCtrl(source_mask=Image.fromarray(MASK), target_mask=Image.fromarray(MASK).convert("RGBA")), editors),
        (MasaCtrl(source_mask="source.png", target_mask="target.png"), editors),
        (Pix2PixZero(amount=0.1), editors),
        (Pix2PixZero(("cat", "dog")), editors),
        (Pix2PixZero((("a cat", "the cat"), "dogs.txt")), editors),
        (Pix2PixZero("cat-to-dog.safetensors"), editors),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_method_comes_back_as_it_was(method, module):
    assert there_and_back(method, module) == method


def test_a_mask_comes_back_to_the_pixel():
    back = there_and_back(MasaCtrl(**MASKS))
    assert np.array_equal(np.asarray(back.source_mask) > 127, MASK)
    assert np.array_equal(np.asarray(back.target_mask) > 127, ~MASK)


def test_a_grey_mask_keeps_its_greys():
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    back = there_and_back(MasaCtrl(source_mask=grey, target_mask=grey))
    assert np.array_equal(np.asarray(back.source_mask), np.asarray(grey))


def test_a_direction_comes_back_as_its_sentences(backbone):
    direction = EditDirection.between(backbone, ["a cat", "a red cat"], ["a dog", "a blue dog"])
    back = there_and_back(Pix2PixZero(direction, 0.1))
    assert back == Pix2PixZero((("a cat", "a red cat"), ("a dog", "a blue dog")), 0.1)
    assert back.resolved(backbone) is direction


def test_lists_come_back_as_tuples_and_paths_as_text():
    assert there_and_back(MasaCtrl(words=["cat", "dog"])) == MasaCtrl(words=("cat", "dog"))
    paths = MasaCtrl(source_mask=Path("a", "source.png"), target_mask=Path("target.png"))
    assert there_and_back(paths) == MasaCtrl(source_mask=str(Path("a", "source.png")), target_mask="target.png")
    assert there_and_back(Pix2PixZero(Path("cat.safetensors"))) == Pix2PixZero("cat.safetensors")


# ---------------------------------------------------------------- what is written


def test_settings_hold_every_field_and_the_methods_name():
    values = packed(MasaCtrl(words=("cat", "dog")))
    assert values.pop("method") == "MasaCtrl"
    assert set(values) == {field.name for field in dataclasses.fields(MasaCtrl)}
    assert values["words"] == ["cat", "dog"] and values["source_mask"] is None


def test_a_method_in_a_method_brings_its_own_name():
    values = packed(PromptToPrompt(local_blend=LocalBlend(("cat", "dog"))))
    assert values["local_blend"]["method"] == "LocalBlend"


def test_packing_leaves_the_method_alone():
    method = PromptToPrompt(weights={"dog": 2.0})
    packed(method)["weights"]["dog"] = 3.0
    assert method.weights == {"dog": 2.0}


# ---------------------------------------------------------------- errors


def test_a_method_that_the_module_does_not_have_is_refused():
    with pytest.raises(ValueError, match="no method 'Telepathy'; it has EditDirection, Editor, LocalBlend, MasaCtrl"):
        unpacked({"method": "Telepathy"}, editors)
    with pytest.raises(ValueError, match="no method 'Regularised'"):
        unpacked(packed(Regularised()), editors)
    with pytest.raises(ValueError, match="no method 'bar'; it has DDIM, Regularised"):
        unpacked({"method": "bar"}, inversion)


def test_settings_that_the_method_does_not_have_are_refused():
    with pytest.raises(TypeError, match="telepathy"):
        unpacked({"method": "MasaCtrl", "telepathy": 1}, editors)


def test_settings_that_can_not_be_used_are_refused_by_the_method():
    with pytest.raises(ValueError, match="start_step=-1 must be a whole number"):
        unpacked({**packed(MasaCtrl()), "start_step": -1}, editors)
