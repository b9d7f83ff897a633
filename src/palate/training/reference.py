"""The frozen starting model: the adapter switched off, or a frozen copy (here or in the CPU's memory). Its stored
errors are in precomputed.py; a reference that moves is in moving.py."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import cpu_offload

from palate.backbones.base import Denoiser
from palate.network.model import Policy
from palate.network.precision import hold_frozen
from palate.network.sharding import is_sharded
from palate.run.config import TrainConfig
from palate.training.compiled import compile_network
from palate.training.networks import Reference


def make_reference(
    policy: Policy,
    needed: bool = True,
    config: TrainConfig | None = None,
    shard: Callable[[torch.nn.Module], torch.nn.Module] | None = None,
) -> Reference:
    """A context manager that gives the reference network, according to the configuration's key `reference`.

    Without a configuration: the policy without its adapters where it has some (no second copy of the weights),
    otherwise a frozen copy, which `shard` spreads over processes. Where nothing is compared with a reference, or its
    errors are precomputed, there is no reference network, and asking for it is a mistake (RuntimeError). Make it before
    the first step: it copies the policy at that moment.
    """
    mode = config.reference if config else "auto"
    if mode == "precomputed" or policy.is_classifier or not needed:
        return _none
    if policy.is_lora and mode not in ("copy", "offloaded"):

        @contextmanager
        def adapter_off() -> Iterator[Denoiser]:
            policy.network.disable_adapters()
            if is_sharded(policy.network):  # peft also stops gradients, and a sharded network keeps its first setting
                for parameter in policy.parameters:
                    parameter.requires_grad_(True)
            try:
                yield policy.network
            finally:
                policy.network.enable_adapters()

        return adapter_off

    frozen = copy.deepcopy(policy.network).requires_grad_(False)
    if policy.is_lora:
        frozen.disable_adapters()
    if config:
        hold_frozen(frozen, config.weight_dtype)
        if mode == "offloaded":
            device = policy.parameters[0].device
            frozen = cpu_offload(frozen.to("cpu"), execution_device=device, offload_buffers=True)
        if config.compile:
            compile_network(frozen)
    if shard is not None:
        frozen = shard(frozen)

    @contextmanager
    def frozen_copy() -> Iterator[Denoiser]:
        yield frozen

    return frozen_copy


@contextmanager
def _none() -> Iterator[Denoiser]:
    raise RuntimeError("this run has no reference network")
    yield  # never reached: it makes this a generator
