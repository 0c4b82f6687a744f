import dataclasses

import pytest

from nmg.lab.bench import groups
from tests.lab.bench.made import only, record, several


def test_rows_stand_in_order():
    shuffled = several(ceiling=[9], mine=[5], NMG=[3], DDIM=[2], identity=[1])
    assert list(only(shuffled).rows) == ["identity", "DDIM", "NMG", "mine", "ceiling"]


def test_an_editor_has_a_group_of_all_and_one_per_task():
    found = [record(task="colour change"), record(task="object swap"), record(task="pose", editor="MasaCtrl")]
    assert [(one.editor, one.task, len(one.rows["DDIM"])) for one in groups.group(found)] == [
        ("PromptToPrompt", None, 2),
        ("PromptToPrompt", "colour change", 1),
        ("PromptToPrompt", "object swap", 1),
        ("MasaCtrl", None, 1),
        ("MasaCtrl", "pose", 1),
    ]


def test_scales_of_a_method_have_a_row_each():
    found = [record("NMG", scale=scale, metrics={"psnr": scale}) for scale in (30.0, 3.0)]
    assert list(only(found).rows) == ["NMG, scale 3", "NMG, scale 30"]
    assert list(only(found[:1]).rows) == ["NMG"]


def test_the_test_split_is_reported_and_the_first_of_a_key_counts():
    first, again = record(metrics={"psnr": 1.0}), record(metrics={"psnr": 2.0})
    validation = record(split="validation")
    assert groups.gather([first, again, validation]) == [first]
    assert groups.gather([first, validation], "validation") == [validation]
    with pytest.raises(ValueError, match="no record of the validation split"):
        groups.gather([first], "validation")


def test_time_is_compared_with_null_text_inversion_on_the_same_item():
    seconds = {"NTI": (10.0, 20.0), "NMG": (1.0, 4.0), "identity": (5.0, 5.0)}
    found = [record(m, i, seconds=s) for m, values in seconds.items() for i, s in enumerate(values)]
    group = only(found)
    assert group.values("NMG", groups.RATIO) == {("colour change", "0"): 0.1, ("colour change", "1"): 0.2}
    # Without an edit there is nothing to time.
    assert group.values("identity", "seconds") == {}


def test_what_has_no_result_is_counted_with_its_reason():
    refused = record("NMG", refused="no maps")
    failed = record("NMG", 2, refused="not finite", failed=True)
    again = dataclasses.replace(refused, item=1, key="other")
    group = only([*several(NMG=[1, 2, 3, 4])[3:], refused, again, failed])
    assert group.asked("NMG") == 4 and group.named("NMG") == "NMG (1 of 4 items)"
    assert group.loss("NMG") == "refused on 2 of 4 items: no maps; failed on 1 of 4 items: not finite"
