"""Menagerie's model: Stable Diffusion's four parts at a size that a laptop trains and runs.

The parts are the library's own classes, so that the saved folder is an ordinary Stable
Diffusion pipeline. Only the factor classifier is a network of this project.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from torch import Tensor, nn

from nmg.menagerie.captions import MAX_TOKENS, vocabulary
from nmg.menagerie.scene import FACTORS, SIZE, Scene

TEXT_WIDTH = 128
LATENT_CHANNELS = 8
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def learned_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make every word one token, always the same and in the same order.

    At each turn the pair that stands in most words is merged, the alphabetically first among equals.
    """
    spelled = [[*word[:-1], f"{word[-1]}</w>"] for word in sorted(words)]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for symbols in spelled for pair in pairwise(symbols)):
        merges.append(min(counts, key=lambda pair: (-counts[pair], pair)))
        for symbols in spelled:
            for i in range(len(symbols) - 2, -1, -1):
                if tuple(symbols[i : i + 2]) == merges[-1]:
                    symbols[i : i + 2] = ["".join(merges[-1])]
    return merges


def write_tokenizer(folder: Path) -> None:
    """Write a CLIP tokenizer (vocab.json, merges.txt) in which every caption word is one token.

    Any other word still tokenizes, into its letters. A tokenizer that the folder has already stays: the text encoder
    knows its words by their numbers there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return
    merges = [" ".join(pair) for pair in learned_merges(vocabulary())]

    # CLIP's order: the byte alphabet, the same ending a word, the merges, the two special tokens.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda c: (ord(c) > 126, ord(c)))
    tokens = letters + [c + "</w>" for c in letters] + [m.replace(" ", "") for m in merges] + [BEGIN, END]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")

    special = {"bos_token": BEGIN, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
    config = {
        **special,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_TOKENS,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def build_tokenizer(folder: Path):
    from transformers import CLIPTokenizer

    write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder)


def build_text_encoder(tokenizer, layers: int = 0) -> nn.Module:
    """CLIP's text encoder; of no layers, so that a word's embedding is its own and the prompt moves no meaning.

    Behind a causal layer, the place of "cat" says little of the cat, and a later word, such as "the", says it instead.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def restore_text_layout(path: Path) -> None:
    """Rename a saved text encoder's tensors to the layout with `text_model.`,
    which every transformers release reads."""
    tensors = load_file(path)
    whole = ("text_model.", "text_projection.")
    renamed = {key if key.startswith(whole) else f"text_model.{key}": tensor for key, tensor in tensors.items()}
    save_file({k: t for k, t in renamed.items() if not k.endswith("position_ids")}, path, metadata={"format": "pt"})


def build_vae(channels: tuple[int, ...] = (16, 32, 64, 64)) -> nn.Module:
    """Autoencoder from 3×128×128 pixels to 8×16×16 latents."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def build_unet(channels: tuple[int, ...] = (64, 128), layers: int = 1) -> nn.Module:
    """Noise predictor on 8×16×16 latents; self- and cross-attention at 16×16 and 8×8, four heads."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * len(channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=layers,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_projected_text_encoder(tokenizer) -> nn.Module:
    """One of the two text encoders of the flow twin, of one layer.

    Stable Diffusion 3 takes the words from before the last layer, so that they mean themselves, and a summary of the
    prompt from after it.
    """
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH // 2,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH // 2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_transformer(width: int = 192, layers: int = 6) -> nn.Module:
    """Velocity predictor on 8×16×16 latents: Stable Diffusion 3's transformer on patches of 2, four heads."""
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=layers,
        attention_head_dim=width // 4,
        num_attention_heads=4,
        joint_attention_dim=TEXT_WIDTH,
        caption_projection_dim=width,
        pooled_projection_dim=TEXT_WIDTH,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )


FLOW_SHIFT = 2.0
"""How far the flow twin's noise levels lie towards noise, in training as in sampling."""


def build_flow_scheduler():
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=FLOW_SHIFT)


def build_scheduler():
    """Stable Diffusion's noise schedule, sampled by DDIM."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class FactorClassifier(nn.Module):
    """Reads a scene's eight factors off its picture: a small convolutional network with one head per factor."""

    def __init__(self, width: int = 24):
        super().__init__()

        def stage(inside: int, outside: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inside, outside, 3, padding=1, bias=False),
                nn.BatchNorm2d(outside),
                nn.SiLU(),
                nn.Conv2d(outside, outside, 3, padding=1, bias=False),
                nn.BatchNorm2d(outside),
                nn.SiLU(),
                nn.MaxPool2d(2),
            )

        self.features = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.SiLU(),
            stage(width, width),
            stage(width, 2 * width),
            stage(2 * width, 4 * width),
            stage(4 * width, 4 * width),
            nn.Flatten(),
            nn.Linear(4 * width * 16, 192),
            nn.SiLU(),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(192, len(values)) for name, values in FACTORS.items()})

    def forward(self, images: Float[Tensor, "batch 3 128 128"]) -> dict[str, Float[Tensor, "batch values"]]:
        """Logits per factor for pictures in -1…1."""
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, images: Float[Tensor, "batch 3 128 128"]) -> list[dict[str, object]]:
        """The most likely value of every factor, for each picture in -1…1."""
        indices = {name: logits.argmax(-1).tolist() for name, logits in self(images).items()}
        return [{name: FACTORS[name][indices[name][i]] for name in FACTORS} for i in range(len(images))]

    def save(self, path: Path) -> None:
        state = {k: t.half() if t.is_floating_point() else t for k, t in self.state_dict().items()}
        save_file({k: t.contiguous() for k, t in state.items()}, path)

    @classmethod
    def load(cls, path: Path) -> FactorClassifier:
        classifier = cls()
        classifier.load_state_dict({k: t.float() if t.is_floating_point() else t for k, t in load_file(path).items()})
        return classifier.eval()


def targets(scenes: list[Scene]) -> dict[str, Tensor]:
    """Class indices of the scenes' factors, for `FactorClassifier`'s heads."""
    return {name: torch.tensor([values.index(getattr(s, name)) for s in scenes]) for name, values in FACTORS.items()}
