from nmg.lab import scoring
from nmg.menagerie import Scene
from nmg.menagerie.model import load_classifier


def test_the_truth_scores_full_marks_and_the_source_none():
    scene = Scene(kind="cat", colour="red", seed=3)
    target = scene.edit(colour="blue")
    values, missing = scoring.score(scoring.pixels([target]), scene, target, "colour", load_classifier())
    assert (values["success"], values["kept"], values["mse"], values["ssim"]) == (1, 1, 0, 1)
    assert missing == dict.fromkeys(["psnr", "psnr_inside", "psnr_outside"], scoring.INFINITE)
    values, _ = scoring.score(scoring.pixels([scene]), scene, target, "colour", load_classifier())
    assert (values["success"], values["kept"]) == (0, 1) and values["psnr_inside"] < 15 < 40 < values["psnr_outside"]


def test_a_region_without_pixels_is_missing_with_its_reason():
    scene = Scene(seed=3)
    picture = scoring.pixels([scene.edit(place="snow")])
    values, missing = scoring.score(picture, scene, scene, "colour", load_classifier())
    assert missing["psnr_inside"] == scoring.EMPTY and "psnr_inside" not in values


def test_scenes_of_any_size_are_read():
    scene = Scene(kind="dog", colour="blue", seed=1)
    for size in (64, 128, 256):
        assert scoring.accuracy(load_classifier(), scoring.pixels([scene], size), [scene])["colour"] == 1
