"""Diffusers pipelines over the functional core: for those who expect `from_pretrained` and `__call__`."""

from __future__ import annotations

import copy
import dataclasses
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nmg import images
from nmg.backbones import Backbone
from nmg.backbones.settings import BUNDLED, BUNDLED_FOLDER, file_of
from nmg.editors import Editor
from nmg.files import replacing
from nmg.guidance import Guidance, default_guidance
from nmg.inversion import Trajectory, invert
from nmg.levels import Step
from nmg.request import Request
from nmg.run import Run, delegating
from nmg.sampling import begin, sample
from nmg.undo import gradients_kept

WIDE = ("FluxPipeline", "QwenImagePipeline")
"""Pipelines whose networks overflow in float16."""
PAPER_MODEL = "CompVis/stable-diffusion-v1-4"


@contextmanager
def quiet() -> Iterator[None]:
    """No library notices below an error while a model loads."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    saved = [(library, library.get_verbosity()) for library in (diffusers_logging, transformers_logging)]
    try:
        for library, _ in saved:
            library.set_verbosity_error()
        with warnings.catch_warnings():
            # `torch_dtype` is the one keyword that every supported diffusers release takes.
            warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
            yield
    finally:
        for library, verbosity in saved:
            library.set_verbosity(verbosity)


def load(model: str | None = None, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Any:
    """Load a model by name, ready to edit.

    Args:
        model: "menagerie" (bundled), a hub id, or a folder in diffusers' layout; if not given, Stable
            Diffusion 1.4 where there is CUDA and the bundled model elsewhere.
        device: "cuda", "cpu", …; CUDA where there is one.
        dtype: float32, if not given; on CUDA float16, or bfloat16 where a family needs its range. Latents stay float32.

    Raises:
        OSError: if the model can't be found, fetched or read, with what would work.

    Returns:
        A `NoiseMapGuidancePipeline` for Stable Diffusion 1 and 2; for another family, diffusers' own pipeline of it.
    """
    device = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    half = device.startswith("cuda")
    model = model or (PAPER_MODEL if device.startswith("cuda") else BUNDLED)
    folder = BUNDLED_FOLDER if model == BUNDLED else model
    try:
        with quiet():
            pipe = _loaded(folder, dtype, half)
    except (OSError, ValueError) as error:
        raise OSError(
            f"the model {model!r} can't be loaded: {str(error).strip().splitlines()[0]} — give a folder in diffusers' "
            f"layout, a hub id that this machine can reach, or {BUNDLED!r}, which is bundled"
        ) from error
    except (AttributeError, TypeError) as error:
        raise OSError(
            f"the model {model!r} can't be read by diffusers {diffusers.__version__} and transformers "
            f"{transformers.__version__}: {error} — pip install -U diffusers transformers, or take the releases that "
            "it was saved with"
        ) from error
    if model == BUNDLED:
        pipe.register_to_config(_name_or_path=BUNDLED)
    pipe.set_progress_bar_config(leave=False)
    # Editing needs no gradient for parameters; frozen here, they need not be frozen anew for every pass.
    Backbone(pipe).network.requires_grad_(False)
    return pipe.to(device)


def _loaded(folder: Any, dtype: torch.dtype | None, half: bool) -> Any:
    """The pipeline in a folder or at a hub id, by the class that its index names; in half precision if no other is
    given."""
    index = DiffusionPipeline.load_config(folder)
    kind = index.get("_class_name", "")
    dtype = dtype or ((torch.bfloat16 if kind in WIDE else torch.float16) if half else torch.float32)
    # Never pickled weights, which could run anything.
    options: dict[str, Any] = {"torch_dtype": dtype, "use_safetensors": True}
    if kind in ("StableDiffusionPipeline", "NoiseMapGuidancePipeline", ""):
        options["safety_checker"] = None
        return NoiseMapGuidancePipeline.from_pretrained(folder, **options)
    # Parts that a folder was saved without, such as Stable Diffusion 3's third text encoder, must be named.
    absent = {name: None for name, part in index.items() if isinstance(part, list | tuple) and list(part) == [None] * 2}
    return DiffusionPipeline.from_pretrained(folder, **options, **absent)


def generate(
    pipe: Any, prompts: Sequence[str], generator: torch.Generator | None = None, scale: float = 7.5, steps: int = 50
) -> torch.Tensor:
    """Pictures of prompts by a loaded pipeline's ordinary sampling, [prompts, 3, height, width] in 0…1.

    Args:
        generator: on the CPU, so that a seed gives the same picture everywhere; seeded with 0 if not given.
    """
    own = isinstance(pipe, StableDiffusionPipeline)
    sampler = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False) if own else copy.copy(pipe)
    sampler.set_progress_bar_config(disable=True)
    generator = generator or torch.Generator().manual_seed(0)
    options = {"num_inference_steps": steps, "generator": generator, "output_type": "pt"}
    return sampler(list(prompts), **options, **Backbone(pipe).sampling(scale)).images.float().cpu()


with quiet():
    import diffusers
    import transformers
    from diffusers import DiffusionPipeline, StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput


CALLBACK_INPUTS = ("latents", "prompt_embeds")
"""What callbacks can be given."""
ELSEWHERE = {
    "num_inference_steps": "the trajectory has its steps; give it to `invert`",
    "height": "the trajectory has its size; give size=(width, height) to `invert`",
    "width": "the trajectory has its size; give size=(width, height) to `invert`",
    "clip_skip": "prompts are read from the text encoder's last layer; load an encoder with fewer layers instead",
    "cross_attention_kwargs": "the attention is the edit's; set a LoRA's weight by pipe.set_adapters(names, weights)",
    "num_images_per_prompt": "an edit has one result; give several prompts instead",
    "ip_adapter_image": "an edit follows the text alone",
}
"""Arguments of diffusers' pipelines that an edit has no use for, and what to do instead."""


