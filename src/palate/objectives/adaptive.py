"""Adaptive-DPO (arXiv 2503.16921): find the minority votes from the model's own margins, and give them less weight.

The winner's margin is ell = (ref_error_w - error_w) - (ref_error_l - error_l); with b = beta/2 the logit seen from
the winner is b*ell. Annotators of the metric are M copies of the weights (the policy and its averages) on the same
draws.

The paper knows hard labels only. Here any target p, soft or debiased, has the side it pulls an undecided model (z =
0) to: `label_side` is +1 for p > 1/2 (image 0 is the winner), -1 for p < 1/2, 0 for a tie. Margins are taken from
that side and the margin is subtracted from that side, so that the loss of a pair is weight * link(z - side * margin,
p). For p = 1 and p = 0 this is the published loss; a tie has margin 0, metric 0 and the full weight.

Every switch of the published code is here, each as a function of its own: normalise, metric (`minority_metric`),
divide (`relative_metric`), flip (`flipped_votes`, `metric_after_flips`), weigh (`adaptive_weight`), shift
(`adaptive_margin`, for the IPO link `ipo_margin`). Its warm-up is u = 0 for the first two updates of each epoch.
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
def minority_parts(margins: Tensor, rho: float = 15.0, normalise: bool = True) -> tuple[Tensor, Tensor]:
    """Doubt [B], one minus the mean confidence in the label, and spread [B], how much M annotators disagree.

    margins: winner's margins [M, B]. Each annotator's margins are divided by their norm over the batch (unless
    `normalise` is off; rho is then the scale of a raw margin) and multiplied by rho. With s these scaled margins, the
    confidence is sigmoid(s) and the spread min(std of s over annotators, 1), 1 for a single annotator. The published
    metric is their product (`minority_metric`) on one draw; running averages of both parts over the draws of a pair
    are less noisy (derived). Margins that are all 0 stay 0, where the published code divides 0 by 0.
    """
    margins = full_precision(margins)
    if normalise:
        margins = margins / margins.norm(dim=1, keepdim=True).clamp_min(_SMALLEST_NORM)
    scaled = rho * margins
    doubt = torch.sigmoid(-scaled).mean(dim=0)
    return doubt, scaled.std(dim=0).clamp_max(1) if len(margins) > 1 else torch.ones_like(doubt)


@torch.no_grad()
def minority_metric(margins: Tensor, rho: float = 15.0, normalise: bool = True) -> Tensor:
    """How likely each vote is a minority vote: u [B] in [0, 1), from winner's margins [M, B] of M annotators.

    u = doubt * spread of `minority_parts`. With a single annotator the spread is 1, so that u is the doubt alone, as
    published.
    """
    doubt, spread = minority_parts(margins, rho, normalise)
    return doubt * spread


@torch.no_grad()
def relative_metric(u: Tensor, spread: Tensor, by: Literal["mean_spread", "sum"]) -> Tensor:
    """The metric u [B] divided by the batch mean of the spread [B], or by its own sum over the batch: [B].

    Two options of the published code, off in its command. u = 0 stays 0, where that code divides 0 by 0 for the sum.
    Raises PalateError for an unknown divisor.
    """
    if by not in ("mean_spread", "sum"):
        raise PalateError(f"adaptive metric: {by!r} is not known. Divide by mean_spread or sum.")
    u = full_precision(u)
    scale = u.sum() if by == "sum" else full_precision(spread).mean()
    return u / torch.where(scale == 0, torch.ones_like(scale), scale)


@torch.no_grad()
def flipped_votes(u: Tensor, ratio: float, threshold: float = 1.0) -> Tensor:
    """Which votes are taken for wrong and reversed, [B] bool: u [B] above both the threshold and a quantile of the
    batch.

    The quantile is entry int(B*(1 - ratio)) of u in ascending order, so that at most `ratio` of the batch is flipped.
    A flip exchanges the sides: the target becomes 1 - p, and with it the sign of the pair's winner's margin, before the
    loss and before the mean in `adaptive_margin`. The default threshold flips nothing, as u < 1. ratio 0 flips nothing
    (the published code reads beyond the batch there and stops). Raises PalateError for a ratio outside [0, 1].
    """
    if not 0 <= ratio <= 1:
        raise PalateError(f"adaptive flips: the ratio {ratio:g} is outside [0, 1]. Use 0 for none.")
    u = full_precision(u)
    place = int(len(u) * (1 - ratio))
    if place >= len(u):
        return torch.zeros_like(u, dtype=torch.bool)
    return u > u.sort().values[place].clamp_min(threshold)


@torch.no_grad()
def metric_after_flips(
    u: Tensor, flipped: Tensor, change: Literal["keep", "constant", "inverse"] = "keep", constant: float = 0.8
) -> Tensor:
    """The metric that weighs flipped votes, [B]: as it was, a constant, or 1 - u; u [B], flipped [B] bool.

    Raises PalateError for an unknown change.
    """
    u = full_precision(u)
    values = {"keep": u, "constant": torch.full_like(u, constant), "inverse": 1 - u}
    if change not in values:
        raise PalateError(f"adaptive flips: {change!r} is not known. Use keep, constant or inverse.")
    return torch.where(flipped, values[change], u)


@torch.no_grad()
def adaptive_weight(
    u: Tensor, k1: float = 10.0, c: float = 1.0, kind: Literal["linear", "quadratic", "sigmoid", "sqrt"] = "linear"
) -> Tensor:
    """The weight of a pair, [B] -> [B], 1/c (sigmoid and sqrt: 1/(1 + c)) for a majority vote and less as u rises.

    linear 1/(k1*u + c), the default of the paper; quadratic 1/(k1*u^2 + c); sigmoid 1/(exp(k1*u) + c); sqrt
    1/(exp(k1*sqrt(u)) + c). Raises PalateError for an unknown kind.
    """
    u = full_precision(u)
    if kind == "linear":
        return 1 / (k1 * u + c)
    if kind == "quadratic":
        return 1 / (k1 * u.square() + c)
    if kind == "sigmoid":
        return 1 / ((k1 * u).exp() + c)
    if kind == "sqrt":
        return 1 / ((k1 * u.sqrt()).exp() + c)
    raise PalateError(f"adaptive weight: {kind!r} is not known. Use linear, quadratic, sigmoid or sqrt.")


@torch.no_grad()
def adaptive_margin(
    margin_current: Tensor,
    u: Tensor,
    beta: float,
    scale: Literal["published", "inside", "off"] = "published",
    kind: Literal["quadratic", "linear"] = "quadratic",
) -> Tensor:
    """The margin to subtract from the logit on the winner's side, [B]; margin_current: the policy's ell [B], u:
    metric [B].

    "published": mean(ell) - u^2/b, as in the authors' code: subtracted after the scaling by b, hence numerically near
    0. "inside": b*mean(ell) - u^2, the same margin inside the scaling, where it acts. "off": 0. `kind` linear has u in
    place of u^2. Raises PalateError for an unknown scale or kind.
    """
    mean, u, b = full_precision(margin_current).mean(), full_precision(u), 0.5 * beta
    if kind not in ("quadratic", "linear"):
        raise PalateError(f"adaptive margin: {kind!r} is not known. Use quadratic or linear.")
    lowered = u.square() if kind == "quadratic" else u
    if scale == "published":
        return mean - lowered / b
    if scale == "inside":
        return b * mean - lowered
    if scale == "off":
        return torch.zeros_like(u)
    raise PalateError(f"adaptive margin: {scale!r} is not known. Use published, inside or off.")


@torch.no_grad()
def ipo_margin(margin: Tensor, sign: Literal["published", "consistent"] = "published") -> Tensor:
    """The margin of `adaptive_margin` [B] as the IPO link takes it, subtracted from the logit on the winner's side:
    [B].

    In the authors' code the IPO variant is W*(ell + Gam/b - 1/(2*beta_ipo))^2, while its sigmoid variant, divided by b,
    has ell - Gam/b: most likely a slip of the sign (derived). "published" negates the margin and so gives the first;
    "consistent" leaves it and gives W*(ell - Gam/b - 1/(2*beta_ipo))^2. Raises PalateError for an unknown sign.
    """
    if sign not in ("published", "consistent"):
        raise PalateError(f"adaptive margin: the sign {sign!r} is not known. Use published or consistent.")
    return -margin if sign == "published" else margin
