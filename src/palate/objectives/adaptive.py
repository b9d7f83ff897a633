"""Adaptive-DPO (arXiv 2503.16921): find the minority votes from the model's own margins, and give them less weight.

The winner's margin is ell = (ref_error_w - error_w) - (ref_error_l - error_l); with b = beta/2 the logit seen from
the winner is b*ell. Annotators of the metric are M copies of the weights (the policy and its averages) on the same
draws.

The paper knows hard labels only. Here any target p, soft or debiased, has the side it pulls an undecided model (z =
0) to: `label_side` is +1 for p > 1/2 (image 0 is the winner), -1 for p < 1/2, 0 for a tie. Margins are taken from
that side and the margin is subtracted from that side, so that the loss of a pair is weight * link(z - side * margin,
p). For p = 1 and p = 0 this is the published loss; a tie has margin 0, metric 0 and the full weight.
"""

from typing import Literal

import torch
from torch import Tensor

from palate.errors import PalateError
from palate.objectives.logit import full_precision

_SMALLEST_NORM = 1e-12  # all margins are 0 while the policy equals the reference


@torch.no_grad()
def label_side(target: Tensor) -> Tensor:
    """+1 where the target prefers image 0, -1 where it prefers image 1, 0 for 1/2; [B] -> [B]."""
    return torch.sign(2 * full_precision(target) - 1)


@torch.no_grad()
def winner_margin(z: Tensor, target: Tensor, beta: float) -> Tensor:
    """The margin ell of the side that the target prefers, z / (beta/2) times `label_side`; z and target [B] -> [B]."""
    return label_side(target) * full_precision(z) / (0.5 * beta)


@torch.no_grad()
def minority_metric(margins: Tensor, rho: float = 15.0, normalise: bool = True) -> Tensor:
    """How likely each vote is a minority vote: u [B] in [0, 1), from winner's margins [M, B] of M annotators.

    Each annotator's margins are divided by their norm over the batch (unless `normalise` is off; rho is then the
    scale of a raw margin) and multiplied by rho. u = (1 - mean confidence) * min(spread, 1), confidence sigmoid(s),
    spread the standard deviation of s over annotators; with a single annotator the factor of the spread is left out.
    """
    margins = full_precision(margins)
    if normalise:
        margins = margins / margins.norm(dim=1, keepdim=True).clamp_min(_SMALLEST_NORM)
    scaled = rho * margins
    doubt = torch.sigmoid(-scaled).mean(dim=0)
    return doubt * scaled.std(dim=0).clamp_max(1) if len(margins) > 1 else doubt


@torch.no_grad()
def adaptive_weight(u: Tensor, k1: float = 10.0, c: float = 1.0) -> Tensor:
    """The weight 1 / (k1*u + c) of a pair, [B] -> [B]: from 1/c for a majority vote down to 1/(k1 + c)."""
    return 1 / (k1 * full_precision(u) + c)


@torch.no_grad()
def adaptive_margin(
    margin_current: Tensor, u: Tensor, beta: float, scale: Literal["published", "inside", "off"] = "published"
) -> Tensor:
    """The margin to subtract from the logit on the winner's side, [B]; margin_current: the policy's ell [B], u:
    metric [B].

    "published": mean(ell) - u^2/b, as in the authors' code: subtracted after the scaling by b, hence numerically near
    0. "inside": b*mean(ell) - u^2, the same margin inside the scaling, where it acts. "off": 0. Raises PalateError
    for an unknown scale.
    """
    mean, u, b = full_precision(margin_current).mean(), full_precision(u), 0.5 * beta
    if scale == "published":
        return mean - u.square() / b
    if scale == "inside":
        return b * mean - u.square()
    if scale == "off":
        return torch.zeros_like(u)
    raise PalateError(f"adaptive margin: {scale!r} is not known. Use published, inside or off.")
