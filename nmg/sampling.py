"""The one loop: from the noise maps back to pictures, the source leading and the targets following."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from nmg import images, levels, rows
from nmg.backbones import Backbone
from nmg.editors import Editor, PromptToPrompt
from nmg.guidance import CFG, NullText, NullTexts, default_guidance
from nmg.guidance.cache import Following, NetworkChanged, Walking, key_of
from nmg.inversion import DDIM, SourcePath, Trajectory, bar, invert
from nmg.inversion.run import Callback
from nmg.levels import Step
from nmg.run import Plan, Run
from nmg.types import Latents


@torch.no_grad()
def denoise(run: Run, guidance: CFG, editor: Editor) -> Iterator[tuple[Step, Latents]]:
    """Sample every row of a run from the noisiest map down, one DDIM step at a time.

    Yields:
        Each step with the latents [rows, channels, height, width] that it ended at, in fp32.

    Raises:
        FloatingPointError: if a step gives values that are not finite.
    """
    guidance, editor = guidance.prepare(run), editor.prepare(run)
    x = run.start
    for step in run.steps:
        # Return to the inverted path before looking at the text.
        x = guidance.steer(run, step, x)

        # Predict the null and text halves under the editor's attention.
        text = torch.cat([guidance.null(run, step), editor.text(run, step)])
        doubled = editor.steer(run, step, rows.doubled(x), text)
        copies = rows.most(guidance.copies(run, step), editor.copies(run, step))
        eps = run.eps(doubled, step, text, editor.attend(run, step), copies, editor.known(run, step))

        # One DDIM step.
        x = run.down(rows.halves(doubled)[0], guidance.combine(run, step, eps), step)
        x = guidance.correct(run, step, x, eps)
        x = editor.blend(run, step, x)

        if not x.isfinite().all():
            raise FloatingPointError(
                f"step {step.index} (t = {step.timestep}) gave values that are not finite; lower the "
                "scales, or load the pipeline in float32 or bfloat16"
            )
        yield step, x


@dataclass(eq=False)
class Descent:
    """A run along a trajectory whose source path is walked once: it follows the path that the trajectory holds if that
    is of this guidance, null prompt and network, and else walks it. Iterate it as `denoise`; then ask.

    Attributes:
        path: the source path, after the last step; None for a guidance that can't be told from others.
        followed: whether the path had been walked before.
    """

    run: Run
    guidance: CFG
    editor: Editor
    negative: str
    path: SourcePath | None = None
    followed: bool = False

    def __iter__(self) -> Iterator[tuple[Step, Latents]]:
        wrapped: dict[str, Any] = {"text_scale": self.guidance.text_scale, "guidance": self.guidance}
        key, kept = key_of(self.run.trajectory, self.guidance, self.negative), self.run.trajectory.path
        if kept is not None and kept.key == key:
            try:
                yield from denoise(self.run, Following(**wrapped, kept=kept), self.editor)
                self.path, self.followed = kept, True
                return
            except NetworkChanged:
                pass  # It shows before the first step ends: nothing was yielded yet.
        walking = Walking(**wrapped)
        yield from denoise(self.run, walking, self.editor)
        self.path = None if key is None else walking.path(key)


@dataclass(frozen=True, eq=False)
class Edit:
    """What an edit returns.

    Attributes:
        source: the picture that was inverted, as the model saw it (None if only its trajectory was given).
        reconstruction: the source row's picture; how far it strays from the source tells how far to trust the edits.
        pictures: one edited picture per target prompt.
        latents: of all rows at level 0, [rows, channels, height, width].
        trajectory: the noise maps and the source's path, ready for the next edit of the same picture: one with the same
            guidance follows the path and computes the targets alone.
        followed: whether the source's path had been walked before.
    """

    source: Image.Image | None
    reconstruction: Image.Image
    pictures: list[Image.Image]
    latents: Latents
    trajectory: Trajectory
    followed: bool = False


def prepare(pipe: Any, trajectory: Trajectory, targets: Sequence[str] = (), negative: str = "") -> Run:
    """Encode the prompts and gather what a run needs.

    Args:
        trajectory: of the source picture; its prompt is the source prompt.
        targets: target prompts, possibly none.
        negative: the prompt of the null half.

    Raises:
        TypeError, ValueError: for prompts that can't be used, or a trajectory of another model.
    """
    backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
    _check(trajectory, backbone)
    prompts = (trajectory.prompt, *_checked(targets))
    embeddings = backbone.text([*prompts, negative])
    null = embeddings[-1:].expand(len(prompts), -1, -1)
    return Run(backbone, trajectory.to(backbone.device), prompts, embeddings[:-1], null)


def _check(trajectory: Trajectory, backbone: Backbone) -> None:
    if trajectory.model != backbone.name:
        raise ValueError(
            f"the trajectory was made with {trajectory.model!r} and the pipeline is {backbone.name!r}; invert "
            "again, or use dataclasses.replace(trajectory, model=…) if the two are the same"
        )
    channels = backbone.unet.config.in_channels
    if trajectory.maps.shape[1] != channels:
        raise ValueError(
            f"the trajectory's maps have {trajectory.maps.shape[1]} channels and the network takes {channels}; "
            "invert again with this pipeline"
        )


def edit(
    pipe: Any,
    image: Any,
    source: str | None = None,
    targets: Sequence[str] = (),
    *,
    guidance: CFG | None = None,
    editor: Editor | None = None,
    steps: int | None = None,
    size: tuple[int, int] | None = None,
    negative: str | None = None,
    inversion: DDIM | None = None,
    convention: str | None = None,
    offset: int | None = None,
    callback: Callback | None = None,
    progress: bool = True,
) -> Edit:
    """Edit a real picture: invert it, then sample source and targets together.

    Args:
        pipe: a loaded Stable Diffusion pipeline, or a `Backbone`.
        image: whatever `images.load` reads, or a `Trajectory` to edit the same picture again; one that an edit returned
            holds the source's path, which an edit with the same guidance follows.
        source: what the picture shows; not needed with a trajectory.
        targets: what the edited pictures should show, one prompt each; none for the reconstruction alone, or
            for what the editor does without a target prompt.
        guidance: how the source row is kept on its path; `default_guidance(pipe)` if not given:
            `NoiseMap` at the model's scales.
        editor: what the targets take from the source; `PromptToPrompt()` if not given.
        steps: DDIM steps of the inversion, 50 if not given.
        size: width and height in pixels; the model's own if not given.
        negative: the prompt of the null half; the editor's habit if not given, which is empty, or the source prompt for
            pix2pix-zero.
        inversion, convention, offset: of the inversion; see `invert`.
        callback: called after each step with the step and the latents of all rows, to look at.
        progress: whether to show bars.

    Raises:
        TypeError, ValueError, FileNotFoundError: for an input that can't be used, with what works.
    """
    backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
    guidance, editor = guidance or default_guidance(backbone), editor or PromptToPrompt()
    known = image.prompt if isinstance(image, Trajectory) else source
    targets = _checked(targets) or editor.targets(known or "")
    picture = None
    given = {"steps": steps, "inversion": inversion, "convention": convention, "offset": offset}
    if isinstance(image, Trajectory):
        trajectory = image
        _agree(trajectory, backbone, {"source": source, "size": size, **given})
    else:
        if source is None:
            raise ValueError('source is missing; say what the picture shows, such as source="a photo of a cat"')
        picture = backbone.prepare(image, size)
        options: dict[str, Any] = {"steps": 50, "inversion": DDIM(), "convention": "aligned"}
        options |= {name: value for name, value in given.items() if value is not None}
        asked = options["inversion"], options["convention"], options["steps"]
        plan = Plan(*asked, latent_size=backbone.latent_size(picture), negative=negative)
        _check_all(backbone, [source, *targets], plan, offset, guidance, editor)
        trajectory = invert(backbone, picture, source, size=picture.size, progress=progress, **options)

    guidance.check(Plan.of(trajectory, negative))
    null = editor.negative(trajectory.prompt) if negative is None else negative
    run = prepare(backbone, trajectory, targets, null)
    descent, latents = Descent(run, guidance, editor, null), run.start
    try:
        for step, latents in bar_of(run, descent, progress):
            if callback is not None:
                callback(step, latents)
        pictures = images.to_pil(backbone.decode(latents))
    finally:
        backbone.release()
    walked = dataclasses.replace(run.trajectory, path=descent.path or run.trajectory.path)
    return Edit(picture, pictures[0], pictures[1:], latents, walked, descent.followed)


def _check_all(
    backbone: Backbone, prompts: Sequence[str], plan: Plan, offset: int | None, guidance: CFG, editor: Editor
) -> None:
    """Raise for all that can be wrong, before anything is computed."""
    backbone.check([*prompts, plan.negative or ""])
    levels.steps(backbone.scheduler, plan.steps, offset)
    editor.check(backbone, prompts, plan)
    plan.inversion.check(plan.convention)
    guidance.check(plan)


def find_null_texts(
    pipe: Any, trajectory: Trajectory, guidance: NullText | None = None, progress: bool = True
) -> NullTexts:
    """The null embeddings of null-text inversion, to be saved, or used again as `NullText(embeddings=…)`.

    Args:
        pipe: a loaded Stable Diffusion pipeline, or a `Backbone`.
        trajectory: of the picture.
        guidance: settings of the search, `NullText()` if not given.
    """
    run = prepare(pipe, trajectory)
    search = (guidance or NullText()).search(run)
    for _ in bar(denoise(run, search, Editor()), "null texts", progress, len(run.steps)):
        pass
    run.backbone.release()
    return search.texts(run)


def bar_of(run: Run, iterator: Iterable, shown: bool) -> Iterable:
    """The steps of a run behind a progress bar."""
    return bar(iterator, "edit" if len(run.prompts) > 1 else "reconstruct", shown, len(run.steps))


def _checked(targets: Sequence[str]) -> Sequence[str]:
    if isinstance(targets, str):
        raise TypeError(f"targets is one string; give a list of prompts, targets=[{targets!r}]")
    if any(isinstance(prompt, str) and not prompt.strip() for prompt in targets):
        raise ValueError("a target prompt is empty, which asks for no edit; say what the edited picture should show")
    return targets


def _agree(trajectory: Trajectory, backbone: Backbone, given: dict[str, Any]) -> None:
    """Raise if an option given beside a trajectory says other than the trajectory."""
    size = tuple(n * backbone.pixels_per_latent for n in trajectory.latent_size[::-1])
    own = {
        "source": trajectory.prompt,
        "steps": len(trajectory.steps),
        "size": size,
        "inversion": trajectory.inversion,
        "convention": trajectory.convention,
        "offset": trajectory.steps[-1].timestep,
    }
    for name, value in given.items():
        if value is not None and value != own[name]:
            raise ValueError(f"{name}={value!r} is not the trajectory's {own[name]!r}; leave it out, or invert again")
