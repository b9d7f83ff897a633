"""Means over seeds with Student's intervals. A seed is one repetition of everything, so seeds are independent."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from palate.evaluation.strengths import holm


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds with its 95 % interval; NaN bounds with a single seed."""

    mean: float
    low: float
    high: float
    n: int

    def within(self, lowest: float, highest: float) -> "Estimate":
        """The same with an interval that ends where the number's range does."""
        return replace(self, low=max(self.low, lowest), high=min(self.high, highest))

    def text(self, places: int = 2) -> str:
        """The number with its interval, as tables show it."""
        if self.n == 0:
            return "–"
        if self.n == 1:
            return f"{self.mean:.{places}f} (one seed)"
        if self.low != self.low:
            return f"{self.mean:.{places}f} [no interval]"
        return f"{self.mean:.{places}f} [{self.low:.{places}f}, {self.high:.{places}f}]"


def estimate(values: dict[int, float]) -> Estimate:
    """The mean of one number per seed."""
    x = np.array(list(values.values()), float)
    if len(x) < 2:
        return Estimate(float(x.mean()) if len(x) else np.nan, np.nan, np.nan, len(x))
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return Estimate(float(x.mean()), float(x.mean() - half), float(x.mean() + half), len(x))


def difference(a: dict[int, float], b: dict[int, float]) -> Estimate:
    """The mean of a - b over the seeds that both have."""
    return estimate({seed: a[seed] - b[seed] for seed in a if seed in b})


def clearly(
    gains: dict[str, dict[int, float]], other: dict[int, float], level: float = 0.05
) -> tuple[list[str], list[str]]:
    """Names whose gain is above, and below, another beyond chance: Student's paired tests over the seeds that both have,
    corrected for their number by Holm's method."""
    tests = {}
    for name, gain in gains.items():
        seeds = [seed for seed in gain if seed in other]
        if len(seeds) > 1 and any(gain[seed] != other[seed] for seed in seeds):
            tests[name] = stats.ttest_rel([gain[seed] for seed in seeds], [other[seed] for seed in seeds])
    p_values = dict(zip(tests, holm([test.pvalue for test in tests.values()]), strict=True))
    found = [name for name in tests if p_values[name] < level]
    return [name for name in found if tests[name].statistic > 0], [name for name in found if tests[name].statistic < 0]


def kept(a: dict[int, float], clean: dict[int, float]) -> Estimate:
    """The share of the clean gain that is kept: mean of a over mean of clean, by Fieller's theorem on paired seeds.

    Bounds are NaN where the clean gain is not clearly different from 0, because the ratio then has no bounded interval.
    """
    seeds = [seed for seed in a if seed in clean]
    x, y = np.array([a[s] for s in seeds]), np.array([clean[s] for s in seeds])
    n = len(seeds)
    if n < 2:
        return Estimate(float(x.mean() / y.mean()) if n else np.nan, np.nan, np.nan, n)
    t = stats.t.ppf(0.975, n - 1)
    (vxx, vxy), (_, vyy) = np.cov(x, y) / n
    a2, b2, c2 = y.mean() ** 2 - t * t * vyy, -2 * (x.mean() * y.mean() - t * t * vxy), x.mean() ** 2 - t * t * vxx
    root = b2 * b2 - 4 * a2 * c2
    if a2 <= 0 or root < 0:
        return Estimate(float(x.mean() / y.mean()), np.nan, np.nan, n)
    return Estimate(
        float(x.mean() / y.mean()), float((-b2 - np.sqrt(root)) / (2 * a2)), float((-b2 + np.sqrt(root)) / (2 * a2)), n
    )
