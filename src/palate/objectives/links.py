"""Links: from a logit z and a target p to a loss per pair, all [B] and all fp32 or better, whatever the inputs.

A published loss knows hard labels and is a function f of the winner's logit. Here it is p*f(z) + (1 - p)*f(-z), which
is f(z_w) for p = 1 and p = 0, linear in the label, and therefore right for every real p: soft, smoothed and debiased
targets. Swapping the images (z -> -z, p -> 1 - p) leaves every link unchanged. `smoothed` is the one that is not
linear in the label; debiased targets must not use it (see LINEAR_IN_LABEL).

With h = sigmoid(z_w), slopes of hard labels, and what becomes of a label that the policy contradicts (z_w -> -inf):

    sigmoid          -(1 - h)                            keeps pulling
    ipo, linear      linear, constant                    pulls harder and harder, keeps pulling
    hinge            -1 below z_w = 1                    keeps pulling
    dmpo             h(1-h) * (z_w - log((1-a)/a))       given up; beyond log((1-a)/a) it pulls back
    alpha-dpo        h(1-h) * (h^(a-1) - 1)/(a-1)        given up (a > 0)
    holder           -g(1+g) * h^g * (1-h)^2             given up
    squared-sigmoid  -2 * (1-h)^2 * h                    given up
    smoothed         -k * sigmoid(-k*z_w), k the gain    keeps pulling

At z = 0 sigmoid, ipo and linear have the slope 1/2 - p; the others a multiple of it: hinge 2, dmpo log((1-a)/a)/2,
squared-sigmoid 1/2, smoothed its gain.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from palate.errors import PalateError, did_you_mean
from palate.objectives.adaptive import label_side
from palate.objectives.logit import full_precision

_TINY = 1e-30  # stands for 0 where a limit is a quotient: small enough to be exact, its reciprocal still finite in fp32

Link = Callable[[Tensor, Tensor], Tensor]


def both_sides(loss: Callable[[Tensor], Tensor], z: Tensor, target: Tensor) -> Tensor:
    """p*loss(z) + (1 - p)*loss(-z): a loss of the winner's logit made linear in the label; z and target [B] -> [B]."""
    z, target = full_precision(z), full_precision(target)
    return target * loss(z) + (1 - target) * loss(-z)


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


def linear(z: Tensor, target: Tensor) -> Tensor:
    """-(2p - 1)*z/2, the tangent of the sigmoid link at z = 0; z and target [B] -> [B] (Linear-DPO, arXiv 2605.21123).

    Derived: the paper's linear utility, with a scale of ours. Never satisfied and unbounded below for every p except
    1/2: it needs a moving reference, clipped gradients, or few steps.
    """
    return -(full_precision(target) - 0.5) * full_precision(z)


def dmpo(z: Tensor, target: Tensor, alpha: float = 0.01) -> Tensor:
    """KL(Bern(h) to Bern(1 - alpha)), h = sigmoid(z_w): the reverse divergence to a smoothed label; z and target [B]
    -> [B] (DMPO, arXiv 2507.07510; the exo_pair loss of language models, its label smoothing being alpha).

    A hard label is satisfied at z_w = log((1 - alpha)/alpha). alpha in (0, 1). The published code clamps 1 - alpha to
    [1e-6, 1 - 1e-6]; here alpha = 0 is refused (ValueError), and 1e-6 is what it meant there.
    """
    log_liked, log_other = math.log1p(-alpha), math.log(alpha)

    def divergence(winner: Tensor) -> Tensor:
        log_h, log_rest = logsigmoid(winner), logsigmoid(-winner)
        return log_h.exp() * (log_h - log_liked) + log_rest.exp() * (log_rest - log_other)

    return both_sides(divergence, z, target)


@torch.no_grad()
def moving_alpha(z: Tensor, target: Tensor) -> Tensor:
    """0.9999 * the batch mean of sigmoid(z_w), a scalar without gradient; z and target [B] (released alpha-DPO code).

    z_w is the logit seen from the side that the target favours; a tie counts as 1/2, the mean over its two sides. The
    released code averages over all devices: give the gathered z and target for that.
    """
    return 0.9999 * torch.sigmoid(label_side(target) * full_precision(z)).mean()


