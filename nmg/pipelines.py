"""Diffusers pipelines over the functional core: for those who expect `from_pretrained` and `__call__`."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from nmg import images
from nmg.backbones import Backbone
from nmg.backbones.settings import BUNDLED, BUNDLED_FOLDER
from nmg.editors import Editor
from nmg.guidance import default_guidance
from nmg.inversion import Trajectory, invert
from nmg.levels import Step
from nmg.request import Request
from nmg.sampling import begin, sample

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


def load(
    model: str | None = None, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> NoiseMapGuidancePipeline:
    """Load a model by name, ready to edit.

    Args:
        model: "menagerie" (bundled), a hub id, or a folder in diffusers' layout; if not given, Stable
            Diffusion 1.4 where there is CUDA and the bundled model elsewhere.
        device: "cuda", "cpu", …; CUDA where there is one.
        dtype: float16 on CUDA and float32 elsewhere, if not given. Latents stay float32.

    Raises:
        OSError: if the model can't be found or fetched, with what would work.
    """
    device = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.float16 if device.startswith("cuda") else torch.float32)
    model = model or (PAPER_MODEL if device.startswith("cuda") else BUNDLED)
    folder = BUNDLED_FOLDER if model == BUNDLED else model
    try:
        with quiet():
            pipe = NoiseMapGuidancePipeline.from_pretrained(folder, torch_dtype=dtype, safety_checker=None)
    except (OSError, ValueError) as error:
        raise OSError(
            f"the model {model!r} can't be loaded: {str(error).strip().splitlines()[0]} — give a folder in diffusers' "
            f"layout, a hub id that this machine can reach, or {BUNDLED!r}, which is bundled"
        ) from error
    if model == BUNDLED:
        pipe.register_to_config(_name_or_path=BUNDLED)
    pipe.set_progress_bar_config(leave=False)
    # Editing needs no gradient for parameters; frozen here, they need not be frozen anew for every pass.
    pipe.unet.requires_grad_(False)
    return pipe.to(device)


def generate(
    pipe: Any, prompts: Sequence[str], generator: torch.Generator | None = None, scale: float = 7.5, steps: int = 50
) -> torch.Tensor:
    """Pictures of prompts by a loaded pipeline's ordinary sampling, [prompts, 3, height, width] in 0…1.

    Args:
        generator: on the CPU, so that a seed gives the same picture everywhere; seeded with 0 if not given.
    """
    sampler = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    sampler.set_progress_bar_config(disable=True)
    generator = generator or torch.Generator().manual_seed(0)
    options = {"guidance_scale": scale, "num_inference_steps": steps, "generator": generator, "output_type": "pt"}
    return sampler(list(prompts), **options).images.float().cpu()


with quiet():
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput


class _Interrupted(Exception):
    """A callback ended a run."""

    def __init__(self, latents: torch.Tensor):
        self.latents = latents


class NoiseMapGuidancePipeline(StableDiffusionPipeline):
    """Stable Diffusion that edits real pictures: `invert` returns a trajectory, the call edits it."""

    def invert(self, image: Any, prompt: str = "", num_inference_steps: int = 50, **options: Any) -> Trajectory:
        """The trajectory of a picture; see `nmg.invert` for the options."""
        return invert(self, image, prompt, steps=num_inference_steps, progress=self._shows_progress, **options)

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
            callback_on_step_end: called as `callback(pipe, index, timestep, {"latents": …})` after each step; latents
                that it returns replace the run's, and setting `pipe._interrupt = True` ends it.

        Raises:
            ValueError, TypeError: as `nmg.edit` does.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type={output_type!r} is unknown; pil, np, pt and latent work")
        if set(callback_on_step_end_tensor_inputs) - {"latents"}:
            raise ValueError(f"callbacks can have latents, not {', '.join(callback_on_step_end_tensor_inputs)}")
        guidance = guidance or default_guidance(
            self, noise_map_scale=noise_map_scale, gradient_scale=gradient_scale, text_scale=guidance_scale
        )
        targets = (prompt,) if isinstance(prompt, str) else tuple(prompt or ())
        # A callback may change every row: no row is then replayed.
        if callback_on_step_end is not None:
            trajectory = dataclasses.replace(trajectory, cache=None)
        request = Request(trajectory, targets=targets, negative=negative_prompt, guidance=guidance, editor=editor)
        latents = self._sampled(request.resolved(self.backbone), callback_on_step_end)
        out: Any = latents if output_type == "latent" else self.backbone.decode(latents)
        if output_type == "pil":
            out = images.to_pil(out)
        elif output_type == "np":
            out = out.permute(0, 2, 3, 1).cpu().numpy()
        self.maybe_free_model_hooks()
        return StableDiffusionPipelineOutput(out, None) if return_dict else (out, None)

    def _sampled(self, request: Request, callback: Any) -> torch.Tensor:
        """The latents of a resolved request after its last step, or after the one that interrupted it."""
        self._interrupt = False

        def each(step: Step, latents: torch.Tensor) -> None:
            if callback is not None:
                returned = callback(self, step.index, step.timestep, {"latents": latents}) or {}
                latents.copy_(returned.get("latents", latents))
            if self._interrupt:
                raise _Interrupted(latents)

        opened, _, trajectory = begin(self.backbone, request, self._shows_progress)
        try:
            return sample(self.backbone, opened, trajectory, each, progress=self._shows_progress).latents
        except _Interrupted as interrupted:
            return interrupted.latents

    def save_pretrained(self, *args: Any, **options: Any) -> None:
        """Write a folder that loads as an ordinary `StableDiffusionPipeline` too."""
        StableDiffusionPipeline(**self.components, requires_safety_checker=False).save_pretrained(*args, **options)

    @property
    def _shows_progress(self) -> bool:
        return not getattr(self, "_progress_bar_config", {}).get("disable", False)

    @property
    def backbone(self) -> Backbone:
        return Backbone(self)
