"""Plug-and-Play: Tumanyan, Geyer, Bagon & Dekel, "Plug-and-Play Diffusion Features for Text-Driven Image-to-Image
Translation", CVPR 2023, arXiv 2211.12572.
"""

from __future__ import annotations

from dataclasses import dataclass

from nmg import rows
from nmg.attention import Attend, Features, Site, attention
from nmg.backbones import Backbone
from nmg.editors.base import Editor, idle
from nmg.levels import Step
from nmg.run import Asked, Run
from nmg.types import Heads, KeyMask

FIRST_BLOCK = 4 / 12
"""Where the published block lies in the twelve residual blocks of Stable Diffusion 1's decoder."""


@dataclass(frozen=True)
class PlugAndPlay(Editor):
    """Targets with the source's features and self-attention in the decoder (section 4, algorithm 1).

    In the first steps, what one residual block adds to its shortcut is the source's in every target; and from that
    block on the targets' self-attention has the source's queries and keys, and values of their own. Null and text half
    take both from the source's text copy: no gradient, and three rows of the network for a target.

    The paper reads the source off its noise maps, which `Direct` does and is the guidance where none is given, at text
    scale 7.5, and takes its features under the empty prompt, which source="" does.

    Args:
        feature_replace: share of the steps in which features are the source's.
        attention_replace: share of the steps in which self-attention is.
        start_block: the residual block, counted from 0 in the order they run. If not given, 4 of Stable Diffusion 1's
            twelve, and as deep in any other network.

    Raises:
        ValueError: for a share outside 0…1, or a block below 0. For a request: for a network without a decoder, or a
            block that it doesn't have.
    """

    feature_replace: float = 0.8
    attention_replace: float = 0.5
    start_block: int | None = None

    def __post_init__(self) -> None:
        for name in ("feature_replace", "attention_replace"):
            share = getattr(self, name)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise ValueError(f"PlugAndPlay: {name}={share!r} must be a share of the steps, 0…1, such as 0.5")
        block = self.start_block
        if block is not None and (isinstance(block, bool) or not isinstance(block, int) or block < 0):
            raise ValueError(f"PlugAndPlay: start_block={block!r} must be a whole number from 0 on, such as 4")

    @property
    def suits(self) -> str:
        return "direct"

    @property
    def text_scale(self) -> float | None:
        return 7.5

    def check(self, backbone: Backbone, request: Asked) -> None:
        """Raise for a network without a decoder, or a block that it doesn't have."""
        backbone.check_decoder("PlugAndPlay")
        if self.start_block is not None and self.start_block >= len(backbone.decoder):
            raise ValueError(
                f"PlugAndPlay: start_block={self.start_block} is not there: the decoder has {len(backbone.decoder)} "
                "residual blocks; give a smaller one, or leave it out"
            )

    def remarks(self, backbone: Backbone, request: Asked) -> list[str]:
        return idle(self, request, "feature_replace", "attention_replace")

    def prepare(self, run: Run) -> Editor:
        if len(run.prompts) < 2:
            return Editor()
        blocks = run.backbone.decoder
        first = round(FIRST_BLOCK * len(blocks)) if self.start_block is None else self.start_block
        attentions = tuple(path.replace(".resnets.", ".attentions.") + "." for path in blocks[first:])
        count = len(run.steps)
        return _Running(
            f"{blocks[first]}.conv2", attentions, self.feature_replace * count, self.attention_replace * count
        )


@dataclass(frozen=True, eq=False)
class _Running(Editor):
    """One run of Plug-and-Play.

    Attributes:
        convolution: path of the convolution that a residual block ends with, before the shortcut is added.
        attentions: how the paths of the attention layers begin.
        features_until, attention_until: steps before which features and self-attention are the source's.
    """

    convolution: str
    attentions: tuple[str, ...]
    features_until: float
    attention_until: float

    def features(self, run: Run, step: Step) -> Features | None:
        return {self.convolution: rows.of_text_source} if step.index < round(self.features_until) else None

    def attend(self, run: Run, step: Step) -> Attend | None:
        if step.index >= round(self.attention_until):
            return None

        def attend(site: Site, q: Heads, k: Heads, v: Heads, mask: KeyMask | None = None) -> Heads | None:
            if site.is_cross or not site.name.startswith(self.attentions):
                return None
            return attention(rows.of_text_source(q), rows.of_text_source(k), v, mask)

        return attend

    def copies(self, run: Run, step: Step) -> rows.Copies:
        return "none" if self.features(run, step) is None and self.attend(run, step) is None else "text"