def alpha_dpo(z: Tensor, target: Tensor, alpha: float | None = None) -> Tensor:
    """(h^a - (1 - a) - a*h) / (a*(a - 1)), h = sigmoid(z_w), a = alpha in [0, 1]; z and target [B] -> [B] (alpha-DPO
    for diffusion, ICLR 2026; formula of its released code).

    The alpha-divergence of a hard label, bounded by 1/a. a = 0 is -log h + h - 1 and a = 1 is h*log h - h + 1. None is
    the released schedule, `moving_alpha` of this batch: given that number the loss is linear in the label, but the
    number itself depends on which side each target favours. Deviation: computed from log h, so that the gradient is
    finite where h underflows (NaN in the released code) and a near 1 loses no digits.
    """
    alpha = float(moving_alpha(z, target) if alpha is None else alpha)
    return both_sides(lambda winner: _alpha_divergence(logsigmoid(winner), alpha), z, target)


def _alpha_divergence(log_h: Tensor, alpha: float) -> Tensor:
    """Two forms of one formula: the first is exact as alpha -> 0 and would cancel at 1, the second the reverse."""
    a, rest = max(alpha, _TINY), max(1 - alpha, _TINY)
    if alpha < 0.5:
        return (_expm1(log_h) - _expm1(a * log_h) / a) / rest
    return ((a * log_h).exp() * _expm1(rest * log_h) / rest - _expm1(log_h)) / a


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


def smoothed(z: Tensor, target: Tensor, gain: float = 10.0) -> Tensor:
    """-log sigmoid(gain * (2p - 1) * z), gain > 0; z and target [B] -> [B] (SmPO, arXiv 2506.02698, eq. 8-9).

    NOT linear in the label: p scales the logit, so a tie has no gradient and p outside [0, 1] is a larger beta, not a
    correction. Debiased targets must not use it. Deviation: the published code applies the p of a batch's first pair
    to the whole batch; here each pair has its own.
    """
    return -logsigmoid(gain * (2 * full_precision(target) - 1) * full_precision(z))


LINKS: dict[str, Callable[..., Tensor]] = {
    "sigmoid": sigmoid,
    "ipo": ipo,
    "hinge": hinge,
    "dmpo": dmpo,
    "alpha-dpo": alpha_dpo,
    "holder": holder,
    "squared-sigmoid": squared_sigmoid,
    "smoothed": smoothed,
    "linear": linear,
}

# Debiasing is exact where the expected gradient depends on the target through its mean alone. alpha-dpo is not here
# because its moving alpha sees the favoured sides; with a fixed alpha it is linear: ask `linear_in_label`.
LINEAR_IN_LABEL = frozenset(LINKS) - {"smoothed", "alpha-dpo"}


class LinkParameter(NamedTuple):
    keyword: str
    default: float | None
    low: float
    high: float
    ends: bool  # whether low and high themselves are allowed
    meaning: str


LINK_PARAMETERS = {
    "ipo": LinkParameter("margin", 2.0, 0, math.inf, False, "the logit at which a hard label is satisfied"),
    "dmpo": LinkParameter(
        "alpha", 0.01, 0, 0.5, False, "the smoothing of the label; satisfied at log((1-alpha)/alpha)"
    ),
    "alpha-dpo": LinkParameter(
        "alpha", None, 0, 1, True, "the order of the divergence; left out, it follows the batch"
    ),
    "holder": LinkParameter("gamma", 2.0, 0, math.inf, False, "how fast a contradicted label loses its pull"),
    "smoothed": LinkParameter("gain", 10.0, 0, math.inf, False, "the factor on (2p - 1) times the logit"),
}


def linear_in_label(name: str, parameter: float | None = None) -> bool:
    """Whether debiasing is exact with this link and parameter: LINEAR_IN_LABEL, and alpha-dpo with a fixed alpha."""
    return name in LINEAR_IN_LABEL or (name == "alpha-dpo" and parameter is not None)


def make_link(name: str, parameter: float | None = None) -> Link:
    """The link of this name with its one parameter bound; None is its default. Raises PalateError for an unknown name,
    a parameter out of range, or a parameter for a link that has none."""
    if name not in LINKS:
        raise PalateError(f"link: {name!r} is not one of {', '.join(LINKS)}{did_you_mean(name, LINKS)}")
    if parameter is None:
        return LINKS[name]
    if name not in LINK_PARAMETERS:
        having = ", ".join(f"{other} ({entry.keyword})" for other, entry in LINK_PARAMETERS.items())
        raise PalateError(
            f"link {name} has no parameter, but {parameter:g} was given. Leave it out; {having} have one."
        )
    keyword, default, low, high, ends, meaning = LINK_PARAMETERS[name]
    if not (low <= parameter <= high if ends else low < parameter < high):
        between = f"[{low:g}, {high:g}]" if ends else f"({low:g}, {high:g})"
        use = "Leave it out" if default is None else f"Use for example {default:g}"
        raise PalateError(f"link {name}: {keyword} {parameter:g} is outside {between}. {use}. It is {meaning}.")
    return partial(LINKS[name], **{keyword: float(parameter)})
