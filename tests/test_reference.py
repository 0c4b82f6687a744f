"""Parity with recordings of the authors' implementation, step by step (see reference/README.md).

Every `case.json` below the folders of `$NMG_REFERENCE` is a test; without it, those of `tests/reference`. A case says
by its method, or a unit by its tensors, what is compared, so that new recordings of the same methods need no new code.
The limits are those of `tolerances.json`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from nmg import (
    CFG,
    Backbone,
    EditDirection,
    Editor,
    LocalBlend,
    MasaCtrl,
    NoiseMap,
    Pix2PixZero,
    PromptToPrompt,
    Regularised,
    Trajectory,
    denoise,
    images,
    prepare,
    steps,
    transfer,
)
from nmg.alignment import find, refinement, replacement_by_authors, tokenize
from nmg.attention import Attend, Site, attention, probabilities
from nmg.conditioning import Conditioning
from nmg.editors import pix2pix_zero, prompt_to_prompt
from nmg.editors.prompt_to_prompt import _Blending, _marked, _Running
from nmg.guidance import noise_map
from nmg.guidance.noise_map import REFERENCE_ELEMENTS
from nmg.inversion import CONVENTIONS, regularised, rise
from nmg.levels import Level, Step, diffusion
from nmg.run import PUBLISHED_STEPS, Run

HERE = Path(__file__).parent
DEFAULT_FOLDERS = (HERE / "reference",)
LATENTS, SINGLE, PICTURE = {"rel_rms": 0.01, "rel_median": 3e-4}, {"rel_rms": 2e-5, "rel_median": 2e-5}, 0.002
"""Limits without a row of their own: latents of a run, a single step or map, and the share of a picture's numbers."""


# ---------------------------------------------------------------- cases and their limits


def folders() -> list[Path]:
    given = os.environ.get("NMG_REFERENCE")
    places = [Path(place) for place in given.split(os.pathsep) if place] if given else DEFAULT_FOLDERS
    return [place for place in places if place.is_dir()]


@dataclass(frozen=True, eq=False)
class Case:
    """One recording: a folder with what was called, and the tensors that it gave."""

    path: Path
    name: str
    params: dict[str, Any]
    shapes: dict[str, Sequence[int]]
    model: str

    @classmethod
    def read(cls, path: Path) -> Case:
        data = json.loads(path.read_text())
        shapes = {name: shape for name, (_, shape) in data.get("tensors", {}).items()}
        return cls(
            path.parent, data.get("case", path.parent.name), data["params"], shapes, data.get("model", "sd-shaped")
        )

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path / "tensors.safetensors")

    def beside(self, name: str) -> Path:
        """A file or folder next to this case, or in another of the reference folders."""
        for folder in (self.path.parent, *folders(), *DEFAULT_FOLDERS):
            if (folder / name).exists():
                return folder / name
        raise FileNotFoundError(f"{self.name} needs {name!r}, which is in none of the reference folders")

    @functools.cached_property
    def limits(self) -> dict[str, dict[str, float]]:
        try:
            return json.loads(self.beside("tolerances.json").read_text()).get(self.name, {})
        except FileNotFoundError:
            return {}

    @property
    def is_slow(self) -> bool:
        return any(shape[-1] >= 64 for name, shape in self.shapes.items() if name in ("latents", "noise_maps"))

    @property
    def backbone(self) -> Backbone:
        return load_backbone(self.beside(self.model))


@functools.cache
def load_backbone(folder: Path) -> Backbone:
    from diffusers import StableDiffusionPipeline

    return Backbone(StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True))


def cases() -> list[Any]:
    """Every case once, though several folders may hold it."""
    found: dict[str, Case] = {}
    for folder in folders():
        for path in sorted(folder.rglob("case.json")):
            case = Case.read(path)
            found.setdefault(json.dumps([case.name, case.params], sort_keys=True), case)
    return [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.is_slow else []) for case in found.values()
    ]


