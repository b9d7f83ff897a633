"""The safeguard of Diffusion-SDPO (arXiv 2511.03317): damp the loser's gradient so that the winner's error does not
rise.

A step pulls one image of a pair, lowering its denoising error, and pushes the other. With residuals r_w (pulled) and
r_l (other), the pulled error falls to first order as long as the other's gradient is scaled by

    lambda = clip((1 - mu) * |r_w|^2 / <r_w, r_l>, 0, 1)   where <r_w, r_l> > 0,   else 1

Soft and debiased targets need no other rule: the pulled image is the one whose error the loss lowers at the present
logit.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from palate.errors import PalateError
from palate.objectives.links_pulling import sigmoid
from palate.objectives.logit import full_precision

_PUBLISHED_EPSILON = 1e-9

Mode = Literal["pair", "batch", "published"]


def pulls_image_0(z: Tensor, target: Tensor, link: Callable[[Tensor, Tensor], Tensor] = sigmoid) -> Tensor:
    """Whether a step lowers the error of image 0, [B] bool: the slope of the link at z is negative (sigmoid: p >
    sigmoid(z))."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(link(leaf, target.detach()).sum(), leaf)
    return slope < 0


@torch.no_grad()
def loser_scale(residual_0: Tensor, residual_1: Tensor, pulled_0: Tensor, mu: float, mode: Mode = "pair") -> Tensor:
    """The factor lambda on the gradient of the image that is not pulled, [B] in [0, 1], without gradient.

    residual_0, residual_1: prediction - regression target, [B, C, H, W]; pulled_0: [B] bool; mu: slack in [0, 1],
    larger is safer (published: 0.9 for SD 1.5, 0.6 for SDXL). mode "pair": one lambda per pair. "batch": one for all
    pairs, from sums over the whole batch, as in the paper; it depends on the batch. "published": as "batch" and with
    the additive 1e-9 of the authors' code, which depends on the resolution.

    There is no epsilon: lambda depends only on the ratio of the residuals, and a positive denominator needs none.
    As |r_w| -> 0 at a positive inner product lambda -> 0; at r_w = 0 exactly the inner product is 0, nothing can harm
    the winner to first order, and lambda is 1. NaN gives NaN ("published": 1, as there). Raises PalateError for mu
    outside [0, 1] or an unknown mode.
    """
    if not 0 <= mu <= 1:
        raise PalateError(f"safeguard: {mu:g} is outside [0, 1]. Use for example 0.6, or leave it out for none.")
    if mode not in ("pair", "batch", "published"):
        raise PalateError(f"safeguard mode: {mode!r} is not known. Use pair, batch or published.")
    residual_0, residual_1 = full_precision(residual_0).flatten(1), full_precision(residual_1).flatten(1)  # [B, C*H*W]
    winner = torch.where(pulled_0[:, None], residual_0, residual_1)
    loser = torch.where(pulled_0[:, None], residual_1, residual_0)
    if mode == "published":
        return _published_scale(winner, loser, mu).expand(len(winner))
    # A common scale cancels from lambda; taking it out first keeps small squares from underflowing.
    largest = torch.maximum(winner.abs(), loser.abs()).amax(dim=1, keepdim=True)  # [B, 1]
    if mode == "batch":
        largest = largest.amax(dim=0, keepdim=True)
    largest = torch.where(largest == 0, torch.ones_like(largest), largest)
    winner, loser = winner / largest, loser / largest
    square, inner = winner.square().sum(dim=1), (winner * loser).sum(dim=1)  # [B]
    if mode == "batch":
        square, inner = square.sum().expand(len(winner)), inner.sum().expand(len(winner))
    return torch.where(inner <= 0, torch.ones_like(inner), ((1 - mu) * square / inner).clamp(0, 1))


def scale_gradient(error: Tensor, lam: Tensor) -> Tensor:
    """The same value with its gradient multiplied by lam: stop(e) + lam * (e - stop(e)); error and lam [B] -> [B]."""
    stopped = error.detach()
    return stopped + lam * (error - stopped)


def protected_errors(error_0: Tensor, error_1: Tensor, pulled_0: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """Both errors [B] with unchanged values, the gradient of the image that is not pulled multiplied by lam [B]."""
    one = torch.ones_like(lam)
    return (
        scale_gradient(error_0, torch.where(pulled_0, one, lam)),
        scale_gradient(error_1, torch.where(pulled_0, lam, one)),
    )


def _published_scale(winner: Tensor, loser: Tensor, mu: float) -> Tensor:
    gradient_w, gradient_l = 2 * winner / winner.numel(), 2 * loser / loser.numel()
    square, inner = gradient_w.square().sum(), (gradient_w * gradient_l).sum()
    cap = ((1 - mu) * square / (inner + _PUBLISHED_EPSILON)).clamp(0, 1)
    return torch.where(inner > 0, cap, torch.ones_like(cap))


def exact_scale(pull: list[Tensor], whole: list[Tensor], mu: float) -> tuple[float, bool]:
    """The safeguard in parameter space: lambda, and whether the step without it would have raised the pulled error.

    pull: the gradient of the loss through the errors of pulled images alone, one tensor per parameter; whole: the whole
    gradient; the push on the other images is whole - pull. Along -(pull + lambda * push) the weighted error of the
    pulled images falls to first order as long as lambda * <pull, -push> <= |pull|^2 (arXiv 2511.03317, section 4, eq.
    12 to 14, by accounts of the paper), so

        lambda = clip((1 - mu) * |pull|^2 / <pull, -push>, 0, 1)   where <pull, -push> > 0,   else 1

    It holds for any link and any weights, for the step of plain gradient descent; the released code has the cheaper
    form in output space. A pull of zero has nothing to protect: lambda is 1.
    """
    largest = max((float(tensor.abs().max()) for tensor in (*pull, *whole) if tensor.numel()), default=0.0)
    if largest == 0:
        return 1.0, False
    square = sum(float((full_precision(p) / largest).double().square().sum()) for p in pull)
    along = sum(
        float(((full_precision(p) / largest).double() * (full_precision(w) / largest).double()).sum())
        for p, w in zip(pull, whole, strict=True)
    )  # <pull, pull + push>
    inner = square - along  # <pull, -push>
    lam = 1.0 if inner <= 0 else min(max((1 - mu) * square / inner, 0.0), 1.0)
    return lam, along < 0


def combined_gradient(pull: list[Tensor], whole: list[Tensor], lam: float) -> list[Tensor]:
    """pull + lam * push for every parameter, push = whole - pull."""
    return [(1 - lam) * p + lam * w for p, w in zip(pull, whole, strict=True)]
