"""How far votes on pairs of one prompt go together: the floor under what more pairs of the same prompts can buy."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Prompts:
    """The prompts of N pairs, and how alike the votes on pairs of one prompt are."""

    count: int
    concentration: float  # sum over prompts of their squared share of the pairs: 1 / count where all have equally many
    alike: float | None  # correlation of two pairs of one prompt; None if no prompt has two labelled pairs
    pairs: int

    def beyond(self, square: float) -> float:
        """What the variance of a mean over all N pairs is more than `square` / N, that of independent pairs."""
        return (self.alike or 0.0) * square * max(self.concentration - 1 / self.pairs, 0.0)

    def floor(self, square: float) -> float:
        """The variance that is left with any number of pairs of these prompts labelled, in units of `beyond`."""
        return (self.alike or 0.0) * square * self.concentration


def prompts_of(group: np.ndarray, human: np.ndarray, directions: np.ndarray) -> Prompts:
    """The prompts [N] of pairs with mean human votes [N] (NaN: not labelled).

    directions [N, D] change sign when the images are swapped: what a share is measured along, such as a judge's choice
    or which picture is brighter. `alike` is how much of the variance of direction * (vote - 1/2), over all of them,
    lies between prompts; both are U-statistics, free of the number of pairs of a prompt. Without a direction pairs
    count as unrelated.
    """
    sizes = np.bincount(np.unique(group, return_inverse=True)[1])
    concentration = float(np.sum((sizes / len(group)) ** 2))
    labelled = ~np.isnan(human)
    place = np.unique(group[labelled], return_inverse=True)[1]
    own = np.bincount(place)
    if len(own) < 2 or own.max() < 2 or not directions.shape[1]:
        return Prompts(len(sizes), concentration, None, len(group))
    signed = (human[labelled] - 0.5)[:, None] * np.sign(np.nan_to_num(directions[labelled]))  # [n, D]
    sums = np.zeros((len(own), signed.shape[1]))
    np.add.at(sums, place, signed)
    square, total, n = (signed**2).sum(axis=0), sums.sum(axis=0), len(signed)
    inside = ((sums**2).sum(axis=0) - square) / np.sum(own * (own - 1))  # E of two pairs of one prompt
    outside = (total**2 - (sums**2).sum(axis=0)) / (n * n - np.sum(own**2))  # and of two prompts
    whole = float(np.sum(square / n - outside))
    alike = float(np.clip(np.sum(inside - outside) / whole, 0, 1)) if whole > 0 else 0.0
    return Prompts(len(sizes), concentration, alike, len(group))
