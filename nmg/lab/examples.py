"""Ready examples for the notebooks: photographs for Stable Diffusion, scenes for the bundled model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nmg import images
from nmg.editors import Editor, MasaCtrl, Pix2PixZero, PromptToPrompt
from nmg.lab.profile import PHOTOGRAPHS, SCENES, in_menagerie
from nmg.menagerie.captions import prompt_pair
from nmg.menagerie.tasks import EXAMPLES


@dataclass(frozen=True)
class Example:
    """A picture, what it shows, and what its edit should show.

    Attributes:
        image: whatever `images.load` reads.
        source, target: the two prompts.
        editor: the preset that suits this kind of edit.
        truth: the exact counterfactual, which only drawn scenes have.
        subject: the word of both prompts that the picture is about, if there is one.
        words: words of the source prompt whose attention is worth a look.
    """

    image: Any
    source: str
    target: str
    editor: Editor
    truth: Image.Image | None = None
    subject: str = ""
    words: tuple[str, ...] = ()


def prompt_to_prompt(pipe: Any, folder: str | Path = "images") -> dict[str, Example]:
    """An example of each of the paper's five tasks of Prompt-to-Prompt, for the loaded model.

    Args:
        pipe: a loaded pipeline; the bundled model gets scenes, any other photographs.
        folder: where the photographs lie.
    """
    return _scenes(PromptToPrompt) if in_menagerie(pipe) else _photographs(Path(folder))


def masactrl(pipe: Any, folder: str | Path = "images") -> dict[str, Example]:
    """An example of viewpoint alteration and of pose modification; see `prompt_to_prompt`."""
    if in_menagerie(pipe):
        return _scenes(MasaCtrl)
    woman, cat = (images.load(Path(folder) / f"{name}.png") for name in ("astronaut", "chelsea"))
    suit, blanket = "a photo of a woman in a space suit", "a photo of a cat {} on a blanket"
    return {
        "viewpoint alteration": Example(
            woman, f"{suit}, front view", f"{suit}, side view", MasaCtrl(), None, "woman", ("woman", "suit", "front")
        ),
        "pose modification": Example(
            cat,
            blanket.format("lying"),
            blanket.format("sitting"),
            MasaCtrl(),
            None,
            "cat",
            ("cat", "lying", "blanket"),
        ),
    }


def pix2pix_zero(pipe: Any, folder: str | Path = "images", dog: Any = None) -> dict[str, Example]:
    """An example of cat → dog and of dog → cat; see `prompt_to_prompt`.

    Args:
        dog: a photograph of a dog; if not given, `dog.png` in the folder, or a picture that the model draws.

    Raises:
        ValueError: for a photograph on the bundled model, which draws its own dogs.
    """
    if in_menagerie(pipe):
        if dog is not None:
            raise ValueError("the bundled model edits drawn scenes; leave the photograph of a dog out")
        return _scenes(Pix2PixZero)
    cat = images.load(Path(folder) / "chelsea.png")
    if dog is None:
        dog = Path(folder) / "dog.png"
        dog = dog if dog.is_file() else _drawn(pipe, "a photo of a dog on the grass")
    return {
        "cat to dog": Example(
            cat, "a photo of a cat", "a photo of a dog", Pix2PixZero(("cat", "dog")), None, "cat", ("photo", "cat")
        ),
        "dog to cat": Example(
            dog, "a photo of a dog", "a photo of a cat", Pix2PixZero(("dog", "cat")), None, "dog", ("photo", "dog")
        ),
    }


def _drawn(pipe: Any, prompt: str) -> Image.Image:
    from nmg.pipelines import generate

    return images.to_pil(generate(pipe, [prompt]))[0]


def _scenes(kind: type[Editor]) -> dict[str, Example]:
    """The first example of each task of a kind of editor."""
    examples: dict[str, Example] = {}
    for name, scene, change in EXAMPLES:
        if isinstance(SCENES[name], kind):
            truth = scene.edit(**change).render()
            words = scene.colour, scene.kind, scene.pose, scene.place, scene.view
            prompts = prompt_pair(scene, **change)
            example = Example(scene.render(), *prompts, SCENES[name], truth, scene.kind, words)
            examples.setdefault(name, example)
    return examples


def _photographs(folder: Path) -> dict[str, Example]:
    cat, cup, woman = (images.load(folder / f"{name}.png") for name in ("chelsea", "coffee", "astronaut"))
    lying, table, suit = (
        "a photo of a {} lying on a blanket",
        "a {} cup of coffee on a {} table",
        "a photo of a woman{} in a space suit",
    )
    prompts = {
        "object swap": (cat, lying.format("cat"), lying.format("tiger")),
        "contextual change": (cup, table.format("red", "wooden"), table.format("red", "snowy")),
        "face attribute": (woman, suit.format(""), suit.format(" with glasses")),
        "colour change": (cup, table.format("red", "wooden"), table.format("blue", "wooden")),
        "global editing": (cat, lying.format("cat"), lying.format("cat") + ", oil painting"),
    }
    return {
        name: Example(image, source, target, PHOTOGRAPHS[name](source, target))
        for name, (image, source, target) in prompts.items()
    }
