"""How much a draw counts by its timestep, whatever its label: targets stay as linear as they were."""

import torch
from torch import Tensor

from palate.objectives.logit import full_precision

_QUARTERS = 4
_MOST = 4.0  # times the mean: what a quarter may count that hardly moves yet
_WINDOW = 100  # micro-batches


@torch.no_grad()
def linear_weight(timestep: Tensor, timesteps: int) -> Tensor:
    """t/(T - 1), [B] -> [B] in [0, 1]: 1 at the most noise (DDSPO for SDXL, arXiv 2512.23426, not normalised there)."""
    return (full_precision(timestep) / (timesteps - 1)).clamp(0, 1)


class Spread:
    """How far the margins m = (ref_error_0 - error_0) - (ref_error_1 - error_1) of the draws so far spread in each
    quarter of the timesteps, and what a draw there weighs: one over it (derived, after the balancing that arXiv
    2505.18736 names without a formula).

    Both sides of a pair count alike, so that the weight does not see which one was preferred. Draws with margin 0,
    those of a policy that is its reference, say nothing.
    """

    def __init__(self) -> None:
        self.batches = torch.zeros(_QUARTERS, dtype=torch.int64)
        self.square = torch.zeros(_QUARTERS, dtype=torch.float64)  # mean m^2, of about the last _WINDOW batches

    def weight(self, timestep: Tensor, timesteps: int) -> Tensor:
        """[B] -> [B]: a quarter's inverse spread over the mean of those of all quarters, at most 4 and at least 1/4 of
        it; 1 until every quarter was seen."""
        if not (self.square > 0).all():
            return torch.ones_like(full_precision(timestep))
        inverse = self.square.rsqrt()
        inverse = (inverse / inverse.mean()).clamp(1 / _MOST, _MOST)
        each = (inverse / inverse.mean()).to(timestep.device, torch.promote_types(timestep.dtype, torch.float32))
        return each[_quarter(timestep, timesteps)]

    @torch.no_grad()
    def add(self, timestep: Tensor, margin: Tensor, timesteps: int) -> None:
        """The draws of one micro-batch, [B] each."""
        quarter, square = _quarter(timestep, timesteps).cpu(), margin.detach().double().square().cpu()
        for q in range(_QUARTERS):
            seen = square[(quarter == q) & (square > 0)]
            if len(seen):
                self.batches[q] += 1
                share = 1 / min(int(self.batches[q]), _WINDOW)
                self.square[q] += share * (seen.mean() - self.square[q])

    def state(self) -> dict[str, Tensor]:
        return {"spread.batches": self.batches, "spread.square": self.square}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.batches, self.square = (state[f"spread.{name}"].clone() for name in ("batches", "square"))


def _quarter(timestep: Tensor, timesteps: int) -> Tensor:
    return (_QUARTERS * full_precision(timestep) / timesteps).long().clamp(0, _QUARTERS - 1)
