"""What an edit takes of a GPU's memory, found before it runs: its networks, without values, make one step."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nmg.backbones import Backbone
from nmg.conditioning import Conditioning
from nmg.editors import Editor
from nmg.guidance import Guidance, NoiseMap
from nmg.inversion import Trajectory
from nmg.request import Request
from nmg.run import Run
from nmg.sampling import denoise

GIB = 2**30
aten = torch.ops.aten


class Meter(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside the block. A tensor without values counts as one with.

    Attributes:
        live, peak: bytes of the tensors that live now, and of the most that lived at one time.
        kept: those at the start of the backward pass that had most: the activations that it needs.
        largest: what one operation made at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.kept = self.largest = 0
        self.known: set[int] = set()
        self.backwards = False

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), options: dict | None = None) -> Any:
        # There are no values: all is finite, a search ends at once, and no two tensors are known to be equal.
        if operation is aten._local_scalar_dense.default:
            return args[0].dtype == torch.bool or 0.0
        if operation is aten.equal.default:
            return False
        backwards = torch._C._current_graph_task_id() != -1
        if backwards and not self.backwards:
            self.kept = max(self.kept, self.live)
        self.backwards, before = backwards, self.live

        made = operation(*args, **(options or {}))
        given = {_key(tensor) for tensor in _tensors((args, options))}
        for tensor in _tensors(made):
            if (key := _key(tensor)) not in self.known | given:
                self._count(tensor.untyped_storage(), key)
        self.peak, self.largest = max(self.peak, self.live), max(self.largest, self.live - before)
        return made

    def _count(self, storage: torch.UntypedStorage, key: int) -> None:
        def freed(size: int = storage.nbytes()) -> None:
            self.live -= size
            self.known.discard(key)

        self.known.add(key)
        self.live += storage.nbytes()
        weakref.finalize(storage, freed)


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@dataclass(frozen=True)
class Needs:
    """The bytes that an edit takes of a device, besides what libraries hold for themselves.

    Attributes:
        weights: of the parts that lie there at one time.
        step: of the tensors that live at one time in a step, at most.
        kept: of those, the activations that a backward pass needs.
        largest: what one operation makes at most.
        picture: of the tensors that live at one time when a picture is encoded or decoded, at most.
    """

    weights: int
    step: int
    kept: int
    largest: int
    picture: int

    @property
    def total(self) -> int:
        return self.weights + max(self.step, self.picture)

    def __str__(self) -> str:
        step = f"a step {self.step / GIB:.2f} (kept for its gradient {self.kept / GIB:.2f})"
        return (
            f"{self.total / GIB:.2f} GiB: weights {self.weights / GIB:.2f}, and then either {step} or a picture "
            f"{self.picture / GIB:.2f}"
        )


def needed(pipe: Any, request: Request) -> Needs:
    """What an edit of a loaded pipeline takes; the pipeline's own networks are not called, but its text encoders are.

    Raises:
        TypeError, ValueError: for a request that can't be served.
    """
    backbone = Backbone(pipe)
    request = request.resolved(backbone).opened()
    request.check(backbone)
    text, null = backbone.texts(request.prompts, request.negative or "")
    assert request.guidance is not None and request.editor is not None and request.size is not None
    return computed(pipe, request.prompts, text, null, request.guidance, request.editor, request.size)


@torch.no_grad()
def computed(
    pipe: Any,
    prompts: tuple[str, ...],
    text: Conditioning,
    null: Conditioning,
    guidance: Guidance,
    editor: Editor,
    size: tuple[int, int],
) -> Needs:
    """What `needed` says, from the configurations of the pipeline's networks, which may have no values."""
    # Of two steps, the first has every part of an editor in it.
    down = Backbone(pipe).steps(2, Backbone(pipe).latent_size(size))
    with FakeTensorMode(allow_non_fake_inputs=True):
        backbone = Backbone(_without_values(pipe))
        text, null = (rows.each(lambda x: torch.empty(x.shape, dtype=x.dtype), rows.prompts) for rows in (text, null))
        shape = (backbone.latent_channels, *backbone.latent_size(size))
        levels = (down[-1].there, *(step.here for step in reversed(down)))
        trajectory = Trajectory(torch.empty(3, *shape), levels, down, prompts[0], backbone.name)
        run = Run(backbone, trajectory, prompts, text, null.expand(len(text)))
        with Meter() as step:
            next(denoise(run, guidance, editor))
        vae, pixels = backbone.vae, torch.empty(1, 3, *size[::-1], dtype=backbone.vae.dtype)
        # One frame of a film, where the autoencoder makes films.
        pixels, latents = (backbone.framed(x) for x in (pixels, torch.empty(1, *shape, dtype=vae.dtype)))
        with Meter() as picture:
            vae.encode(pixels)
        with Meter() as decoded:
            vae.decode(latents)
    most = max(picture.peak, decoded.peak)
    upcast = backbone.OVERFLOWS and vae.dtype == torch.float16 and vae.config.get("force_upcast")
    # In float32 the decoder's weights count once more, too.
    most = 2 * most + _bytes(vae) if upcast else most
    return Needs(weights(pipe), step.peak, step.kept, max(step.largest, decoded.largest), most)


