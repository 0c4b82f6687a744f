"""The one loop: from the noise maps back to pictures, the source row first and the targets with it."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from nmg import images, rows
from nmg.backbones import Backbone
from nmg.editors import Editor
from nmg.editors.recorder import AttentionMaps, AttentionRecorder
from nmg.guidance import CFG, Guidance, NullText, NullTexts
from nmg.guidance.cache import Recording, Replaying, key_of, replayable
from nmg.inversion import Inversion, Trajectory, bar, rise
from nmg.inversion.run import Callback
from nmg.levels import Step
from nmg.request import Request, digest
from nmg.run import Run, skipped
from nmg.types import Latents, Mask
from nmg.undo import gradients_kept

UNSEEN = 0.02
"""Drift up to which a reconstruction is not told from the picture, and plain DDIM's is not asked for."""
FEW = 5
"""Steps by which plain DDIM's drift is found."""


@torch.no_grad()
def denoise(run: Run, guidance: Guidance, editor: Editor) -> Iterator[tuple[Step, Latents]]:
    """Sample every row of a run from the noisiest map down, one step at a time.

    Nothing is checked here: `edit` checks its request, and `Request.check` does so for a run of one's own.

    Yields:
        Each step with the latents [rows, channels, height, width] that it ended at, in fp32.

    Raises:
        FloatingPointError: if a step gives values that are not finite.
    """
    guidance, editor = guidance.prepare(run), editor.prepare(run)
    run = dataclasses.replace(run, null_half=guidance.needs_null() or editor.needs_null())
    x = run.start
    for step in run.sampled:
        # Return to the inverted path before looking at the text.
        x = guidance.steer(run, step, x)

        # Predict the null and text halves under the editor's attention.
        text = rows.cat([guidance.null(run, step), editor.text(run, step)])
        doubled = editor.steer(run, step, rows.doubled(x), text)
        copies = rows.most(guidance.copies(run, step), editor.copies(run, step))
        seen = copies, editor.source_noise(run, step), run.null_half, editor.features(run, step)
        eps = run.predict(doubled, step, text, editor.attend(run, step), *seen)
        if (known := guidance.null_noise(run, step)) is not None:
            eps = rows.with_null_source(known, eps)

        # One DDIM step.
        x = rows.halves(doubled)[0]
        x = run.down(x, editor.follow(run, step, x, eps, guidance.combine(run, step, eps)), step)
        x = guidance.correct(run, step, x, eps)
        x = editor.blend(run, step, x)

        if not x.isfinite().all():
            raise FloatingPointError(
                f"step {step.index} (t = {step.timestep}) gave values that are not finite; lower the "
                "scales, or load the pipeline in float32 or bfloat16"
            )
        yield step, x


@dataclass(frozen=True, eq=False, kw_only=True)
class Sampled:
    """What a run along a trajectory found.

    Attributes:
        latents: of all rows at level 0, [rows, channels, height, width].
        trajectory: the noise maps, with the source row of this run in their cache. Another edit along it, with the same
            guidance, replays that row and computes the targets alone.
        drift: distance of the source row's end from the picture's latent, relative to that latent: 0 is exact, and
            from 1 on nothing of the picture is left.
        plain_drift: the same of plain DDIM's source row (see `plain_drift`); None where the two are not compared, since
            the row drifted by less than `UNSEEN`, or is plain DDIM's own. A warning says which row drifted farther than
            plain DDIM's.
        replayed: whether the source row was replayed from the cache.
        attention: the words' attention maps, if they were asked for.
        region: where each row could differ from the source, if the editor restricts that (`LocalBlend`).
    """

    latents: Latents
    trajectory: Trajectory
    drift: float
    plain_drift: float | None
    replayed: bool
    attention: AttentionMaps | None = None
    region: Mask | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Edit(Sampled):
    """What an edit returns: what its run found (see `Sampled`), and the pictures.

    Attributes:
        source: the picture that was inverted, as the model saw it (None if only its trajectory was given).
        reconstruction: the source row's picture. Its drift from the source tells how far to trust the edits.
        pictures: one edited picture per target prompt.
        request: what was asked for, with every default filled in.
    """

    source: Image.Image | None
    reconstruction: Image.Image
    pictures: list[Image.Image]
    request: Request


def prepare(
    pipe: Any,
    trajectory: Trajectory,
    targets: Sequence[str] = (),
    negative: str = "",
    guidance: Guidance | None = None,
    skip: float = 0.0,
) -> Run:
    """Encode the prompts and gather what a run needs.

    Args:
        trajectory: of the source picture; its prompt is the source prompt.
        targets: target prompts, possibly none.
        negative: the prompt of the null half.
        guidance: whose `embedded_scale` a guidance-distilled network is told.
        skip: share of the steps, the noisiest, that is left out.

    Raises:
        TypeError, ValueError: for prompts that can't be used, or a trajectory of another model.
    """
    backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
    guidance = CFG(embedded_scale=None if guidance is None else guidance.embedded_scale)
    given: dict[str, Any] = {"guidance": guidance, "editor": Editor(), "skip": skip}
    request = Request(trajectory, targets=tuple(targets), negative=negative, **given)
    request = request.resolved(backbone)
    request.check(backbone)
    return encoded(backbone, request, trajectory)


