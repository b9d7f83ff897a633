"""Ridge logistic regression with fractional labels; the ridge strength is chosen by cross-validation over groups."""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from palate.arrays import Floats, Ints
from palate.errors import PalateError

_RIDGES = [float(strength) for strength in np.logspace(-1, 3, 9)]
_RIDGES_OF_BLOCKS = (1.0, 10.0, 1000.0)  # how much stronger a block's ridge may be; the last practically leaves it out
_MOST_FOR_RIDGE = 5_000  # labelled pairs used to choose the ridge strength; more would not change the choice
_MOST_FOR_CONTEXTS = 2_000  # the same where there are contexts, with several times as many features
_OUT = 1e4  # a ridge that leaves a feature out
_RIDGES_OF_COVARIATES = (1.0, 10.0, 100.0, _OUT)
_RIDGES_OF_CONTEXTS = (1.0, 4.0, 16.0)  # on how a context differs from the rest
_RIDGE_OF_JUDGES = 1.0  # not chosen: parts that choose differently would count unequally in what is trained on
_MOST_STEPS = 100  # of Newton's method; five to ten are usual


def choose_ridges(
    x: Floats, y: Floats, group: Ints, named: int, widths: Sequence[int], folds: int, seed: int
) -> Floats:
    """The ridge strengths [F] with the least cross-validated log loss, where the columns after the `named` ones are
    blocks of these widths, each of which may have the same ridge as the named features or a stronger one: directions of
    embeddings, models, and the questions of a rubric are many and may be irrelevant.

    One block after another: the others keep what was best before.
    """
    shape: Floats = np.ones(x.shape[1])
    ridge: Floats | None = None
    ends = np.cumsum([named, *widths])
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        shapes = [np.concatenate([shape[:start], np.full(end - start, strength), shape[end:]])
                  for strength in _RIDGES_OF_BLOCKS]  # fmt: skip
        ridge = choose_ridge(x, y, group, shapes, folds, seed)
        shape = ridge / ridge[0]  # the named features come first, with strength 1
    return choose_ridge(x, y, group, [shape], folds, seed) if ridge is None else ridge


def deal_folds(group: Ints, folds: int, seed: int) -> Ints:
    """The fold of each pair [n]: groups are shuffled and dealt out in turn. Raises PalateError for a single group."""
    unique, inverse = np.unique(group, return_inverse=True)
    if len(unique) < 2:
        raise PalateError(
            "correction: all human votes belong to one group, so none can be held out. "
            "Label pairs of other prompts, or set correction: none."
        )
    order = np.random.default_rng(seed).permutation(len(unique))
    return order[inverse] % min(max(folds, 2), len(unique))


def folds_of_all(every_group: Ints, group: Ints, fold: Ints, seed: int) -> Ints:
    """The fold of every pair [N]: that of its group. Groups without a labelled pair are shuffled and dealt out."""
    of_group = np.full(every_group.max() + 1, -1)
    of_group[group] = fold
    free = np.flatnonzero(of_group < 0)
    of_group[free] = np.random.default_rng(seed).permutation(len(free)) % (fold.max() + 1)
    return of_group[every_group]


def choose_ridge(x: Floats, y: Floats, group: Ints, shapes: list[Floats], folds: int, seed: int) -> Floats:
    """The ridge strengths [F] with the least cross-validated log loss."""
    if len(np.unique(group)) < 2:
        return _RIDGES[-1] * shapes[-1]
    if len(y) > _MOST_FOR_RIDGE:
        some = np.random.default_rng(seed).choice(len(y), _MOST_FOR_RIDGE, replace=False)
        x, y, group = x[some], y[some], group[some]
    fold = deal_folds(group, folds, seed)
    loss = np.zeros((len(shapes), len(_RIDGES)))
    for s, shape in enumerate(shapes):
        for k in range(fold.max() + 1):
            seen = fold != k
            weight: Floats = np.zeros(x.shape[1])
            for j in reversed(range(len(_RIDGES))):  # from strong to weak, each start close to its solution
                weight = fit_ridge(x[seen], y[seen], _RIDGES[j] * shape, start=weight)
                loss[s, j] += log_loss(x[~seen] @ weight, y[~seen]).sum()
    best, strength = np.unravel_index(np.argmin(loss), loss.shape)
    return _RIDGES[strength] * shapes[best]


