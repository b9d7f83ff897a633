"""Diffusion-KTO (arXiv 2404.04465): single images that somebody liked or disliked, no pairs.

An image's gain is g = ref_error - error, N images. With b = beta/2 and an offset q common to the batch, u = b*(g - q)
says how much better than the rest the policy has learnt the image. A liked image (y = 1) and a disliked one (y = -1)
lose 1 minus a utility:

    sigmoid         1 - sigmoid(y*u)            risk-seeking-1  1 - y*softplus(u)
    loss-averse     1 - log sigmoid(y*u)        risk-seeking-2  2 - y*exp(u/100)
                                                risk-seeking-3  1 - softplus(y*u)

The published labels are binary; here target p is the probability that the image is liked, and the loss is linear in
it. beta is palate's: the published 1000, without the half, is 2000 here. Formulas as the released code computes them.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from palate.errors import PalateError, did_you_mean
from palate.objectives.logit import full_precision

_LARGEST_EXPONENT = 80.0  # exp(80) still is a number in fp32
_COUNT_EPSILON = 1e-6  # published; a count is at least 1 where it is not 0, so that this only guards the empty side

UTILITY_LOSSES: dict[
    str, Callable[[Tensor, int], Tensor]
] = {  # 1 - utility, from u [N] and the side y = 1 (liked) or -1 (disliked)
    "sigmoid": lambda u, y: torch.sigmoid(-y * u),
    "loss-averse": lambda u, y: 1 - logsigmoid(y * u),
    "risk-seeking-1": lambda u, y: 1 - y * softplus(u),
    "risk-seeking-2": lambda u, y: 2 - y * torch.exp((u / 100).clamp_max(_LARGEST_EXPONENT)),
    "risk-seeking-3": lambda u, y: 1 - softplus(y * u),
}


@torch.no_grad()
def mean_offset(gain: Tensor) -> Tensor:
    """max(0, mean gain), a scalar without gradient; gain [N]: the published default, of all images of the step (give
    those of all devices)."""
    return full_precision(gain).mean().clamp_min(0)


@torch.no_grad()
def balanced_offset(gain: Tensor, target: Tensor) -> Tensor:
    """Half the mean gain of liked images plus half that of disliked ones, a scalar without gradient; gain, target [N].

    Not clamped, as published. Soft targets in [0, 1] count an image on both sides; a side without images counts as 0.
    The third published offset, the mean gain under mismatched prompts (rolled by one image), is not clamped either:
    `gain.mean().detach()` of that forward pass.
    """
    gain, target = full_precision(gain), full_precision(target)
    liked = (target * gain).sum() / (target.sum() + _COUNT_EPSILON)
    disliked = ((1 - target) * gain).sum() / ((1 - target).sum() + _COUNT_EPSILON)
    return (liked + disliked) / 2


def kto_logit(gain: Tensor, beta: float, offset: Tensor | float) -> Tensor:
    """u = (beta/2) * (gain - offset), [N] -> [N]; no gradient goes to the offset."""
    offset = offset.detach() if isinstance(offset, Tensor) else offset
    return 0.5 * beta * (full_precision(gain) - offset)


def kto(
    gain: Tensor, target: Tensor, beta: float, offset: Tensor | float, utility: str = "sigmoid",
    lambda_liked: float = 1.0, lambda_disliked: float = 1.0,
) -> Tensor:  # fmt: skip
    """p*lambda_liked*loss(u, liked) + (1 - p)*lambda_disliked*loss(u, disliked), [N]; gain and target [N].

    Linear in p, so that any real p works; risk-seeking utilities are unbounded below for every p, all but sigmoid for
    p outside [0, 1]. Deviation: the exponent of risk-seeking-2 stops at 80, where the published fp32 code overflows
    soon after. Raises PalateError for an unknown utility.
    """
    if utility not in UTILITY_LOSSES:
        raise PalateError(
            f"utility: {utility!r} is not one of {', '.join(UTILITY_LOSSES)}{did_you_mean(utility, UTILITY_LOSSES)}"
        )
    loss, target = UTILITY_LOSSES[utility], full_precision(target)
    u = kto_logit(gain, beta, offset)
    return target * lambda_liked * loss(u, 1) + (1 - target) * lambda_disliked * loss(u, -1)
