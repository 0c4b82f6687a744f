"""Captions by BLIP: Li et al. 2022, "BLIP: Bootstrapping Language-Image Pre-training", arXiv 2201.12086."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from PIL import Image

BLIP = "Salesforce/blip-image-captioning-base"


def caption(picture: Image.Image, name: str, device: torch.device) -> str:
    """The caption that BLIP finds by a beam of three."""
    from nmg.pipelines import quiet

    with quiet(), warnings.catch_warnings(action="ignore", category=FutureWarning):
        processor, network = _load(name)
        # Half precision saves nothing that matters here, and not every device captions in it.
        network = network.to(device, torch.float32).eval()
        pixels = processor(images=picture, return_tensors="pt")["pixel_values"].to(device)
        tokens = network.generate(pixel_values=pixels, num_beams=3, do_sample=False, max_new_tokens=30)
    return processor.decode(tokens[0], skip_special_tokens=True).strip()


def _load(name: str) -> tuple[Any, Any]:
    """BLIP's processor and network, by hub id or from a folder."""
    try:
        # Here, since it takes seconds and the bundled model never needs it.
        from transformers import BlipForConditionalGeneration, BlipProcessor

        # The network first: its absence is told best, and where no hub answers, each file asked for waits long.
        options = {"output_loading_info": True, "use_safetensors": True}
        network, report = BlipForConditionalGeneration.from_pretrained(name, **options)
        processor = BlipProcessor.from_pretrained(name)
        # Other weights load too, and what they lack stays random; so does an empty tokenizer.
        if lacking := set(report["missing_keys"]) & {key for key, _ in network.named_parameters()}:
            raise ValueError(f"it lacks {len(lacking)} of a BLIP captioning model's tensors, such as {min(lacking)}")
        words, known = network.config.text_config.vocab_size, len(processor.tokenizer)
        if known < words / 2:
            raise ValueError(f"its tokenizer knows {known} words and its network {words}")
    except Exception as error:  # OSError, ValueError, ImportError, RuntimeError, SafetensorError, …
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(
            f"the captioning model {name!r} can't be loaded: {reason} — write the source prompt yourself, or give a "
            "folder of a BLIP captioning model in transformers' layout, or the hub id of one that this machine can "
            "reach"
        ) from error
    return processor, network