def encoded(backbone: Backbone, request: Request, trajectory: Trajectory) -> Run:
    """The run of a checked request."""
    text, null = backbone.texts(request.prompts, request.negative or "")
    told = request.guidance.embedded_scale
    text = text.with_guidance(backbone.settings.embedded_scale or 1.0 if told is None else told)
    null, first = null.expand(len(text)), skipped(request.skip or 0, len(trajectory.steps))
    return Run(backbone, trajectory.to(backbone.device), request.prompts, text, null, first=first)


@gradients_kept
def edit(
    pipe: Any,
    image: Any,
    source: str | None = None,
    targets: Sequence[str] = (),
    *,
    guidance: Guidance | None = None,
    editor: Editor | None = None,
    steps: int | None = None,
    size: tuple[int, int] | None = None,
    negative: str | None = None,
    inversion: Inversion | None = None,
    convention: str | None = None,
    offset: int | None = None,
    skip: float | None = None,
    callback: Callback | None = None,
    attention: bool = False,
    progress: bool = True,
) -> Edit:
    """Edit a real picture: invert it, then sample source and targets together.

    Args:
        pipe: a loaded Stable Diffusion pipeline, or a `Backbone`.
        image: whatever `images.load` reads; or a `Trajectory`, to edit the same picture again; or a `Request`, which
            says all that follows up to `skip`. The trajectory that an edit returns holds the source row, which an
            edit with the same guidance replays.
        source: what the picture shows; not needed with a trajectory.
        targets: what the edited pictures should show, one prompt each. None are needed for the reconstruction alone, or
            for an editor that has a target of its own.
        guidance: how the source row stays on its noise maps; `default_guidance(pipe)` if not given: `NoiseMap` at the
            model's scales.
        editor: what the targets take from the source; `PromptToPrompt()` if not given.
        steps: of inversion and sampling, 50 if not given.
        size: width and height in pixels; the model's own if not given.
        negative: the prompt of the null half. If not given, the editor's habit: empty, or the source prompt for
            pix2pix-zero.
        inversion, convention, offset: of the inversion; see `invert`. The editor's habit is `DDIM()`, as a rule.
        skip: share of the steps, the noisiest, that is left out: every row begins at the noise map of the first step
            after them, so that less of the picture can change. The editor's habit, as a rule 0, if not given.
        callback: called after each step with the step and the latents of all rows.
        attention: whether to return the words' attention maps.
        progress: whether to show bars.

    Raises:
        TypeError, ValueError, FileNotFoundError: for an input that can't be used, with what works.
    """
    given: dict[str, Any] = {
        "source": source,
        "targets": targets,
        "negative": negative,
        "guidance": guidance,
        "editor": editor,
    }
    given |= {"inversion": inversion, "steps": steps, "size": size, "convention": convention, "offset": offset}
    given["skip"] = skip
    backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
    request = _asked(image, given).resolved(backbone)
    try:
        if attention:
            backbone.check_word_maps("attention=True", "leave it out")
        opened, picture, trajectory = begin(backbone, request, progress)
        found = sample(backbone, opened, trajectory, callback, attention, progress)
        pictures = images.to_pil(backbone.decode(found.latents))
    finally:
        backbone.release()
    request = dataclasses.replace(request, digest=opened.digest)
    first, *rest = pictures
    return Edit(source=picture, reconstruction=first, pictures=rest, request=request, **vars(found))


def _asked(image: Any, given: dict[str, Any]) -> Request:
    """The request that `edit` was given, as one value or as arguments."""
    if not isinstance(image, Request):
        return Request(image, **given)
    if names := [name for name, value in given.items() if value is not None and value != ()]:
        raise TypeError(
            f"a Request and {', '.join(names)} are both given; the request says all of it: change it with "
            "dataclasses.replace"
        )
    return image


def begin(backbone: Backbone, request: Request, progress: bool) -> tuple[Request, Image.Image | None, Trajectory]:
    """Check a resolved request, then invert its picture.

    Returns:
        The request with its files read and the picture's digest; the picture as the model sees it; its trajectory.
    """
    opened = request.opened()
    opened.check(backbone)
    for said in opened.remarks(backbone):
        warnings.warn(said, stacklevel=3)
    if isinstance(request.image, Trajectory):
        return opened, None, request.image
    picture = backbone.prepare(request.image, request.size)
    found = digest(picture)
    if request.digest not in ("", found):
        raise ValueError(
            f"this is not the picture that was edited: its digest is {found}, and the request's {request.digest}; give "
            'the picture that was edited, or digest="" to edit another one in the same way'
        )
    settings = (request.source, request.steps, request.convention, request.offset, progress, request.inversion)
    trajectory = rise(backbone, backbone.encode(images.to_tensor(picture)), *settings)
    return dataclasses.replace(opened, digest=found), picture, trajectory


