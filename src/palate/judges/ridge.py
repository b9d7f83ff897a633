"""Logistic regression with a ridge whose strength is chosen by cross-validation over groups; labels may be
fractional."""

import numpy as np
from scipy.special import expit

from palate.arrays import Floats, Ints
from palate.errors import PalateError

_RIDGES = [float(strength) for strength in np.logspace(-1, 3, 9)]
_RIDGES_OF_DIRECTIONS = (
    1.0,
    10.0,
    1000.0,
)  # how much stronger the ridge on directions may be; the last leaves them out
_MOST_FOR_RIDGE = 5_000  # labelled pairs used to choose the ridge strength; more would not change the choice
_MOST_STEPS = 100  # of Newton's method; five to ten are usual


def ridge_shapes(named: int, directions: int) -> list[Floats]:
    """The forms that a ridge may have, [F] each: the same strength for all features that have a name, as much or more
    for directions of embeddings, of which there are many and none is known to matter."""
    strengths = _RIDGES_OF_DIRECTIONS if directions else (1.0,)
    return [np.concatenate([np.ones(named), np.full(directions, strength)]) for strength in strengths]


def deal_folds(group: Ints, folds: int, seed: int) -> Ints:
    """The fold of each pair [n]: groups in random order, dealt out in turn. Raises PalateError for a single group."""
    unique, inverse = np.unique(group, return_inverse=True)
    if len(unique) < 2:
        raise PalateError(
            "correction: all human votes belong to one group, so none can be held out. "
            "Label pairs of other prompts, or set correction: none."
        )
    order = np.random.default_rng(seed).permutation(len(unique))
    return order[inverse] % min(max(folds, 2), len(unique))


def folds_of_all(every_group: Ints, group: Ints, fold: Ints, seed: int) -> Ints:
    """The fold of every pair [N]: that of its group; groups without a labelled pair are dealt out in random order."""
    of_group = np.full(every_group.max() + 1, -1)
    of_group[group] = fold
    free = np.flatnonzero(of_group < 0)
    of_group[free] = np.random.default_rng(seed).permutation(len(free)) % (fold.max() + 1)
    return of_group[every_group]


def choose_ridge(x: Floats, y: Floats, group: Ints, shapes: list[Floats], folds: int, seed: int) -> Floats:
    """The ridge strengths [F] of least cross-validated log loss."""
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


def fit_ridge(x: Floats, y: Floats, ridge: Floats, start: Floats | None = None) -> Floats:
    """Weights [F] that minimise sum of cross-entropy(x @ w, y) + sum of ridge/2 * w^2; y may be fractional. Newton's
    method, a step that overshoots halved: several times as fast here as a general minimiser."""

    def objective(w: Floats) -> float:
        return float(log_loss(x @ w, y).sum() + ridge @ (w * w) / 2)

    weight: Floats = np.zeros(x.shape[1]) if start is None else start
    for _ in range(_MOST_STEPS):
        gradient = x.T @ (expit(x @ weight) - y) + ridge * weight
        step = np.linalg.solve(curvature(x, weight, ridge), gradient)
        gain = gradient @ step  # twice what the step would gain if the objective were a parabola
        if gain < 1e-16:
            break
        before = objective(weight)
        while objective(weight - step) > before - gain / 10 and gain > 1e-12:
            step, gain = step / 2, gain / 2
        weight = weight - step
    return weight


def curvature(x: Floats, weight: Floats, ridge: Floats) -> Floats:
    """Second derivatives [F, F] of what `fit_ridge` minimises."""
    probability: Floats = expit(x @ weight)
    return x.T @ (x * (probability * (1 - probability))[:, None]) + np.diag(ridge)


def log_loss(z: Floats, y: Floats) -> Floats:
    """Cross-entropy of logits z with labels y, elementwise."""
    return np.logaddexp(0, z) - y * z
