"""Couples of people who answer alike beyond what being right explains: one account, copied answers, or a taste of
their own.

Such a couple becomes "the truth" of every model that takes people as independent, and the others look worse. No truth
is needed to find it. With x = 1 for image 0, -1 for image 1 and 0 for a tie, and C_rs the mean of x_r x_s over pairs
that both saw, people who are independent given the better image have C_rs = D c_r c_s, whatever the difficulty of the
pairs and the ties. So for other people k and l, C_rs = C_rk C_sl / C_kl: a tetrad (C. Spearman 1904), and what is
left over is the excess of the couple. Four people are needed.
"""

from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from scipy import stats

from palate.audits.intervals import Estimate, bootstrap_estimate, resampled, share_estimate
from palate.data.annotators import Votes

FEWEST_PEOPLE = 4
FEWEST_SHARED = 20  # a couple with fewer pairs that both saw is not judged, and is in no tetrad
_MOST_PEOPLE = 12  # the busiest
_LEVEL = 0.05  # of a warning about any couple, by S. Holm's procedure (1979)


@dataclass(frozen=True)
class Couple:
    """Two people who saw the same pairs."""

    first: str
    second: str
    shared: int  # pairs that both saw
    same: Estimate | None  # how often both chose the same image, of the pairs on which both chose one
    excess: Estimate  # of the mean product of their answers (1, -1, tie 0) over what the others' answers explain
    flagged: bool  # clearly above 0, allowing for the number of couples


def couples_of(votes: Votes, group: np.ndarray, seed: int = 0) -> list[Couple]:
    """Every couple of the (at most twelve) busiest people, the largest excess first, with 95 % intervals from the
    bootstrap over groups [N]. Empty where fewer than four people share pairs."""
    votes = votes.first_only()
    busiest = np.argsort(-np.bincount(votes.annotator, minlength=len(votes.names)), kind="stable")[:_MOST_PEOPLE]
    people = np.sort(busiest)
    if len(people) < FEWEST_PEOPLE:
        return []
    answers = np.full((len(people), len(group)), np.nan)  # [P, N]
    kept = np.isin(votes.annotator, people)
    answers[np.searchsorted(people, votes.annotator[kept]), votes.pair[kept]] = 2 * votes.value[kept] - 1
    both = list(combinations(range(len(people)), 2))
    products = np.array([answers[r] * answers[s] for r, s in both])  # [couples, N]
    seen = ~np.isnan(products)
    times = np.concatenate([np.ones((1, len(group))), resampled(group, seed=seed)])  # [1 + resamples, N]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (times @ np.nan_to_num(products).T) / (times @ seen.T.astype(np.float64))
    means[:, seen.sum(axis=1) < FEWEST_SHARED] = np.nan
    agree = np.full((len(times), len(people), len(people)), np.nan)  # C
    for c, (r, s) in enumerate(both):
        agree[:, r, s] = agree[:, s, r] = means[:, c]
    found = []
    for c, (r, s) in enumerate(both):
        excess = means[:, c] - _explained(agree, r, s)
        if np.isnan(excess[0]):
            continue
        decided = np.abs(np.nan_to_num(products[c])) > 0
        same = share_estimate((products[c][decided] > 0).astype(float), group[decided])
        names = votes.names[people[r]], votes.names[people[s]]
        shared = int(seen[c].sum())
        estimate = bootstrap_estimate(float(excess[0]), excess[1:], group[seen[c]], shared)
        found.append((_chance(excess, group[seen[c]]), Couple(*names, shared, same, estimate, False)))
    return sorted(_flagged(found), key=lambda couple: -couple.excess.value)


def counted_as_one(couples: list[Couple]) -> tuple[tuple[str, ...], ...]:
    """The people of flagged couples in sets, each of which counts as one person."""
    sets: list[set[str]] = []
    for couple in couples:
        if couple.flagged:
            joined = {couple.first, couple.second}.union(*(s for s in sets if s & {couple.first, couple.second}))
            sets = [s for s in sets if not s & joined] + [joined]
    return tuple(tuple(sorted(s)) for s in sets)


def voices(votes: Votes, sets: tuple[tuple[str, ...], ...]) -> np.ndarray:
    """The weight of each vote [M]: 1, and for people of one set who voted on the same pair 1 / their number."""
    place = {name: k for k, names in enumerate(sets) for name in names}
    of_set = np.array([place.get(name, -1) for name in votes.names], dtype=int)[votes.annotator]
    weight = np.ones(len(votes))
    for k in range(len(sets)):
        own = of_set == k
        weight[own] = 1 / np.bincount(votes.pair[own], minlength=votes.pair.max() + 1)[votes.pair[own]]
    return weight


def _explained(agree: np.ndarray, r: int, s: int) -> np.ndarray:
    """Median [R] over tetrads of what C_rs [R] should be; tetrads whose divisor may well be 0 are left out."""
    others = [k for k in range(agree.shape[1]) if k not in (r, s)]
    pairs = np.array(list(permutations(others, 2)))
    k, low = pairs.T
    divisor = agree[:, k, low]
    firm = np.abs(np.nan_to_num(divisor[0])) > 3 * np.nan_to_num(divisor[1:]).std(axis=0)
    if not firm.any():
        return np.full(len(agree), np.nan)
    tetrads = agree[:, r, k] * agree[:, s, low] / np.where(divisor == 0, np.nan, divisor)
    return np.asarray(np.median(tetrads[:, firm], axis=1))


def _chance(excess: np.ndarray, group: np.ndarray) -> float:
    """Two-sided p-value of no excess, from the spread of the bootstrap [1 + R]; NaN draws are left out."""
    spread = np.nanstd(excess[1:], ddof=1)
    groups = len(np.unique(group))
    if groups < 2 or not spread > 0:
        return 1.0
    return float(2 * stats.t.sf(abs(excess[0]) / (spread * np.sqrt(groups / (groups - 1))), groups - 1))


def _flagged(found: list[tuple[float, Couple]]) -> list[Couple]:
    """The couples, those of clear positive excess marked."""
    told, clear = [], True
    for rank, (chance, couple) in enumerate(sorted(found, key=lambda one: one[0])):
        clear = clear and chance < _LEVEL / (len(found) - rank)
        flagged = clear and couple.excess.value > 0
        told.append(Couple(couple.first, couple.second, couple.shared, couple.same, couple.excess, flagged))
    return told
