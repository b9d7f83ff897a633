"""Links that give up a label which the policy contradicts: its pull goes to 0 with the probability h of the label."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from palate.objectives.adaptive import label_side
from palate.objectives.links_pulling import both_sides, within
from palate.objectives.logit import full_precision

MOVING_FACTOR = 0.9999  # of alpha-DPO's moving alpha, as released
_DMPO_END = 1e-6
_TINY = 1e-30  # stands for 0 where a limit is a quotient: small enough to be exact, its reciprocal still finite in fp32


def dmpo(z: Tensor, target: Tensor, alpha: float = 0.01) -> Tensor:
    """KL(Bern(h) to Bern(1 - alpha)), h = sigmoid(z_w): the reverse divergence to a smoothed label; z and target [B]
    -> [B] (DMPO, arXiv 2507.07510; the exo_pair loss of language models, its label smoothing being alpha).

    A hard label is satisfied at z_w = log((1 - alpha)/alpha). alpha in [0, 1], clamped to [1e-6, 1 - 1e-6] as in the
    published code: at either end the divergence itself has no finite value.
    """
    alpha = min(max(within("dmpo", "alpha", alpha, 0, 1), _DMPO_END), 1 - _DMPO_END)
    log_liked, log_other = math.log1p(-alpha), math.log(alpha)

    def divergence(winner: Tensor) -> Tensor:
        log_h, log_rest = logsigmoid(winner), logsigmoid(-winner)
        return log_h.exp() * (log_h - log_liked) + log_rest.exp() * (log_rest - log_other)

    return both_sides(divergence, z, target)


@torch.no_grad()
def moving_alpha(z: Tensor, target: Tensor, factor: float = MOVING_FACTOR) -> Tensor:
    """factor * the batch mean of sigmoid(z_w), a scalar without gradient; z and target [B] (released alpha-DPO code,
    whose factor is 0.9999).

    z_w is the logit seen from the side that the target favours; a tie counts as 1/2, the mean over its two sides. The
    released code averages over all devices: give the gathered z and target for that.
    """
    return factor * torch.sigmoid(label_side(target) * full_precision(z)).mean()


def alpha_dpo(z: Tensor, target: Tensor, alpha: float | None = None) -> Tensor:
    """(h^a - (1 - a) - a*h) / (a*(a - 1)), h = sigmoid(z_w), a = alpha >= 0; z and target [B] -> [B] (alpha-DPO
    for diffusion, ICLR 2026; formula of its released code).

    The alpha-divergence of a hard label, bounded by 1/a. a = 0 is -log h + h - 1, a = 1 is h*log h - h + 1, and a = 2
    half the squared sigmoid. Above 1 a contradicted label is given up as h/(a - 1). None is
    the released schedule, `moving_alpha` of this batch: given that number the loss is linear in the label, but the
    number itself depends on which side each target favours. Deviation: computed from log h, so that the gradient is
    finite where h underflows (NaN in the released code) and a near 1 loses no digits.
    """
    alpha = within("alpha-dpo", "alpha", float(moving_alpha(z, target) if alpha is None else alpha), 0, math.inf)
    return both_sides(lambda winner: _alpha_divergence(logsigmoid(winner), alpha), z, target)


def _alpha_divergence(log_h: Tensor, alpha: float) -> Tensor:
    """Three forms of one formula: the first is exact as alpha -> 0, the others as it comes to 1 from either side. In
    each of them every exponent is negative or small, so that none overflows."""
    a, rest = max(alpha, _TINY), max(abs(1 - alpha), _TINY)
    if alpha < 0.5:
        return (_expm1(log_h) - _expm1(a * log_h) / a) / rest
    if alpha < 1:
        return ((a * log_h).exp() * _expm1(rest * log_h) / rest - _expm1(log_h)) / a
    return (log_h.exp() * _expm1(rest * log_h) / rest - _expm1(log_h)) / a


def _expm1(x: Tensor) -> Tensor:
    """exp(x) - 1 of x <= 0. torch differentiates expm1 as its result + 1, which has no digits left far below 0."""
    return torch.where(x < -0.5, torch.exp(x) - 1, torch.expm1(x))


def holder(z: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """-(1 + gamma)*h^gamma + gamma*h^(gamma + 1), h = sigmoid(z_w), gamma > 0; z and target [B] -> [B] (Hoelder-DPO,
    arXiv 2505.17859).

    Between -1 and 0 for a hard label; a contradicted label loses its pull as h^gamma. It presumes that wrong labels
    are the unlikely ones, so that systematic errors of a judge are out of its scope. The authors' public code names
    no default gamma; 2 is the value commonly quoted.
    """
    return both_sides(lambda winner: -(gamma * logsigmoid(winner)).exp() * (1 + gamma * (-winner).sigmoid()), z, target)


def squared_sigmoid(z: Tensor, target: Tensor) -> Tensor:
    """(1 - h)^2, h = sigmoid(z_w); z and target [B] -> [B]: DSPO as its SDXL code computes it below the switch (see
    score.py). Between 0 and 1 for a hard label."""
    return both_sides(lambda winner: (2 * logsigmoid(-winner)).exp(), z, target)


def gce(z: Tensor, target: Tensor, q: float = 0.5) -> Tensor:
    """(1 - h^q)/q, h = sigmoid(z_w), q in [0, 1]; z and target [B] -> [B] (generalised cross-entropy in Semi-DPO's
    code, arXiv 2604.24952).

    Slope -h^q*(1 - h): a contradicted label is given up as h^q. q = 0 is the sigmoid link, q = 1 is 1 - h. h^q is
    exp(q*log h), whose gradient stays finite where h underflows.
    """
    if within("gce", "q", q, 0, 1) == 0:
        return both_sides(lambda winner: -logsigmoid(winner), z, target)
    return both_sides(lambda winner: -_expm1(q * logsigmoid(winner)) / q, z, target)


def mixture(z: Tensor, target: Tensor, eta: float = 0.9) -> Tensor:
    """-log(eta*h + (1 - eta)*(1 - h)), h = sigmoid(z_w), eta in (1/2, 1]; z and target [B] -> [B]: the likelihood of a
    vote that is right with probability eta.

    Its slope, h - sigmoid(z_w + log(eta/(1 - eta))), is that of RE-PO (arXiv 2509.24159) at a fixed rate, where the
    posterior that a vote is right weighs both sides. A contradicted label is given up, it is not turned round; the loss
    of a hard label is below -log(1 - eta). eta = 1 is the sigmoid link.
    """
    if within("mixture", "eta", eta, 0.5, 1) == 1:
        return both_sides(lambda winner: -logsigmoid(winner), z, target)
    right, wrong = math.log(eta), math.log1p(-eta)
    return both_sides(
        lambda winner: -torch.logaddexp(right + logsigmoid(winner), wrong + logsigmoid(-winner)), z, target
    )
