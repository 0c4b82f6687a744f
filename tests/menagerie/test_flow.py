"""The flow twin of the bundled model: an ordinary Stable Diffusion 3 folder that knows the world's captions."""

from pathlib import Path

import pytest
import torch

import nmg
from nmg import images
from nmg.backbones import ModelSettings
from nmg.menagerie import model
from nmg.menagerie.captions import caption
from nmg.menagerie.scene import Scene
from tests import families

FOLDER = Path(model.__file__).parent / "flow"


@pytest.fixture(scope="module")
def backbone():
    families.needs_sd35()
    return nmg.Backbone(nmg.load(str(FOLDER), "cpu", torch.float32))


def test_it_reads_its_text(backbone):
    """Near noise the velocity of a scene is told by its own caption, and not by another's."""
    scene, other = Scene.sample(5), Scene.sample(6)
    clean = backbone.encode(images.to_tensor(scene.render()))
    step = backbone.steps(10, (16, 16))[1]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noised = step.here.a * clean + step.here.s * noise
    own, others = (
        (backbone.predict(noised, step, backbone.text([caption(s)])) - (noise - clean)).square().mean()
        for s in (scene, other)
    )
    assert others > 1.3 * own


def test_it_is_edited_as_other_models(backbone):
    scene = Scene("cat", "red", "forest", seed=3)
    trajectory = nmg.invert(backbone, scene.render(), caption(scene), steps=4, inversion=nmg.UniInv(), progress=False)
    target = caption(scene.edit(colour="blue"))
    result = nmg.edit(backbone, trajectory, targets=[target], guidance=nmg.Direct(text_scale=3.0), progress=False)
    assert result.drift < 1e-3 and result.pictures[0].size == scene.render().size


def test_its_folder_names_the_world():
    assert ModelSettings.read(str(FOLDER)).profile == model.NAME
