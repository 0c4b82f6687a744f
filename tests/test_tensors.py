import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nmg import tensors

FORM = "nmg-thing-1"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "thing.safetensors"


def load(path, form=FORM):
    return tensors.load(path, form, "thing", "make one by hand")


def test_what_is_saved_is_loaded(path):
    held = {
        "a": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
        "b": torch.zeros(0),
        "c": torch.tensor(2.5),
    }
    described = {"text": "a “café” cat\n🐱", "number": 0.1, "list": [1, [2.5, None]], "nested": {"method": "DDIM"}}
    tensors.save(path, FORM, held, described)
    found, said = load(path)
    assert said == described and set(found) == set(held)
    assert all(torch.equal(found[name], held[name]) for name in held)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64])
def test_tensors_of_every_type_are_kept_in_single_precision(path, dtype):
    given = torch.arange(4).to(dtype)
    tensors.save(path, FORM, {"a": given}, {})
    found = load(path)[0]["a"]
    assert found.dtype == torch.float32 and torch.equal(found, given.float())


@pytest.mark.parametrize("view", [lambda x: x.T, lambda x: x[1:3, ::2], lambda x: x[0].expand(3, 4), lambda x: x[2:]])
def test_views_are_kept_as_what_they_show(path, view):
    given = view(torch.arange(16.0).view(4, 4))
    tensors.save(path, FORM, {"a": given}, {})
    assert torch.equal(load(path)[0]["a"], given)


def test_a_tensor_with_a_gradient_or_of_inference_mode_is_kept(path):
    with torch.inference_mode():
        inferred = torch.ones(2)
    tensors.save(path, FORM, {"a": torch.ones(2, requires_grad=True), "b": inferred}, {})
    found, _ = load(path)
    assert not found["a"].requires_grad and not found["b"].is_inference()


def test_the_file_says_what_it_is(path):
    tensors.save(path, FORM, {"a": torch.ones(1)}, {"text": "cat"})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": FORM, "described": json.dumps({"text": "cat"})}


def test_saving_again_replaces_the_file_and_leaves_nothing_beside_it(path):
    for number in (1.0, 2.0):
        tensors.save(str(path), FORM, {"a": torch.tensor(number)}, {"number": number})
    found, said = load(path)
    assert found["a"] == said["number"] == 2.0
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_save_that_fails_leaves_the_file_as_it_was(path):
    tensors.save(path, FORM, {"a": torch.ones(1)}, {})
    with pytest.raises(TypeError, match="not JSON serializable"):
        tensors.save(path, FORM, {"a": torch.zeros(1)}, {"thing": object()})
    assert torch.equal(load(path)[0]["a"], torch.ones(1))


def test_a_missing_file_is_named_with_what_to_do(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"there is no thing at '.*'; make one by hand"):
            load(path)


def test_a_file_of_another_form_is_refused(path):
    tensors.save(path, "nmg-thing-0", {"a": torch.ones(1)}, {})
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
    tensors.save(path, FORM, {"a": torch.ones(100)}, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"can't be read \(.*\); make one by hand"):
        load(path)
