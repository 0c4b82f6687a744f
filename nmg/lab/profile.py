"""Profiles: what suits a model. Photographs for Stable Diffusion, scenes for a model that knows the bundled world.

A model's folder names its profile and may carry its own scales and words (`nmg.json`, see `nmg.backbones.settings`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from nmg import images
from nmg.backbones import Backbone, ModelSettings, settings_of
from nmg.editors import Editor, MasaCtrl, Pix2PixZero
from nmg.guidance import NoiseMap
from nmg.lab import blip
from nmg.lab.kinds import kind_of
from nmg.lab.presets import ANY, BY, FURTHER, PHOTOGRAPHS, SCENES, WHEN, Example, Preset
from nmg.menagerie import model as menagerie
from nmg.menagerie.captions import caption, prompt_pair
from nmg.menagerie.scene import FACTORS, SIZE, Scene
from nmg.menagerie.tasks import EXAMPLES, TASKS


@dataclass(frozen=True)
class Profile:
    """What suits a model: scales, presets, examples, words, and who describes its pictures.

    Args:
        settings: what the model's folder says.
    """

    settings: ModelSettings = ModelSettings()
    knows_scenes: ClassVar[bool] = False
    """Whether the model's pictures are scenes of the bundled world, whose edits have an exact truth."""

    @property
    def scales(self) -> dict[str, float]:
        """The scales of noise map guidance that are the model's own; its defaults hold for those left out."""
        return self.settings.scales

    def guidance(self, **scales: Any) -> NoiseMap:
        """Noise map guidance with the scales that suit the model, or with others where they are given."""
        return NoiseMap(**self.scales | scales)

    def unknown_words(self, prompts: Iterable[str]) -> str | None:
        """What to say about words that the model has never seen; None if it knows them all."""
        return self.settings.unknown_words(prompts)

    def presets(self) -> dict[str, Preset]:
        """The editor that suits each kind of edit, by the kind's name."""
        raise NotImplementedError

    def examples(self, kind: type[Editor], folder: Path, pipe: Any = None, dog: Any = None) -> dict[str, Example]:
        """An example of each of the paper's tasks of an editor, by the task's name.

        Args:
            kind: the editor's class.
            folder: where the photographs lie.
            pipe: draws a picture of a dog where none is given.
            dog: a photograph of a dog, which pix2pix-zero makes a cat of.
        """
        raise NotImplementedError

    def caption(self, backbone: Backbone, picture: Image.Image, model: str) -> str:
        """What a picture shows, in words; `model` names the captioning model where one is needed."""
        raise NotImplementedError


class Photographs(Profile):
    """Photographs, with the papers' settings, described by BLIP."""

    def presets(self) -> dict[str, Preset]:
        own = {name: Preset(name, WHEN[name], build) for name, build in PHOTOGRAPHS.items()}
        return own | {name: _published(name) for name in FURTHER}

    def examples(self, kind: type[Editor], folder: Path, pipe: Any = None, dog: Any = None) -> dict[str, Example]:
        if kind is MasaCtrl:
            return _poses(folder)
        return _kinds(folder, pipe, dog) if kind is Pix2PixZero else _words(folder)

    def caption(self, backbone: Backbone, picture: Image.Image, model: str) -> str:
        return blip.caption(picture, model, backbone.device)


class Scenes(Profile):
    """Scenes of the bundled world, with the settings that its model was measured with, read by its classifier."""

    knows_scenes = True

    def presets(self) -> dict[str, Preset]:
        return {name: _preset(name, SCENES[name]) for name in TASKS} | {name: _further(name) for name in FURTHER}

    def examples(self, kind: type[Editor], folder: Path, pipe: Any = None, dog: Any = None) -> dict[str, Example]:
        if dog is not None:
            raise ValueError("the bundled model edits drawn scenes; leave the photograph of a dog out")
        found: dict[str, Example] = {}
        for name, scene, change in EXAMPLES:
            if isinstance(SCENES[name], kind):
                found.setdefault(name, _drawn(name, scene, change))
        return found

    def caption(self, backbone: Backbone, picture: Image.Image, model: str) -> str:
        pixels = images.to_tensor(images.fit(picture, SIZE, SIZE))
        factors: Any = menagerie.load_classifier().read(2 * pixels - 1)[0]
        return caption(Scene(**factors).normalised())


