"""How good an edit is, in the judgement of a model that sees and reads."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image as PIL

from nmg import images
from nmg.lab.metrics.pixel import PerRow
from nmg.lab.metrics.weights import Device, complete, cure, device_of, loading, one_each
from nmg.types import Image

FOLLOWED = """\
The first picture was edited to get the second. The edited picture should show: {prompt}
Give two numbers from 0 to 10: how well the second picture shows that, and how little it was changed beyond it.
Answer with JSON alone, such as {{"score": [7, 8]}}."""
LOOKS = """\
Give two numbers from 0 to 10 for this picture: how natural it looks, and how free of artefacts it is.
Answer with JSON alone, such as {"score": [7, 8]}."""
TOKENS = 64


class Unreadable(ValueError):
    """The judge gave no scores."""


@dataclass(frozen=True)
class VieScore:
    """The geometric mean of how well an edit follows its prompt and of how it looks, each the smaller of two judgements
    in 0…10, by a model that sees pictures and reads: the rule of VIEScore.

    Ku, Jiang, Wei, Yue & Chen, ACL 2024, arXiv 2312.14867, section 3.2; the questions are this package's. EditScore's
    models (Luo et al. 2025, arXiv 2509.23909) can be given where they are merged into one folder.

    Args:
        model: hub id of an image-text-to-text model, or a folder in transformers' layout.
        device: where the network runs; CUDA where there is one, if not given.
    """

    model: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    device: Device = None

    def __call__(self, edited: Image, sources: Image, prompts: Sequence[str]) -> PerRow:
        """One score per picture.

        Raises:
            Missing: if the model can't be loaded.
            Unreadable: if it gives no scores.
            ValueError: for another number of prompts than of pictures.
        """
        one_each("prompts", prompts, edited)
        pairs = zip(images.to_pil(sources), images.to_pil(edited), prompts, strict=True)
        return torch.tensor([self._judged(*pair) for pair in pairs], device=edited.device)

    def _judged(self, source: PIL.Image, edited: PIL.Image, prompt: str) -> float:
        followed = scores(self.answer([source, edited], FOLLOWED.format(prompt=prompt)))
        return math.sqrt(min(followed) * min(scores(self.answer([edited], LOOKS))))

    @torch.no_grad()
    def answer(self, pictures: Sequence[PIL.Image], question: str) -> str:
        """What the model answers."""
        network, processor = _judge(self.model, device_of(self.device))
        content = [*({"type": "image", "image": picture} for picture in pictures), {"type": "text", "text": question}]
        messages, said = [{"role": "user", "content": content}], {"tokenize": True, "return_dict": True}
        given = processor.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", **said)
        given = given.to(network.device)
        made = network.generate(**given, max_new_tokens=TOKENS, do_sample=False)
        return processor.batch_decode(made[:, given["input_ids"].shape[1] :], skip_special_tokens=True)[0]


def scores(answer: str) -> tuple[float, float]:
    """The two numbers of an answer, in 0…10.

    Raises:
        Unreadable: if it holds no such numbers.
    """
    try:
        found = json.loads(re.search(r"\{.*\}", answer, re.DOTALL)[0])["score"]  # type: ignore[index]
        first, second = (float(value) for value in found)
    except (TypeError, ValueError, KeyError) as error:
        raise Unreadable(f"the judge gave no scores: {answer!r}") from error
    if not (0 <= first <= 10 and 0 <= second <= 10):
        raise Unreadable(f"the judge gave scores outside 0…10: {answer!r}")
    return first, second


@functools.cache
def _judge(model: str, device: torch.device) -> tuple[Any, Any]:
    with loading("VIEScore", cure(model)):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        network = complete(AutoModelForImageTextToText, model, torch_dtype="auto")
        processor = AutoProcessor.from_pretrained(model)
    return network.to(device).eval(), processor
