"""Interrupts at random moments of an edit, and what they leave on the network."""

from __future__ import annotations

import random
import signal
import time
from typing import Any

import torch

import nmg
from nmg import attention
from nmg.editors import MasaCtrl, PromptToPrompt
from nmg.guidance import NoiseMap, NullText
from nmg.menagerie import Scene

EDITS: tuple[dict[str, Any], ...] = (
    {"guidance": NoiseMap(), "editor": PromptToPrompt()},
    {"guidance": NoiseMap(jacobian=False), "editor": MasaCtrl(0)},
    {"guidance": NullText(iterations=1), "editor": nmg.Pix2PixZero(amount=0.1)},
)
"""Edits that between them hang hooks, freeze weights and replace layers."""


def state(network: Any) -> dict[str, Any]:
    """All that an edit changes on a network, and in the thread that it runs in."""
    own = {"forward", "_conv_forward"}
    return {
        "hooks": [(*module._forward_hooks, *module._forward_pre_hooks) for module in network.modules()],
        "layers": [own & vars(module).keys() for module in network.modules()],
        "processors": [id(processor) for processor in network.attn_processors.values()],
        "trainable": [parameter.requires_grad for parameter in network.parameters()],
        "running": dict(attention._RUNNING),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def struck(pipe: Any, count: int, r: random.Random) -> tuple[int, list[str]]:
    """Interrupt edits.

    Args:
        pipe: whose UNet's weights take a gradient, as those of a pipeline that diffusers loaded do.

    Returns:
        How many interrupts struck inside an edit, and what they left.
    """
    begun = state(pipe.unet)
    trajectory = nmg.invert(pipe, Scene.sample(7).render(64), "a cat", steps=1, size=(16, 16), progress=False)
    options: dict[str, Any] = {"targets": ["a dog"], "progress": False}
    lengths = []
    for methods in EDITS:
        began = time.perf_counter()
        nmg.edit(pipe, trajectory, **options, **methods)
        lengths.append(time.perf_counter() - began)
    found, left = 0, []
    before = signal.signal(signal.SIGALRM, _strike)
    try:
        while found < count:
            which = r.randrange(len(EDITS))
            try:
                signal.setitimer(signal.ITIMER_REAL, r.uniform(1e-4, lengths[which]))
                nmg.edit(pipe, trajectory, **options, **EDITS[which])
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                found += 1
            now = state(pipe.unet)
            left += [f"interrupt {found}: {name}" for name in now if now[name] != begun[name]]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return found, left


def _strike(*_: Any) -> None:
    raise KeyboardInterrupt
