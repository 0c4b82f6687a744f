import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from nmg import (
    CFG,
    DDIM,
    Direct,
    EditDirection,
    EditFriendly,
    Editor,
    FixedPoint,
    LocalBlend,
    MasaCtrl,
    NegativePrompt,
    NoiseMap,
    NullText,
    NullTexts,
    Pix2PixZero,
    PromptToPrompt,
    ProxNegativePrompt,
    Regularised,
    editors,
    guidance,
    inversion,
    serialize,
)
from nmg.guidance import Stack
from nmg.schema import Form
from nmg.serialize import methods_of, packed, unpacked

MASK = np.zeros((16, 24), bool)
MASK[4:12, 3:9] = True
MASKS = {"source_mask": MASK, "target_mask": ~MASK}


def there_and_back(method, module=editors):
    return unpacked(json.loads(json.dumps(packed(method))), methods_of(module))


# ---------------------------------------------------------------- identities


@pytest.mark.parametrize(
    ("method", "module"),
    [
        (CFG(2.0), guidance),
        (NoiseMap(text_scale=3.0, energy="l2"), guidance),
        (NoiseMap(noise_map_scale=[3.0, 2.0], level="start", during=(0.0, 0.5)), guidance),
        (NoiseMap(mask=MASK, outside=0.2), guidance),
        (NoiseMap(mask="mask.png"), guidance),
        (NullText(3.0, 7, 0.1, 1e-3, 1e-4), guidance),
        (NullText(embeddings="null.safetensors"), guidance),
        (NegativePrompt(2.0), guidance),
        (ProxNegativePrompt(2.0, 0.75, "soft", "reconstruction", 0.1, 2, 300), guidance),
        (Direct(3.0), guidance),
        (Direct(10.0) + NoiseMap(mask=torch.from_numpy(MASK), noise_map_scale=(1.0, 2.0)), guidance),
        (NoiseMap(text_scale=7.5) + NullText(iterations=3) + Direct(), guidance),
        (DDIM(), inversion),
        (FixedPoint(3, 1e-3, 2), inversion),
        (EditFriendly(2.0, 5), inversion),
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
        (PromptToPrompt(weights={"method": 2.0, "png": 3.0}), editors),
        (PromptToPrompt(weights={"png": 3.0}), editors),
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


def test_a_mask_of_a_guidance_comes_back_to_the_pixel():
    back = there_and_back(NoiseMap(mask=MASK), guidance)
    assert np.array_equal(np.asarray(back.mask) > 127, MASK)


def test_a_stack_comes_back_part_by_part():
    stack = NoiseMap(text_scale=7.5, noise_map_scale=[1.0, 2.0], mask=MASK) + ProxNegativePrompt() + Direct()
    back = there_and_back(stack, guidance)
    assert isinstance(back, Stack) and back.parts == stack.parts and back.text_scale == 7.5


def test_null_texts_are_not_written_down_but_found_again_and_their_file_is_named():
    texts = NullTexts(torch.zeros(2, 3, 4), (0.1, 0.2), 7.5, "a cat", "owner/model", torch.zeros(1, 4, 2, 2))
    assert there_and_back(NullText(iterations=3, embeddings=texts), guidance) == NullText(iterations=3)
    path = Path("a", "null.safetensors")
    assert there_and_back(NullText(embeddings=path), guidance) == NullText(embeddings=str(path))


def test_the_mask_of_a_guidance_may_be_a_path():
    path = Path("a", "mask.png")
    assert there_and_back(NoiseMap(mask=path), guidance) == NoiseMap(mask=str(path))


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


def test_a_stack_holds_its_parts_with_their_names_and_no_text_scale_of_its_own():
    values = packed(NoiseMap(text_scale=7.5) + Direct())
    assert set(values) == {"method", "parts"} and values["method"] == "Stack"
    assert [part["method"] for part in values["parts"]] == ["NoiseMap", "Direct"]


def test_a_list_of_scales_is_written_as_a_list():
    assert packed(NoiseMap(noise_map_scale=(1.0, 2.0)))["noise_map_scale"] == [1.0, 2.0]


# ---------------------------------------------------------------- errors


def falling(step):
    return 10.0 * step.here.alpha


class Rising:
    def __call__(self, step):
        return 1.0


@pytest.mark.parametrize(
    ("scale", "name"),
    [(falling, "falling"), (lambda step: 1.0, "<lambda>"), (Rising(), ".*Rising object")],
    ids=["function", "lambda", "object"],
)
def test_a_function_as_a_scale_can_not_be_written_down_and_says_so(scale, name):
    method = NoiseMap(noise_map_scale=scale)
    for given in (method, Direct(10.0) + method):
        with pytest.raises(
            ValueError, match=rf"the function '?<?{name}.* can't be written down; give its values, one per"
        ):
            packed(given)


def test_a_stack_of_parts_that_the_module_does_not_have_is_refused():
    values = packed(Direct() + CFG())
    values["parts"][0]["method"] = "Telepathy"
    with pytest.raises(ValueError, match="this version has no method 'Telepathy'; it has CFG, Direct"):
        unpacked(values, methods_of(guidance))


def test_a_method_that_the_module_does_not_have_is_refused():
    with pytest.raises(ValueError, match="no method 'Telepathy'; it has EditDirection, Editor, FlowEdit"):
        unpacked({"method": "Telepathy"}, methods_of(editors))
    with pytest.raises(ValueError, match="no method 'Regularised'"):
        unpacked(packed(Regularised()), methods_of(editors))
    with pytest.raises(ValueError, match="no method 'bar'; it has DDIM, Drawn, EditFriendly"):
        unpacked({"method": "bar"}, methods_of(inversion))


def test_settings_that_the_method_does_not_have_are_refused():
    with pytest.raises(ValueError, match="telepathy: extra inputs are not permitted"):
        unpacked({"method": "MasaCtrl", "telepathy": 1}, methods_of(editors))
    with pytest.raises(ValueError, match="threshold: input should be a valid number"):
        unpacked({"method": "MasaCtrl", "threshold": "0.1"}, methods_of(editors))


def test_settings_that_can_not_be_used_are_refused_by_the_method():
    with pytest.raises(ValueError, match="start_step=-1 must be a whole number"):
        unpacked({**packed(MasaCtrl()), "start_step": -1}, methods_of(editors))


# ---------------------------------------------------------------- tensors

FORM = "nmg-thing-1"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "thing.safetensors"


class Thing(Form):
    text: str = ""
    number: float = 0.0
    list: Any = None
    nested: dict[str, str] = {}


def load(path, form=FORM, **axes):
    return serialize.load(path, form, Thing, axes or {"a": "many", "b": "many"}, "thing", "make one by hand")


def test_what_is_saved_is_loaded(path):
    held = {
        "a": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
        "b": torch.zeros(1),
        "c": torch.tensor(2.5),
    }
    described = {"text": "a “café” cat\n🐱", "number": 0.1, "list": [1, [2.5, None]], "nested": {"method": "DDIM"}}
    serialize.save(path, FORM, held, described)
    found, said = load(path, a="rows columns", b="1", c="")
    assert dict(said) == described and set(found) == set(held)
    assert all(torch.equal(found[name], held[name]) for name in held)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64])
