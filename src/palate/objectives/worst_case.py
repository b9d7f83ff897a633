"""DPO-PRO (arXiv 2509.02709): the worst probability of the label in a chi-square ball around what the votes say.

With the losses f(z) of one side and f(-z) of the other, and a ball of radius rho around p, the worst label is

    min(1, p + sqrt(rho*p*(1 - p)))   where f(z) is the larger one,   else   max(0, p - sqrt(rho*p*(1 - p)))

so that the loss is that of p plus s*|f(z) - f(-z)| with the step s that is left. Hard labels have no ball: nothing
happens to them. With the sigmoid link a label with |p - 1/2| <= sqrt(rho/(1 + rho))/2 never leaves z = 0. s depends on
p through a root, so this is NOT linear in the label, and outside of [0, 1] it is nothing at all.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from palate.objectives.logit import full_precision


@torch.no_grad()
def worst_target(loss_of_1: Tensor, loss_of_0: Tensor, target: Tensor, radius: float) -> Tensor:
    """The label in [0, 1] of largest loss, [B] without gradient; losses of the labels 1 and 0, and target in [0, 1],
    [B] each. Where both losses are the same, as at z = 0, it is the target."""
    target = full_precision(target)
    step = torch.sign(loss_of_1 - loss_of_0) * (radius * target * (1 - target)).clamp_min(0).sqrt()
    return (target + step).clamp(0, 1)


def worst_case(link: Callable[[Tensor, Tensor], Tensor], radius: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A link that is linear in its label, at the worst label within `radius` >= 0 of the one given.

    Its gradient is that of the link at that label. (The largest of several losses has the gradient of the one that is
    the largest.) Accounts of the paper have p + ... alone; the other side follows by symmetry (derived).
    """

    def at_the_worst(z: Tensor, target: Tensor) -> Tensor:
        one = torch.ones_like(target)
        return link(z, worst_target(link(z, one), link(z, 1 - one), target, radius))

    return at_the_worst