class Verdict:
    """Collects the errors of a case, so that a failure shows them all and the report shows the largest."""

    def __init__(self, case: Case):
        self.case = case
        self.rows: list[tuple[str, float, float, float, float]] = []
        self.integers: list[tuple[str, float, float]] = []

    def close(
        self, name: str, got: Tensor, default: dict[str, float] = LATENTS, rows: int | None = None, suffix: str = ""
    ) -> None:
        """Compare floats with the recording `name`: relative rms and median error,
        the worse of the rows on axis `rows`."""
        want, got = self.case.tensors[name].float(), got.detach().float().cpu()
        assert got.shape == want.shape, f"{name}: {list(got.shape)} instead of {list(want.shape)}"
        assert got.isfinite().all(), f"{name} is not finite"
        limit = self.case.limits.get(name, default)
        pairs = [(got, want)] if rows is None else zip(got.unbind(rows), want.unbind(rows), strict=True)
        scores = []
        for mine, theirs in pairs:
            error, scale = (mine - theirs).abs(), theirs.square().mean().sqrt().clamp_min(1e-12)
            scores.append(((error.square().mean().sqrt() / scale).item(), (error.median() / scale).item()))
        rms, median = (max(score) for score in zip(*scores, strict=True))
        self.rows.append(
            (
                name,
                rms,
                median,
                limit.get(f"rel_rms{suffix}", limit["rel_rms"]),
                limit.get(f"rel_median{suffix}", limit["rel_median"]),
            )
        )

    def same(self, name: str, got: Any, want: Any = None, default: float = 0.0, within: int = 0) -> None:
        """Compare integers with the recording `name`, or with `want`: the share that differs by more than `within`."""
        limit = self.case.limits.get(name, {}).get("max_int_diff_fraction", default)
        want = self.case.tensors[name] if want is None else want
        got, want = torch.as_tensor(got), torch.as_tensor(want)
        assert got.shape == want.shape, f"{name}: {list(got.shape)} instead of {list(want.shape)}"
        self.integers.append((name, ((got.double() - want.double()).abs() > within).double().mean().item(), limit))

    def __str__(self) -> str:
        """The largest errors, as the report shows them."""
        parts = []
        for what, index in (("rms", 1), ("median", 2)):
            if self.rows:
                worst = max(self.rows, key=lambda row: row[index])
                parts.append(f"{what} {worst[index]:.1e} ({worst[0]})")
        if self.integers:
            name, share, _ = max(self.integers, key=lambda row: row[1])
            parts.append(f"integers off {share:.1e}" + (f" ({name})" if share else ""))
        return f"{self.case.name:22} {len(self.rows) + len(self.integers):3} tensors  {'  '.join(parts)}"

    def conclude(self) -> None:
        assert self.rows or self.integers, f"nothing was compared in {self.case.name}"
        wrong = [
            f"{n}: rms {r:.2e} (limit {lr:.1e}), median {m:.2e} (limit {lm:.1e})"
            for n, r, m, lr, lm in self.rows
            if not (r <= lr and m <= lm)
        ]
        wrong += [
            f"{n}: {share:.2e} of the integers differ (limit {limit})"
            for n, share, limit in self.integers
            if share > limit
        ]
        assert not wrong, "\n".join([self.case.name, *wrong])


# ---------------------------------------------------------------- inversion

INVERSIONS = {
    "NMGPipeline.invert": ("diffusers-0.18", 0),
    "StableDiffusionPix2PixZeroPipeline.invert_ddim": ("diffusers-0.18", 0),
    "StableDiffusionPix2PixZeroPipeline.invert": ("diffusers-0.18", 0),
    "MasaCtrlPipeline.invert": ("aligned", 1),
}


def inversion(case: Case, verdict: Verdict) -> None:
    convention, offset = INVERSIONS[case.params["method"]]
    if case.params.get("guidance_scale", 1) != 1:
        pytest.fail(f"inversion at guidance {case.params['guidance_scale']} is not offered")
    offset, maps = case.params.get("steps_offset_after_load", offset), case.tensors["noise_maps"]
    trajectory = rise(
        case.backbone, maps[0], case.params["prompt"], case.params["num_inference_steps"], convention, offset
    )
    verdict.same("timesteps", [step.timestep for step in reversed(trajectory.steps)])
    verdict.close("noise_maps", trajectory.maps[:, None], rows=1, suffix="_when_started_from_noise_maps_0")


