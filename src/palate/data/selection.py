"""Which pairs are shown to people, and with what probability: the propensity that DeDPO divides by.

Every draw is addressed: whether a pair is drawn depends on (seed, pair_id), its propensity and nothing else. So the
same plan is made again on any machine, and a larger budget adds pairs to those of a smaller one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from palate.addresses import numbers
from palate.arrays import Bools, Floats
from palate.data.labels import collect_labels
from palate.errors import PalateError

SELECTIONS = ("uniform", "uncertainty", "disagreement")
FLOOR = 0.25  # share of the budget that is spread evenly when a score says where to look


@dataclass(frozen=True)
class Drawn:
    """Who is shown, of N pairs: arrays [N] in the order of the pairs."""

    propensity: Floats  # float64 in (0, 1]: probability with which the pair was drawn, also of those that were not
    drawn: Bools  # bool
    rank: Floats  # float64 in [0, 1): drawn pairs are shown in this order, which says nothing about a pair


def uniform(pair_ids: Sequence[str], budget: int, seed: int) -> Drawn:
    """Exactly `budget` of the N pairs, every subset of that size being as likely: the propensity is budget/N.

    Raises PalateError for a budget below 1; one above N draws all.
    """
    _require_budget(budget)
    number = numbers("draw", seed, pair_ids)
    count = min(budget, len(pair_ids))
    drawn = np.zeros(len(pair_ids), bool)
    drawn[np.argsort(number, kind="stable")[:count]] = True
    return Drawn(np.full(len(pair_ids), count / max(len(pair_ids), 1)), drawn, number)


def by_score(pair_ids: Sequence[str], score: Floats, budget: int, seed: int, floor: float = FLOOR) -> Drawn:
    """About `budget` pairs, more where the score ([N], not negative) is higher: Poisson sampling.

    Each pair is drawn on its own, when its number, uniform in [0, 1), is below its propensity. So the propensity is the
    exact inclusion probability, and pairs are drawn independently. The number of pairs is `budget` on average with a
    standard deviation of at most sqrt(budget). Shown in an order that does not depend on the score. Raises PalateError
    as `propensities` does.
    """
    propensity = propensities(score, budget, floor)
    return Drawn(propensity, numbers("draw", seed, pair_ids) < propensity, numbers("order", seed, pair_ids))


def propensities(score: Floats, budget: int, floor: float = FLOOR) -> Floats:
    """min(1, f + c * score), [N], with f = floor * budget / N and c such that the sum is `budget`; all 1 if that is
    above N.

    The floor keeps every pair's propensity above 0, and the weight 1/propensity below N / (floor * budget). A score of
    zeros gives budget/N. Each propensity grows with the budget. Raises PalateError for a budget below 1, a floor
    outside (0, 1], or a score that is negative or not finite.
    """
    _require_budget(budget)
    score = np.asarray(score, dtype=np.float64)
    if not 0 < floor <= 1:
        raise PalateError(f"floor: {floor:g} is outside (0, 1]. A pair that cannot be drawn would bias every estimate.")
    if not (np.isfinite(score).all() and (score >= 0).all()):
        raise PalateError("selection: a score is negative or not finite, so no propensity follows from it.")
    count = len(score)
    if budget >= count:
        return np.ones(count)
    least = floor * budget / count
    if floor == 1 or not score.any():
        return np.full(count, budget / count)
    score = score / score.max()
    below = least + _scale(score, budget, least) * score
    return _filled(np.minimum(below, 1.0), budget)


def _scale(score: Floats, budget: int, least: float) -> float:
    """c with sum(min(1, least + c * score)) = budget, or the one that fills every pair of a positive score."""
    order = np.sort(score[score > 0])[::-1]
    tail = np.cumsum(order[::-1])[::-1]  # sum of a score and all below it, small ones added first
    for full in range(len(order)):  # the `full` highest are at 1: is c of the others then consistent?
        c = (budget - full - least * (len(score) - full)) / tail[full]
        if least + c * order[full] <= 1:
            return float(c)
    return float((1 - least) / order[-1])


def _filled(propensity: Floats, budget: int) -> Floats:
    """Spread what is left of the budget over the pairs below 1: it is left where too few pairs have a score above 0."""
    for _ in range(len(propensity)):
        rest, open_ = budget - propensity.sum(), propensity < 1
        if not open_.any() or rest <= max(
            1e-9 * budget, 1e-15 * open_.sum()
        ):  # nothing that a sum of such numbers could show
            break
        # A pair just below 1 takes less than its share, and leaves some for the next round.
        propensity = np.where(open_, np.minimum(propensity + rest / open_.sum(), 1.0), propensity)
    return np.clip(propensity, 0.0, 1.0)


def judge_scores(pair_ids: Sequence[str], votes: pa.Table, selection: str, judges: Sequence[str] = ()) -> Floats:
    """Where another human vote says most, by the judges' votes: [N], not negative.

    uncertainty: 1 - |2p - 1| of the mean probability p of the judges; disagreement: the standard deviation of their
    probabilities. A pair on which too few judges voted gets the mean of the others. `judges` are annotator_ids, all
    judges of the votes if none is given. Raises PalateError without a judge's vote, or for disagreement without two
    judges.
    """
    source, annotator = votes["source"].to_pylist(), votes["annotator_id"].to_pylist()
    known = sorted({a for s, a in zip(source, annotator, strict=True) if s == "judge"})
    names = list(judges) or known
    needed = 2 if selection == "disagreement" else 1
    if len(names) < needed:
        raise PalateError(
            f"--select {selection} needs the votes of {needed} judge{'s' * (needed > 1)}, and the dataset has those of "
            f"{len(names)}. Add a judge's votes, or use --select uniform."
        )
    voted = np.stack([collect_labels(pair_ids, votes, judge=name).judge for name in names])  # [J, N]
    count = (~np.isnan(voted)).sum(axis=0)
    total = np.nansum(voted, axis=0)
    mean = np.divide(total, count, out=np.full(len(count), 0.5), where=count > 0)
    if selection == "disagreement":
        spread = np.nansum((voted - mean) ** 2, axis=0)
        score = np.sqrt(np.divide(spread, count - 1, out=np.zeros_like(mean), where=count > 1))
    else:
        score = 1 - np.abs(2 * mean - 1)
    enough = count >= needed
    if not enough.any():
        raise PalateError(f"--select {selection}: no pair has the votes of {needed} judges. Use --select uniform.")
    scores: Floats = np.where(enough, score, score[enough].mean())
    return scores


def _require_budget(budget: int) -> None:
    if budget < 1:
        raise PalateError(f"--budget {budget}: give the number of pairs to show, at least 1.")
