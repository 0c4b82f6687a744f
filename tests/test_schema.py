import json

import pytest
import torch

from nmg import guidance
from nmg.guidance import NoiseMap
from nmg.schema import MOST, Form, Share, Text, checked, form_of, parsed, shaped
from nmg.serialize import methods_of, packed

KINDS = methods_of(guidance)


class Fields(Form):
    name: Text
    share: Share | None = None
    pair: tuple[int, int] = (0, 0)


def test_values_of_their_types_come_through():
    found = checked({"name": "a\nb é 猫", "share": 1, "pair": [1, 2]}, Fields)
    assert (found.name, found.share, found.pair) == ("a\nb é 猫", 1.0, (1, 2))


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({}, "name"),
        ({"name": 7}, "name"),
        ({"name": "\x1b[2J"}, "name"),
        ({"name": "x" * 20_000}, "name"),
        ({"name": "a", "share": True}, "share"),
        ({"name": "a", "share": 1.5}, "share"),
        ({"name": "a", "share": 1e300}, "share"),
        ({"name": "a", "pair": [1]}, "pair.1"),
        ({"name": "a", "unheard": 1}, "unheard"),
        ([], "the whole"),
        (None, "the whole"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_field_of_another_type_or_range_is_named(values, place):
    with pytest.raises(ValueError, match=f"^{place}: [a-z]"):
        checked(parsed(json.dumps(values)), Fields)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, "x" * 17_000_000, '{"a": NaN}', "[-Infinity]"],
    ids=["empty", "torn", "deep", "long", "NaN", "infinite"],
)
def test_text_that_is_no_json_of_finite_numbers_is_refused(text):
    with pytest.raises(ValueError):
        parsed(text)


def test_a_methods_form_is_its_dataclass():
    values = packed(NoiseMap(noise_map_scale=(1.0, 2.0)))
    assert checked(values, form_of(NoiseMap, KINDS)).noise_map_scale == [1.0, 2.0]
    for name, wrong in {"jacobian": 1, "during": [0.5], "mask": 3, "noise_map_scale": [1.0] * (MOST + 1)}.items():
        with pytest.raises(ValueError, match=f"^{name}"):
            checked(values | {name: wrong}, form_of(NoiseMap, KINDS))


AXES = {"maps": "levels height", "noise": "1 height"}


def test_tensors_share_their_axes():
    maps = torch.zeros(3, 4)
    assert shaped({"maps": maps, "noise": maps[:1]}, AXES) == {"levels": 3, "height": 4, "1": 1}
    wrong = {"shape": maps[:1, :2], "two": maps[:2], "rank": maps[0], "dtype": maps[:1].double(), "none": maps[:0]}
    wrong["finite"] = torch.full((1, 4), torch.nan)
    for noise in wrong.values():
        with pytest.raises(ValueError, match="^noise: "):
            shaped({"maps": maps, "noise": noise}, AXES)
    with pytest.raises(ValueError, match="unknown"):
        shaped({"other": maps}, AXES)
