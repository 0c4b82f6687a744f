import json

import pytest

from nmg.lab.bench import METHODS, Menagerie
from nmg.lab.bench.scales import chosen_scales, report_of, scale_for


@pytest.mark.parametrize(
    ("scales", "used"), [(None, Menagerie.noise_map_scale), (5, 5.0), ({"NMG": {"PromptToPrompt": 4.0}}, 4.0)], ids=str
)
def test_scales_are_the_suites_or_given(scales, used):
    assert scale_for(METHODS["NMG"], "PromptToPrompt", scales, Menagerie()) == used
    assert scale_for(METHODS["DDIM"], "PromptToPrompt", scales, Menagerie()) is None


def test_a_scale_that_was_not_chosen_is_an_error():
    with pytest.raises(ValueError, match="no noise-map scale was chosen for NMG with MasaCtrl"):
        scale_for(METHODS["NMG"], "MasaCtrl", {"NMG": {"PromptToPrompt": 4.0}}, Menagerie())


def test_a_folder_says_what_was_chosen_in_it(tmp_path):
    assert chosen_scales(tmp_path) is None and report_of(tmp_path) == {"scales": {}}
    (tmp_path / "scales.json").write_text(json.dumps({"scales": {"NMG": {"MasaCtrl": 3.0}}, "items_per_task": 4}))
    assert chosen_scales(tmp_path) == {"NMG": {"MasaCtrl": 3.0}} and report_of(tmp_path)["items_per_task"] == 4