def choose_context_ridge(
    x: Floats, y: Floats, group: Ints, sizes: tuple[int, int, int, int], contexts: int, folds: int, seed: int
) -> Floats:
    """The ridge strengths [F] of least cross-validated log loss where a correction has contexts.

    Columns x: `sizes` of the judges, the covariates, the directions and the models and rubrics, then the products of
    judges and covariates with each context. Chosen from the top down: first the covariates with every context alike, so
    that the fit falls back to a calibration; then how far contexts may differ, so that it falls back to the common
    correction.
    """
    judges, covariates, directions, extras = sizes

    def ridge(common: float, of_judges: float, of_covariates: float) -> Floats:
        inside = np.repeat(np.r_[np.full(judges, of_judges), np.full(covariates, of_covariates)], contexts)
        shared = [np.full(judges, _RIDGE_OF_JUDGES), np.full(covariates, common)]
        others = [np.full(directions, min(10 * common, _OUT)), np.full(extras, common)]
        return np.concatenate([*shared, *others, inside])

    if len(np.unique(group)) < 2:
        return ridge(_OUT, _OUT, _OUT)
    if len(y) > _MOST_FOR_CONTEXTS:
        some = np.random.default_rng(seed).choice(len(y), _MOST_FOR_CONTEXTS, replace=False)
        x, y, group = x[some], y[some], group[some]
    fold = deal_folds(group, folds, seed)
    strengths = _RIDGES_OF_COVARIATES if covariates + directions + extras else (_OUT,)
    common = strengths[int(np.argmin([_held_out_loss(x, y, fold, ridge(s, _OUT, _OUT)) for s in strengths]))]
    options = [ridge(common, _OUT, _OUT), *(ridge(common, s, _OUT) for s in _RIDGES_OF_CONTEXTS)]
    if covariates:
        options += [ridge(common, s, max(s, common)) for s in _RIDGES_OF_CONTEXTS]
    return options[int(np.argmin([_held_out_loss(x, y, fold, option) for option in options]))]


def _held_out_loss(x: Floats, y: Floats, fold: Ints, ridge: Floats) -> float:
    """Log loss over all pairs, each from a fit without its fold."""
    parts = range(fold.max() + 1)
    return float(
        sum(log_loss(x[fold == k] @ fit_ridge(x[fold != k], y[fold != k], ridge), y[fold == k]).sum() for k in parts)
    )


def fit_ridge(x: Floats, y: Floats, ridge: Floats, start: Floats | None = None) -> Floats:
    """Weights [F] that minimise sum of cross-entropy(x @ w, y) + sum of ridge/2 * w^2; y may be fractional. Newton's
    method, with steps halved when they overshoot: several times as fast here as a general minimiser."""

    def objective(w: Floats) -> float:
        return float(log_loss(x @ w, y).sum() + ridge @ (w * w) / 2)

    weight: Floats = np.zeros(x.shape[1]) if start is None else start
    for _ in range(_MOST_STEPS):
        gradient = x.T @ (expit(x @ weight) - y) + ridge * weight
        step = np.linalg.solve(curvature(x, weight, ridge), gradient)
        gain = gradient @ step  # twice the gain of the step for a quadratic objective
        if gain < 1e-16:
            break
        before = objective(weight)
        while objective(weight - step) > before - gain / 10 and gain > 1e-12:
            step, gain = step / 2, gain / 2
        weight = weight - step
    return weight


def curvature(x: Floats, weight: Floats, ridge: Floats) -> Floats:
    """Second derivatives [F, F] of the objective of `fit_ridge`."""
    probability: Floats = expit(x @ weight)
    return x.T @ (x * (probability * (1 - probability))[:, None]) + np.diag(ridge)


def log_loss(z: Floats, y: Floats) -> Floats:
    """Cross-entropy of logits z with labels y, elementwise."""
    return np.logaddexp(0, z) - y * z
