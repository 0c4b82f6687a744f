import json

import pytest

from nmg.backbones import Backbone, ModelSettings, settings_of
from nmg.menagerie import model
from nmg.pipelines import load


def test_the_bundled_models_file_is_what_its_world_says():
    held = json.loads((model.FOLDER / "nmg.json").read_text())
    scales = ModelSettings.read("menagerie").scales
    assert held == json.loads(json.dumps(model.settings(**scales))) and set(scales) == {"text_scale"}


def test_the_bundled_model_has_the_same_settings_by_name_by_folder_and_wrapped():
    pipe = load("menagerie")
    assert settings_of(pipe) == ModelSettings.read("menagerie") == ModelSettings.read(str(model.FOLDER))
    assert settings_of(Backbone(pipe)) == Backbone(pipe).settings == settings_of(pipe)


def test_a_file_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / "nmg.json").write_text('{"text_scale": 3.0, "sentences": ["a {}"], "colours": ["red"]}')
    assert ModelSettings.read(str(tmp_path)) == ModelSettings(text_scale=3.0)


def test_another_model_has_the_papers_settings(sd_shaped, build):
    assert settings_of(sd_shaped) == settings_of(build()) == ModelSettings() and ModelSettings().scales == {}


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"telepathy": 1}', '{"text_scale": "3"}', '{"text_scale": NaN}', '{"word_maps": 0}'),
        *('{"blend_threshold": "half"}', '{"words": "cat"}', '{"name": "\\u001b[2J"}', '{"layout": 1e300}'),
    ],
)
def test_a_file_that_says_what_is_unknown_is_refused(tmp_path, text):
    (tmp_path / "nmg.json").write_text(text)
    with pytest.raises(ValueError, match=r"the model's settings in .*nmg\.json' can't be read"):
        ModelSettings.read(str(tmp_path))
