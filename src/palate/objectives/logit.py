"""From predictions to the logit of a pair (Diffusion-DPO, arXiv 2311.12908)."""

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in fp32, or unchanged where it is fp64. Half precision would drown the logit in rounding noise."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def residual(prediction: Tensor, target: Tensor) -> Tensor:
    """Prediction minus regression target, both [B, C, H, W], cast to fp32 before the difference is taken."""
    return full_precision(prediction) - full_precision(target)


def denoising_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over all but the first axis of (prediction - target)^2: [B, C, H, W] -> [B], in fp32."""
    return residual(prediction, target).square().flatten(1).mean(dim=1)


def logit(error_0: Tensor, error_1: Tensor, ref_error_0: Tensor, ref_error_1: Tensor, beta: float) -> Tensor:
    """z = (beta/2) * [(ref_error_0 - error_0) - (ref_error_1 - error_1)], all [B].

    Positive where the policy prefers image 0 more than the reference does. Exactly 0 while policy and reference agree.
    """
    return 0.5 * beta * ((ref_error_0 - error_0) - (ref_error_1 - error_1))
