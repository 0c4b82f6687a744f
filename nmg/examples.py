"""Ready examples for the notebooks: photographs for Stable Diffusion, scenes for the bundled model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nmg import images
from nmg.editors import Editor, LocalBlend, PromptToPrompt
from nmg.menagerie import model as menagerie
from nmg.menagerie.captions import prompt_pair
from nmg.menagerie.tasks import EXAMPLES, TASKS


@dataclass(frozen=True)
class Example:
    """A picture, what it shows, and what its edit should show.

    Attributes:
        image: whatever `images.load` reads.
        source, target: the two prompts.
        editor: the preset that suits this kind of edit.
        truth: the exact counterfactual, which only drawn scenes have.
    """

    image: Any
    source: str
    target: str
    editor: Editor
    truth: Image.Image | None = None


def prompt_to_prompt(pipe: Any, folder: str | Path = "images") -> dict[str, Example]:
    """An example of each of the paper's five tasks, for the loaded model.

    Args:
        pipe: a loaded pipeline; the bundled model gets scenes, any other photographs.
        folder: where the photographs lie.
    """
    return _scenes() if menagerie.describe(pipe) else _photographs(Path(folder))


def _scenes() -> dict[str, Example]:
    examples: dict[str, Example] = {}
    for name, scene, change in EXAMPLES:
        truth = scene.edit(**change).render()
        example = Example(scene.render(), *prompt_pair(scene, **change), TASKS[name].editor, truth)
        examples.setdefault(name, example)
    return examples


def _photographs(folder: Path) -> dict[str, Example]:
    cat, cup, woman = (images.load(folder / f"{name}.png") for name in ("chelsea", "coffee", "astronaut"))
    lying, table, suit = (
        "a photo of a {} lying on a blanket",
        "a {} cup of coffee on a {} table",
        "a photo of a woman{} in a space suit",
    )
    tiger = PromptToPrompt(self_replace=0.4, local_blend=LocalBlend(("cat", "tiger")))
    blue = PromptToPrompt(local_blend=LocalBlend(("cup", "cup")))
    return {
        "object swap": Example(cat, lying.format("cat"), lying.format("tiger"), tiger),
        "contextual change": Example(
            cup, table.format("red", "wooden"), table.format("red", "snowy"), PromptToPrompt(self_replace=0.5)
        ),
        "face attribute": Example(
            woman,
            suit.format(""),
            suit.format(" with glasses"),
            PromptToPrompt(self_replace=0.5, weights={"glasses": 2.0}),
        ),
        "colour change": Example(cup, table.format("red", "wooden"), table.format("blue", "wooden"), blue),
        "global editing": Example(
            cat,
            lying.format("cat"),
            lying.format("cat") + ", oil painting",
            PromptToPrompt(weights={"oil painting": 3.0}),
        ),
    }
