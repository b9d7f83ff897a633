"""The value of a judge for DeDPO, and the value of more human votes.

At the start of training (z = 0) the gradient is as noisy as a mean over pairs: of a = y - 1/2 with human votes alone,
and with the judge g also of the residual d = a - power * (g - 1/2). With m of N pairs labelled at random and E the mean
over pairs,

    Var(human votes alone) = E a^2 / m        Var(DeDPO) = E a^2 / N + (1/m - 1/N) * E d^2

in the units in which the gradient of the logit has variance 1 (dedpo.md section 6; derived there). So with a
judge, m votes are worth m * Var(alone) / Var(DeDPO) votes, never more than N.
"""

from dataclasses import dataclass, replace

import numpy as np

from palate.arithmetic import HALF_95
from palate.audits.intervals import Estimate, bootstrap_estimate, ratio_estimate, resampled
from palate.audits.prompts import Prompts
from palate.data.labels import Labels

_FOLDS, _DEALS = 10, 10
ALL = "all judges"  # the name of their combination


@dataclass(frozen=True)
class Gain:
    """How much DeDPO gains from a judge, estimated on pairs with both a human vote and the judge's."""

    power: Estimate  # kappa, tuned: 1 for a calibrated judge, 0 for a useless one
    variance: Estimate  # of DeDPO at that power, relative to the human votes alone
    variance_full: Estimate  # the same at power 1
    worth: Estimate  # how many human votes alone would be as precise
    alone: float  # E a^2
    residual: float  # E d^2 at the tuned power
    labelled: int
    pairs: int

    def spread(self, votes: np.ndarray | float) -> np.ndarray | float:
        """Predicted variance if `votes` pairs are labelled, with this judge and power."""
        votes = np.minimum(votes, self.pairs)
        return self.alone / self.pairs + (1 / votes - 1 / self.pairs) * self.residual


@dataclass(frozen=True)
class Draws:
    """The variance ratio of a judge on parts of the labelled groups, which are the same for every judge."""

    variance: np.ndarray  # [B] of bootstrap samples, each at the power tuned on it
    kept: np.ndarray  # [R] of nine tenths of the groups, dealt again and again, at the power tuned on them
    above: np.ndarray  # [R] of the other tenth at that power: the ratio's numerator
    below: np.ndarray  # [R] and its denominator


def gain_of(labels: Labels, group: np.ndarray, seed: int = 0) -> Gain | None:
    """The gain from a judge, with intervals from the bootstrap over groups [N]; None if every human vote is a tie.

    The point estimates are `tuned_power` and `variance_ratio` of palate.labels.targets. Labelled pairs on which the
    judge did not vote are left out. The power is estimated on the same votes, so with few votes the ratio is slightly
    optimistic: look at the interval.
    """
    found = gain_and_draws(labels, group, seed)
    return None if found is None else found[0]


def gain_and_draws(labels: Labels, group: np.ndarray, seed: int = 0) -> tuple[Gain, Draws] | None:
    """`gain_of`, with its bootstrap samples."""
    both = labels.labelled & ~np.isnan(labels.judge)
    a, b, w = labels.human[both] - 0.5, labels.judge[both] - 0.5, 1 / labels.propensity[both]
    if not np.any(a):
        return None
    pairs, labelled = len(labels.human) - int((labels.labelled & ~both).sum()), int(both.sum())
    once = np.ones((1, labelled))
    point = _ratios(once, a, b, w)
    draws = _ratios(resampled(group[labels.labelled], seed=seed)[:, both[labels.labelled]], a, b, w)
    power = bootstrap_estimate(float(point[0][0]), draws[0], group[both], labelled)
    variance, full = (_ratio_of(a, b, w, k, group[both]) for k in (power.value, 1.0))
    gain = with_worth(Gain(
        power, variance, full, variance, float(np.average(a * a, weights=w)),
        float(np.average((a - power.value * b) ** 2, weights=w)), labelled, pairs,
    ))  # fmt: skip
    kept = _nine_tenths(group[labels.labelled], seed)[:, both[labels.labelled]]
    tuned, of_kept, _ = _ratios(kept, a, b, w)
    return gain, Draws(draws[1], of_kept, *_parts(1 - kept, a, b, w, tuned))


def with_worth(gain: Gain) -> Gain:
    """The gain with the `worth` that follows from its variance ratio."""
    low, value, high = (
        min(gain.labelled / max(x, 1e-9), gain.pairs)
        for x in (gain.variance.high, gain.variance.value, gain.variance.low)
    )
    return replace(gain, worth=Estimate(value, low, high, gain.labelled))


def _ratio_of(a: np.ndarray, b: np.ndarray, w: np.ndarray, power: float, group: np.ndarray) -> Estimate:
    """The variance ratio at a power; the tuned power, at which it is least, is as good as known (to first order)."""
    found = ratio_estimate(w * (a * a + (w - 1) * (a - power * b) ** 2), w * w * a * a, group)
    assert found is not None  # some a are not 0
    return found


