"""Metrics that need a trained network: CLIP score, structure distance, LPIPS and TIFA.

Pictures are floats in 0…1, [rows, 3, height, width]; a value is returned per row, on the pictures' device. Weights
are loaded at the first call and kept for as long as the process runs. Where weights or packages are absent a
metric raises `Missing`, which says how to get them: it is reported as missing, and nothing is put in its place.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nmg import images
from nmg.lab.metrics.pixel import PerRow, Region, masked
from nmg.types import Image

Device = str | torch.device | None


class Missing(RuntimeError):
    """A metric can't be measured here: the message names it, and says why and how to get it."""


# ---------------------------------------------------------------- picture and prompt


@dataclass(frozen=True)
class ClipScore:
    """100 · max(cos(picture, prompt), 0) of CLIP's embeddings: how well a picture fits its prompt, in 0…100.

    Hessel, Holtzman, Forbes, Le Bras & Choi 2021, arXiv 2104.08718, with 2.5 for 100; with 100 it is
    the "CLIP similarity" of the papers on editing.

    Args:
        model: hub id of a CLIP model, or a folder in transformers' layout.
        device: where the network runs; CUDA where there is one, if not given.
    """

    model: str = "openai/clip-vit-large-patch14"
    device: Device = None

    @torch.no_grad()
    def __call__(self, pictures: Image, prompts: Sequence[str], region: Region | None = None) -> PerRow:
        """One score per picture.

        Args:
            prompts: one per picture; what is beyond CLIP's 77 tokens is cut off.
            region: score the edited region only: the rest of the picture is black, as PIE-Bench has it.

        Raises:
            Missing: if the model can't be loaded.
            ValueError: for another number of prompts than of pictures, or for an empty region.
        """
        _one_each("prompts", prompts, pictures)
        network, tokenizer, processor = _clip(self.model, _device(self.device))
        if region is not None:
            pictures = masked(pictures, region)
        longest = network.config.text_config.max_position_embeddings
        tokens = tokenizer(list(prompts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        pixels = processor(images=images.to_pil(pictures), return_tensors="pt")["pixel_values"]
        out = network(pixel_values=pixels.to(network.device), **tokens.to(network.device))
        return 100 * F.cosine_similarity(out.image_embeds, out.text_embeds).clamp(min=0).to(pictures.device)


@functools.cache
def _clip(model: str, device: torch.device) -> tuple[Any, Any, Any]:
    """CLIP's network, tokenizer and image processor."""
    with _loading("the CLIP score", _cure(model)):
        import transformers

        network = _complete(transformers.CLIPModel, model)
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        # An absent vocabulary loads as an empty one.
        known, words = len(tokenizer), network.config.text_config.vocab_size
        if known < words / 2:
            raise ValueError(f"its tokenizer knows {known} words and its network {words}")
        # Newer releases resize by torchvision if it is installed; by PIL, a score is the same everywhere.
        kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
        processor = kind.from_pretrained(model)
    return network.to(device, torch.float32).eval(), tokenizer, processor


@dataclass(frozen=True)
class Tifa:
    """The share of questions about the prompt that a visual question answering network answers right, in 0…1.

    Hu et al. 2023, arXiv 2303.11897, measured by the authors' own package, which picks its device itself.

    Args:
        model: a name that the package's `VQAModel` knows.
    """

    model: str = "mplug-large"

    def __call__(self, pictures: Image, questions: Sequence[Sequence[Mapping[str, Any]]]) -> PerRow:
        """One share per picture.

        Args:
            questions: for each picture, its questions as the package writes them: "question", "choices", "answer".

        Raises:
            Missing: if the package or its networks can't be loaded.
            ValueError: for another number of lists than of pictures, or an empty list.
        """
        _one_each("lists of questions", questions, pictures)
        if not all(questions):
            raise ValueError("a picture has no question; give at least one")
        score, network = _tifa(self.model)
        shares = []
        with TemporaryDirectory() as folder:
            for picture, asked in zip(images.to_pil(pictures), questions, strict=True):
                picture.save(path := os.path.join(folder, "picture.png"))
                # Copies, since the package writes its answers into what it is given.
                shares.append(float(score(network, [dict(question) for question in asked], path)["tifa_score"]))
        return torch.tensor(shares, device=pictures.device)


@functools.cache
def _tifa(model: str) -> tuple[Any, Any]:
    """The package's scoring function and its network."""
    with _loading("TIFA", "install the authors' tifascore from github.com/Yushi-Hu/tifa (the one on PyPI is empty)"):
        from tifascore import VQAModel, tifa_score_single

        return tifa_score_single, VQAModel(model)


# ---------------------------------------------------------------- two pictures


@dataclass(frozen=True)
class StructureDistance:
    """How much the layout of two pictures differs, largely whatever their colours: 0 for equal ones.

    The mean squared difference of two matrices: of each picture, the cosines between the keys of all its tokens
    (patches and class token) in the last attention layer of a DINO vision transformer. Tumanyan, Bar-Tal, Bagon &
    Dekel, "Splicing ViT Features for Semantic Appearance Transfer", CVPR 2022, arXiv 2201.00424; the mean is the
    authors' code's, the paper has the Frobenius norm. The papers on editing report it times 1000.

    Args:
        model: hub id of a vision transformer, or a folder in transformers' layout.
        device: where the network runs; CUDA where there is one, if not given.
        peak: what white is when ImageNet's mean and deviation are taken. 255 measures as the code of PIE-Bench
            does, which hands bytes to a normalisation meant for 0…1; give it to compare with the published column.
    """

    model: str = "facebook/dino-vitb8"
    device: Device = None
    peak: float = 1.0

    @torch.no_grad()
    def __call__(self, a: Image, b: Image) -> PerRow:
        """One distance per pair.

        Raises:
            Missing: if the model can't be loaded.
        """
        return (self.similarity(a) - self.similarity(b)).square().mean((1, 2)).to(a.device)

    def similarity(self, pictures: Image) -> Float[Tensor, "rows tokens tokens"]:
        """The cosines between the keys of each picture's tokens, in -1…1."""
        network, projection = _dino(self.model, _device(self.device))
        pixels = _resized(pictures.float().to(network.device), network.config.image_size)
        mean, deviation = pixels.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
        keys: list[Tensor] = []
        with projection.register_forward_hook(lambda module, inputs, output: keys.append(output)):
            network((self.peak * pixels - mean) / deviation, interpolate_pos_encoding=True)
        unit = F.normalize(keys[0], dim=-1)
        return unit @ unit.mT


def _resized(pictures: Tensor, side: int, longest: int = 480) -> Tensor:
    """The shorter side at `side` pixels, the longer at `longest` at most.

    Without antialiasing: so did torchvision resize tensors when the published numbers were measured.
    """
    height, width = pictures.shape[-2:]
    short, long = side, side * max(height, width) // min(height, width)
    if long > longest:
        short, long = longest * short // long, longest
    size = (short, long) if height <= width else (long, short)
    return F.interpolate(pictures, size, mode="bilinear", align_corners=False)


@functools.cache
def _dino(model: str, device: torch.device) -> tuple[Any, torch.nn.Module]:
    """A vision transformer, and its last layer's projection to keys."""
    with _loading("the structure distance", _cure(model)):
        from transformers import ViTModel

        network = _complete(ViTModel, model, add_pooling_layer=False)
        # `key` in transformers 4, `k_proj` in 5.
        projections = [module for name, module in network.named_modules() if name.endswith((".key", ".k_proj"))]
        if not projections:
            raise ValueError("no layer of its network projects to keys")
    return network.to(device, torch.float32).eval(), projections[-1]


TRUNKS = {"alex": "alexnet-owt-*.pth", "squeeze": "squeezenet1_1-*.pth"}
"""LPIPS's networks, and the files that torch.hub keeps of them."""


@dataclass(frozen=True)
class Lpips:
    """Learned perceptual image patch similarity, which is a distance: 0 for equal pictures.

    Zhang, Isola, Efros, Shechtman & Wang, CVPR 2018, arXiv 1801.03924, version 0.1, by the package `lpips`.

    Args:
        net: "alex", the package's default, or "squeeze", with which PIE-Bench is measured.
        device: where the network runs; CUDA where there is one, if not given.

    Raises:
        ValueError: for another network.
    """

    net: str = "alex"
    device: Device = None

    def __post_init__(self) -> None:
        if self.net not in TRUNKS:
            raise ValueError(f"net={self.net!r} is unknown; {' and '.join(TRUNKS)} work")

    @torch.no_grad()
    def __call__(self, a: Image, b: Image) -> PerRow:
        """One distance per pair; for the background only, give both pictures `masked`.

        Raises:
            Missing: if the package or its network can't be loaded.
        """
        device = _device(self.device)
        distance = _lpips(self.net, device)(a.float().to(device), b.float().to(device), normalize=True)
        return distance.flatten().to(a.device)


@functools.cache
def _lpips(net: str, device: torch.device) -> Any:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    cure = f"pip install 'nmg[metrics]', and let it fetch {TRUNKS[net]} once, or copy that file into {folder}"
    with _loading("LPIPS", cure):
        import lpips

        if _offline() and not any(folder.glob(TRUNKS[net])):
            raise FileNotFoundError("its network is not on this machine, and HF_HUB_OFFLINE forbids to fetch it")
        network = lpips.LPIPS(net=net, verbose=False)
    return network.to(device)


# ---------------------------------------------------------------- loading


@contextmanager
def _loading(metric: str, cure: str) -> Iterator[None]:
    """Load without notices; whatever goes wrong means that the metric is missing."""
    from nmg.pipelines import quiet

    try:
        with quiet(), warnings.catch_warnings(action="ignore"):
            yield
    except Exception as error:  # ImportError, OSError, ValueError, RuntimeError, SafetensorError, …
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Missing(f"{metric} can't be measured here: {reason} — {cure}") from error


def _cure(model: str) -> str:
    """How to get a model that can't be loaded."""
    cure = f"give model= a folder in transformers' layout, or the hub id of a model that can be fetched, not {model!r}"
    return cure + ("; HF_HUB_OFFLINE is set, so that nothing is fetched" if _offline() else "")


def _complete(architecture: Any, model: str, **options: Any) -> Any:
    """The network with all its weights: those of another kind of model load too, and what they lack stays random."""
    # A hub id is "name" or "owner/name": anything else is a folder.
    if (os.path.isabs(model) or model.startswith((".", "~")) or model.count("/") > 1) and not os.path.isdir(model):
        raise FileNotFoundError(f"there is no folder {model!r}")
    network, report = architecture.from_pretrained(model, output_loading_info=True, **options)
    if lacking := set(report["missing_keys"]) & {name for name, _ in network.named_parameters()}:
        raise ValueError(f"{model!r} lacks {len(lacking)} of the network's tensors, such as {min(lacking)}")
    return network


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _device(device: Device) -> torch.device:
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _one_each(what: str, given: Sequence[Any], pictures: Tensor) -> None:
    if isinstance(given, str) or len(given) != len(pictures):
        count = "a string" if isinstance(given, str) else len(given)
        raise ValueError(f"there are {len(pictures)} pictures and {count} for {what}; give a list of one per picture")
