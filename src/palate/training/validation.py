"""Held-out human votes during training: the guard against a loss that memorising can lower without end.

Debiased targets leave [0, 1], and there the loss has no lower bound: it keeps falling while the model over-fits to the
labelled pairs. The cross-entropy of held-out human votes does not. The same pairs tell the drift: how far denoising
errors rose above the base's.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from palate.distributed import counts, first_says, gather, part, processes
from palate.objectives.links_pulling import sigmoid
from palate.training.moving import MovingReference
from palate.training.networks import Networks
from palate.training.sources import Setting, rows_problem

LARGE_LOGIT = 10.0  # beyond this |z| a pair has been learned by heart: sigmoid(10) is 0.99995


@dataclass
class Validation:
    """Held-out pairs, the best cross-entropy so far, the weights that had it, and the drift at the last validation."""

    setting: Setting  # its rows are the held-out pairs
    draws: int
    patience: int | None
    max_drift: float | None = None
    reference: MovingReference | None = None  # it may move when these votes say so
    best: float = float("inf")
    since: int = 0  # validations since the best one
    drift: float = float("nan")
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def compared(self, networks: Networks) -> torch.Tensor:
        """Logit of every held-out pair and rise of its denoising error [N, 2], both averaged over draws that training
        does not use. The same in every process, so that all stop at one step."""
        size, rows = self.setting.config.train_batch_size, np.arange(len(self.setting.rows))
        parts = []
        for start in range(0, len(rows), size):
            row = rows[start : start + size]
            several = len(row) >= processes()  # with fewer rows every process does all of them
            own = row[part(len(row))] if several else row
            problems = [
                rows_problem(self.setting, own, [f"validation {k}"] * len(own), np.ones(len(own)))
                for k in range(self.draws)
            ]
            found = torch.stack([torch.stack(networks.compared(problem), dim=1) for problem in problems])
            mean = found.mean(dim=0).cpu()  # [B, 2]
            parts.append(gather(mean, counts(len(row))) if several else mean)
        return first_says(torch.cat(parts))

    @property
    def over(self) -> bool:
        """Whether training should stop."""
        return self._moved_enough or (self.patience is not None and self.since >= self.patience)

    @property
    def _moved_enough(self) -> bool:
        return self.max_drift is not None and self.drift >= self.max_drift

    def reason(self) -> str:
        """Why training should stop."""
        if self._moved_enough:
            told = f"the denoising error on held-out pairs is {self.drift:.3g} above the base's"
            return f"{told} (max_drift {self.max_drift:g})"
        return f"the cross-entropy of held-out votes was best, {self.best:.3f}, {self.since} validations before"

    def measure(self, networks: Networks) -> dict[str, float]:
        """Cross-entropy and accuracy of held-out votes and drift, with standard errors; with patience the best weights
        are kept."""
        z, rise = self.compared(networks).double().unbind(dim=1)
        vote = torch.tensor(self.setting.rows.target, dtype=torch.float64)
        losses = sigmoid(z, vote)
        credit = (1 + torch.sign(z) * torch.sign(2 * vote - 1)) / 2
        root = len(z) ** 0.5
        metrics = {"validation/cross_entropy": losses.mean().item(), "validation/accuracy": credit.mean().item()}
        if len(z) > 1:
            metrics |= {
                "validation/cross_entropy_error": losses.std().item() / root,
                "validation/accuracy_error": credit.std().item() / root,
            }
        if not networks.policy.is_classifier:
            self.drift = metrics["validation/drift"] = rise.mean().item()
            if len(z) > 1:
                metrics["validation/drift_error"] = rise.std().item() / root
        if metrics["validation/cross_entropy"] < self.best:
            self.best, self.since = metrics["validation/cross_entropy"], 0
            if self.patience is not None:
                self.weights = {name: p.detach().clone() for name, p in networks.policy.state().items()}
        else:
            self.since += 1
        if self.reference is not None:
            self.reference.hear(losses)
            metrics["validation/reference_moves"] = float(self.reference.moves)
        return metrics

    def state(self) -> dict[str, torch.Tensor]:
        best = {f"validation.{name}": tensor for name, tensor in self.weights.items()}
        return best | {"validation": torch.tensor([self.best, float(self.since), self.drift], dtype=torch.float64)}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.best, since, *drift = state["validation"].tolist()
        self.since, self.drift = int(since), drift[0] if drift else float("nan")  # older checkpoints tell none
        self.weights = {
            name.removeprefix("validation."): t for name, t in state.items() if name.startswith("validation.")
        }


def make_validation(setting: Setting, reference: MovingReference | None = None) -> Validation | None:
    """The validation of a run with held-out votes, whose reference may move."""
    held_out, config = setting.rows.held_out, setting.config
    if held_out is None:
        return None
    return Validation(
        replace(setting, rows=held_out), config.validation_draws, config.early_stop, config.max_drift, reference
    )


def large_logit_warning(largest: float, told: bool, tell: Callable[[str], None], step: int) -> bool:
    """Warn once that a labelled pair has been learned by heart; returns whether the warning has been given."""
    if told or largest < LARGE_LOGIT:
        return told
    tell(
        f"train: step {step}: |z| reached {largest:.1f} on a pair with a human vote. Targets outside [0, 1] keep"
        " pulling there: watch held-out votes (held_out_votes, early_stop), train for fewer steps, lower power, or use"
        " link: ipo."
    )
    return True
