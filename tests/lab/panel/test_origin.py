"""A picture's origin: its name, and the truth of a target."""

from nmg.lab.panel import Origin
from nmg.lab.panel.origin import spelled
from nmg.menagerie import Scene, caption
from nmg.menagerie.tasks import EXAMPLES


def test_a_scene_knows_its_name_and_the_truth_of_a_target():
    _, scene, change = EXAMPLES[0]
    origin = Origin.of(scene.render())
    assert origin.scene == scene and Origin.of(origin.name).scene == scene
    truth = scene.edit(**change).render()
    target = caption(scene.edit(**change))
    assert origin.truth(target).tobytes() == truth.tobytes()
    assert origin.truth("an orange fox dancing") is None
    glasses = Scene("dog", glasses=True, seed=3)
    assert Origin.of(spelled(glasses)).scene == glasses


def test_a_given_truth_belongs_to_its_target(picture, tmp_path):
    origin = Origin.of(picture, "a dog", picture)
    assert origin.has_truths and origin.truth("a dog") is not None and origin.truth("a fox") is None
    assert origin.name == ""
    picture.save(tmp_path / "cat.png")
    assert Origin.of(tmp_path / "cat.png").name == str(tmp_path / "cat.png")
    assert not Origin.of(tmp_path / "cat.png").has_truths