def _without_values(pipe: Any) -> Any:
    """The pipeline with networks of the same configuration that have no values."""
    own = copy.copy(pipe)
    for name in ("unet", "transformer", "vae"):
        if (network := getattr(pipe, name, None)) is not None:
            network = getattr(network, "_orig_mod", network)
            made = in_dtype(network.dtype, lambda network=network: type(network).from_config(network.config))
            if getattr(network, "is_gradient_checkpointing", False):
                made.enable_gradient_checkpointing()
            setattr(own, name, made.eval().requires_grad_(False))
    return own


def in_dtype(dtype: torch.dtype, make: Callable[[], nn.Module]) -> Any:
    """A network whose weights are made in this dtype: without values they can't be cast."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return make()
    finally:
        torch.set_default_dtype(usual)


def weights(pipe: Any) -> int:
    """The bytes of the weights that lie on the device at one time: of all parts, of the largest where each is brought
    there in its turn (`enable_model_cpu_offload`), or of none where each layer is."""
    hooks = _offloads(pipe)
    if "AlignDevicesHook" in hooks:
        return 0
    return max(_parts(pipe)) if hooks else sum(_parts(pipe))


def _offloads(pipe: Any) -> set[str]:
    """The kinds of accelerate's hooks by which parts or layers are brought to the device."""
    parts = (part for part in pipe.components.values() if isinstance(part, nn.Module))
    return {type(hook).__name__ for part in parts if (hook := getattr(part, "_hf_hook", None)) is not None}


def _parts(pipe: Any) -> list[int]:
    """The bytes of each part's weights."""
    return [_bytes(part) for part in pipe.components.values() if isinstance(part, nn.Module)]


def _bytes(network: nn.Module) -> int:
    held = (*network.parameters(), *network.buffers())
    return sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in held}.values())


# ---------------------------------------------------------------- before a run


def free(device: torch.device) -> int | None:
    """The bytes that a GPU has left, what PyTorch holds in reserve included; None for another device."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def said(pipe: Any, request: Request, left: int | None = None) -> str | None:
    """What to say before an edit that won't fit the card: what it takes, and what takes less. None for one that fits,
    or where there is no card.

    Args:
        left: the bytes that are free; asked of the card if not given.

    Raises:
        TypeError, ValueError: as `needed`.
    """
    backbone = Backbone(pipe)
    left = free(backbone.device) if left is None else left
    if left is None:
        return None
    needs = needed(pipe, request)
    # Weights that lie on the card already take nothing more of it.
    room = left if _offloads(pipe) else left + needs.weights
    if needs.total <= room:
        return None
    # Older releases of diffusers checkpoint in training mode alone.
    less = [f"{what} ({size / GIB:.2f} GiB)" for what, size in _cures(pipe, request, needs) if size < needs.total]
    ways = ", ".join([*less, "a smaller size"])
    return f"the edit takes about {needs}, and the card has {room / GIB:.2f} GiB for it; these take less: {ways}"


class Notes:
    """What `said` says of the edits of one run, once of each kind: the same methods for as many prompts and pixels take
    the same memory."""

    def __init__(self) -> None:
        self._known: list[tuple[Any, ...]] = []

    def new(self, pipe: Any, request: Request) -> str | None:
        """What to say before an edit, unless it was said of one like it.

        Raises:
            TypeError, ValueError: as `needed`.
        """
        kind = request.size, len(request.prompts), request.guidance, request.editor
        if free(Backbone(pipe).device) is None or kind in self._known:
            return None
        self._known.append(kind)
        return said(pipe, request)


def _cures(pipe: Any, request: Request, needs: Needs) -> Iterator[tuple[str, int]]:
    """What takes less memory, and how much it takes."""
    backbone = Backbone(pipe)
    network, guidance = backbone.network, request.resolved(backbone).guidance
    if isinstance(guidance, NoiseMap) and guidance.jacobian:
        spared = dataclasses.replace(guidance, jacobian=False)
        yield (
            "NoiseMap(jacobian=False) or --no-jacobian",
            needed(pipe, dataclasses.replace(request, guidance=spared)).total,
        )
    if needs.kept and not network.is_gradient_checkpointing:
        network.enable_gradient_checkpointing()
        try:
            name = "unet" if network is getattr(pipe, "unet", None) else "transformer"
            yield f"pipe.{name}.enable_gradient_checkpointing()", needed(pipe, request).total
        finally:
            network.disable_gradient_checkpointing()
    if not _offloads(pipe):
        yield "pipe.enable_model_cpu_offload()", needs.total - needs.weights + max(_parts(pipe))
