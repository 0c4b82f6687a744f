"""The functions that editing needs of a loaded pipeline: the base of all families, which is Stable Diffusion 1 and 2;
and XL.

Only `encode_prompt`, `unet(…)`, `vae.encode` and `vae.decode` of the user's pipeline are called, so
that LoRA, textual inversion and offload keep working. dtype, latent scaling and prediction type
are handled here: everything outside works on fp32 latents and predicted noise.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from PIL import Image as PIL
from torch import Tensor

from nmg import images
from nmg.alignment import Tokens, tokenize
from nmg.attention import (
    Attend,
    Site,
    attending,
    probabilities,
    sites,
    spatial_size,
    uncompiled,
    word_columns,
)
from nmg.backbones import checks
from nmg.backbones.settings import ModelSettings
from nmg.conditioning import Conditioning
from nmg.levels import FLOW_VELOCITY, NOISE, Level, Step, restated, steps
from nmg.threads import alone_with
from nmg.types import Heads, Image, KeyMask, Latents, WordMaps
from nmg.undo import undoing

UNNAMED = "unnamed"
"""The name of a model that was loaded from nowhere."""
PROBE = 8
"""Height and width of the latent by which a network is known."""


class Backbone:
    """Stable Diffusion over a loaded diffusers pipeline, which stays the user's own.

    `Backbone(pipe)` is of the class that suits the pipeline: this one for Stable Diffusion 1 and 2, or a subclass.

    Args:
        pipe: a `StableDiffusionPipeline` or `StableDiffusionXLPipeline`, or any pipeline with the parts of one.

    Raises:
        TypeError: for a pipeline that is not a text-to-image Stable Diffusion.
    """

    PARTS: tuple[str, ...] = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "encode_prompt")
    READS: tuple[str, ...] = ()
    """Kinds of condition besides the text that the network is given."""
    TOKENIZER = "tokenizer"
    """The part by whose tokens the prompts' words are found in what attention reads."""
    SUITS: Mapping[str, Any] = {}
    """What of `ModelSettings` suits the family, where a model's own folder says nothing else."""
    PATCH = 1
    """Side of the squares of the latent that the network reads as one."""
    OVERFLOWS = False
    """Whether the autoencoder is known to overflow in half precision."""
    MASKS_TEXT = False
    """Whether a text is padded to the longest beside it only, and the padding masked."""
    DISTILLED = False
    """Whether the network was distilled to do without classifier-free guidance."""

    def __new__(cls, pipe: Any) -> Backbone:
        return super().__new__(cls.family(pipe))

    @classmethod
    def family(cls, pipe: Any) -> type[Backbone]:
        """The class that suits a pipeline."""
        return next((family for family in cls._families() if family.takes(pipe)), cls)

    @classmethod
    def _families(cls) -> Iterator[type[Backbone]]:
        """The families below this one."""
        for family in cls.__subclasses__():
            yield family
            yield from family._families()

    @classmethod
    def takes(cls, pipe: Any) -> bool:
        """Whether a pipeline is of this family; one that no family takes is Stable Diffusion 1 or 2."""
        return False

    def __init__(self, pipe: Any):
        if "transformer" not in self.PARTS and (transformer := getattr(pipe, "transformer", None)) is not None:
            raise TypeError(
                f"{type(pipe).__name__} has a {type(transformer).__name__}, and transformers of this kind are not "
                "supported yet; those of Stable Diffusion 3, FLUX.1 and Qwen-Image are, and the UNets of Stable "
                "Diffusion 1, 2 and XL"
            )
        missing = [part for part in self.PARTS if getattr(pipe, part, None) is None]
        if missing:
            raise TypeError(f"{type(pipe).__name__} has no {', '.join(missing)}; pass a loaded StableDiffusionPipeline")
        checks.check(pipe)
        self.pipe, self.vae, self.tokenizer = pipe, pipe.vae, getattr(pipe, self.TOKENIZER)
        if self.channels != self.latent_channels:
            raise TypeError(
                f"the network takes {self.channels} channels and the latent has {self.latent_channels}; networks for "
                "inpainting, or that read a second picture, don't work here"
            )
        self._found = (self.network, sites(self.network))
        checks.check_network(self.network, self.READS)

    @property
    def network(self) -> Any:
        """What predicts."""
        return self.pipe.unet

    unet = network

    @property
    def sites(self) -> dict[str, Site]:
        """The network's attention layers (`nmg.attention.sites`), searched once: in a large one that takes
        milliseconds, and editors ask in every layer of every step."""
        if self._found[0] is not self.network:
            self._found = (self.network, sites(self.network))
        return self._found[1]

    @property
    def scheduler(self) -> Any:
        return self.pipe.scheduler

    @property
    def device(self) -> torch.device:
        return self.pipe._execution_device

    @property
    def name(self) -> str:
        """The hub id or folder that the pipeline was loaded from."""
        name = str(getattr(self.pipe, "name_or_path", "") or self.pipe.config.get("_name_or_path", "") or UNNAMED)
        return os.path.abspath(name) if os.path.isdir(name) else name

    @cached_property
    def settings(self) -> ModelSettings:
        """What suits the model."""
        return ModelSettings.read(self.name, **self.SUITS)

    @property
    def channels(self) -> int:
        """Channels of the latents that the network takes."""
        return self.network.config.in_channels

    @property
    def latent_channels(self) -> int:
        """Channels of the latents that the autoencoder makes."""
        return self.vae.config.latent_channels

    @property
    def pixels_per_latent(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def sample_size(self) -> Any:
        """Side of the latents that the network was trained on, or height and width; None if that is not known."""
        return self.network.config.sample_size

    @property
    def native_size(self) -> tuple[int, int]:
        """Width and height in pixels of the pictures that the network was trained on.

        Raises:
            ValueError: for a network that does not say it.
        """
        sample = self.sample_size
        if sample is None:
            raise ValueError("the UNet does not say its sample_size; give the picture's size, such as size=(512, 512)")
        height, width = (sample, sample) if isinstance(sample, int) else sample
        return width * self.pixels_per_latent, height * self.pixels_per_latent

    def steps(self, count: int, latent_size: tuple[int, int], offset: int | None = None) -> tuple[Step, ...]:
        """The denoising steps of the model's schedule for a latent of that height and width; see `nmg.steps`."""
        return steps(self.scheduler, count, offset)

    def latent_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the latent of a picture of this width and height."""
        return size[1] // self.pixels_per_latent, size[0] // self.pixels_per_latent

    @property
    def max_tokens(self) -> int:
        longest = getattr(self.pipe.text_encoder.config, "max_position_embeddings", self.tokenizer.model_max_length)
        return min(longest, self.tokenizer.model_max_length)

    # ------------------------------------------------------------ pictures

    def prepare(self, image: Any, size: tuple[int, int] | None = None) -> PIL.Image:
        """Load a picture (see `images.load`), crop its middle to the aspect of `size` and resize it.

        Args:
            size: width and height in pixels; the network's native size if not given.

        Raises:
            ValueError: for a size that is no multiple of the latent's pixel.
        """
        width, height = self.native_size if size is None else size
        step = self.pixels_per_latent * self.PATCH
        if min(width, height) < 2 * step or width % step or height % step:
            such = self.native_size if self.sample_size else (64 * step, 64 * step)
            raise ValueError(
                f"size={width}×{height} doesn't fit the latent; give multiples of {step}, such as {such[0]}×{such[1]}"
            )
        return images.fit(images.load(image), width, height)

    @torch.no_grad()
    def encode(self, pixels: Image) -> Latents:
        """The mean latent, scaled, in fp32; never a random sample, so that the same picture gives the same edit.

        Raises:
            FloatingPointError: if the encoder returns values that are not finite.
        """
        (mean,) = self._finite(
            lambda: [self._encoded(2 * pixels - 1)], "encoded", "give another picture, or another VAE"
        )
        return self._normalised(mean)

    def framed(self, x: Tensor) -> Tensor:
        """A picture or its latent in the shape that the autoencoder takes."""
        return x

    def _encoded(self, pixels: Tensor) -> Tensor:
        out = self.vae.encode(pixels.to(self.device, self.vae.dtype))
        # AutoencoderTiny has no distribution.
        return (out.latent_dist.mean if hasattr(out, "latent_dist") else out.latents).float()

    def _finite(self, compute: Callable[[], list[Tensor]], what: str, cure: str) -> list[Tensor]:
        """What the autoencoder computes; in float32 where that overflows in half precision.

        Raises:
            FloatingPointError: for values that are not finite in float32 either.
        """
        dtype = self.vae.dtype
        known = self.OVERFLOWS and dtype == torch.float16 and self.vae.config.get("force_upcast")
        found = [] if known else compute()
        if known or (not all(x.isfinite().all() for x in found) and dtype != torch.float32):
            try:
                self.vae.to(torch.float32)
                found = compute()
            finally:
                self.vae.to(dtype)
        if not all(x.isfinite().all() for x in found):
            raise FloatingPointError(f"the VAE {what} values that are not finite, in float32 too; {cure}")
        return found

    @torch.no_grad()
    def decode(self, latents: Latents) -> Image:
        """Pixels in 0…1.

        Raises:
            FloatingPointError: if the decoder returns values that are not finite.
        """
        scaled = self._denormalised(latents)
        # Row by row: decoding is the peak of memory, and pictures don't depend on each other.
        pixels = self._finite(lambda: [self._decoded(row) for row in scaled.split(1)], "decoded", "lower the scales")
        return (torch.cat(pixels) / 2 + 0.5).clamp(0, 1)

    def _decoded(self, row: Tensor) -> Tensor:
        return self.vae.decode(row.to(self.device, self.vae.dtype), return_dict=False)[0].float()

    def _normalised(self, mean: Latents) -> Latents:
        """Latents of the autoencoder in the network's units."""
        return (mean - (self.vae.config.get("shift_factor") or 0.0)) * self.vae.config.scaling_factor

    def _denormalised(self, latents: Latents) -> Latents:
        return latents / self.vae.config.scaling_factor + (self.vae.config.get("shift_factor") or 0.0)

    # ------------------------------------------------------------ text

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Conditioning:
        """What prompts that were checked become, padded to one length."""
        with alone_with(self.tokenizer):
            return Conditioning(self.pipe.encode_prompt(list(prompts), self.device, 1, False)[0].detach())

    def texts(self, prompts: Sequence[str], null: str) -> tuple[Conditioning, Conditioning]:
        """What prompts become, and what the null prompt does, in one row; all padded to one length."""
        held = dataclasses.replace(self.text([*prompts, null]), prompts=(*prompts, null))
        return held[:-1], held[-1:]

    def check(self, prompts: Sequence[str]) -> None:
        """Raise for a prompt that `text` can't encode.

        Raises:
            TypeError, ValueError: for a prompt that is no string or longer than the encoder reads.
        """
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise TypeError(f"a prompt is a {type(prompt).__name__}: {prompt!r}; give a string")
            used = self._length(prompt)
            if used > self.max_tokens:
                raise ValueError(
                    f"the prompt has {used} tokens and the text encoder reads {self.max_tokens}, "
                    f"begin and end included; shorten {prompt!r}"
                )

    def _length(self, prompt: str) -> int:
        """The number of tokens of a prompt."""
        with alone_with(self.tokenizer):
            return len(self.tokenizer(self.readable(prompt)).input_ids)

    def remarks(self, prompts: Sequence[str]) -> list[str]:
        """What to say before prompts are used: what of the pipeline is not followed, and words that it never read."""
        taught = re.compile("|".join(map(re.escape, self.tokenizer.get_added_vocab())) or "$^")
        said = checks.unfollowed(self.scheduler), self.settings.unknown_words(taught.sub(" ", p) for p in prompts)
        return [remark for remark in said if remark]

    def tokens(self, prompt: str) -> Tokens:
        """The prompt's tokens, and the characters that each stands for."""
        return tokenize(prompt, self.tokenizer, self.readable(prompt))

    def readable(self, prompt: str) -> str:
        """The prompt as the tokenizer sees it: with multi-vector textual inversions written out."""
        convert = getattr(self.pipe, "maybe_convert_prompt", None)
        return convert(prompt, self.tokenizer) if convert else prompt

    # ------------------------------------------------------------ the network

    def cross_positions(self, latent_size: tuple[int, int]) -> set[int]:
        """The numbers of positions at which cross-attention layers run for a latent of that height and width."""
        levels = len(self.unet.config.down_block_types)
        found = set()
        for site in self.sites.values():
            block = int(site.name.split(".")[1]) if site.place != "mid" else 0
            halvings = {"down": block, "mid": levels - 1, "up": levels - 1 - block}[site.place]
            if site.is_cross:
                found.add(math.prod(-(-side // 2**halvings) for side in latent_size))
        return found

    def word_map_size(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the cross-attention maps at which words are read: those nearest to the model's share of
        the latent (Stable Diffusion: a quarter of its side, 16×16 at 512×512 pixels)."""
        wanted = math.prod(latent_size) * self.settings.word_maps**2
        sizes = {spatial_size(positions, latent_size) for positions in self.cross_positions(latent_size)}
        return min(sizes, key=lambda size: abs(math.log(math.prod(size) / wanted)))

    def picture(self, site: Site, positions: int, latent_size: tuple[int, int]) -> slice:
        """Which of an attention layer's positions are the picture's, for a latent of that height and width."""
        return slice(None)

    def words(self, site: Site, positions: int, latent_size: tuple[int, int]) -> slice:
        """Which of a joint layer's positions are the text's."""
        return slice(0, 0)

    @property
    def has_word_maps(self) -> bool:
        """Whether the picture's attention says where words are."""
        return True

    @property
    def is_joint(self) -> bool:
        """Whether text and picture attend to each other in one sequence."""
        return any(site.is_joint for site in self.sites.values())

    @property
    def is_told_guidance(self) -> bool:
        """Whether the network is told the scale of its guidance."""
        return False

    @property
    def appearance_layers(self) -> tuple[int, ...] | None:
        """The self-attention layers that carry a picture's appearance, where that is published; None elsewhere."""
        return None

    def check_word_maps(self, who: str, cure: str) -> None:
        """Raise where the picture's attention does not say where words are.

        Args:
            who: what looks at that, and `cure` what works instead: for the message.

        Raises:
            ValueError: with the reason.
        """
        if not self.has_word_maps:
            raise ValueError(
                f"{who} looks at the words' attention maps, and in a {type(self.network).__name__} the text is itself "
                f"changed by the picture from layer to layer; {cure}"
            )

    def shows_words(self, site: Site, positions: int, latent_size: tuple[int, int]) -> bool:
        """Whether words are looked for in the attention of a layer with so many queries."""
        return site.is_cross and positions == math.prod(self.word_map_size(latent_size))

    def word_maps(self, site: Site, q: Heads, k: Heads, mask: KeyMask | None, latent_size: tuple[int, int]) -> WordMaps:
        """Attention of the picture's positions to the text's tokens, [rows, heads, positions, tokens]."""
        if not site.is_joint:
            return probabilities(q, k, mask)
        picture, words = (at(site, q.shape[2], latent_size) for at in (self.picture, self.words))
        return word_columns(q[:, :, picture], k, words, mask)

    def rescaled(self, guided: Latents, text: Latents) -> Latents:
        """What the family makes of a prediction by classifier-free guidance; `text` is that of the text half."""
        return guided

    @property
    def decoder(self) -> tuple[str, ...]:
        """Paths of the residual blocks of the network's decoder, in the order they run; none for a network that has no
        decoder."""
        modules = getattr(self.network, "_orig_mod", self.network).named_modules()
        found = [re.fullmatch(r"up_blocks\.(\d+)\.resnets\.(\d+)", path) for path, _ in modules]
        numbered = sorted((int(match[1]), int(match[2]), match[0]) for match in found if match)
        return tuple(path for *_, path in numbered)

    def check_decoder(self, who: str) -> None:
        """Raise for a network without a decoder; `who` needs one.

        Raises:
            ValueError: with the reason.
        """
        if not self.decoder:
            raise ValueError(
                f"{who} works on the features of a UNet's decoder, and a {type(self.network).__name__} has none; use "
                "PromptToPrompt or MasaCtrl, or an editor that reads no features, such as FlowEdit"
            )

    def layout_positions(self, latent_size: tuple[int, int]) -> int:
        """The most positions of self-attention that hold the layout (Stable Diffusion: 32×32 at 512×512 pixels)."""
        return round(math.prod(latent_size) * self.settings.layout**2)

    def predict(self, x: Latents, step: Step, text: Conditioning, attend: Attend | None = None) -> Latents:
        """What the network predicts at the step's timestep, in fp32, as the step's level states it (see
        `nmg.levels.Level`); `attend` hooks the attention of this one call.

        Ask for gradients by `Run.gradient`, which keeps them from the network's parameters.
        """
        with attending(self.network, attend):
            out = self._called(x.to(self.network.dtype), step.timestep, text)
        return restated(out.float(), x, step.here, self._meaning(step.here))

    @torch.no_grad()
    def answer(self, prompt: str) -> Latents:
        """What the network gives, as it gives it, for noise that is always the same, [1, channels, 8, 8] in fp32, in
        the middle of its timesteps under a prompt. Not hooked and not compiled: another shape would compile it anew."""
        count = self.channels * PROBE**2
        # No generator, which another release may change: quantiles of the normal distribution, well mixed.
        shares = (torch.arange(1, count + 1, dtype=torch.float64) * (5**0.5 - 1) / 2) % 1
        noise = torch.special.ndtri(shares).reshape(1, -1, PROBE, PROBE).to(self.device, self.network.dtype)
        asked = noise, self.scheduler.config.num_train_timesteps // 2, self.text([prompt])
        with attending(self.network, None), uncompiled(self.network):
            return self._called(*asked).float()

    def _called(self, x: Latents, timestep: float, text: Conditioning) -> Latents:
        """The network's output, in its own precision."""
        return self.network(x, **self._inputs(x, timestep, text), return_dict=False)[0]

    def _inputs(self, x: Latents, timestep: float, text: Conditioning) -> dict[str, Any]:
        """What the network is called with, besides the latents."""
        # Made on the device: a number of Python's would be copied there, and waited for.
        return {
            "timestep": torch.full((1,), timestep, device=x.device),
            "encoder_hidden_states": text.tokens.to(x.dtype),
        }

    def _meaning(self, level: Level) -> tuple[float, float]:
        """What the network's output stands for at a level (Salimans & Ho 2022, arXiv 2202.00512, for v-prediction)."""
        if level.predicts == FLOW_VELOCITY:
            return FLOW_VELOCITY
        kind = self.scheduler.config.get("prediction_type", "epsilon")
        meanings = {"epsilon": NOISE, "v_prediction": (-level.s, level.a), "sample": (1.0, 0.0)}
        if kind not in meanings:
            raise ValueError(f"prediction_type={kind!r} is unknown; {', '.join(meanings)} work")
        return meanings[kind]

    def sampling(self, scale: float) -> dict[str, Any]:
        """How the pipeline's own sampling is asked for classifier-free guidance, or for what stands in its place."""
        return {"guidance_scale": scale}

    def release(self) -> None:
        """Let an offloaded pipeline move its parts off the device."""
        if hasattr(self.pipe, "maybe_free_model_hooks"):
            self.pipe.maybe_free_model_hooks()


class StableDiffusionXL(Backbone):
    """Stable Diffusion XL: two text encoders, a pooled embedding, and the picture's size and crop.

    Podell et al. 2023, arXiv 2307.01952. The empty prompt of the null half is all zeros where the model was trained so
    (`force_zeros_for_empty_prompt`), as in diffusers' pipeline without a negative prompt.
    """

    PARTS = (*Backbone.PARTS, "text_encoder_2", "tokenizer_2")
    READS = ("text_time",)
    SUITS = {"layout": 0.25}
    OVERFLOWS = True

    @classmethod
    def takes(cls, pipe: Any) -> bool:
        return getattr(pipe, "unet", None) is not None and getattr(pipe, "text_encoder_2", None) is not None

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Conditioning:
        with alone_with(self.tokenizer):
            tokens, _, pooled, _ = self.pipe.encode_prompt(
                list(prompts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        return Conditioning(tokens.detach(), pooled.detach())

    def texts(self, prompts: Sequence[str], null: str) -> tuple[Conditioning, Conditioning]:
        text, empty = super().texts(prompts, null)
        zeros = null == "" and self.pipe.config.get("force_zeros_for_empty_prompt")
        return text, empty.each(torch.zeros_like) if zeros else empty

    def _inputs(self, x: Latents, timestep: float, text: Conditioning) -> dict[str, Any]:
        # Original size, the crop's corner, target size: a whole picture of the latent's size.
        height, width = (side * self.pixels_per_latent for side in x.shape[-2:])
        sizes = x.new_zeros(len(x), 6)
        sizes[:, 0::4], sizes[:, 1::4] = height, width
        assert text.pooled is not None
        own = {"text_embeds": text.pooled.to(x.dtype), "time_ids": sizes}
        return super()._inputs(x, timestep, text) | {"added_cond_kwargs": own}


def settings_of(pipe: Any) -> ModelSettings:
    """The settings of a loaded pipeline, or of a `Backbone` over it."""
    if isinstance(pipe, Backbone):
        return pipe.settings
    name, suits = getattr(pipe, "name_or_path", None), Backbone.family(pipe).SUITS
    return ModelSettings.read(str(name), **suits) if name else ModelSettings(**suits)


@contextmanager
def frozen(network: torch.nn.Module) -> Iterator[None]:
    """No gradient for the parameters inside the block; those that had one have it again after it."""
    trainable = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    with undoing(network) as note:
        if trainable:
            # By name: sequential offload replaces the parameters themselves during a call.
            note(lambda: [p.requires_grad_(True) for name, p in network.named_parameters() if name in trainable])
        for parameter in trainable.values():
            parameter.requires_grad_(False)
        yield
