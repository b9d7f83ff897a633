"""MaPO (margin-aware preference optimisation, arXiv 2406.06424): odds of the denoising errors, without a reference.

With phi(L) = s*L / (exp(s*L) - 1), falling from 1 at L = 0, the logit of a pair is T*(phi(error_0) - phi(error_1)) and
the published loss of hard labels is

    mean of winner_error + beta_mapo * mean of mapo            beta_mapo = 0.1, s = 0.5, T = 1000

Near an error of 0.1 the logit moves by 246 per unit of error. Formulas as the released code computes them.
"""

import torch
from torch import Tensor

from palate.errors import PalateError
from palate.objectives.links import sigmoid
from palate.objectives.logit import full_precision

_NEAR = 0.25  # |s*L| below which the power series is used: its last term kept is exact to double precision there


def phi(error: Tensor, s: float = 0.5) -> Tensor:
    """s*L / (exp(s*L) - 1) of denoising errors L >= 0, [B] -> [B] in (0, 1], slope -s/2 at 0. Raises PalateError for
    s <= 0."""
    return 1 + _drop(error, s)


def odds_logit(error_0: Tensor, error_1: Tensor, s: float = 0.5, T: float = 1000.0) -> Tensor:
    """T*(phi(error_0) - phi(error_1)), all [B]: positive where image 0 has the smaller error.

    Deviation: the difference is taken of phi - 1, which is small, so that fp32 keeps the digits that the published
    subtraction exp(s*L) - 1 loses. Raises PalateError for s <= 0.
    """
    return T * (_drop(error_0, s) - _drop(error_1, s))


def mapo(error_0: Tensor, error_1: Tensor, target: Tensor, s: float = 0.5, T: float = 1000.0) -> Tensor:
    """-log sigmoid(T*(phi_w - phi_l)) made linear in the label: the sigmoid link at `odds_logit`; all [B].

    Without the winner's error and without the published factor beta_mapo. Raises PalateError for s <= 0.
    """
    return sigmoid(odds_logit(error_0, error_1, s, T), target)


def winner_error(error_0: Tensor, error_1: Tensor, target: Tensor) -> Tensor:
    """p*error_0 + (1 - p)*error_1, all [B]: supervised training on the winner (for p = 1 and 0), linear in the label.

    Nothing is clipped, so a debiased target stays unbiased; for p outside [0, 1] it is unbounded below: it rewards
    raising the error of the other image without end. Give it a small weight, or few steps, there.
    """
    target = full_precision(target)
    return target * full_precision(error_0) + (1 - target) * full_precision(error_1)


def _drop(error: Tensor, s: float) -> Tensor:
    """phi - 1, [B]. The quotient is 0/0 at 0 and cancels near it, in its gradient even more."""
    if not s > 0:
        raise PalateError(f"mapo: s = {s:g} is not positive. Use for example 0.5.")
    x = s * full_precision(error)
    near = x.abs() < _NEAR
    square = x.square()
    series = x * (-1 / 2 + x * (1 / 12 + square * (-1 / 720 + square * (1 / 30240 - square / 1209600))))
    far = torch.where(near, torch.ones_like(x), x)  # keeps the gradient of the branch not taken finite
    return torch.where(near, series, far * torch.exp(-far) / -torch.expm1(-far) - 1)
