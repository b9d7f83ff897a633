"""Errors where the two images of a pair differ, after RN-DPO (arXiv 2601.23222).

RN-DPO compares proposed segmentations, whose log-ratios cancel wherever both agree, and divides by the size of the
region of disagreement. Its analogue for images averages the denoising error over the positions at which the clean
latents differ. Derived: the paper is about masks, and no code of it is known.
"""

import torch
from torch import Tensor

from palate.errors import PalateError
from palate.objectives.logit import full_precision, residual


@torch.no_grad()
def region_mask(latents_0: Tensor, latents_1: Tensor, threshold: float = 0.1) -> Tensor:
    """Where the clean images of each pair differ, [B, 1, H, W] bool; latents [B, C, H, W], never noised ones.

    A position belongs to the region where the largest difference over channels exceeds `threshold`, a share in [0, 1)
    of the pair's own largest difference (derived: so the region depends neither on the scale of the latents nor on how
    far apart the images are on the whole, and is never empty). 0 takes every position with any difference. A pair
    without any difference has all positions. Raises PalateError for a threshold outside [0, 1).
    """
    if not 0 <= threshold < 1:
        raise PalateError(f"region: the threshold {threshold:g} is outside [0, 1). Use for example 0.1.")
    difference = (full_precision(latents_0) - full_precision(latents_1)).abs().amax(dim=1, keepdim=True)
    largest = difference.amax(dim=(1, 2, 3), keepdim=True)  # [B, 1, 1, 1]
    return _never_empty(difference > threshold * largest)


def region_error(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean over channels and masked positions of (prediction - regression target)^2: [B, C, H, W] -> [B], in fp32.

    mask: [B, 1, H, W] bool, of `region_mask`: both images of a pair and the reference share it. A mask of every
    position gives the denoising error; an empty one counts as that. What lies outside has no influence, on value or
    gradient, even where it is no number.
    """
    mask = _never_empty(mask)
    inside = residual(prediction, target).masked_fill(~mask, 0)
    return inside.square().flatten(1).sum(dim=1) / (mask.flatten(1).sum(dim=1) * prediction.shape[1])


def _never_empty(mask: Tensor) -> Tensor:
    return mask | ~mask.flatten(1).any(dim=1).view(-1, 1, 1, 1)
