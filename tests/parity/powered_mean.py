"""Means of human answers from few of them and many of a judge's, without the judge's bias (prediction-powered
inference).

With human answers y and a judge's g on n samples and g alone on N others (arXiv 2301.09633, 2311.01453), for any power

    estimate = power * mean over the others of g + mean over the n of (y - power * g)

has the mean of y as its expectation, as long as the n were drawn at random. A judge that follows the humans narrows the
interval; the tuned power leaves out one that does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from palate.errors import PalateError

Alternative = Literal["two-sided", "larger", "smaller"]
_ROUNDING = 16 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class PoweredMean:
    """A mean with its interval. Numbers where the answers are [n], arrays [d] where they are [n, d]."""

    estimate: float | np.ndarray
    error: float | np.ndarray  # standard error; NaN where a single sample leaves it unknown, and the interval with it
    low: float | np.ndarray  # -inf for the alternative "smaller"
    high: float | np.ndarray  # inf for the alternative "larger"
    power: float | np.ndarray  # 0: the human answers alone; [d] when tuned per coordinate
    n: int
    n_unlabelled: int
    confidence: float = 0.95


def powered_mean(
    human: Sequence[float] | np.ndarray,
    judged: Sequence[float] | np.ndarray,
    judged_unlabelled: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray | None = None,
    weights_unlabelled: Sequence[float] | np.ndarray | None = None,
    power: float | Literal["tuned"] = "tuned",
    per_coordinate: bool = False,
    alternative: Alternative = "two-sided",
    confidence: float = 0.95,
) -> PoweredMean:
    """The mean human answer over all samples, with a normal interval.

    human, judged: [n] or [n, d], answers and judge's predictions on the same samples; judged_unlabelled: [N] or [N, d].
    weights [n] and weights_unlabelled [N] (importance weights, rescaled to mean 1) are taken as known factors. power:
    the lambda of PPI++, 0 human answers alone, 1 plain prediction-powered inference. It is kappa * N/(n + N) for the
    power kappa of `palate.labels.targets.dedpo`, whose judge votes on the labelled pairs too. "tuned": the estimate of
    least variance, clipped to [0, 1], one number from summed variances, or one per coordinate.

    Published formulas throughout (aangelopoulos/ppi_py), variances with divisors n and N and the normal quantile
    included: the interval of few answers is therefore a little short (95 % intervals of 30 normal answers hold the mean
    in about 93 %, as measured). Deviations: a judge that always says the same tunes the power to 0, the human answers
    alone (there: 0/0, NaN or rounding noise); a one-sided alternative is kept when the power is tuned (there it is
    forgotten); a single sample has the interval NaN (there: width 0).

    Raises PalateError for shapes that do not fit, no samples, values that are NaN or infinite, weights that are
    negative or all 0, and an unknown power, alternative or confidence.
    """
    y, g, g_u = _table(human, "human"), _table(judged, "judged"), _table(judged_unlabelled, "judged_unlabelled")
    if y.shape != g.shape or y.shape[1] != g_u.shape[1]:
        raise PalateError(
            f"powered mean: human {np.shape(human)}, judged {np.shape(judged)} and judged_unlabelled "
            f"{np.shape(judged_unlabelled)} do not fit. Give one judged row per human answer, and equal columns."
        )
    n, n_u = len(y), len(g_u)
    w, w_u = _weights(weights, n, "weights"), _weights(weights_unlabelled, n_u, "weights_unlabelled")
    if isinstance(power, str):
        if power != "tuned":
            raise PalateError(f"powered mean: the power {power!r} is not known. Use tuned or a number.")
        lam = _tuned(y, g, g_u, w, w_u, per_coordinate)
    else:
        lam = np.asarray(power, dtype=np.float64)
        if lam.ndim or not np.isfinite(lam):
            raise PalateError(f"powered mean: the power {power} is not a finite number. Use tuned, or for example 1.")
    corrected, imputed = w * (y - lam * g), w_u * lam * g_u
    estimate = imputed.mean(axis=0) + corrected.mean(axis=0)
    error = np.sqrt(imputed.var(axis=0) / n_u + corrected.var(axis=0) / n)
    if n < 2 or (n_u < 2 and np.any(lam != 0)):
        error = np.full_like(error, np.nan)
    low, high = _interval(estimate, error, alternative, confidence)
    shaped = (x[0] if np.ndim(human) == 1 else x for x in (estimate, error, low, high))
    return PoweredMean(*shaped, lam if lam.ndim and np.ndim(human) > 1 else float(lam.flat[0]), n, n_u, confidence)


def classical_mean(
    human: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray | None = None,
    alternative: Alternative = "two-sided",
    confidence: float = 0.95,
) -> PoweredMean:
    """The mean of the human answers alone ([n] or [n, d]) with a normal interval: what a powered mean is compared with.

    The same formulas at power 0, with the same weights and errors.
    """
    nothing = np.zeros_like(_table(human, "human")).reshape(np.shape(human))
    alone = powered_mean(human, nothing, nothing, weights, None, 0.0, False, alternative, confidence)
    return replace(alone, n_unlabelled=0)


def _tuned(y, g, g_u, w, w_u, per_coordinate: bool) -> np.ndarray:
    """lambda = C / ((1 + n/N) * V), clipped to [0, 1]; y, g [n, d], g_u [N, d], w [n, 1], w_u [N, 1] -> [] or [d].

    C is the covariance of human answers and predictions on the labelled samples, V the variance of all predictions,
    both of deviations from the estimate at lambda = 1, weighted.
    """
    theta = (w_u * g_u).mean(axis=0) + (w * (y - g)).mean(axis=0)
    a, b, b_u = w * (y - theta), w * (g - theta), w_u * (g_u - theta)
    covariance = ((a - a.mean(axis=0)) * (b - b.mean(axis=0))).mean(axis=0)  # [d]
    variance = np.concatenate([b, b_u]).var(axis=0, ddof=1)  # [d]
    noise = np.square(_ROUNDING * np.maximum(np.abs(theta), np.abs(np.concatenate([g, g_u])).max(axis=0)))
    if not per_coordinate:
        covariance, variance, noise = covariance.sum(), variance.sum(), noise.sum()
    informative = variance > noise
    ratio = np.divide(covariance, (1 + len(g) / len(g_u)) * variance, out=np.zeros_like(variance), where=informative)
    return np.clip(ratio, 0, 1)


def _interval(estimate, error, alternative: str, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    if not 0 < confidence < 1:
        raise PalateError(f"confidence: {confidence:g} is outside (0, 1). Use for example 0.95.")
    if alternative == "two-sided":
        reach = stats.norm.isf((1 - confidence) / 2) * error
        return estimate - reach, estimate + reach
    reach, far = stats.norm.isf(1 - confidence) * error, np.where(np.isnan(error), np.nan, np.inf)
    if alternative == "larger":
        return estimate - reach, far
    if alternative == "smaller":
        return -far, estimate + reach
    raise PalateError(f"alternative: {alternative!r} is not known. Use two-sided, larger or smaller.")


def _table(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    """[n] or [n, d] -> [n, d] float64, every value finite."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim not in (1, 2) or not table.size:
        raise PalateError(f"{name}: needs at least one row of numbers, [n] or [n, d], and has the shape {table.shape}.")
    table = table.reshape(len(table), -1)
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(bad):
        raise PalateError(
            f"{name}: {len(bad):,} of {len(table):,} rows are NaN or infinite (first: row {bad[0]}). Leave them out."
        )
    return table


def _weights(weights: Sequence[float] | np.ndarray | None, length: int, name: str) -> np.ndarray:
    """Weights of mean 1, [length, 1]."""
    if weights is None:
        return np.ones((length, 1))
    weights = _table(weights, name)
    if weights.shape != (length, 1) or (weights < 0).any() or not weights.sum() > 0:
        raise PalateError(
            f"{name}: needs {length:,} weights, none negative and not all 0. Check their order and number."
        )
    return weights / weights.mean()
