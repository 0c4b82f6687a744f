import json

import numpy as np
import pytest
import torch

import nmg
from nmg.lab.bench.artefacts import Paper
from nmg.lab.bench.groups import gather
from nmg.lab.bench.pictures import Pictures
from nmg.lab.presets import Example


@pytest.fixture
def photographs(tmp_path, picture):
    """Two pictures with captions, without a truth."""
    for name in ("1.png", "2.png"):
        picture.save(tmp_path / name)
    captions = {name: {"source": "a cat in the forest", "target": "a dog in the forest"} for name in ("1.png", "2.png")}
    captions["2.png"] |= {"editor": "masactrl", "questions": [{"question": "is it a dog?"}]}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    return tmp_path


def test_photographs_are_edited_without_a_truth_at_the_paper_s_scales(pipe, photographs, unmeasured):
    suite = Pictures.read(photographs)
    out = photographs / "out"
    made = Paper(pipe, out, suite, methods=("DDIM", "NMG"), count=None, steps=2, progress=False)
    text, table = made.editing()
    assert "Prompt-to-Prompt" in text.read_text() and "MasaCtrl" in text.read_text()
    assert "ClipScore is not here" in text.read_text() and "PSNR ↑" not in text.read_text()
    # Without a truth the sweep needs CLIP, which isn't there either.
    text, table = made.sweep([3.0])
    assert "ClipScore is not here" in text.read_text() and "split validation" in text.read_text()
    (guidance,) = {json.dumps(r.settings["guidance"]) for r in gather(out) if r.method == "NMG"}
    settings = json.loads(guidance)
    assert (settings["text_scale"], settings["noise_map_scale"], settings["gradient_scale"]) == (7.5, None, 5000)


def test_pictures_with_a_truth_are_scored_by_it(backbone, picture):
    suite = Pictures({"swap": {"one": Example(picture, "a", "b", nmg.Editor(), picture)}})
    case = suite.case("swap", "one", backbone)
    own = torch.from_numpy(np.array(case.picture)).permute(2, 0, 1)[None] / 255
    values, missing = suite.score(case, own, backbone)
    assert values["mse"] == 0 and values["ssim"] == pytest.approx(1) and "psnr" in missing
    assert suite.items("swap", "test", 5) == ("one",) and suite.items("swap", "test", 0) == ()
    other = Pictures({"swap": {"one": Example(picture, "a", "c", nmg.Editor(), picture)}})
    assert suite.described() != other.described()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "names no picture"),
        ('{"1.png": "a cat"}', "no source and target prompt"),
        ('{"1.png": {"source": "a", "target": "b", "editor": "brush"}}', "the editor 'brush'"),
    ],
)
def test_captions_that_can_t_be_used_say_why(photographs, text, message):
    (photographs / "captions.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Pictures.read(photographs)


def test_a_folder_without_captions_says_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="two prompts"):
        Pictures.read(tmp_path)
