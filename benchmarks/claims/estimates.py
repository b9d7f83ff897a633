"""Means over seeds with Student's intervals. A seed is one repetition of everything, so seeds are independent."""

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds with its 95 % interval; NaN bounds with a single seed."""

    mean: float
    low: float
    high: float
    n: int

    def text(self, places: int = 2) -> str:
        """The number with its interval, as tables show it."""
        if self.n == 0:
            return "–"
        if self.n == 1:
            return f"{self.mean:.{places}f} (one seed)"
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


def paired(a: dict[int, float], b: dict[int, float]):
    """Student's paired test of a - b over the seeds that both have: `statistic` and `pvalue`, as scipy gives them."""
    seeds = [seed for seed in a if seed in b]
    return stats.ttest_rel([a[seed] for seed in seeds], [b[seed] for seed in seeds])


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
