"""Links that keep pulling at a label which the policy contradicts, and what makes a loss linear in its label."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from palate.errors import PalateError
from palate.objectives.logit import full_precision

_SATISFIED = 1.25  # logit at which Linear-DPO's straight part ends, as IPO with this margin does


def both_sides(loss: Callable[[Tensor], Tensor], z: Tensor, target: Tensor) -> Tensor:
    """p*loss(z) + (1 - p)*loss(-z): a loss of the winner's logit made linear in the label; z and target [B] -> [B]."""
    z, target = full_precision(z), full_precision(target)
    return target * loss(z) + (1 - target) * loss(-z)


def within(link: str, name: str, value: float, low: float, high: float) -> float:
    """The parameter of a link, unchanged. Raises PalateError where it is outside [low, high]: some formulas would go on
    with another value there, and none would say so. A moving one that is not a number makes the loss one, which is told
    with its pairs."""
    if value < low or value > high:
        raise PalateError(f"link {link}: {name} {value:g} is outside [{low:g}, {high:g}].")
    return value


def sigmoid(z: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy softplus(z) - p*z with slope sigmoid(z) - p; z and target [B] -> [B] (Diffusion-DPO, arXiv
    2311.12908).

    Written as -p*log sigmoid(z) - (1-p)*log sigmoid(-z): the same number for every real p, without cancellation at p
    = 0 and 1. Unbounded below where p lies outside [0, 1].
    """
    return both_sides(lambda winner: -logsigmoid(winner), z, target)


def ipo(z: Tensor, target: Tensor, margin: float = 2.0) -> Tensor:
    """(z - (2p - 1)*margin)^2 / (4*margin); z and target [B] -> [B] (IPO, arXiv 2310.12036). Bounded below for every p.

    Its slope is linear in p. `margin` > 0 is the logit at which a hard label is satisfied. The divisor gives the
    slope of the sigmoid link at z = 0; margin 2 also gives its curvature. Published forms are multiples of this one:
    (ell - 1/(2*beta_ipo))^2 on the raw margin ell of the winner has margin beta/(4*beta_ipo), and margin 1/2 is that
    of language models, with z = beta_ipo * (log-ratio difference).
    """
    z, target = full_precision(z), full_precision(target)
    return (z - (2 * target - 1) * margin).square() / (4 * margin)


def hinge(z: Tensor, target: Tensor) -> Tensor:
    """p*max(0, 1 - z) + (1 - p)*max(0, 1 + z); z and target [B] -> [B] (SLiC, arXiv 2305.10425)."""
    return both_sides(lambda winner: torch.relu(1 - winner), z, target)


def linear(z: Tensor, target: Tensor, eta: float = 0.001) -> Tensor:
    """The link with slope -clip(1/2 - 0.4*z_w, eta, 1 - eta); z and target [B] -> [B] (Linear-DPO, arXiv 2605.21123,
    slope of its released code).

    Between its knees, z_w = +-(1.25 - 2.5*eta), it is `ipo` with margin 1.25; beyond them it goes on as a straight
    line. eta in [0, 1/2] is the pull that is left when a label is satisfied: 0 is none, 1/2 the constant pull -z_w/2.
    Unbounded below for p outside [0, 1], and for eta > 0 never satisfied: the method moves its reference.

    Derived: the value, which is the integral of that slope and 0 at z = 0; the released loss, weight times the
    difference of errors, is not centred on the reference. Its gradient is 2/beta times that of this one.
    """
    z, target = full_precision(z), full_precision(target)
    knee = _SATISFIED - 2.5 * within("linear", "eta", eta, 0, 0.5)
    straight = z.detach().clamp(-knee, knee)  # z between the knees: slope 0.4*straight, continued as it is there
    return 0.4 * straight * z - 0.2 * straight.square() - (target - 0.5) * z


def poly(z: Tensor, target: Tensor, alpha: float = 8.0) -> Tensor:
    """-log h + alpha*(1 - h), h = sigmoid(z_w), alpha >= -1; z and target [B] -> [B] (Poly-DPO, arXiv 2604.24953; the
    `sce` of Semi-DPO's code, arXiv 2604.24952, is alpha = -sce_beta*log_zero = 3).

    Slope -(1 - h)*(1 + alpha*h): it pulls most where the policy is undecided, (1 + alpha/2) times as hard as the
    sigmoid link at z = 0. It does not give up a contradicted label. alpha = -1 is alpha-dpo at 0; below that the slope
    would change its sign at h = -1/alpha.
    """
    within("poly", "alpha", alpha, -1, math.inf)
    return both_sides(lambda winner: -logsigmoid(winner) + alpha * torch.sigmoid(-winner), z, target)


def smoothed(z: Tensor, target: Tensor, gain: float = 10.0) -> Tensor:
    """-log sigmoid(gain * (2p - 1) * z), gain > 0; z and target [B] -> [B] (SmPO, arXiv 2506.02698, eq. 8-9).

    NOT linear in the label: p scales the logit, so a tie has no gradient and p outside [0, 1] is a larger beta, not a
    correction. Debiased targets must not use it. Deviation: the published code applies the p of a batch's first pair
    to the whole batch; here each pair has its own.
    """
    return -logsigmoid(gain * (2 * full_precision(target) - 1) * full_precision(z))
