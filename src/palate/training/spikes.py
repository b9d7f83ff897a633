"""Training that breaks: a gradient far larger than before, or a loss that is no number. Stop, or go back and leave
steps out.

Going back follows PaLM (Chowdhery et al., arXiv 2204.02311): from the last checkpoint before the spike training goes on
with the batches after it. What is left out is written into the run first, so that an interrupted run leaves out the
same.
"""

import gc
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch

from palate.distributed import first_alone
from palate.errors import PalateError
from palate.files import write_text
from palate.run.checkpoint import checkpoints, step_of
from palate.run.config import TrainConfig

T = TypeVar("T")

WINDOW = 32  # steps whose gradient norms are compared with
FEWEST = 8  # of them, before any step counts as a spike
MOST = 10  # roll-backs to one checkpoint: more of them mean that data are not to blame
FILE = "spikes.jsonl"


class Spike(PalateError):
    """A step that was not taken, and the pairs that are to blame, as far as one can tell."""

    def __init__(self, step: int, reason: str, pairs: list[str]):
        super().__init__(
            f"step {step}: {reason}, at pair {', '.join(pairs[:5]) or 'unknown'}. Stopped; the last checkpoint is good."
            " Lower learning_rate or beta, look at these pairs, or leave such steps out with on_spike: roll-back."
        )
        self.step, self.reason, self.pairs = step, reason, pairs


class Spikes:
    """The gradient norms of the last steps, and the steps that are left out."""

    def __init__(self, config: TrainConfig, run: Path):
        self.factor = config.spike_factor
        self.norms: list[float] = []
        self._scaled = config.mixed_precision == "fp16"  # whose scaler skips steps that overflow
        self.left_out = {step for line in read_spikes(run) for step in range(line["back_to"], line["step"] + 1)}

    def look(self, step: int, norm: float, pairs: Callable[[], list[str]]) -> None:
        """Take note of a step's gradient norm before the step is taken. Raises Spike when it broke away from those
        before; `pairs` are then asked for, the worst first."""
        usual = median(self.norms) if len(self.norms) >= FEWEST else math.inf
        if not math.isfinite(norm):
            if self._scaled:
                return
            raise Spike(step, "the gradient is not a number", pairs())
        if norm > self.factor * usual:
            raise Spike(step, f"the gradient's norm is {norm / usual:.0f} times that of the steps before", pairs())
        self.norms = [*self.norms, norm][-WINDOW:]

    def state(self) -> dict[str, torch.Tensor]:
        return {"spikes.norms": torch.tensor(self.norms, dtype=torch.float64)}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.norms = state.get("spikes.norms", torch.empty(0)).tolist()  # absent where spikes were ignored before


def rolled_back(config: TrainConfig, attempt: Callable[[], T]) -> T:
    """What `attempt` returns. With on_spike: roll-back a Spike is written down, and `attempt` begins again, which goes
    on from the last checkpoint; raises PalateError when that does not help."""
    while True:
        try:
            return attempt()
        except Spike as spike:
            if config.on_spike != "roll-back":
                raise
            line = {"step": spike.step, "reason": spike.reason, "pairs": spike.pairs}
        # The exception is gone here, and with it all that the attempt held; fp16's optimiser holds itself.
        gc.collect()
        torch.cuda.empty_cache()
        first_alone(partial(_write_down, Path(config.output_dir), line))


def read_spikes(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's spikes.jsonl: step, back_to (the steps between are left out, too), reason and pairs."""
    path = run / FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def forget_spikes(run: Path) -> None:
    """Delete the list of a run whose checkpoints are gone: it begins anew, and leaves out nothing."""
    if not checkpoints(run):
        (run / FILE).unlink(missing_ok=True)


def _write_down(run: Path, line: dict[str, Any]) -> None:
    before = [step for step in map(step_of, checkpoints(run)) if step <= line["step"]]  # a later one was damaged
    back_to, lines = max(before, default=0), read_spikes(run)
    if sum(earlier["back_to"] == back_to for earlier in lines) >= MOST:
        raise PalateError(
            f"step {line['step']}: {line['reason']}. {MOST} roll-backs to step {back_to} did not help; lower"
            " learning_rate or beta."
        )
    lines.append({"step": line["step"], "back_to": back_to} | line)
    write_text(run / FILE, "".join(json.dumps(one) + "\n" for one in lines))
    print(
        f"train: step {line['step']}: {line['reason']}, at pair {', '.join(line['pairs'][:5]) or 'unknown'}. Going back"
        f" to step {back_to}; steps {back_to} to {line['step']} are left out ({FILE} lists them)"
    )