PROFILES: dict[str, type[Profile]] = {"photographs": Photographs, menagerie.NAME: Scenes}
"""The profiles by the name that a model's folder gives."""
MENAGERIE = Scenes(ModelSettings.read(menagerie.NAME))
"""The bundled model's profile."""


def profile_of(pipe: Any) -> Profile:
    """The profile of a loaded pipeline, or of a `Backbone` over it.

    Raises:
        ValueError: for a name in the model's folder that no profile has.
    """
    settings = pipe.settings if isinstance(pipe, Backbone) else settings_of(pipe)
    if settings.profile not in PROFILES:
        raise ValueError(f"the model's profile {settings.profile!r} is unknown; {', '.join(PROFILES)} work")
    return PROFILES[settings.profile](settings)


# ---------------------------------------------------------------- scenes


def _preset(name: str, editor: Editor) -> Preset:
    return Preset(name, WHEN[name], lambda source, target: editor, frozenset(map(str, FACTORS[TASKS[name].factor])))


def _further(name: str) -> Preset:
    """An editor that takes every task, with the numbers that were chosen for the kind of edit."""
    return Preset(name, ANY[name], lambda a, b: SCENES.get(f"{kind_of(a, b)}{BY}{name}", FURTHER[name]))


def _drawn(name: str, scene: Scene, change: dict[str, Any]) -> Example:
    """The example of a scene and the factors that its edit changes."""
    source, target = prompt_pair(scene, **change)
    named = (str(value) for factor, value in scene.factors.items() if factor != "glasses")
    words = tuple(sorted((word for word in named if word in source), key=source.index))
    return Example(scene.render(), source, target, SCENES[name], scene.edit(**change).render(), scene.kind, words)


# ---------------------------------------------------------------- photographs


def _published(name: str) -> Preset:
    """An editor that takes every task, at its defaults."""
    editor = type(FURTHER[name])()
    return Preset(name, ANY[name], lambda a, b: editor)


def _photograph(folder: Path, name: str) -> Image.Image:
    return images.load(folder / f"{name}.png")


def _words(folder: Path) -> dict[str, Example]:
    """The examples of Prompt-to-Prompt."""
    cat, cup, woman = (_photograph(folder, name) for name in ("chelsea", "coffee", "astronaut"))
    lying, table, suit = (
        "a photo of a {} lying on a blanket",
        "a {} cup of coffee on a {} table",
        "a photo of a woman{} in a space suit",
    )
    pairs = {
        "object swap": (cat, lying.format("cat"), lying.format("tiger")),
        "contextual change": (cup, table.format("red", "wooden"), table.format("red", "snowy")),
        "face attribute": (woman, suit.format(""), suit.format(" with glasses")),
        "colour change": (cup, table.format("red", "wooden"), table.format("blue", "wooden")),
        "global editing": (cat, lying.format("cat"), f"{lying.format('cat')}, oil painting"),
    }
    return {name: Example(image, a, b, PHOTOGRAPHS[name](a, b)) for name, (image, a, b) in pairs.items()}


def _poses(folder: Path) -> dict[str, Example]:
    """The examples of MasaCtrl."""
    woman, cat = _photograph(folder, "astronaut"), _photograph(folder, "chelsea")
    suit, blanket = "a photo of a woman in a space suit, {} view", "a photo of a cat {} on a blanket"
    views, poses = (
        (suit.format("front"), suit.format("side")),
        (blanket.format("lying"), blanket.format("sitting")),
    )
    return {
        "viewpoint alteration": Example(woman, *views, MasaCtrl(), None, "woman", ("woman", "suit", "front")),
        "pose modification": Example(cat, *poses, MasaCtrl(), None, "cat", ("cat", "lying", "blanket")),
    }


def _kinds(folder: Path, pipe: Any, dog: Any) -> dict[str, Example]:
    """The examples of pix2pix-zero."""
    if dog is None:
        dog = folder / "dog.png" if (folder / "dog.png").is_file() else _sampled(pipe, "a photo of a dog on the grass")
    pictures = {("cat", "dog"): _photograph(folder, "chelsea"), ("dog", "cat"): dog}
    prompts = {kind: f"a photo of a {kind}" for kind in ("cat", "dog")}
    return {
        f"{old} to {new}": Example(
            picture, prompts[old], prompts[new], Pix2PixZero((old, new)), None, old, ("photo", old)
        )
        for (old, new), picture in pictures.items()
    }


def _sampled(pipe: Any, prompt: str) -> Image.Image:
    from nmg.pipelines import generate

    return images.to_pil(generate(pipe, [prompt]))[0]
