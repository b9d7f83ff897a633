"""Losses of ranked lists: K images of one prompt, compared with one another under a shared draw.

The score of image i is its implicit reward s_i = (beta/2) * (ref_error_i - error_i), so that s_0 - s_1 is the logit of
a pair. Lists of different lengths are padded to [B, K]; `mask` says which places hold an image. Both losses depend on
differences of scores only, and not on the order in which the images are stored.

Derived: the abstracts of Diffusion-LPO (arXiv 2510.01540) and RankDPO (arXiv 2410.18013) name the Plackett-Luce model
and the gain weights; their formulas are not available to us.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from palate.objectives.logit import full_precision


def plackett_luce(scores: Tensor, ranks: Tensor, mask: Tensor | None = None, normalise: bool = False) -> Tensor:
    """Negative log-likelihood of ranked lists, [B]: sum over i of log(sum over j ranked no better of e^(s_j)) - s_i.

    scores: [B, K]; ranks: [B, K], smaller is better, only their order counts; mask: [B, K] bool, all when absent. A
    list of two is a pair: -log sigmoid(s_0 - s_1). A list of one is 0. `normalise` divides by the number of images less
    one, so that a long list weighs as much as a pair.

    Images that share a rank: each counts half as if it came first of them and half as if it came last. For two that is
    exactly the mean over both orders, and a tied pair has the loss of the target 1/2; for more it is close to the mean
    over all orders, at a cost that does not grow factorially.
    """
    scores, mask = _padded(scores, mask)
    ranks, real = ranks.to(scores.dtype), mask[:, None, :]  # columns: the images compared with
    behind = (ranks[:, None, :] > ranks[:, :, None]) & real  # [B, i, j]: j is ranked worse than i
    itself = torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
    tied = (ranks[:, None, :] == ranks[:, :, None]) & real & ~itself
    gap = scores[:, None, :] - scores[:, :, None]  # [B, i, j]: s_j - s_i
    terms = 0.5 * (_beaten(gap, behind | tied) + _beaten(gap, behind))  # equal without a tie
    total = terms.masked_fill(~mask, 0).sum(dim=1)
    return total / (mask.sum(dim=1) - 1).clamp_min(1) if normalise else total


def rankdpo(scores: Tensor, gains: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pairwise losses weighted by what an exchange would cost in DCG, [B] (RankDPO): sum over pairs with G_i > G_j of

        (G_i - G_j) * |1/D_i - 1/D_j| * -log sigmoid(s_i - s_j),     D = log2(1 + rank)

    scores, gains: [B, K], the gain G of an image, for example 2^score - 1 of a reward in [0, 1]; ranks are those of the
    gains, 1 the best, images of equal gain sharing the best of theirs. mask: [B, K] bool, all when absent. A list of
    two is a pair with the weight 0.369 * (G_0 - G_1); a list of one, and one of equal gains, is 0.
    """
    scores, mask = _padded(scores, mask)
    gains = full_precision(gains.detach()).to(scores.dtype).masked_fill(~mask, 0)
    better = (gains[:, :, None] > gains[:, None, :]) & mask[:, :, None] & mask[:, None, :]  # [B, i, j]: i before j
    discount = 1 / torch.log2(2 + better.sum(dim=1).to(scores.dtype))  # [B, K]: its rank is 1 + how many are before
    weight = (gains[:, :, None] - gains[:, None, :]) * (discount[:, :, None] - discount[:, None, :]).abs()
    gap = scores[:, None, :] - scores[:, :, None]  # [B, i, j]: s_j - s_i
    return (weight * -logsigmoid(-gap)).masked_fill(~better, 0).sum(dim=(1, 2))


def _padded(scores: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores in full precision with 0 in the padding, and a mask."""
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.bool()
    return full_precision(scores).masked_fill(~mask, 0), mask


def _beaten(gap: Tensor, rivals: Tensor) -> Tensor:
    """-log of the probability that image i is chosen before its rivals, log(1 + sum over them of e^gap): [B, K, K] ->
    [B, K], 0 without rivals.

    As -log sigmoid of a log-sum it keeps small losses exact.
    """
    return -logsigmoid(-gap.masked_fill(~rivals, -math.inf).logsumexp(dim=2))