def test_tensors_of_every_type_are_kept_in_single_precision(path, dtype):
    given = torch.arange(4).to(dtype)
    serialize.save(path, FORM, {"a": given}, {})
    found = load(path)[0]["a"]
    assert found.dtype == torch.float32 and torch.equal(found, given.float())


@pytest.mark.parametrize("view", [lambda x: x.T, lambda x: x[1:3, ::2], lambda x: x[0].expand(3, 4), lambda x: x[2:]])
def test_views_are_kept_as_what_they_show(path, view):
    given = view(torch.arange(16.0).view(4, 4))
    serialize.save(path, FORM, {"a": given}, {})
    assert torch.equal(load(path, a="rows columns")[0]["a"], given)


def test_a_tensor_with_a_gradient_or_of_inference_mode_is_kept(path):
    with torch.inference_mode():
        inferred = torch.ones(2)
    serialize.save(path, FORM, {"a": torch.ones(2, requires_grad=True), "b": inferred}, {})
    found, _ = load(path)
    assert not found["a"].requires_grad and not found["b"].is_inference()


def test_the_file_says_what_it_is(path):
    serialize.save(path, FORM, {"a": torch.ones(1)}, {"text": "cat"})
    with safe_open(path, "pt") as file:
        said = file.metadata()
    assert said.pop("digest") and said == {"format": FORM, "described": json.dumps({"text": "cat"})}


def test_saving_again_replaces_the_file_and_leaves_nothing_beside_it(path):
    for number in (1.0, 2.0):
        serialize.save(str(path), FORM, {"a": torch.tensor(number)}, {"number": number})
    found, said = load(path, a="")
    assert found["a"] == said.number == 2.0
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_save_that_fails_leaves_the_file_as_it_was(path):
    serialize.save(path, FORM, {"a": torch.ones(1)}, {})
    with pytest.raises(TypeError, match="not JSON serializable"):
        serialize.save(path, FORM, {"a": torch.zeros(1)}, {"thing": object()})
    assert torch.equal(load(path)[0]["a"], torch.ones(1))


def test_a_missing_file_is_named_with_what_to_do(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"there is no thing at '.*'; make one by hand"):
            load(path)


def test_a_file_of_another_form_is_refused(path):
    serialize.save(path, "nmg-thing-0", {"a": torch.ones(1)}, {})
    with pytest.raises(ValueError, match=r"thing\.safetensors' holds no thing of this version; make one by hand"):
        load(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="holds no thing of this version"):
        load(path)


@pytest.mark.parametrize(
    "content", [b"", b"words, and quite a lot of them", b"\0" * 64], ids=["empty", "words", "zeros"]
)
def test_a_file_that_is_no_safetensors_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"can't be read \(.*\); make one by hand"):
        load(path)


def test_half_a_file_is_refused(path):
    serialize.save(path, FORM, {"a": torch.ones(100)}, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"can't be read \(.*\); make one by hand"):
        load(path)


def test_damage_to_a_number_or_to_a_word_is_found(path):
    serialize.save(path, FORM, {"a": torch.ones(4)}, {"text": "cat"})
    data = path.read_bytes()
    for changed in (data[:-1] + b"\x40", data.replace(b"cat", b"car")):
        assert changed != data
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"damaged.*its content is not what was written.*; make one by hand"):
            load(path)


def test_a_tensor_of_another_shape_and_a_field_of_another_type_are_named(path):
    serialize.save(path, FORM, {"a": torch.ones(1, 4)}, {})
    with pytest.raises(ValueError, match=r"a: its shape \[1, 4\] is not \[many"):
        load(path)
    serialize.save(path, FORM, {"a": torch.ones(4)}, {"text": 7})
    with pytest.raises(ValueError, match="text: input should be a valid string"):
        load(path)
