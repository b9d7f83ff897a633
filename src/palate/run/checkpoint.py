"""Complete states of a run, written atomically: a folder that exists is whole."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from palate.errors import PalateError, first_line
from palate.files import atomic_path, damaged_file, write_checksums


@dataclass
class State:
    """Everything that a step changes. Draws and batches need no state: they are addressed by the step."""

    step: int
    weights: dict[str, torch.Tensor]  # the trained parameters
    beside: dict[
        str, torch.Tensor
    ]  # moving averages, running means, the best weights so far; empty where there are none
    optimizer: dict[str, Any]  # optimiser, schedule and, in fp16, the loss scaler


def save_checkpoint(run: Path, state: State, keep: int) -> Path:
    """Write checkpoints/step-NNNNNN and delete all but the newest `keep`."""
    path = run / "checkpoints" / f"step-{state.step:06}"
    with atomic_path(path) as folder:
        folder.mkdir()
        save_file(_plain(state.weights), folder / "weights.safetensors")
        save_file(_plain(state.beside), folder / "beside.safetensors")
        torch.save(state.optimizer, folder / "optimizer.pt")
        write_checksums(folder)  # neither safetensors nor torch notices a flipped bit
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load_newest_checkpoint(run: Path) -> State | None:
    """The newest state that can be read; says in one line when a damaged one was passed over. None when there is
    none."""
    found = checkpoints(run)
    for path in reversed(found):
        try:
            if wrong := damaged_file(path):
                raise ValueError(f"{wrong} is not what was written")
            return State(
                step=step_of(path),
                weights=load_file(path / "weights.safetensors"),
                beside=load_file(path / "beside.safetensors"),
                optimizer=torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True),
            )
        except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
            print(f"train: {path} is damaged ({first_line(error)}); going back to the one before it")
    if found:
        raise PalateError(
            f"{run / 'checkpoints'}: none of {len(found)} checkpoints can be read. Delete the folder to start again."
        )
    return None


def check_fits(run: Path, state: State, weights: dict[str, torch.Tensor]) -> None:
    """Raises PalateError when a state's weights are not those of the network in training: another adapter, another
    model."""
    differing = state.weights.keys() ^ weights.keys()
    differing |= {
        name for name in state.weights.keys() & weights.keys() if state.weights[name].shape != weights[name].shape
    }
    if differing:
        raise PalateError(
            f"{run / 'checkpoints'}: step {state.step} is of another configuration: {len(differing)} tensors differ,"
            f" the first being {min(differing)}. Choose another output_dir, or delete that folder."
        )


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folder = run / "checkpoints"
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name)) if folder.is_dir() else []


def step_of(checkpoint: Path) -> int:
    """How many steps had been taken when this folder was written."""
    return int(checkpoint.name.removeprefix("step-"))


def _plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
