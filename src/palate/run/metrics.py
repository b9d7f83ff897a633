"""metrics.jsonl of a run: one line per optimiser step."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.files import write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """metrics.jsonl, one line per optimiser step, and TensorBoard where asked for."""

    def __init__(self, run: Path, first_step: int, tensorboard: bool):
        self.path = run / "metrics.jsonl"
        kept = [
            line for line in read_metrics(run) if line["step"] < first_step
        ]  # a resumed run writes the later ones again
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(self.path, "a", encoding="utf-8")
        self._board = _tensorboard(run, first_step) if tensorboard else None

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **{name: _short(value) for name, value in metrics.items()}}) + "\n")
        self._file.flush()
        if self._board:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        if self._board:
            self._board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line that a kill cut short is left out."""
    path = Path(run) / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    metrics = []
    for line in lines:
        try:
            metrics.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return metrics


def _short(value: float) -> float:
    return float(np.format_float_scientific(value, precision=6)) if np.isfinite(value) else value


def _tensorboard(run: Path, first_step: int) -> "SummaryWriter | None":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run / "tensorboard"), purge_step=first_step)
