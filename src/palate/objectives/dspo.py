"""DSPO (direct score preference optimisation, ICLR 2025): the winner's prediction against a target moved along its own
shift.

The name stands for two losses, and the published code picks one by model family: for SD 1.5 a regression of the
winner's residual, for SDXL a squared sigmoid of the logit. Both take, per image, the shift (policy prediction minus
reference prediction, only the reference without gradient) and through the logit z also the loser. The sigmoid is not
detached. Here both are p*f(image 0, z) + (1 - p)*f(image 1, -z): the published loss for hard labels, linear in the
label, and unchanged by swapping the images. Formulas as the released code computes them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from palate.objectives.links import squared_sigmoid
from palate.objectives.logit import full_precision

SWITCH = 0.1


def dspo_sd15(
    residuals: tuple[Tensor, Tensor], shifts: tuple[Tensor, Tensor], z: Tensor, target: Tensor, beta: float
) -> Tensor:
    """Mean over C, H, W of (residual_w - beta*(1 - sigmoid(z_w))*shift_w)^2, made linear in the label; [B].

    residuals, shifts: of image 0 and image 1, [B, C, H, W] each (prediction minus regression target, prediction minus
    reference prediction); z, target: [B]. The full beta stands here while z holds beta/2, as published; the published
    beta is 0.001, at which this is the winner's denoising error up to 0.05 %. For p outside [0, 1] unbounded below.
    """
    z, target = full_precision(z), full_precision(target)
    (residual_0, residual_1), (shift_0, shift_1) = residuals, shifts
    error_0 = _moved_error(residual_0, shift_0, beta * torch.sigmoid(-z))
    error_1 = _moved_error(residual_1, shift_1, beta * torch.sigmoid(z))
    return target * error_0 + (1 - target) * error_1


def dspo_sdxl(
    shifts: tuple[Tensor, Tensor],
    z: Tensor,
    target: Tensor,
    switch: float = SWITCH,
    gather: Callable[[Tensor], Tensor] = lambda own: own,
) -> Tensor:
    """(1 - sigmoid(z_w))^2, times the mean of shift_w^2 where the batch mean of that reaches `switch`; [B].

    shifts: of image 0 and image 1, [B, C, H, W] each; z, target: [B]. The switch is the published one, a jump of the
    loss that depends on the batch: one decision for all its pairs. A soft target counts both images in that mean in
    its proportion, a debiased one as if clipped to [0, 1]; so the loss is linear in the label on either side of the
    switch, but not across it. Below the switch it is the squared-sigmoid link. Of a batch that is spread over
    processes, `gather` gives the rows of all, [B].
    """
    target = full_precision(target)
    square_0, square_1 = (_mean_square(full_precision(shift)) for shift in shifts)  # [B]
    share = target.clamp(0, 1)
    if gather((share * square_0 + (1 - share) * square_1).detach()).mean() < switch:
        return squared_sigmoid(z, target)
    one = torch.ones_like(target)
    return target * square_0 * squared_sigmoid(z, one) + (1 - target) * square_1 * squared_sigmoid(z, 1 - one)


def _moved_error(residual: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return _mean_square(full_precision(residual) - scale[:, None, None, None] * full_precision(shift))


def _mean_square(values: Tensor) -> Tensor:
    return values.square().flatten(1).mean(dim=1)
