import numpy as np
import pytest

from nmg.lab.bench import annotations
from nmg.lab.bench.annotations import decode
from nmg.menagerie import Scene, prompt_pair
from tests.lab.bench.drawn import encode, write


def test_entries_are_read_without_brackets(tmp_path):
    scene = Scene("cat", "red", "forest", seed=1)
    write(tmp_path, {"one": (scene, {"colour": "blue"}, 6, "red blue")})
    (entry,) = annotations.read(tmp_path / annotations.MAPPING).values()
    assert (entry.source, entry.target) == prompt_pair(scene, colour="blue")
    assert (entry.kind, entry.words) == (6, ("red", "blue"))


@pytest.mark.parametrize("text", ["[]", '{"a": {"image_path": "a.png"}}', "{"])
def test_another_mapping_file_is_refused(tmp_path, text):
    (tmp_path / annotations.MAPPING).write_text(text)
    with pytest.raises(ValueError, match="can't be read as PIE-Bench's mapping file"):
        annotations.read(tmp_path / annotations.MAPPING)


def test_a_mask_is_decoded_row_by_row():
    mask = np.zeros((5, 7), bool)
    mask[1, 2:5] = mask[3, 6] = mask[4, 0:2] = True
    assert np.array_equal(decode(encode(mask), (7, 5), border=False), mask)
    assert encode(mask)[:2] == [9, 3]


def test_runs_that_meet_or_leave_the_picture():
    assert decode([0, 3, 3, 2, 33, 100], (7, 5), border=False).ravel().nonzero()[0].tolist() == [0, 1, 2, 3, 4, 33, 34]
    assert decode([]).shape == (512, 512)
    with pytest.raises(ValueError, match="come in pairs"):
        decode([1, 2, 3])


def test_the_border_is_marked_as_published():
    mask = decode([], (7, 5))
    assert mask[[0, -1]].all() and mask[:, [0, -1]].all() and not mask[1:-1, 1:-1].any()


@pytest.mark.parametrize(
    ("words", "held"),
    [
        ("dog dog", (("dog",), ("dog",))),
        ("sofa, sofa", (("sofa,",), ("sofa",))),
        ("sofa sofa", ((), ("sofa",))),
        ("Dog dog", ((), ("dog",))),
        ("fox cat", ((), ())),
        ("", ()),
    ],
)
def test_words_are_looked_up_between_spaces(words, held):
    values = {"image_path": "a.png", "editing_type_id": "1", "blended_word": words, "mask": []}
    entry = annotations.Entry.read(
        {**values, "original_prompt": "a dog on a sofa, asleep", "editing_prompt": "a [wet] dog on a sofa"}
    )
    assert entry.held == held
