"""What several judges say together: whether they help as a set, and whom of them a correction would miss.

A test of each weight fails where judges resemble each other: none of the weights is clear, and the set is.
"""

import numpy as np
from scipy import stats
from scipy.special import expit

from palate.arrays import Bools, Floats, Ints
from palate.judges.ridge import fit_ridge, log_loss

CHANCE = 0.05  # below this the set is said to help
_CLEAR = 2.0  # standard errors of the loss without a judge


def chance_of_set(block: Floats, kept: Floats, human: Floats, ridge: Floats, group: Ints) -> float:
    """p-value of the block [n, J] of judges' features adding nothing to the kept features [n, F].

    Score test over groups [n] (prompts): fit without the block, project it on the kept features with the weights of
    that fit, sum feature * residual by group, and take Hotelling's T^2 of these K sums in J dimensions. Where J is more
    than a third of K, the leading principal directions of the block stand for it. 1 for fewer than 6 groups.
    """
    groups = len(np.unique(group))
    if groups < 6:
        return 1.0
    probability = np.full(len(human), 0.5)
    if kept.shape[1]:
        probability = expit(kept @ fit_ridge(kept, human, ridge))
        weighted = kept * (probability * (1 - probability))[:, None]
        block = block - kept @ np.linalg.lstsq(weighted.T @ kept, weighted.T @ block, rcond=None)[0]
    directions = np.linalg.svd(block, full_matrices=False)
    rank = int((directions.S > 1e-8 * max(directions.S[0], 1e-300)).sum())
    block = block @ directions.Vh[: min(rank, groups // 3)].T
    width = block.shape[1]
    if not width:
        return 1.0
    place = np.unique(group, return_inverse=True)[1]
    sums = np.zeros((groups, width))
    np.add.at(sums, place, block * (human - probability)[:, None])
    mean, spread = sums.mean(axis=0), np.atleast_2d(np.cov(sums.T))
    squared = groups * mean @ np.linalg.pinv(spread) @ mean
    return float(stats.f.sf((groups - width) / (width * (groups - 1)) * squared, width, groups - width))


def clearly_missed(
    x: Floats, human: Floats, group: Ints, fold: Ints, ridges: list[Floats], columns: list[Bools]
) -> list[bool]:
    """For each judge, whether the loss on held-out folds is clearly larger without its columns ([F] masks of x [n, F]).

    The ridge of each fold is given. Losses are paired, and summed by group [n].
    """

    def losses(used: Bools) -> Floats:
        found = np.zeros(len(human))
        for k, ridge in enumerate(ridges):
            seen = fold != k
            weight = fit_ridge(x[seen][:, used], human[seen], ridge[used])
            found[~seen] = log_loss(x[~seen][:, used] @ weight, human[~seen])
        return found

    place = np.unique(group, return_inverse=True)[1]
    whole = losses(np.ones(x.shape[1], bool))
    missed = []
    for own in columns:
        more = np.bincount(place, weights=losses(~own) - whole)
        error = more.std(ddof=1) / np.sqrt(len(more))
        missed.append(bool(more.mean() > _CLEAR * error and error > 0))
    return missed
