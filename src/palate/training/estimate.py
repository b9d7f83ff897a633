"""Estimate the needs of a training before it begins: memory from one step on fake tensors, time from a few real
steps."""

import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from palate.backbones import Backbone
from palate.backbones.conditioning import Conditioning
from palate.distributed import processes
from palate.errors import PalateError
from palate.network.model import Policy, make_policy, meta_network
from palate.network.optimizers import STATE_BYTES, make_optimizer
from palate.network.precision import DTYPES, hold_frozen
from palate.run.checks import moves, needs_reference, needs_start
from palate.run.config import TrainConfig
from palate.run.contradictions import check
from palate.run.keys import keys
from palate.training.moving import MovingReference
from palate.training.reference import make_reference

GIB = 2**30
AUTOCAST = {"no": "fp32", "fp16": "fp16", "bf16": "bf16"}
LONG = 30.0  # seconds: one step that takes longer is measured once


@dataclass(frozen=True)
class Memory:
    """Bytes on the device of one process, by what they hold."""

    trained: int  # numbers of parameters
    parameters: int
    weights: int
    reference: int
    gradients: int
    optimizer: int
    averages: int
    activations: int  # and other temporary tensors of a step

    @property
    def total(self) -> int:
        return self.lasting + self.activations

    @property
    def lasting(self) -> int:
        """Without activations."""
        return self.weights + self.reference + self.gradients + self.optimizer + self.averages

    def line(self) -> str:
        """In GiB, for people."""
        names = ("weights", "reference", "gradients", "optimizer", "averages", "activations")
        parts = ", ".join(f"{name} {getattr(self, name) / GIB:.2f}" for name in names if getattr(self, name))
        return f"{self.total / GIB:.2f} GiB ({parts})"


def estimate_memory(backbone: Backbone, config: TrainConfig, conditioning: Conditioning | None) -> Memory:
    """The peak memory of a step, from the networks' configuration alone: no weights are loaded, nothing is computed.

    `conditioning` is one row; without it activations are left out. Counts tensors only; the process and its libraries
    need memory beside them. Raises PalateError when an adapter's target matches no module.
    """
    network, reference = meta_network(backbone), 0
    with torch.device("meta"):
        policy = make_policy(network, config)
    if needs_start(config) and _is_copied(config):
        frozen = meta_network(backbone).requires_grad_(False)
        hold_frozen(frozen, config.weight_dtype)
        reference = _bytes(list(frozen.parameters()))
    share = _processes(config) if config.parallel == "fsdp2" else 1
    trained = sum(parameter.numel() for parameter in policy.parameters)
    gradients, weights = 4 * trained, _bytes(list(policy.network.parameters()))
    copies = (config.ema_decay is not None) + 2 * config.adaptive + (config.early_stop is not None) + moves(config)
    live = gradients if conditioning is None else _live_bytes(backbone, config, policy, conditioning)
    update = gradients * (2 if torch.device(backbone.device).type == "cuda" else 1)  # AdamW's temporary copy there
    return Memory(
        trained=trained,
        parameters=sum(parameter.numel() for parameter in policy.network.parameters()),
        weights=weights // share,
        reference=reference // share,
        gradients=gradients // share,
        optimizer=int(STATE_BYTES[config.optimizer] * trained) // share,
        averages=copies * gradients // share,
        activations=max(live, update) - gradients,
    )


def refuse_hopeless(backbone: Backbone, config: TrainConfig) -> None:
    """Raises PalateError, before anything is loaded, when not even weights, reference and optimiser fit. A model much
    smaller than the memory costs no time here."""
    files = (backbone.folder / backbone.denoiser).glob("*.safetensors")
    if config.trains == "denoiser" and 20 * sum(file.stat().st_size for file in files) > free_memory(backbone.device):
        refuse_too_little(estimate_memory(backbone, config, None), backbone, config, None)


def refuse_too_little(
    memory: Memory, backbone: Backbone, config: TrainConfig, conditioning: Conditioning | None
) -> None:
    """Raises PalateError when a training does not fit, with the memory that it needs, also with each option that
    reduces it."""
    free = free_memory(backbone.device)
    if memory.total <= free:
        return
    smaller = []
    for name, change in remedies(config).items():
        needed = estimate_memory(backbone, replace(config, **change), conditioning).total
        if needed < 0.98 * memory.total:
            smaller.append((needed, f"{name} ({needed / GIB:.2f})"))
    told = ", ".join(text for _, text in sorted(smaller)[:5]) or "a smaller model or resolution"
    raise PalateError(
        f"too little memory: training needs about {memory.line()}, and {free / GIB:.2f} GiB are free on"
        f" {backbone.device}. It would need less with {told}."
    )