class _Interrupted(Exception):
    """A callback ended a run."""

    def __init__(self, latents: torch.Tensor):
        self.latents = latents


@delegating(Guidance, "now")
@dataclass(frozen=True, kw_only=True, eq=False)
class _Following(Guidance):
    """Another guidance, at the text scale that a callback has set the pipeline to: 1 or less follows the text alone."""

    guidance: Guidance
    pipe: Any

    @property
    def now(self) -> Guidance:
        scale = self.pipe.guidance_scale
        return self.guidance if scale == self.text_scale else self.guidance.rescaled(max(1.0, scale))

    def prepare(self, run: Run) -> Guidance:
        return dataclasses.replace(self, guidance=self.guidance.prepare(run))

    def needs_null(self) -> bool:
        # A later step may have another scale.
        return True


class NoiseMapGuidancePipeline(StableDiffusionPipeline):
    """Stable Diffusion that edits real pictures: `invert` returns a trajectory, the call edits it."""

    def invert(self, image: Any, prompt: str = "", num_inference_steps: int = 50, **options: Any) -> Trajectory:
        """The trajectory of a picture; see `nmg.invert` for the options."""
        return invert(self, image, prompt, steps=num_inference_steps, progress=self._shows_progress, **options)

    @gradients_kept
    def __call__(
        self,
        prompt: str | Sequence[str],
        trajectory: Trajectory,
        guidance_scale: float | None = None,
        noise_map_scale: float | None = None,
        gradient_scale: float | None = None,
        negative_prompt: str | None = None,
        guidance: Any = None,
        editor: Editor | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **others: Any,
    ) -> Any:
        """Edit an inverted picture.

        Args:
            prompt: one target prompt or several.
            trajectory: what `invert` returned.
            guidance_scale, noise_map_scale, gradient_scale: s_T, s_N and s_g of `NoiseMap`, unless `guidance` is
                given; the model's own (see `default_guidance`) where they are None.
            editor: what the targets take from the source; `PromptToPrompt()` if not given.
            generator: accepted for compatibility; nothing here is random.
            output_type: "pil", "np", "pt" or "latent"; row 0 is the reconstruction, then one row per target.
            callback_on_step_end: called as `callback(pipe, index, timestep, {"latents": …})` after each step, or one of
                diffusers' own; latents that it returns replace the run's. Setting `pipe._interrupt = True` ends the
                run, and `pipe._guidance_scale` sets the text scale of the steps that follow.
            callback_on_step_end_tensor_inputs: of "latents" and "prompt_embeds", which can be read and cut off.
            others: arguments of diffusers' pipelines that an edit has no use for, if they are None.

        Raises:
            ValueError, TypeError: as `nmg.edit` does; for an argument that has no use here, with what to do instead.
        """
        if unused := {name: value for name, value in others.items() if value is not None}:
            name = next(iter(unused))
            raise TypeError(f"{name} can't be given to an edit: {ELSEWHERE.get(name, 'there is no such argument')}")
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type={output_type!r} is unknown; pil, np, pt and latent work")
        inputs = tuple(getattr(callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs))
        if unknown := [name for name in inputs if name not in CALLBACK_INPUTS]:
            raise ValueError(f"callbacks can have {' and '.join(CALLBACK_INPUTS)}, not {', '.join(unknown)}")
        guidance = guidance or default_guidance(
            self, noise_map_scale=noise_map_scale, gradient_scale=gradient_scale, text_scale=guidance_scale
        )
        targets = (prompt,) if isinstance(prompt, str) else tuple(prompt or ())
        # A callback may change every row: no row is then replayed.
        if callback_on_step_end is not None:
            trajectory = dataclasses.replace(trajectory, cache=None)
        request = Request(trajectory, targets=targets, negative=negative_prompt, guidance=guidance, editor=editor)
        latents = self._sampled(request.resolved(self.backbone), callback_on_step_end, inputs)
        out: Any = latents if output_type == "latent" else self.backbone.decode(latents)
        if output_type == "pil":
            out = images.to_pil(out)
        elif output_type == "np":
            out = out.permute(0, 2, 3, 1).cpu().numpy()
        self.maybe_free_model_hooks()
        return StableDiffusionPipelineOutput(out, None) if return_dict else (out, None)

    def _sampled(self, request: Request, callback: Any, inputs: Sequence[str]) -> torch.Tensor:
        """The latents of a resolved request after its last step, or after the one that interrupted it."""
        backbone = self.backbone
        opened, _, trajectory = begin(backbone, request, self._shows_progress)
        self._guidance_scale, self._num_timesteps = opened.guidance.text_scale, len(trajectory.steps)
        self._clip_skip, self._cross_attention_kwargs, self._interrupt = None, None, False
        if callback is None:
            return sample(backbone, opened, trajectory, progress=self._shows_progress).latents

        prompts = [*[opened.negative or ""] * len(opened.prompts), *opened.prompts]
        held = {"prompt_embeds": backbone.text(prompts).tokens} if "prompt_embeds" in inputs else {}

        def each(step: Step, latents: torch.Tensor) -> None:
            given = {name: value for name, value in {**held, "latents": latents}.items() if name in inputs}
            returned = callback(self, step.index, step.timestep, given) or {}
            latents.copy_(returned.get("latents", latents))
            self._check_text(held, returned)
            if self._interrupt:
                raise _Interrupted(latents)

        following = _Following(guidance=opened.guidance, pipe=self, text_scale=opened.guidance.text_scale)
        opened = dataclasses.replace(opened, guidance=following)
        try:
            return sample(backbone, opened, trajectory, each, progress=self._shows_progress).latents
        except _Interrupted as interrupted:
            return interrupted.latents

    def _check_text(self, held: dict[str, torch.Tensor], returned: dict[str, torch.Tensor]) -> None:
        """Raise for another text than the run's, unless classifier-free guidance is cut off and its last rows stay."""
        for name in held.keys() & returned.keys():
            text = returned[name]
            kept = len(held[name]) if self.do_classifier_free_guidance else len(text)
            if len(text) != kept or not torch.equal(text, held[name][-len(text) :]):
                raise ValueError(
                    f"the callback returned another {name}, and the text of an edit stays the same in all its steps; "
                    "return it as it was given, or edit once for each text"
                )

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **options: Any) -> None:
        """Write a folder that loads as an ordinary `StableDiffusionPipeline` too, its `nmg.json` included."""
        pipeline = StableDiffusionPipeline(**self.components, requires_safety_checker=False)
        pipeline.save_pretrained(save_directory, *args, **options)
        own = file_of(Backbone(self).name)
        if own.is_file():
            with replacing(Path(save_directory) / own.name) as part:
                part.write_bytes(own.read_bytes())

    @property
    def _shows_progress(self) -> bool:
        return not getattr(self, "_progress_bar_config", {}).get("disable", False)

    @property
    def backbone(self) -> Backbone:
        return Backbone(self)
