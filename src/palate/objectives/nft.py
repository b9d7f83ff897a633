"""DiffusionNFT (arXiv 2509.16117) on images that are there: towards images that are liked, away from the others.

With the old policy's error g_old = v_old - v* and the policy's g = v - v*, v* being what the network is asked to
predict, two branches reach from the old policy to either side,

    g+ = b*g + (1 - b)*g_old        g- = (1 + b)*g_old - b*g

each measured as an error of x_0, s*g, whose mean square is divided by its mean size: L = mean((s*g)^2) / mean|s*g|. The
loss of an image with r in [0, 1] is (r*L+ + (1 - r)*L-)/b.

Derived: published for images that the old policy has just made, r being a clipped advantage; here the images are those
of the dataset, r is the target, and the old policy is the reference. Published for flow matching, where s is the time;
with other predictions s is the factor from an error of the prediction to one of x_0.
"""

from torch import Tensor

from palate.objectives.logit import full_precision

_LEAST_SIZE = 1e-5  # published, of mean|s*g|


def nft(residual: Tensor, old_residual: Tensor, x0_scale: Tensor, target: Tensor, reach: float = 1.0) -> Tensor:
    """(r*L+ + (1 - r)*L-)/reach, [N]: residual and old_residual [N, C, H, W], prediction minus regression target of
    policy and old policy; x0_scale [N], times which a residual is that of x_0; target r [N]; reach b > 0.

    Linear in r: no gradient goes through the divisors. At policy = old policy the gradient is that of (2r - 1) times
    the old policy's normalised error whatever b is; b says how far the branches reach. For r outside [0, 1] unbounded
    below, with a gradient that stays bounded.
    """
    target, old = full_precision(target), full_precision(old_residual).detach()
    ours, scale = full_precision(residual), full_precision(x0_scale)
    towards = _normalised(reach * ours + (1 - reach) * old, scale)
    away = _normalised((1 + reach) * old - reach * ours, scale)
    return (target * towards + (1 - target) * away) / reach


def _normalised(residual: Tensor, scale: Tensor) -> Tensor:
    """Mean square over mean size of scale*residual, [N]; no gradient through the size."""
    error = scale.view(-1, 1, 1, 1) * residual
    size = error.detach().abs().flatten(1).mean(dim=1).clamp_min(_LEAST_SIZE)
    return error.square().flatten(1).mean(dim=1) / size


def drift(shift: Tensor) -> Tensor:
    """Mean over C, H, W of (prediction - reference's prediction)^2, [N]; shift [N, C, H, W]."""
    return full_precision(shift).square().flatten(1).mean(dim=1)
