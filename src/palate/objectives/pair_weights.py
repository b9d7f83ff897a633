"""Weights and margins per pair from a reward model, from the batch, or from an uncertainty: MADPO, AMaPO, pessimistic
DPO.

All are seen from the side that the target prefers: z_w = side * z and h = side * (reward_0 - reward_1), with side =
`palate.objectives.adaptive.label_side(target)`, so that soft and debiased targets have them too and swapping the images
changes nothing. A weight multiplies the loss of its pair; a margin is subtracted on that side, link(z - side * margin,
p). None carries a gradient. A tie has side 0: it takes no margin, and as a pair its z_w and h are 0.
"""

import math

import torch
from torch import Tensor

from palate.errors import PalateError
from palate.objectives.logit import full_precision

_LARGEST_EXPONENT = 9.0  # a margin of exp(9) = 8103 already saturates every link, and leaves fp32 logits finite


@torch.no_grad()
def madpo_weight(reward_margin: Tensor, tau: float = 1.0, low: float = 0.25, high: float = 2.0) -> Tensor:
    """clip(sigmoid(-h/tau) / sigmoid(-1), low, high), [B] -> [B]: MADPO's weight of a pair (arXiv 2510.05342).

    reward_margin h: a reward model's score of the preferred image minus that of the other, positive where it agrees
    with the label. Pairs that the reward model finds hard count more, easy ones less, without a threshold.

    Derived: the paper gives the behaviour, its formula is not available to us. Dividing by sigmoid(-1) makes tau the
    margin of weight 1, so that the mean weight stays near 1 and a learning rate carries over where tau is a typical
    margin. The ratio, (1 + e) * sigmoid(-h/tau), lies in (0, 3.72); h = 0 has 1.86. `high` = 2 lets a pair on which the
    reward model contradicts the label count hardly more than an undecided one: there the label may be the wrong one.

    Raises PalateError unless tau > 0 and 0 <= low <= high.
    """
    _require_positive("madpo: tau", tau)
    if not 0 <= low <= high:
        raise PalateError(f"madpo: the range {low:g} to {high:g} is not one. Use for example 0.25 to 2.")
    return ((1 + math.e) * torch.sigmoid(-full_precision(reward_margin) / tau)).clamp(low, high)


@torch.no_grad()
def amapo_margin(z_w: Tensor, beta: float = 1.0) -> Tensor:
    """beta * 1[z_w < m] * exp((m - z_w)/sd * m), m and sd the mean and standard deviation of z_w over the batch: [B] ->
    [B], not negative (AMaPO, arXiv 2511.09385).

    Pairs that lag behind the batch get a margin and so a larger slope; it is the opposite of Adaptive-DPO, and as
    sensitive to wrong labels as that sounds. Without a gradient.

    Deviations (derived): published for language models on log-ratios r, -log sigmoid(beta*r - margin); here the
    logit z_w takes the place of r, since exp(... * m) assumes m of order 1 and raw margins are near 1e-3. The logit
    contains its own scale, so that beta scales the margin alone. The exponent is cut at 9, beyond which no slope
    changes. Batches without spread, a single pair included, have margin 0 (there: 0/0). Statistics are those of the
    batch given, not of all devices.
    """
    z_w = full_precision(z_w)
    if len(z_w) < 2:
        return torch.zeros_like(z_w)
    lag, spread = z_w.mean() - z_w, z_w.std()
    rounding = 4 * torch.finfo(z_w.dtype).eps * z_w.abs().max()  # of the mean of equal numbers
    lags = (lag > rounding) & (spread > rounding)
    exponent = torch.where(lags, lag, 0) / torch.where(lags, spread, 1) * z_w.mean()
    return beta * torch.where(lags, exponent.clamp_max(_LARGEST_EXPONENT).exp(), 0)


@torch.no_grad()
def uncertainty_weight(u: Tensor, tau: float = 1.0) -> Tensor:
    """exp(-u/tau), [B] -> [B] in (0, 1]: the weight of a pair whose reward is uncertain by u >= 0, for example the
    standard deviation of an ensemble (uncertainty-penalised DPO, arXiv 2410.20187).

    Attenuates the gradient of uncertain pairs as the paper says, with its temperature tau. Derived: the paper names
    this energy factor, its formula is not available to us. Raises PalateError unless tau > 0.
    """
    _require_positive("uncertainty: tau", tau)
    return (-full_precision(u) / tau).exp()


@torch.no_grad()
def uncertainty_margin(u: Tensor, kappa: float = 1.0) -> Tensor:
    """kappa * u, [B] -> [B]: the uncertainty u >= 0 as a margin, -log sigmoid(z_w - kappa*u) (arXiv 2410.20187).

    Beware: the slope of that loss is -sigmoid(kappa*u - z_w), so that a penalty subtracted from the implicit reward
    *raises* the pull on uncertain pairs, against the purpose of the method. `uncertainty_weight` lowers it. Derived, as
    there. Raises PalateError for a negative kappa.
    """
    if not kappa >= 0:
        raise PalateError(f"uncertainty: kappa {kappa:g} is negative. Use 0 for none.")
    return kappa * full_precision(u)


def _require_positive(name: str, value: float) -> None:
    if not value > 0:
        raise PalateError(f"{name} {value:g} is not positive. Use for example 1.")
