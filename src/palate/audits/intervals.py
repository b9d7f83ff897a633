"""Means with 95 % intervals that know that pairs of one prompt are not independent."""

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import expit

_CONFIDENCE = 0.95
_CELLS = 20_000_000


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; the interval is NaN where a single group leaves it unknown."""

    value: float
    low: float
    high: float
    n: int  # what it was measured on: pairs, or couples of votes

    def mirrored(self) -> "Estimate":
        """The estimate of the negative number."""
        return Estimate(-self.value, -self.high, -self.low, self.n)

    def beyond(self, level: float) -> int:
        """+1 where the whole interval lies above `level`, -1 where it lies below, else 0."""
        return int(self.low > level) - int(self.high < level)


def mean_estimate(values: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None) -> Estimate | None:
    """Weighted mean of values [n] whose groups [n] are independent of each other, pairs of one group not; None for n =
    0.

    The interval is that of the linearised ratio sum(w v) / sum(w) over the K groups (Cochran, Sampling Techniques,
    1977, section 6.3), with K/(K - 1) and Student's quantile for K - 1 degrees of freedom.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return None
    mean, variance, groups_found = _mean_and_variance(values, groups, weights)
    reach = _quantile(groups_found) * np.sqrt(variance)
    return Estimate(mean, mean - reach, mean + reach, len(values))


def share_estimate(values: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None) -> Estimate | None:
    """`mean_estimate` of values in [0, 1] (1, 0, or a part for a tie), with an interval that stays inside.

    Wilson's interval (1927) at the number of independent votes that would have the same variance, at most n; with each
    group as one vote where nothing varies, so that ten agreements of ten are no certainty.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return None
    mean, variance, groups_found = _mean_and_variance(values, groups, weights)
    if groups_found < 2:
        return Estimate(mean, np.nan, np.nan, len(values))
    size = min(mean * (1 - mean) / variance, len(values)) if variance > 1e-15 else groups_found
    square = _quantile(groups_found) ** 2
    middle = (mean + square / (2 * size)) / (1 + square / size)
    reach = np.sqrt(square * mean * (1 - mean) / size + square**2 / (4 * size**2)) / (1 + square / size)
    return Estimate(mean, float(max(0, middle - reach)), float(min(1, middle + reach)), len(values))


def slope_estimate(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None
) -> Estimate | None:
    """Slope b of the logistic regression P(y) = sigmoid(b x) without intercept, [n] each; None where x is all 0.

    For the logit x of a judge and the votes y of people, 1 is a calibrated judge, less than 1 one that is too sure of
    itself. Newton's method with a faint ridge (perfectly separated votes would have no maximum); sandwich variance over
    groups as in `mean_estimate`.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights) / np.mean(weights)
    if not np.any(x):
        return None
    slope, ridge = 0.0, 0.01 * np.mean(x * x)
    for _ in range(100):
        p = expit(slope * x)
        score, curvature = np.sum(w * x * (y - p)) - ridge * slope, np.sum(w * x * x * p * (1 - p)) + ridge
        step = np.clip(score / curvature, -1, 1)
        slope += step
        if abs(step) < 1e-10:
            break
    p = expit(slope * x)
    sums = _by_group(w * x * (y - p), groups)
    groups_found = len(sums)
    reach = _quantile(groups_found) * np.sqrt(_widened(sums)) / curvature
    return Estimate(float(slope), float(slope - reach), float(slope + reach), len(x))


def resampled(groups: np.ndarray, resamples: int = 400, seed: int = 0) -> np.ndarray:
    """How often each row [n] is in each bootstrap sample when whole groups are drawn with replacement: [resamples, n].

    Fewer samples, 50 at least, where the table would pass 160 MB.
    """
    unique, index = np.unique(groups, return_inverse=True)
    resamples = min(resamples, max(50, _CELLS // len(groups)))
    draws = np.random.default_rng(seed).multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=resamples)
    return draws[:, index].astype(np.float64)


def bootstrap_estimate(value: float, draws: np.ndarray, groups: np.ndarray, n: int) -> Estimate:
    """Percentiles of the bootstrap values [resamples] around `value`, widened for few groups (Hesterberg 2015)."""
    k = len(np.unique(groups))
    draws = draws[np.isfinite(draws)]
    if k < 2 or not len(draws):
        return Estimate(value, np.nan, np.nan, n)
    tail = stats.norm.sf(np.sqrt(k / (k - 1)) * _quantile(k))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value, float(min(low, value)), float(max(high, value)), n)


def _mean_and_variance(values: np.ndarray, groups: np.ndarray, weights: np.ndarray | None) -> tuple[float, float, int]:
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    mean = np.sum(weights * values) / weights.sum()
    sums = _by_group(weights * (values - mean), groups)
    return float(mean), float(_widened(sums) / weights.sum() ** 2), len(sums)


def _by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.bincount(np.unique(groups, return_inverse=True)[1], weights=values)


def _widened(sums: np.ndarray) -> float:
    """Variance of the total of K independent sums, unbiased for a mean; NaN for one."""
    return len(sums) / (len(sums) - 1) * np.sum(sums**2) if len(sums) > 1 else np.nan


def _quantile(groups: int) -> float:
    return float(stats.t.ppf((1 + _CONFIDENCE) / 2, groups - 1)) if groups > 1 else np.nan
