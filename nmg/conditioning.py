"""What prompts became, as a value with one row per prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What a network reads of prompts, one row for each. It is cut, joined and compared by rows, as a tensor is.

    Attributes:
        tokens: the text encoders' embeddings, which attention reads.
        pooled: one embedding of the whole prompt, where the network reads one.
        mask: which of the tokens count, where not all do. Texts of different lengths are joined by padding, which the
            mask leaves out.
        guidance: the scale that a guidance-distilled network is told.
        prompts: that the rows were made of; None for a row of another making. They tell, without a wait for the device,
            which rows are the same.
    """

    tokens: Float[Tensor, "rows tokens features"]
    pooled: Float[Tensor, "rows width"] | None = None
    mask: Bool[Tensor, "rows tokens"] | None = None
    guidance: Float[Tensor, " rows"] | None = None
    prompts: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts) or (None,) * len(self.tokens))

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        held = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return {name: tensor for name, tensor in held.items() if isinstance(tensor, Tensor)}

    def each(self, change: Callable[[Tensor], Tensor], prompts: Sequence[str | None] = ()) -> Conditioning:
        """The same change to every tensor, after which the rows are of these prompts."""
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in self.tensors().items()}
        return Conditioning(**changed, prompts=tuple(prompts))

    def same(self, other: Conditioning) -> bool:
        """Whether two are known to be equal, row by row: they are of the same prompts. Values are not compared."""
        return None not in self.prompts and self.prompts == other.prompts and self.shape == other.shape

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> Conditioning:
        return self.each(lambda tensor: tensor[rows], self.prompts[rows])

    def split(self, size: int) -> tuple[Conditioning, ...]:
        """Parts of `size` rows."""
        return tuple(self[i : i + size] for i in range(0, len(self), size))

    def expand(self, rows: int, *_: int) -> Conditioning:
        """Its only row, `rows` times."""
        return self.each(lambda tensor: tensor.expand(rows, *tensor.shape[1:]), self.prompts[:1] * rows)

    def expand_as(self, other: Conditioning) -> Conditioning:
        """Its only row, as often as `other` has rows."""
        return self.expand(len(other))

    def clone(self) -> Conditioning:
        return self.each(Tensor.clone, self.prompts)

    def to(self, device: torch.device | str) -> Conditioning:
        return self.each(lambda tensor: tensor.to(device), self.prompts)

    def with_tokens(self, tokens: Tensor) -> Conditioning:
        """The same with other embeddings in every row, found in a text that may be padded to another length."""
        tokens = F.pad(tokens, (0, 0, 0, self.shape[1] - tokens.shape[1]))
        return dataclasses.replace(self, tokens=tokens.to(self.tokens.dtype).expand_as(self.tokens), prompts=())

    def with_guidance(self, scale: float) -> Conditioning:
        """The same, told another scale; as it is where the network is told none."""
        if self.guidance is None:
            return self
        named = tuple(prompt if prompt is None else f"{prompt} (told {scale:g})" for prompt in self.prompts)
        return dataclasses.replace(self, guidance=torch.full_like(self.guidance, scale), prompts=named)

    def moved(self, tokens: Tensor, pooled: Tensor | None = None) -> Conditioning:
        """The same with embeddings that are moved along a direction. Where padding moves, it is a token."""
        whole = self.pooled if self.pooled is None or pooled is None else self.pooled + pooled.to(self.pooled)
        own = self.fitted(max(self.shape[1], tokens.shape[1]))
        move = F.pad(tokens, (0, 0, 0, own.shape[1] - tokens.shape[1])).to(own.tokens)
        mask = None if own.mask is None else own.mask | (move != 0).any(-1)
        return dataclasses.replace(own, tokens=own.tokens + move, pooled=whole, mask=mask, prompts=())

    def fitted(self, length: int) -> Conditioning:
        """The same with this number of tokens: more padding, or less."""
        more = length - self.shape[1]
        if more == 0:
            return self
        mask = torch.ones_like(self.tokens[..., 0], dtype=torch.bool) if self.mask is None else self.mask
        return dataclasses.replace(self, tokens=F.pad(self.tokens, (0, 0, 0, more)), mask=F.pad(mask, (0, more)))

    @property
    def shape(self) -> torch.Size:
        """[rows, tokens, features]."""
        return self.tokens.shape

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: tuple = (), options: dict | None = None) -> Any:
        """`torch.cat` and `torch.equal` take it as they take a tensor."""
        if function is torch.cat:
            return cls._joined(args[0])
        if function is torch.equal:
            first, second = (value.tensors() for value in args)
            return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
        return NotImplemented

    @classmethod
    def _joined(cls, parts: Sequence[Conditioning]) -> Conditioning:
        longest = max(part.shape[1] for part in parts)
        named = [part.fitted(longest).tensors() for part in parts]
        joined: dict[str, Any] = {name: torch.cat([part[name] for part in named]) for name in named[0]}
        return cls(**joined, prompts=tuple(prompt for part in parts for prompt in part.prompts))
