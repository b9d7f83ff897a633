"""Means with 95 % intervals that allow for pairs of one prompt being dependent."""

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import expit

_CONFIDENCE = 0.95
_CELLS = 20_000_000


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; the interval is NaN if there is a single group."""

    value: float
    low: float
    high: float
    n: int  # sample size: pairs, or repeated votes

    def mirrored(self) -> "Estimate":
        """The estimate with its sign changed."""
        return Estimate(-self.value, -self.high, -self.low, self.n)

    def widened(self, factor: float) -> "Estimate":
        """The estimate with both sides of its interval longer by a factor."""
        low, high = (self.value + factor * (end - self.value) for end in (self.low, self.high))
        return Estimate(self.value, low, high, self.n)

    def beyond(self, level: float) -> int:
        """+1 if the whole interval lies above `level`, -1 if below, else 0."""
        return int(self.low > level) - int(self.high < level)


def mean_estimate(values: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None) -> Estimate | None:
    """Weighted mean of values [n]. Groups [n] are independent, values of one group are not. None if n = 0.

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
    """`mean_estimate` of values in [0, 1] (1, 0, or between for a tie), with an interval that stays in [0, 1].

    It is Wilson's interval (1927) for the number of independent votes of 0 or 1 with the same variance. That number may
    exceed n: ties and mean votes vary less than single votes of 0 or 1. If the values do not vary, each group counts as
    one vote, so that ten agreements out of ten are not taken for certainty.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return None
    mean, variance, groups_found = _mean_and_variance(values, groups, weights)
    if groups_found < 2:
        return Estimate(mean, np.nan, np.nan, len(values))
    size = mean * (1 - mean) / variance if variance > 1e-15 else groups_found
    square = _quantile(groups_found) ** 2
    middle = (mean + square / (2 * size)) / (1 + square / size)
    reach = np.sqrt(square * mean * (1 - mean) / size + square**2 / (4 * size**2)) / (1 + square / size)
    return Estimate(mean, float(max(0, middle - reach)), float(min(1, middle + reach)), len(values))


def ratio_estimate(
    above: np.ndarray, below: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None
) -> Estimate | None:
    """sum(w above) / sum(w below) of values [n] that are 0 or more, such as squared errors; None if `below` is all 0.

    The interval is that of `mean_estimate` for its logarithm: squared errors are skewed, and a symmetric one ends too
    low.
    """
    w = np.ones(len(below)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not np.sum(w * below):
        return None
    ratio, variance, groups_found = _ratio_and_variance(w * above, w * below, groups)
    factor = np.exp(_quantile(groups_found) * np.sqrt(variance) / ratio) if ratio > 0 else 1.0
    return Estimate(ratio, float(ratio / factor), float(ratio * factor), len(below))


def slope_estimate(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None
) -> Estimate | None:
    """Slope b of the logistic regression P(y) = sigmoid(b x) without intercept, [n] each; None if x is all 0.

    If x are a judge's logits and y people's votes, 1 means a calibrated judge, and less than 1 an overconfident one.
    Newton's method with a weak ridge (perfectly separated votes would have no maximum); sandwich variance over groups
    as in `mean_estimate`.
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

    Fewer resamples, at least 50, if the table would exceed 160 MB.
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
    return _ratio_and_variance(weights * values, weights, groups)


def _ratio_and_variance(above: np.ndarray, below: np.ndarray, groups: np.ndarray) -> tuple[float, float, int]:
    """sum(above) / sum(below), its linearised variance over groups, and their number."""
    ratio = np.sum(above) / below.sum()
    sums = _by_group(above - ratio * below, groups)
    return float(ratio), float(_widened(sums) / below.sum() ** 2), len(sums)


def _by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.bincount(np.unique(groups, return_inverse=True)[1], weights=values)


def _widened(sums: np.ndarray) -> float:
    """Variance of the total of K independent sums, unbiased for a mean; NaN for one."""
    return len(sums) / (len(sums) - 1) * np.sum(sums**2) if len(sums) > 1 else np.nan


def _quantile(groups: int) -> float:
    return float(stats.t.ppf((1 + _CONFIDENCE) / 2, groups - 1)) if groups > 1 else np.nan
