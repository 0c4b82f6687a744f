"""What the activations of an editor's gradient take on a GPU, computed without one: `python -m scripts.memory`.

Stable Diffusion 1.4's networks run on tensors that have shapes and no values, in float16, at 512×512. Counted are the
weights and what the largest gradient keeps for its backward pass; what single operations need while they run comes
on top.
"""

from __future__ import annotations

from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.autograd.graph import saved_tensors_hooks

import nmg
from nmg import activations, rows
from nmg.conditioning import Conditioning
from nmg.run import Run
from scripts.models import pipeline


class Kept:
    """Counts the bytes that are kept for the backward pass, without the network's parameters."""

    def __init__(self, network: torch.nn.Module):
        self.known = {p.untyped_storage()._cdata for p in network.parameters()}
        self.storages: dict[int, torch.UntypedStorage] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.storages[storage._cdata] = storage
        return tensor

    @property
    def gib(self) -> float:
        return sum(storage.nbytes() for storage in self.storages.values()) / 2**30


def main() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        torch.set_default_dtype(torch.float16)
        pipe = pipeline("cpu", torch.float16, with_values=False)
        torch.set_default_dtype(torch.float32)
        with unset_fake_temporarily():
            # The schedule needs its values.
            pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
            down = nmg.steps(pipe.scheduler, 50)
        parts = pipe.unet, pipe.vae, pipe.text_encoder
        weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters()) / 2**30
        print(f"weights                      {weights:.2f} GiB")

        backbone = nmg.Backbone(pipe)
        levels = (down[-1].there, *(step.here for step in reversed(down)))
        trajectory = nmg.Trajectory(torch.randn(51, 4, 64, 64), levels, down, "a", backbone.name)
        text = Conditioning(torch.randn(2, 77, 768))
        run = Run(backbone, trajectory, ("a", "b"), text, text.clone())
        # Prompt-to-Prompt and MasaCtrl take no gradient of their own.
        for worthwhile, who in ((activations.WORTHWHILE, ""), (2**60, ", by PyTorch itself")):
            kept = Kept(pipe.unet)
            with saved_tensors_hooks(kept, lambda tensor: tensor), patch.object(activations, "WORTHWHILE", worthwhile):
                nmg.NoiseMap().steer(run, down[10], run.start)
            print(f"noise map guidance keeps     {kept.gib:.2f} GiB{who}")
        kept = Kept(pipe.unet)
        # Without values no two texts are known to be equal.
        with saved_tensors_hooks(kept, lambda tensor: tensor), patch.object(torch, "equal", return_value=False):
            nmg.Pix2PixZero().prepare(run).steer(run, down[10], rows.doubled(run.start), rows.doubled(text))
        print(f"pix2pix-zero's descent keeps {kept.gib:.2f} GiB")


if __name__ == "__main__":
    main()
