"""The row of a table that is named, and how much of its value is chance.

The best of many rows is predicted too well: of rows that are equally good the luckiest is named. Three things are done
about it. Of rows that cannot be told from the best (one standard error of the difference, on the same votes) the
simplest is named. What it looks better by chance, its optimism, is found by choosing again, by the same rule, on nine
tenths of the prompts, and reading the value of that choice on the last tenth, in turn and over many ways to deal
prompts out: no vote has a part in both. And the value is given both as seen and corrected.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from palate.audits.intervals import Estimate
from palate.audits.planning import ALL, Draws, Gain, with_worth
from palate.judges.choice import SIMPLEST


@dataclass(frozen=True)
class Named:
    """A row of a table of judges that was chosen, with what it is expected to do with other votes."""

    name: str  # "judge/correction"
    gain: Gain  # corrected for the choice
    seen: float  # its variance ratio as seen
    optimism: float  # what the choice, and the power tuned on the same votes, took off it by chance
    rows: int  # how many there were to choose from


def name_a_row(gains: Mapping[str, Gain], draws: Mapping[str, Draws]) -> Named | None:
    """The simplest row that cannot be told from the best; None without rows. One judge is simpler than all, then a
    correction earlier in `SIMPLEST` than a later one; of rows that are alike in this the one of least variance."""
    if not gains:
        return None
    names = list(gains)
    seen = np.array([gains[name].variance.value for name in names])
    ranks = np.unique([_complexity(name) for name in names], axis=0, return_inverse=True)[1]
    drawn, kept, above, below = (
        np.column_stack([getattr(draws[name], part) for name in names])  # [B or R, J]
        for part in ("variance", "kept", "above", "below")
    )
    errors = np.array([np.nanstd(drawn - drawn[:, [j]], axis=0) for j in range(len(names))])  # of differences, [J, J]
    chosen = _simplest(seen[None], errors, ranks)[0]
    rows = np.flatnonzero(np.isfinite(kept).all(axis=1))  # not those in which every vote is a tie
    picked = _simplest(kept[rows], errors, ranks)
    read = below[rows, picked].sum()
    optimism = float(above[rows, picked].sum() / read - seen[chosen]) if read > 0 else 0.0
    gain = gains[names[chosen]]
    return Named(names[chosen], corrected_for(gain, optimism), gain.variance.value, optimism, len(names))


def corrected_for(gain: Gain, optimism: float) -> Gain:
    """The gain with `optimism` added to its variance ratio, and what follows from that. The interval reaches from the
    one as seen to the one so moved: how much is chance is not well known itself."""
    seen, m = gain.variance, gain.labelled
    low, high = seen.low + min(optimism, 0.0), seen.high + max(optimism, 0.0)
    variance = Estimate(seen.value + optimism, low, high, m)
    left = 1 / gain.labelled - 1 / gain.pairs
    residual = (variance.value / gain.labelled - 1 / gain.pairs) * gain.alone / left if left > 0 else gain.residual
    return with_worth(replace(gain, variance=variance, residual=max(residual, 0.0)))


def _simplest(values: np.ndarray, errors: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """For each row of values [R, J], the column of lowest rank (complexity, [J]) of those within their error of the
    least; of equal ranks the least."""
    best = np.argmin(values, axis=1)
    near = values - values.min(axis=1, keepdims=True) <= errors[best]
    lowest = np.where(near, ranks, ranks.max() + 1).min(axis=1, keepdims=True)
    return np.asarray(np.argmin(np.where(near & (ranks == lowest), values, np.inf), axis=1))


def _complexity(name: str) -> tuple[bool, int]:
    judge, correction = name.rsplit("/", 1)
    return judge == ALL, SIMPLEST.index(correction)