def remedies(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """The options that reduce the memory of a configuration and are compatible with its other keys, each with the keys
    that it sets."""
    found: dict[str, dict[str, Any]] = {}
    for name, key in keys(TrainConfig, lambda key: bool(key.remedies)).items():
        for value in key.remedies if name != "reference" or not moves(config) else ():
            change = {name: value, **key.remedy_sets}
            if all(getattr(config, other) == wanted for other, wanted in change.items()):
                continue
            try:
                check(replace(config, **change))
            except PalateError:
                continue
            if value is True or not isinstance(value, str | int):
                found[name] = change
            else:
                found[" and ".join(f"{other}: {wanted}" for other, wanted in change.items())] = change
    return found


def free_memory(device: str | torch.device) -> int:
    """Free bytes on a device; on the CPU, within the limit of a container."""
    if torch.device(device).type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # reserved by torch
        return torch.cuda.mem_get_info(device)[0] + kept
    free, limit, used = (
        psutil.virtual_memory().available,
        Path("/sys/fs/cgroup/memory.max"),
        Path("/sys/fs/cgroup/memory.current"),
    )
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def measure_step(
    backbone: Backbone, config: TrainConfig, policy: Policy, conditioning: Conditioning, accelerator: Accelerator
) -> float:
    """Seconds of an optimiser step on random inputs: reference, forward, backward, update. This changes the policy's
    weights."""
    optimizer = make_optimizer(policy.parameters, replace(config, learning_rate=1e-9))
    reference = make_reference(policy, needs_start(config), config)
    if moves(config):
        reference = MovingReference(policy, config).network
    noisy, timestep, told = _inputs(backbone, config, conditioning)
    seconds: list[float] = []
    while len(seconds) < 3 and (not seconds or seconds[0] < LONG):
        start = time.perf_counter()
        if needs_reference(config) and config.reference != "precomputed":
            with torch.no_grad(), reference() as network, accelerator.autocast():
                backbone.predict(network, noisy, timestep, told)
        with accelerator.autocast():
            prediction = backbone.predict(policy.network, noisy, timestep, told).float()
        (prediction - noisy).square().mean().backward()
        between = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize(accelerator.device)
        micro, update = between - start, time.perf_counter() - between
        seconds.append(config.gradient_accumulation_steps * micro + update)
    return median(seconds[1:] or seconds)  # the first one warms up


class _Live(TorchDispatchMode):
    """Counts the bytes of all living tensors that operations have made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.now = self.peak = 0
        self._seen = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self._seen:
                storage = tensor.untyped_storage()
                self._seen[storage] = size = storage.nbytes()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._let_go, size)
        return made

    def _let_go(self, size: int) -> None:
        self.now -= size


def _live_bytes(backbone: Backbone, config: TrainConfig, policy: Policy, conditioning: Conditioning) -> int:
    """The peak of living bytes in the forward and backward of a micro-batch, beside the weights; gradients included."""
    device = torch.device(backbone.device)
    dtype = DTYPES[AUTOCAST[config.mixed_precision]]
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        _without_contents(policy.network, device)
        noisy, timestep, told = _inputs(backbone, config, conditioning)
        live = stack.enter_context(_Live())
        for _ in range(min(2, config.gradient_accumulation_steps)):  # the first's gradients live on
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                prediction = backbone.predict(policy.network, noisy, timestep, told).float()
            (prediction - noisy).square().mean().backward()
            del prediction
        return int(live.peak)


def _without_contents(network: torch.nn.Module, device: torch.device) -> None:
    """Replace parameters and buffers by tensors of the same shape and type without data."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                module._parameters[name] = torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)


def _inputs(
    backbone: Backbone, config: TrainConfig, conditioning: Conditioning
) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    """Noised latents, timesteps and conditioning of one process's part of a micro-batch."""
    images = {"images": 1, "teacher": 1, "lists": config.list_length}.get(config.source, 2)
    count = images * -(-config.train_batch_size // _processes(config))
    shape = backbone.latent_shape(config.resolution or backbone.resolution)
    noisy = torch.randn(count, *shape, device=backbone.device)
    timestep = torch.full((count,), backbone.num_timesteps // 2, device=backbone.device)
    told = {
        name: torch.zeros(
            count, *one.shape[1:], dtype=torch.float32 if one.is_floating_point() else one.dtype, device=backbone.device
        )
        for name, one in conditioning.items()
    }
    return noisy, timestep, told


def _processes(config: TrainConfig) -> int:
    """The number of processes that a launcher has started, or that the run will start."""
    return processes() if processes() > 1 else config.processes


def _is_copied(config: TrainConfig) -> bool:
    """Whether the reference is a second network on the device."""
    return config.reference == "copy" or (config.reference in ("auto", "ema", "round") and config.lora is None)


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
