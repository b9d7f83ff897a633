"""Weights in shards, one per process (FSDP2), and back to whole tensors for files that fit any number of processes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from palate.distributed import is_first, processes


def shard(network: nn.Module, device: torch.device) -> nn.Module:
    """The same network, its weights and their gradients spread over the processes: every block of the lists that it is
    made of by itself, then the rest. Gradients are summed, not averaged, as each process's loss is its part of the
    mean.

    Blocks let go of the others' shards after their forward: weights that change in between (averages, in place of the
    policy's) are then seen by the next one.
    """
    mesh = init_device_mesh(device.type, (processes(),))
    blocks = [block for part in network.children() if isinstance(part, nn.ModuleList) for block in part]
    for module in [*blocks, network]:
        sharded = fully_shard(module, mesh=mesh, reshard_after_forward=True)  # the same module
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other
    return network


def is_sharded(network: nn.Module) -> bool:
    """Whether `shard` was here."""
    return isinstance(network, FSDPModule)


def whole(value: Any) -> Any:
    """Tensors, and dicts and lists of them, with every shard put back together, for the first process, on its CPU; the
    others take part and get an empty tensor. What is not in shards stays as it is."""
    if isinstance(value, DTensor):
        full = value.full_tensor()
        return full.cpu() if is_first() else full.new_empty(0)
    if isinstance(value, dict):
        return {name: whole(one) for name, one in value.items()}
    return [whole(one) for one in value] if isinstance(value, list) else value


def like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """The tensor in shards if `pattern`, of the same shape, is; every process holds the whole of it already."""
    if not isinstance(pattern, DTensor) or isinstance(tensor, DTensor) or tensor.shape != pattern.shape:
        return tensor
    moved = tensor.detach().to(device=pattern.device, dtype=pattern.dtype)
    return distribute_tensor(moved, pattern.device_mesh, pattern.placements, src_data_rank=None)


def number(value: Tensor) -> float:
    """A tensor of one element, for example a norm over shards, as a number."""
    return float(value.full_tensor() if isinstance(value, DTensor) else value)
