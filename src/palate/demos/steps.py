"""What the trainings of both worlds' pipelines share: rates, steps, states on disk, a log."""

import json
import math
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel

from palate.files import atomic_path


def psnr(decoded: torch.Tensor, image: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1] (clamped as when they are saved), mean over the batch."""
    error = ((decoded.clamp(-1, 1) - image) / 2).pow(2).mean(dim=(1, 2, 3))
    return (-10 * error.log10()).mean().item()


def set_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int) -> None:
    """Warm-up over 100 steps, then a cosine to a hundredth of the peak."""
    warm, cosine = min(1, (step + 1) / 100), 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = peak * warm * (0.01 + 0.99 * cosine)


def optimizer_step(loss: torch.Tensor, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


def save_state(path: Path, step: int, *parts: torch.nn.Module | torch.optim.Optimizer | EMAModel) -> None:
    with atomic_path(path) as temporary:
        torch.save({"step": step, "parts": [part.state_dict() for part in parts]}, temporary)


def resume(path: Path, *parts: torch.nn.Module | torch.optim.Optimizer | EMAModel) -> int:
    """Load the newest state into `parts`; returns the step to go on from."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for part, values in zip(parts, state["parts"], strict=True):
        part.load_state_dict(values)
    return int(state["step"])


def log(work: Path, **values: float | str) -> None:
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "log.jsonl", "a") as file:
        file.write(json.dumps(values) + "\n")
