"""One case of a benchmark while its items are measured: the edit, its cost and its scores become a record."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

import nmg
from nmg import images
from nmg.backbones import Backbone
from nmg.editors import Editor
from nmg.files import replacing
from nmg.guidance import Guidance
from nmg.inversion import Trajectory
from nmg.lab import metrics
from nmg.lab.bench import meter
from nmg.lab.bench.methods import Method
from nmg.lab.bench.records import Item, Record
from nmg.lab.bench.suites import Case, Scores, Suite, named
from nmg.lab.scoring import finite
from nmg.request import Request
from nmg.serialize import packed

REFUSAL, FAILURE = ValueError, FloatingPointError
"""How the package refuses a combination, and how it stops at values that are not finite;
both come again in every run."""


@dataclass(frozen=True)
class Variant:
    """A method at one noise-map scale."""

    method: Method
    scale: float | None = None


@dataclass(frozen=True, eq=False)
class Setting:
    """What all edits of a run are made with.

    Attributes:
        model: name of the model, with a digest of its UNet.
    """

    backbone: Backbone
    suite: Suite
    folder: Path
    steps: int
    text_scale: float
    pictures: bool
    model: str

    @property
    def described(self) -> dict[str, Any]:
        """What records of the same folder must have in common."""
        return {
            **self.suite.described(),
            "model": self.model,
            "dtype": str(self.backbone.network.dtype).removeprefix("torch."),
            "device": self.device,
            "steps": self.steps,
            "text_scale": self.text_scale,
            "version": nmg.__version__,
        }

    @property
    def device(self) -> str:
        return meter.described(self.backbone.device)

    def guidance(self, variant: Variant) -> Guidance:
        return variant.method.guidance(self.text_scale, variant.scale)

    def request(self, case: Case, variant: Variant) -> Request:
        """The edit of a case."""
        method = variant.method
        return Request(
            case.picture,
            case.source,
            (case.target,),
            guidance=self.guidance(variant),
            editor=case.editor,
            inversion=method.inversion_at(self.text_scale),
            steps=self.steps,
            size=case.picture.size,
            convention=method.convention,
            offset=method.offset,
            skip=method.skip,
        )

    def of(self, variant: Variant, editor: Editor) -> dict[str, Any]:
        """All settings of an edit, as a record holds them."""
        method = variant.method
        return {
            "guidance": packed(self.guidance(variant)),
            "inversion": packed(method.inversion_at(self.text_scale)),
            "editor": packed(editor),
            "convention": method.convention,
            "offset": method.offset,
            **({} if method.skip is None else {"skip": method.skip}),
        }


@dataclass(frozen=True, eq=False)
class Work:
    """One case while its items are measured.

    Attributes:
        inverted: the trajectories so far and their seconds, by what they were made with.
    """

    setting: Setting
    case: Case
    inverted: dict[Any, tuple[Trajectory, float]] = field(default_factory=dict)

    def reference(self, item: Item) -> Record:
        """The record of a picture that no method makes."""
        picture = self.setting.suite.reference(item.method, self.case, self.setting.backbone)
        values, missing = self.score(picture)
        return self.record(item, metrics=values, missing=missing, pictures=self.saved(item, edit=picture))

    def edit(self, item: Item, variant: Variant) -> Record:
        """The record of one edit, or of its refusal or failure."""
        settings = self.setting.of(variant, self.case.editor)
        try:
            edit, trajectory, cost, seconds = self.made(variant)
        except (REFUSAL, FAILURE) as error:
            return self.record(item, settings=settings, refused=str(error), failed=isinstance(error, FAILURE))
        (picture,) = edit.pictures
        values, missing = self.score(picture)
        rebuilt, infinite = self.reconstruction(edit.reconstruction, trajectory)
        return self.record(
            item,
            settings=settings,
            metrics={**values, **rebuilt},
            missing={**missing, **infinite},
            seconds=cost.seconds,
            inversion_seconds=seconds,
            peak_mib=cost.peak_mib,
            pictures=self.saved(item, edit=picture, reconstruction=edit.reconstruction),
        )

    def made(self, variant: Variant) -> tuple[nmg.Edit, Trajectory, meter.Cost, float]:
        """The edit and its noise maps, what the edit cost, and the seconds of the inversion.

        Raises:
            ValueError: for a combination that the package refuses, before anything is inverted.
            FloatingPointError: for values that are not finite.
        """
        backbone, request = self.setting.backbone, self.setting.request(self.case, variant)
        request.resolved(backbone).opened().check(backbone)
        trajectory, seconds = self.trajectory(variant.method)
        options: dict[str, Any] = {"guidance": request.guidance, "editor": request.editor, "progress": False}
        options["skip"] = request.skip
        with meter.metered(backbone.device) as cost:
            edit = nmg.edit(backbone, trajectory, targets=[self.case.target], **options)
        return edit, trajectory, cost, seconds

    def trajectory(self, method: Method) -> tuple[Trajectory, float]:
        """The case's noise maps as a method makes them, and how long they took."""
        key = (method.inversion_at(self.setting.text_scale), method.convention, method.offset)
        if key not in self.inverted:
            options: dict[str, Any] = dict(zip(("inversion", "convention", "offset"), key, strict=True))
            options |= {"steps": self.setting.steps, "size": self.case.picture.size, "progress": False}
            with meter.metered(self.setting.backbone.device) as cost:
                made = nmg.invert(self.setting.backbone, self.case.picture, self.case.source, **options)
            self.inverted[key] = made, cost.seconds
        return self.inverted[key]

    def score(self, picture: Image.Image) -> Scores:
        return self.setting.suite.score(self.case, images.to_tensor(picture), self.setting.backbone)

    def reconstruction(self, picture: Image.Image, trajectory: Trajectory) -> Scores:
        """The source row's picture against the autoencoder's own, which is the best that it can be."""
        (ceiling,) = images.to_pil(self.setting.backbone.decode(trajectory.maps[:1]))
        a, b = images.to_tensor(picture), images.to_tensor(ceiling)
        measures = {"psnr": metrics.psnr, "mse": metrics.mse, "ssim": metrics.ssim}
        return finite({f"reconstruction_{name}": measure(a, b).item() for name, measure in measures.items()}, {})

    def saved(self, item: Item, **pictures: Image.Image) -> dict[str, str]:
        """Write pictures, and their paths relative to the folder."""
        if not self.setting.pictures:
            return {}
        paths = {}
        for name, picture in pictures.items():
            path = Path("pictures", *(_slug(part) for part in item.key.split("/")))
            path = path.with_name(f"{path.name}-{name}.png")
            (self.setting.folder / path).parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.setting.folder / path) as part:
                picture.save(part)
            paths[name] = path.as_posix()
        return paths

    def record(self, item: Item, **measured: Any) -> Record:
        return Record(
            key=item.key,
            **vars(item),
            editor=named(self.case.editor),
            steps=self.setting.steps,
            source=self.case.source,
            target=self.case.target,
            device=self.setting.device,
            version=nmg.__version__,
            model=self.setting.model,
            **measured,
        )


def _slug(text: str) -> str:
    """Text as part of a path: "NTI + NMG" is nti-nmg."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "default"