def _ratios(
    times: np.ndarray, a: np.ndarray, b: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tuned power, and the variance ratios at that power and at 1, [R] each; every pair is taken times [R, n]."""
    cross, square = times @ (a * b), times @ (b * b)
    power = np.clip(np.divide(cross, square, out=np.zeros_like(cross), where=square > 0), 0, 1)
    parts = (_parts(times, a, b, w, k) for k in (power, np.ones_like(power)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return power, *(above / below for above, below in parts)


def _parts(
    times: np.ndarray, a: np.ndarray, b: np.ndarray, w: np.ndarray, power: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator [R] of the variance ratio at a power [R]."""
    alone, own = times @ (w * w * a * a), times @ (w * a * a)
    aa, ab, bb = (times @ (w * (w - 1) * x) for x in (a * a, a * b, b * b))
    return own + aa - 2 * power * ab + power * power * bb, alone


def _nine_tenths(group: np.ndarray, seed: int) -> np.ndarray:
    """[R, n] 1 for the rows of nine tenths of the groups [n]: groups are shuffled and dealt to ten folds, many times;
    each fold is left out once."""
    unique, place = np.unique(group, return_inverse=True)
    rng, folds = np.random.default_rng(seed), min(_FOLDS, len(unique))
    dealt = [(rng.permutation(len(unique)) % folds)[place] for _ in range(_DEALS)]
    return np.array([fold != k for fold in dealt for k in range(folds)], dtype=np.float64)


@dataclass(frozen=True)
class Step:
    """The precision from a number of human votes: half a 95 % interval of a share, in percentage points."""

    votes: int
    now: bool
    alone: float  # half width with the human votes alone
    new_prompts: float  # the same, if every labelled pair had a prompt of its own
    judges: dict[str, float]  # half width for DeDPO, by "judge/correction"
    worth: dict[str, float]  # how many human votes alone would be as precise


def plan(
    gains: dict[str, Gain], labelled: int, pairs: int, square: float, prompts: Prompts | None = None
) -> list[Step]:
    """The expected precision for more human votes (or fewer, if every pair has one), including today's number.

    gains: by "judge/correction"; square: E a^2. Precision is over prompts like these, not over these alone, so what the
    number of `prompts` leaves is in every half width: with m of N pairs labelled

        Var = E a^2 / N + beyond + (1/m - 1/N) * E d^2        beyond: `Prompts.beyond`; d = a without a judge

    It assumes that new votes go to pairs drawn at random and that judges stay as good as today, though a corrected one
    improves with more votes.
    """
    beyond = prompts.beyond(square) if prompts else 0.0
    factors = (1, 1.5, 2, 3, 4, 8, 16) if labelled < pairs else (0.03125, 0.0625, 0.125, 0.25, 0.5, 1)
    grid = {min(round(factor * labelled), pairs) for factor in factors} | ({pairs} if pairs <= 32 * labelled else set())
    steps = []
    for votes in sorted(v for v in grid if v > 0):
        judges = {name: _half_width(float(gain.spread(votes)) + beyond) for name, gain in gains.items()}
        worth = {name: float(min(gain.alone / gain.spread(votes), pairs)) for name, gain in gains.items()}
        alone, fresh = _half_width(square / votes + beyond), _half_width(square / votes)
        steps.append(Step(votes, votes == labelled, alone, fresh, judges, worth))
    return steps


def prompts_in_words(steps: list[Step], prompts: Prompts, square: float) -> str:
    """What the number of prompts leaves, and what new prompts would buy; "" where that is nothing."""
    if not steps or not prompts.alike or prompts.floor(square) <= 0:
        return ""
    last = steps[-1]
    return (
        f"Votes on pairs of one prompt go together (correlation {prompts.alike:.2f}): from {prompts.count:,} prompts no"
        f" number of pairs gives less than ± {_half_width(prompts.floor(square)):.1f}. {last.votes:,} labelled pairs of"
        f" these prompts give ± {last.alone:.1f}, as many of new prompts, one each, ± {last.new_prompts:.1f}: new"
        " prompts buy more than more pairs of the same ones."
    )


def leading(gains: dict[str, Gain], most: int = 5, first: str = "") -> dict[str, Gain]:
    """Each judge in its form of least variance, and of these the best `most`, as many as fit in a table; the row that
    is recommended is the `first`."""
    best: dict[str, str] = {}
    for name in sorted(gains, key=lambda name: (name != first, gains[name].variance.value)):
        best.setdefault(name.rsplit("/", 1)[0], name)
    return {name: gains[name] for name in list(best.values())[:most]}


def _half_width(variance: float) -> float:
    return float(100 * HALF_95 * np.sqrt(max(variance, 0)))