def sample(
    backbone: Backbone,
    request: Request,
    trajectory: Trajectory,
    callback: Callback | None = None,
    attention: bool = False,
    progress: bool = False,
) -> Sampled:
    """Sample source and targets of a checked request along a trajectory; see `edit`."""
    run = encoded(backbone, request, trajectory)
    # A row that leaves steps out is not the one that others replay.
    key = None if run.first else key_of(run.trajectory, request.guidance, request.negative)
    row = run.trajectory.cache if replayable(run, key) else None
    replayed, recording = row is not None, Recording(guidance=request.guidance)
    guidance = recording if row is None else Replaying(guidance=request.guidance, source=row)
    editor = request.editor.prepare(run)
    recorder, latents = AttentionRecorder(editor), run.start

    steps = denoise(run, guidance, recorder if attention else editor)
    for step, latents in bar(steps, "edit" if len(run.prompts) > 1 else "reconstruct", progress, len(run.sampled)):
        if callback is not None:
            callback(step, latents)

    if row is None and key is not None:
        row = recording.row(key)
    drift = drifted(rows.source(latents), run.trajectory)
    plain = row.plain_drift if row and replayed else plain_drift(run, request.guidance) if drift > UNSEEN else None
    row = row and dataclasses.replace(row, plain_drift=plain)
    if said := _said(drift, plain):
        warnings.warn(said, stacklevel=3)
    region = editor.mask(run)
    return Sampled(
        latents=latents,
        trajectory=dataclasses.replace(run.trajectory, cache=row or run.trajectory.cache),
        drift=drift,
        plain_drift=plain,
        replayed=replayed,
        attention=recorder.maps(run) if attention else None,
        region=None if region is None else region.cpu(),
    )


def drifted(source: Latents, trajectory: Trajectory) -> float:
    """See `Sampled.drift`."""
    return ((source - trajectory.maps[:1]).norm() / trajectory.maps[:1].norm()).item()


def plain_drift(run: Run, guidance: Guidance) -> float | None:
    """The drift of plain DDIM's source row at the guidance's text scale, sampled in a few of the run's levels.

    How far that row drifts hardly depends on how many steps it takes: on the bundled model .35, .32 and .30 in 5, 10
    and 20 steps at text scale 3, and .68, .58 and .57 at 7.5. The few come out slightly above the many.

    Returns:
        None for plain DDIM itself, for a trajectory that other steps than DDIM's join, and for a run that leaves steps
        out.
    """
    if type(guidance) is CFG or run.first or run.trajectory.residuals is not None:
        return None
    trajectory = dataclasses.replace(run.trajectory, steps=_few(run.steps), cache=None)
    alone = dataclasses.replace(
        run, trajectory=trajectory, prompts=run.prompts[:1], text=rows.source(run.text), null=rows.source(run.null)
    )
    try:
        *_, (_, latents) = denoise(alone, CFG(guidance.text_scale), Editor())
    except FloatingPointError:
        return math.inf
    return drifted(latents, trajectory)


def _few(steps: Sequence[Step]) -> tuple[Step, ...]:
    """At most `FEW` longer steps over the same levels."""
    chosen = steps[:: math.ceil(len(steps) / FEW)]
    ends = [*(step.here for step in chosen[1:]), steps[-1].there]
    return tuple(
        dataclasses.replace(step, index=i, there=end) for i, (step, end) in enumerate(zip(chosen, ends, strict=True))
    )


def _said(drift: float, plain: float | None) -> str | None:
    """What to say about a source row that drifted, if anything."""
    cure = "lower the guidance's scales, take more steps, or give NoiseMap a bound"
    if plain is not None and drift > plain:
        return (
            f"the source row drifted by {drift:.2g} of the picture's own latent, farther than plain DDIM's would "
            f"({plain:.2g}), so that the guidance keeps less of it than none: {cure}"
        )
    if drift > 1:
        return (
            f"the source row drifted by {drift:.2g} of the picture's own latent, so that the edits show little of it: "
            f"{cure}"
        )
    return None


@gradients_kept
def find_null_texts(
    pipe: Any, trajectory: Trajectory, guidance: NullText | None = None, progress: bool = True
) -> NullTexts:
    """The null embeddings of null-text inversion, to be saved, or used again as `NullText(embeddings=…)`.

    Args:
        pipe: a loaded Stable Diffusion pipeline, or a `Backbone`.
        trajectory: of the picture.
        guidance: settings of the search, `NullText()` if not given.
    """
    backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
    guidance = dataclasses.replace(guidance or NullText(), embeddings=None)
    request = Request(trajectory, guidance=guidance, editor=Editor()).resolved(backbone)
    request.check(backbone)
    run = encoded(backbone, request, trajectory)
    search = guidance.search(run)
    for _ in bar(denoise(run, search, Editor()), "null texts", progress, len(run.steps)):
        pass
    backbone.release()
    return search.texts(run)
