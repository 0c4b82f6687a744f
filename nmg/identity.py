"""Which network something was made by: known by what the network answers, whatever it is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nmg.backbones import Backbone
from nmg.backbones.unet import UNNAMED

ROUNDINGS = 5.0
"""Relative distance, in rounding errors of one number, up to which two answers are one network's. Measured on the
bundled model and on small networks in the shape of Stable Diffusion 1, XL and 3: at most 1.7 between float32, float16
and bfloat16."""
FARTHEST = 0.1
"""The most that one network's answers are apart, however coarse its weights are."""
TENSOR_CORES = 2.0**-10
"""Rounding error of tensor cores in single precision."""


@dataclass(frozen=True, eq=False)
class Identity:
    """What tells a network from others: its answer to a question that is always the same.

    Other weights answer otherwise, a LoRA or its scale included. The same weights under another name, in another
    precision, compiled, fused or offloaded don't.

    Attributes:
        answer: in fp32, where the network left it.
        rounding: relative rounding error of one number in the network's precision when it was asked.
    """

    answer: Float[Tensor, "1 ..."]
    rounding: float

    @classmethod
    def of(cls, pipe: Any, prompt: str) -> Identity:
        """A pipeline's: what it predicts, under a prompt, for noise that is always the same.

        One call of the text encoder and one of the network, on a latent of 8×8: about a hundredth of a step's work.

        Args:
            pipe: a loaded pipeline, or a `Backbone`.
            prompt: what the picture shows, so that a textual inversion counts where it is used.
        """
        backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
        held = {weight.dtype for weight in backbone.network.parameters()}
        return cls(backbone.answer(prompt), rounding_of(backbone.network.dtype, *held))

    @classmethod
    def of_text(cls, backbone: Backbone, sentence: str) -> Identity:
        """The text encoder's: a sentence's embedding."""
        tokens = backbone.text([sentence]).tokens
        return cls(tokens.float(), rounding_of(tokens.dtype))

    @classmethod
    def read(cls, answer: Tensor | None, rounding: float | None) -> Identity | None:
        """The identity that a file holds; None in one of earlier versions.

        Raises:
            ValueError: for half of one.
        """
        if answer is None and rounding is None:
            return None
        if answer is None or rounding is None:
            raise ValueError("it holds half of what its network is known by")
        return cls(answer, rounding)

    def apart(self, other: Identity) -> float:
        """Relative distance of two answers; infinite for answers of two shapes."""
        if self.answer.shape != other.answer.shape:
            return float("inf")
        one, two = self.answer.cpu(), other.answer.cpu()
        return ((two - one).norm() / one.norm().clamp_min(1e-12)).item()

    def is_same(self, other: Identity) -> bool:
        """Whether both can be one network's answers, each in its own precision."""
        return self.apart(other) <= min(FARTHEST, ROUNDINGS * max(self.rounding, other.rounding))


def rounding_of(*dtypes: torch.dtype) -> float:
    """Relative rounding error of one number that a network holds and computes in these types."""
    # Whole numbers are those of quantised weights.
    return max(TENSOR_CORES, *(torch.finfo(t).eps if t.is_floating_point else 2.0**-6 for t in dtypes))


def check(backbone: Backbone, prompt: str, made_by: Identity | None, model: str, what: str, cure: str) -> None:
    """Raise for what another network made.

    What holds no identity, as files of earlier versions don't, is known by the model's name; a model without a name is
    like no other.

    Args:
        made_by, model: identity and name of the network that made it.
        what: was made by it, and `cure` what to do: for the message.

    Raises:
        ValueError: with how far the two are apart.
    """
    names = f"it was made with {model!r}, and the pipeline is {backbone.name!r}"
    if made_by is None:
        if backbone.name != model or model == UNNAMED:
            raise ValueError(f"{what} does not say by which network it was made, but for a name: {names}; {cure}")
        return
    now = Identity.of(backbone, prompt)
    if not made_by.is_same(now):
        raise ValueError(
            f"{what} was made by another network than the pipeline's, or with another LoRA or textual inversion: what "
            f"the two say of the same noise is {100 * made_by.apart(now):.2g} % apart ({names}); {cure}"
        )
