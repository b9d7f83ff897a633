"""The frozen starting model: the adapter switched off, a frozen copy (here or in the CPU's memory), or errors that
another run computed. Errors that `palate encode` computes are in precomputed.py."""

import copy
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from accelerate import cpu_offload

from palate.data.shards import read_table, write_table
from palate.network.model import Policy
from palate.network.precision import hold_frozen
from palate.network.sharding import is_sharded
from palate.run.config import TrainConfig
from palate.training.compiled import compile_network


def make_reference(
    policy: Policy, needed: bool = True, config: TrainConfig | None = None, shard: Callable | None = None
) -> Callable:
    """A context manager that gives the reference network, as `reference` of the configuration says.

    Without a configuration: the policy without its adapters where it has some (no second copy of the weights is held),
    a frozen copy otherwise, which `shard` spreads over processes. Where nothing is compared with a reference, or its
    errors are precomputed, there is none: asking for it is a mistake (RuntimeError). Make it before the first step: a
    copy is of the policy as it is.
    """
    mode = config.reference if config else "auto"
    if mode == "precomputed" or policy.is_classifier or not needed:
        return _none
    if policy.is_lora and mode in ("auto", "adapter-off"):

        @contextmanager
        def adapter_off():
            policy.network.disable_adapters()
            if is_sharded(policy.network):  # peft stops gradients too, and a sharded network keeps what it saw first
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
    def frozen_copy():
        yield frozen

    return frozen_copy


@contextmanager
def _none():
    raise RuntimeError("this run has no reference network")
    yield


class SharedErrors:
    """The reference's denoising errors at addressed draws, kept in one file for every run that visits the same draws.

    Whatever the errors depend on (model, data, seed, drop-out share, precision) belongs into the file's name. Two runs
    that write at once lose nothing but time: what one of them misses, it computes.
    """

    def __init__(self, path: Path):
        self.path = path
        self._known = self._read()
        self._saved = len(self._known)

    def lookup(self, pair_ids: list[str], numbers: list[int]) -> torch.Tensor | None:
        """Errors [B, 2] of both images, or None when any is missing.

        All or nothing, because a forward over part of a batch may differ from one over the whole in the last bit, and a
        resumed run must equal an uninterrupted one.
        """
        found = [self._known.get(address) for address in zip(pair_ids, numbers, strict=True)]
        return None if None in found else torch.tensor(found, dtype=torch.float32)

    def add(self, pair_ids: list[str], numbers: list[int], errors: torch.Tensor) -> None:
        """Remember errors [B, 2]; those already known stay as they are."""
        for address, pair in zip(zip(pair_ids, numbers, strict=True), errors.tolist(), strict=True):
            self._known.setdefault(address, tuple(pair))

    def save(self) -> None:
        """Write what is new, together with what another run may have written meanwhile."""
        if len(self._known) == self._saved:
            return
        self._known = {**self._known, **self._read()}
        pair_ids, numbers = zip(*self._known, strict=True)
        errors = np.array(list(self._known.values()), np.float32)
        table = pa.table({"pair_id": pair_ids, "draw": numbers, "error_0": errors[:, 0], "error_1": errors[:, 1]})
        write_table(self.path, table)
        self._saved = len(self._known)

    def _read(self) -> dict[tuple[str, int], tuple[float, float]]:
        if not self.path.exists():
            return {}
        columns = read_table(self.path).to_pydict()
        return dict(
            zip(
                zip(columns["pair_id"], columns["draw"], strict=True),
                zip(columns["error_0"], columns["error_1"], strict=True),
                strict=True,
            )
        )
