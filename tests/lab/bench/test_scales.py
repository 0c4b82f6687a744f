import json

import pytest

from nmg.lab.bench import METHODS
from nmg.lab.bench.scales import chosen_scales, report_of, scale_for

CHOSEN = {"NMG, unbounded": {"PromptToPrompt": 4.0}}


@pytest.mark.parametrize(("scales", "used"), [(None, None), (5, 5.0), (CHOSEN, 4.0)], ids=str)
def test_scales_are_the_guidance_s_own_or_given(scales, used):
    assert scale_for(METHODS["NMG, unbounded"], "PromptToPrompt", scales) == used
    assert scale_for(METHODS["DDIM"], "PromptToPrompt", scales) is None


def test_a_method_that_is_not_tuned_keeps_its_default():
    for scales in (CHOSEN, {"NMG": {"PromptToPrompt": 30.0}}):
        assert scale_for(METHODS["NMG"], "PromptToPrompt", scales) is None


def test_a_scale_that_was_not_chosen_is_an_error():
    with pytest.raises(ValueError, match="no noise-map scale was chosen for NMG, unbounded with MasaCtrl"):
        scale_for(METHODS["NMG, unbounded"], "MasaCtrl", CHOSEN)


def test_a_folder_says_what_was_chosen_in_it(tmp_path):
    assert chosen_scales(tmp_path) is None and report_of(tmp_path) == {"scales": {}}
    (tmp_path / "scales.json").write_text(json.dumps({"scales": {"NMG": {"MasaCtrl": 3.0}}, "items_per_task": 4}))
    assert chosen_scales(tmp_path) == {"NMG": {"MasaCtrl": 3.0}} and report_of(tmp_path)["items_per_task"] == 4
