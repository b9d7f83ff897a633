"""What a network is told beside noised latents and timestep: tensors by name, one row per image (or per prompt).

`embeddings` [B, L, D] is always there. Families add their own: a pooled embedding, a mask of tokens, sizes and crops. A
plain dict, so that whoever only hands it on need not know what is in it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Conditioning = dict[str, Tensor]


def concatenate(parts: Sequence[Conditioning]) -> Conditioning:
    """The rows of several, in order. All must hold the same names."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def repeat(conditioning: Conditioning, times: int) -> Conditioning:
    """All rows, then all rows again: [B, ...] to [times·B, ...]."""
    return {name: tensor.repeat(times, *[1] * (tensor.ndim - 1)) for name, tensor in conditioning.items()}


def expand(conditioning: Conditioning, rows: int) -> Conditioning:
    """One row for everybody: [1, ...] to [rows, ...], without a copy."""
    return {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in conditioning.items()}


def take(conditioning: Conditioning, index: slice | Tensor | list[int]) -> Conditioning:
    """The rows of an index."""
    return {name: tensor[index] for name, tensor in conditioning.items()}


def move(conditioning: Conditioning, device: str | torch.device) -> Conditioning:
    """The same on another device."""
    return {name: tensor.to(device) for name, tensor in conditioning.items()}
