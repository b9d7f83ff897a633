"""Links: from a logit z and a target p to a loss per pair. Each is linear in p up to a constant, so that any real p
works.

Swapping the images (z -> -z, p -> 1 - p) leaves every link unchanged, and at z = 0 every one has the slope 1/2 - p.
The one exception to the second is `hinge`, whose slope there is 1 - 2p.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def sigmoid(z: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy softplus(z) - p*z with slope sigmoid(z) - p; z and target [B] -> [B] (Diffusion-DPO, arXiv
    2311.12908).

    Written as -p*log sigmoid(z) - (1-p)*log sigmoid(-z): the same number for every real p, without cancellation at p
    = 0 and 1. Unbounded below where p lies outside [0, 1].
    """
    return -target * logsigmoid(z) - (1 - target) * logsigmoid(-z)


def ipo(z: Tensor, target: Tensor, margin: float = 2.0) -> Tensor:
    """(z - (2p - 1)*margin)^2 / (4*margin); z and target [B] -> [B] (IPO, arXiv 2310.12036). Bounded below for every p.

    `margin` is the logit at which a hard label is satisfied. The divisor gives the slope of the sigmoid link at z =
    0; margin 2 also gives its curvature. Published forms are multiples of this one: (ell - 1/(2*beta_ipo))^2 on the
    raw margin ell of the winner has margin beta/(4*beta_ipo), and margin 1/2 is that of language models, with z =
    beta_ipo * (log-ratio difference).
    """
    return (z - (2 * target - 1) * margin).square() / (4 * margin)


def hinge(z: Tensor, target: Tensor) -> Tensor:
    """p*max(0, 1 - z) + (1 - p)*max(0, 1 + z); z and target [B] -> [B] (SLiC, arXiv 2305.10425). Linear in p."""
    return target * torch.relu(1 - z) + (1 - target) * torch.relu(1 + z)


LINKS = {"sigmoid": sigmoid, "ipo": ipo, "hinge": hinge}