def regularised_inversion(case: Case, verdict: Verdict) -> None:
    """With the shifts that the authors' generator drew, which may be 0 there."""
    p, maps, drawn = case.params, case.tensors["noise_maps"], iter(case.tensors["rolls"].flatten(0, 2).tolist())
    method = Regularised(p["lambda_auto_corr"], p["lambda_kl"], p["num_reg_steps"], p["num_auto_corr_rolls"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regularised, "draw_shifts", lambda shape, generator: next(drawn))
        trajectory = rise(
            case.backbone, maps[0], p["prompt"], p["num_inference_steps"], "diffusers-0.18", 0, inversion=method
        )
    assert next(drawn, None) is None
    verdict.same("timesteps", [step.timestep for step in reversed(trajectory.steps)])
    verdict.close("noise_maps", trajectory.maps[:, None], rows=1, suffix="_when_started_from_noise_maps_0")


def recorded_trajectory(case: Case) -> Trajectory:
    """The recorded noise maps of the inversion that a run started from."""
    source = Case.read(case.beside(case.params["inversion_case"]) / "case.json")
    convention, offset = INVERSIONS[source.params["method"]]
    return trajectory_on(
        case.backbone,
        source.tensors["noise_maps"][:, 0],
        source.params["prompt"],
        convention,
        source.params.get("steps_offset_after_load", offset),
    )


def trajectory_on(
    backbone: Backbone, maps: Tensor, prompt: str, convention: str = "aligned", offset: int = 0
) -> Trajectory:
    down = steps(backbone.scheduler, len(maps) - 1, offset)
    rises = CONVENTIONS[convention](down, backbone.scheduler)
    levels = (rises[0].here, *(up.there for up in rises))
    return Trajectory(maps, levels, down, prompt, backbone.name, convention)


# ---------------------------------------------------------------- runs: reconstruction, and the three editors


def reconstruction(case: Case, verdict: Verdict) -> None:
    run = run_of(case, [case.params["prompt"]])
    watch_run(case, verdict, run, guidance_of(case, run), Editor())


def editing(case: Case, verdict: Verdict) -> None:
    run = run_of(case, case.params["prompts"])
    editor = editor_of(case.params, case.params["prompts"])
    if isinstance(editor, PromptToPrompt):
        token_maps(case, verdict, editor, run)
    watch_run(case, verdict, run, guidance_of(case, run), editor)


def masactrl_editing(case: Case, verdict: Verdict) -> None:
    p, run = case.params, run_of(case, case.params["prompts"])
    guidance = dataclasses.replace(guidance_of(case, run), level="start")
    watch_run(case, verdict, run, guidance, MasaCtrl(p["STEP"], p["LAYER"]))


def pix2pix_zero_editing(case: Case, verdict: Verdict) -> None:
    """With noise maps, or as the authors' plain pipeline without: classifier-free guidance then leads the source."""
    p, t, plain = case.params, case.tensors, case.params["method"].endswith(".__call__")
    trajectory = recorded_trajectory(case)
    run = prepare(case.backbone, trajectory, ["target"], p.get("negative_prompt") or "")
    guidance = CFG(text_scale_of(case)) if plain else guidance_of(case, run)
    verdict.close("edit_direction", t["target_embeds"] - t["source_embeds"], SINGLE)
    direction = EditDirection(t["edit_direction"], ("source",), ("target",), 1.0)
    # The authors' amount is that of each step, whatever their number.
    editor = Pix2PixZero(direction, p["cross_attention_guidance_amount"] * len(run.steps) / PUBLISHED_STEPS)
    steered: list[Tensor] = []
    with watched() as (transfers, _), pytest.MonkeyPatch.context() as patch:
        steer = pix2pix_zero._Running.steer
        patch.setattr(pix2pix_zero._Running, "steer", lambda *given: steered.append(steer(*given)) or steered[-1])
        latents = torch.stack([x for _, x in denoise(run, guidance, editor)])
    verdict.close("recon_latents", latents[:, :1], rows=1)
    verdict.close("edit_latents", latents[:, 1:], rows=1)
    halves = ("cfg",) if plain else ("uncond", "nmg", "cfg")
    for i in range(len(run.steps)):
        done = dict(zip(halves, transfers[len(halves) * i : len(halves) * (i + 1)], strict=True))
        got = {f"edit{i}.eps_cfg": done["cfg"][0][1:], f"edit{i}.x_guided": steered[i][1:2]}
        for half, (eps, previous) in done.items():
            got |= {f"step{i}.eps_{half}": eps[:1], f"step{i}.prev_{half}": previous[:1]}
        for name in got.keys() & case.shapes.keys():
            verdict.close(name, got[name], rows=0)
    if "edit_image_u8" in case.shapes:
        (decoded,) = images.to_pil(run.backbone.decode(latents[-1][1:]))
        verdict.same("edit_image_u8", np.array(decoded), default=PICTURE, within=1)


def run_of(case: Case, prompts: Sequence[str]) -> Run:
    # At text scale 1 the authors' null prompt silently is the source prompt.
    negative = case.params.get("negative_prompt") or ("" if text_scale_of(case) > 1 else prompts[0])
    trajectory = recorded_trajectory(case)
    assert trajectory.prompt == prompts[0]
    return prepare(case.backbone, trajectory, list(prompts[1:]), negative)


def text_scale_of(case: Case) -> float:
    return case.params.get("guidance_text", case.params.get("guidance_scale"))


def guidance_of(case: Case, run: Run) -> NoiseMap:
    p, elements = case.params, run.trajectory.start.numel()
    return NoiseMap(
        # The authors' strength is that of each step, whatever their number.
        noise_map_scale=p["guidance_noise_map"] * PUBLISHED_STEPS / len(run.steps),
        gradient_scale=p["grad_scale"] * REFERENCE_ELEMENTS / elements,
        text_scale=text_scale_of(case),
        energy=p.get("noise_cond_loss_type", "l1"),
        bound=None,
    )


def editor_of(params: dict[str, Any], prompts: Sequence[str]) -> Editor:
    """The authors' controller as an editor; words that are in no prompt do nothing for them, and are left out."""
    modes = {"replace": "replace", "refine": "refine", "AttentionReplace": "replace", "AttentionRefine": "refine"}
    if params.get("controller") in (None, "EmptyControl", "AttentionStore"):
        return Editor()
    held = {word for prompt in prompts[1:] for word in prompt.split(" ")}
    weights = params.get("reweight") or {"words": [], "values": []}
    blend = None
    if params.get("blend_word"):
        blend = blend_of({**params, "words": params["blend_word"]})
    return PromptToPrompt(
        self_positions=32 * 32,
        mode=modes[params["controller"]],
        cross_replace=windows_of(params["cross_replace_steps"], held),
        self_replace=window_of(params["self_replace_steps"]),
        local_blend=blend,
        word_map="authors",
        weights={w: v for w, v in zip(weights["words"], weights["values"], strict=True) if w in held},
    )


def window_of(window: Any) -> Any:
    return tuple(window) if isinstance(window, list) else window


def windows_of(windows: Any, held: set[str]) -> Any:
    if not isinstance(windows, dict):
        return window_of(windows)
    named = {word: window_of(window) for word, window in windows.items() if word in held or word == "default_"}
    return {"default_": 1.0, **named}


def blend_of(params: dict[str, Any]) -> LocalBlend:
    options = {"threshold": tuple(params["th"])} if params.get("th") else {}
    if params.get("start_blend") is not None:
        options["start"] = params["start_blend"]
    return LocalBlend(words=params["words"], subtract=params.get("substruct_words"), **options)


def token_maps(case: Case, verdict: Verdict, editor: PromptToPrompt, run: Run) -> None:
    """The maps between the prompts' tokens, the word schedule and the factors, as far as they were recorded."""
    tokens = [tokenize(prompt, run.backbone.tokenizer) for prompt in run.prompts]
    maps = [editor.correspondence(tokens[0], target) for target in tokens[1:]]
    if "mapper" in case.shapes:
        compare_maps(verdict, "mapper", "mapper_alphas", maps)
    if "equalizer" in case.shapes:
        verdict.close("equalizer", editor.factors(tokens[1:]), SINGLE)
    if "cross_replace_alpha" in case.shapes:
        compare_schedule(verdict, "cross_replace_alpha", editor.schedule(tokens[1:], len(run.steps)))
    if "blend_alpha_layers" in case.shapes:
        verdict.close(
            "blend_alpha_layers", _marked(editor.local_blend.words, tokens)[:, None, None, None, None], SINGLE
        )


def compare_maps(verdict: Verdict, mapper: str, alphas: str, maps: Sequence[Any]) -> None:
    if verdict.case.tensors[mapper].is_floating_point():
        verdict.close(mapper, torch.stack([m.weights for m in maps]), SINGLE)
        return
    partners = torch.stack([torch.where(m.kept > 0, m.weights.argmax(0), -1) for m in maps])
    verdict.same(mapper, partners)
    verdict.close(alphas, torch.stack([m.kept for m in maps]).view(verdict.case.tensors[alphas].shape), SINGLE)


def compare_schedule(verdict: Verdict, name: str, active: Tensor) -> None:
    # The authors' schedule has one row more than there are steps, which no step reads.
    want = verdict.case.tensors[name][: len(active)]
    verdict.same(name, active, want.view(active.shape))


def watch_run(case: Case, verdict: Verdict, run: Run, guidance: NoiseMap, editor: Editor) -> None:
    """Sample a run and compare everything that was recorded of it."""
    store: dict[str, Tensor] = {}
    watching = Watching(editor, store) if any(name.startswith("attn_avg.") for name in case.shapes) else editor
    with watched() as (transfers, masks):
        latents = torch.stack([x for _, x in denoise(run, guidance, watching)])

    recorded = recorded_steps(case, latents)
    verdict.close("latents", latents[recorded], rows=1)
    if "latents_final" in case.shapes:
        verdict.close("latents_final", latents[-1], rows=0)
    for i in range(len(run.steps)):
        for half, (eps, previous) in zip(("uncond", "nmg", "cfg"), transfers[3 * i : 3 * i + 3], strict=True):
            for name, got in ((f"step{i}.eps_{half}", eps), (f"step{i}.prev_{half}", previous)):
                if name in case.shapes:
                    verdict.close(name, got, rows=0)
    for name in case.shapes:
        if name.startswith("attn_avg."):
            verdict.close(name, store[name.removeprefix("attn_avg.")] / len(run.steps), rows=0)
    if "masks_u8" in case.shapes:
        verdict.same("masks_u8", torch.stack(masks).byte(), union_of(case.tensors["masks_u8"], len(masks)))
    for name, row in (("image_u8", 0), ("image_u8_source", 0), ("image_u8_target", -1)):
        if name in case.shapes:
            (decoded,) = images.to_pil(run.backbone.decode(latents[-1][row][None]))
            # Rounding may fall either way; the authors' own repeats, whose latents differ by 1e-3, count none of that.
            verdict.same(name, np.array(decoded), default=PICTURE, within=1)


def recorded_steps(case: Case, latents: Tensor) -> list[int]:
    if (given := case.params.get("latents_steps")) is not None:
        return list(given)
    every = case.params.get("latents_every", 1)
    # Recordings of every k-th step don't say whether the first or the k-th leads: the nearer is meant.
    first = min((0, every - 1), key=lambda i: (latents[i] - case.tensors["latents"][0]).square().mean())
    return list(range(first, len(latents), every))


def union_of(masks: Tensor, count: int) -> Tensor:
    """Recorded masks; where words were subtracted, each mask is followed by theirs."""
    return masks if len(masks) == count else masks[0::2] & (1 - masks[1::2])


@contextmanager
def watched() -> Iterator[tuple[list[tuple[Tensor, Tensor]], list[Tensor]]]:
    """Collects the noise and result of every DDIM step of a run (null, guided, text), and its blend masks."""
    transfers, masks, mask = [], [], _Blending.mask

    def spied_transfer(x: Tensor, eps: Tensor, here: Level, there: Level) -> Tensor:
        out = transfer(x, eps, here, there)
        transfers.append((eps.detach(), out.detach()))
        return out

    def spied_mask(self: _Blending, size: tuple[int, int]) -> Tensor:
        masks.append(mask(self, size))
        return masks[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise_map, "transfer", spied_transfer)
        patch.setattr("nmg.run.transfer", spied_transfer)
        patch.setattr(prompt_to_prompt._Blending, "mask", spied_mask)
        yield transfers, masks


@dataclass(frozen=True)
class Watching(Editor):
    """Another editor, whose text half's cross-attention is summed as the authors' store does: by place, in order,
    up to 32×32 positions, mean over heads."""

    inner: Editor
    store: dict[str, Tensor]

    def prepare(self, run: Run) -> Editor:
        return Watching(self.inner.prepare(run), self.store)

    def blend(self, run: Run, step: Step, x: Tensor) -> Tensor:
        return self.inner.blend(run, step, x)

    def attend(self, run: Run, step: Step) -> Attend:
        inner, places = self.inner.attend(run, step), []

        def attend(site: Site, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor | None:
            edited: list[Tensor] = []
            with pytest.MonkeyPatch.context() as patch:
                original = _Running.edited
                patch.setattr(_Running, "edited", lambda *given: edited.append(original(*given)) or edited[-1])
                out = None if inner is None else inner(site, q, k, v, mask)
            if site.is_cross and q.shape[2] <= 32 * 32:
                maps = edited[0] if edited else probabilities(q.chunk(2)[1], k.chunk(2)[1])
                name = f"{site.place}_cross.{places.count(site.place)}"
                places.append(site.place)
                self.store[name] = self.store.get(name, 0) + maps.mean(1)
            return out

        return attend


# ---------------------------------------------------------------- units


def model_io(case: Case, verdict: Verdict) -> None:
    backbone, t = case.backbone, case.tensors
    tokens = backbone.tokenizer(case.params["texts"], padding="max_length", return_tensors="pt").input_ids
    verdict.same("input_ids", tokens)
    verdict.close("text_embeds", backbone.text(case.params["texts"]).tokens, SINGLE, rows=0)
    for name in case.shapes:
        if name.startswith("unet"):
            network, timestep = name.split(".t")
            x = t[f"x{network.removeprefix('unet')}"]
            with torch.no_grad():
                eps = backbone.predict(
                    x, Step(0, int(timestep), diffusion(0.5), diffusion(0.5)), Conditioning(t["text_embeds"][: len(x)])
                )
            verdict.close(name, eps, SINGLE, rows=0)
    if "vae.mean" in case.shapes:
        picture = Image.open(case.beside("images/astronaut256.png"))
        scaling = backbone.vae.config.scaling_factor
        verdict.close("vae.mean", backbone.encode(images.to_tensor(picture)) / scaling, SINGLE)
        with torch.no_grad():
            decoded = backbone.vae.decode(t["vae.mean"]).sample
        verdict.close("vae.decoded", decoded, SINGLE)


def schedule(case: Case, verdict: Verdict) -> None:
    scheduler, t = case.backbone.scheduler, case.tensors
    x, eps = t["x"], t["eps"]
    verdict.close("alphas_cumprod", scheduler.alphas_cumprod, SINGLE)
    for name in case.shapes:
        if not name.startswith(("ddim.timesteps", "ddim_inverse.timesteps", "masa.timesteps")):
            continue
        walk, count = name.split(".")[0], int(name.rpartition("timesteps")[2])
        down = steps(scheduler, count, offset=1 if walk == "masa" else 0)
        verdict.same(name, [s.timestep for s in (reversed(down) if walk == "ddim_inverse" else down)])
        rises = CONVENTIONS["diffusers-0.18" if walk == "ddim_inverse" else "aligned"](down, scheduler)
        falling = torch.stack([transfer(x, eps, s.here, s.there) for s in down])
        rising = torch.stack([transfer(x, eps, up.here, up.there) for up in rises])
        for recorded, got in (
            (f"{walk}.prev{count}", falling),
            (f"{walk}.step{count}", falling),
            (f"{walk}.next{count}", rising),
            (f"{walk}.next_step{count}", rising),
        ):
            if recorded in case.shapes:
                verdict.close(recorded, got, SINGLE, rows=0)


def text_align(case: Case, verdict: Verdict) -> None:
    tokenizer, p = case.backbone.tokenizer, case.params
    for i, pair in enumerate(p["pairs"]):
        source, target = (tokenize(prompt, tokenizer) for prompt in pair["prompts"])
        for tokens, ids, found, by_position in zip(
            (source, target), pair["tokens"], pair["word_inds"], pair["word_inds_by_position"], strict=True
        ):
            verdict.same(f"pair{i} tokens", tokens.ids, ids)
            assert [positions for _, positions in tokens.words] == by_position
            for word, positions in found.items():
                if positions:
                    assert find(word, tokens) == positions, f"{word!r} in {tokens.prompt!r}"
                elif word not in tokens.prompt:
                    with pytest.raises(ValueError, match="does not occur"):
                        find(word, tokens)
        compare_maps(verdict, f"pair{i}.refine_mapper", f"pair{i}.refine_alphas", [refinement(source, target)])
        if f"pair{i}.replace_mapper" in case.shapes:
            verdict.close(f"pair{i}.replace_mapper", replacement_by_authors(source, target).weights[None], SINGLE)
        else:
            with pytest.raises(ValueError, match="equally many words"):
                replacement_by_authors(source, target)
    for i, given in enumerate(p.get("time_alpha", ())):
        targets = [tokenize(prompt, tokenizer) for prompt in given["prompts"][1:]]
        held = {word for prompt in given["prompts"][1:] for word in prompt.split(" ")}
        editor = PromptToPrompt(cross_replace=windows_of(given["cross_replace_steps"], held))
        compare_schedule(verdict, f"time_alpha{i}", editor.schedule(targets, given["num_steps"]))
    for name, settings in (("nb", p.get("equalizer_notebook", ())), ("mod", p.get("equalizer_module", ()))):
        for i, given in enumerate(settings):
            words = [given["words"]] if isinstance(given["words"], str) else given["words"]
            known = {w: v for w, v in zip(words, given["values"], strict=True) if w in given["text"].split(" ")}
            if "error" not in given:
                factors = PromptToPrompt(weights=known).factors([tokenize(given["text"], tokenizer)])
                verdict.close(f"equalizer_{name}{i}", factors, SINGLE)


def unit_run(case: Case, prompts: Sequence[str], count: int, latent_size: Sequence[int]) -> Run:
    maps = torch.zeros(count + 1, 4, *latent_size)
    return prepare(case.backbone, trajectory_on(case.backbone, maps, prompts[0]), list(prompts[1:]))


def attention_with(maps: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [rows, heads, …] whose attention is `maps`, and so is its output."""
    maps = maps.unflatten(0, (rows, -1))
    width = maps.shape[-1]
    unit = torch.eye(width).expand(*maps.shape[:2], width, width)
    return maps.log() * math.sqrt(width), unit, unit


def control_unit(case: Case, verdict: Verdict) -> None:
    t = case.tensors
    for c, config in enumerate(case.params["configs"]):
        run = unit_run(case, config["prompts"], config["num_steps"], (64, 64))
        editor = editor_of(config, config["prompts"]).prepare(run)
        outputs: dict[str, list[Tensor]] = {"cross": [], "self": []}
        for i, step in enumerate(run.steps):
            attend = editor.attend(run, step)
            for kind in ("cross", "self"):
                given = t[f"cfg{c}.in{i}.{kind}"] if f"cfg{c}.in{i}.{kind}" in t else t[f"in{i}.{kind}"]
                q, k, v = attention_with(given, 2 * len(run.prompts))
                out = None if attend is None else attend(Site(kind, "down", kind == "cross", 0), q, k, v)
                out = given if out is None else out.flatten(0, 1)
                outputs[kind].append(out)
                verdict.close(f"cfg{c}.out{i}.{kind}", out, SINGLE, rows=0)
        for kind, out in outputs.items():
            if f"cfg{c}.avg.down_{kind}" in case.shapes:
                verdict.close(f"cfg{c}.avg.down_{kind}", torch.stack(out).mean(0).chunk(2)[1], SINGLE, rows=0)


def blend_unit(case: Case, verdict: Verdict) -> None:
    t = case.tensors
    maps = [t[name].float() for name in sorted(t) if name.startswith("m") and name.endswith("_f16")]
    for c, config in enumerate(case.params["configs"]):
        run = unit_run(case, config["prompts"], config["num_steps"], t["x"].shape[-2:])
        editor = PromptToPrompt(local_blend=blend_of(config), mode=config.get("controller")).prepare(run)
        with watched() as (_, masks):
            for step in run.steps[:4]:
                for layer in maps:
                    editor.blending.add(layer.unflatten(0, (len(run.prompts), -1)))
                out = editor.blend(run, step, t["x"])
                if f"cfg{c}.out_call{step.index + 1}" in case.shapes:
                    verdict.close(f"cfg{c}.out_call{step.index + 1}", out, SINGLE, rows=0)
        recorded = t[f"cfg{c}.masks_u8"]
        recorded = union_of(recorded, len(recorded) // (2 if config.get("substruct_words") else 1))
        verdict.same(f"cfg{c}.masks_u8", torch.stack(masks[: len(recorded)]).byte(), recorded)


def masa_unit(case: Case, verdict: Verdict) -> None:
    """Eight attention layers per step, self and cross in turn, all on the same queries, keys and values."""
    t = case.tensors
    own, cross = (
        [t[f"{name}{kind}_f16"].float().unflatten(0, (4, -1)) for name in "qkv" if f"{name}{kind}_f16" in t]
        for kind in ("", "_cross")
    )
    sites_of_step = [
        Site(str(i), "up", i % 2 == 1, i // 2) for i in range(case.params["configs"][0]["layers_per_step"])
    ]
    for c, config in enumerate(case.params["configs"]):
        start_step, start_layer = map(int, re.findall(r"\((\d+), (\d+)", config["editor"])[0])
        latent_size = tuple(t["mask_s_u8"].shape)
        run = unit_run(case, ["a", "b"], config["steps"], latent_size)
        options: dict[str, Any] = {}
        if "mask_s" in config["editor"]:
            options = {"source_mask": t["mask_s_u8"].numpy(), "target_mask": t["mask_t_u8"].numpy()}
        editor = MasaCtrl(start_step, start_layer, **options).prepare(run)
        if "MaskAuto" in config["editor"]:
            marked = [torch.tensor([int(n)]) for n in re.findall(r"token_idx=\[(\d+)\]", config["editor"])]
            editor = dataclasses.replace(editor, marked=marked)
            run = dataclasses.replace(run, backbone=Backbone(case.backbone.pipe))
            run.backbone.word_map_size = lambda latent_size: (16, 16)  # type: ignore[method-assign]
        for i, step in enumerate(run.steps):
            attend = editor.attend(run, step)
            for site in sites_of_step:
                q, k, v = (own[0], *cross) if site.is_cross else own
                out = None if attend is None else attend(site, q, k, v)
                out = attention(q, k, v) if out is None else out
                name = f"cfg{c}.step{i}.layer{site.name}"
                if name in case.shapes:
                    verdict.close(name, out.transpose(1, 2).flatten(2), SINGLE, rows=0)


@torch.enable_grad()
def p2pz_unit(case: Case, verdict: Verdict) -> None:
    t = case.tensors
    first, second = (t[f"l2.{name}"].unflatten(0, (2, -1)) for name in "ab")
    # Recorded as the sum over two layers, the second with the first's maps twice as large.
    verdict.close("l2.loss", pix2pix_zero.distance([first, 2 * first], [second, second]).view(1), SINGLE)
    for size in (8, 32, 64):
        x = t[f"x{size}"].requires_grad_()
        # Their shifts start at 0; ours at 1.
        generator, levels = torch.Generator().manual_seed(case.params["auto_corr_generator_seed"]), [size]
        while levels[-1] > 8:
            levels.append(levels[-1] // 2)
        shifts = [[int(torch.randint(n // 2, (1,), generator=generator)) for n in levels] for _ in range(x.shape[1])]
        for name, energy in (("auto_corr", regularised.auto_correlation(x, shifts)), ("kl", regularised.divergence(x))):
            verdict.close(f"{name}{size}", energy.view(1), SINGLE)
            verdict.close(f"{name}_grad{size}", torch.autograd.grad(energy, x)[0], SINGLE)


# ---------------------------------------------------------------- the one test

METHODS: dict[str, Callable[[Case, Verdict], None]] = {
    **dict.fromkeys(INVERSIONS, inversion),
    "NMGPipeline.recon": reconstruction,
    "NMGPipeline.__call__": editing,
    "StableDiffusionPix2PixZeroPipeline.invert": regularised_inversion,
    "StableDiffusionPix2PixZeroPipeline.p2p_nmg": pix2pix_zero_editing,
    "StableDiffusionPix2PixZeroPipeline.__call__": pix2pix_zero_editing,
    "MasaCtrlPipeline.__call__": masactrl_editing,
}


def comparison_of(case: Case) -> Callable[[Case, Verdict], None]:
    """What to do with a case, by its method, or by what a unit holds.

    Raises:
        LookupError: for a case that nothing here can compare.
    """
    unknown = LookupError(f"{case.name}: {case.params.get('method', 'a unit')} is not known here; add it to METHODS")
    if "method" in case.params:
        if (method := METHODS.get(case.params["method"])) is None:
            raise unknown
        return method
    configs = case.params.get("configs", [{}])
    if "auto_corr_generator_seed" in case.params:
        return p2pz_unit
    if "mask_s_u8" in case.shapes:
        return masa_unit
    if "text_embeds" in case.shapes:
        return model_io
    if "alphas_cumprod" in case.shapes:
        return schedule
    if "pairs" in case.params:
        return text_align
    if all("controller" in config and "cross_replace_steps" in config for config in configs):
        return control_unit
    if all("words" in config for config in configs):
        return blend_unit
    raise unknown


@pytest.mark.parametrize("case", cases())
def test_what_the_authors_recorded_comes_out_again(case, record_property):
    verdict = Verdict(case)
    comparison_of(case)(case, verdict)
    record_property("recording", str(verdict))
    verdict.conclude()


@pytest.mark.parametrize("params", [{"method": "SomePipeline.__call__"}, {}], ids=["method", "unit"])
def test_a_recording_of_an_unknown_method_fails(params, tmp_path):
    with pytest.raises(LookupError, match="add it to METHODS"):
        comparison_of(Case(tmp_path, "new_10", params, {}, "sd-shaped"))


def test_a_neighbouring_noise_map_would_be_noticed(monkeypatch):
    case = Case.read(HERE / "reference" / "s_recon_l2_10" / "case.json")
    monkeypatch.setitem(noise_map.LEVELS, "end", Trajectory.origin)
    verdict = Verdict(case)
    reconstruction(case, verdict)
    with pytest.raises(AssertionError, match="latents: rms"):
        verdict.conclude()
