"""Several models, or methods with several training seeds, in one table: Bradley-Terry strengths, and which of them
differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats
from scipy.special import expit

from palate.errors import PalateError
from palate.evaluation.seeds import outcomes_of, seeds_variance, seeds_win
from palate.evaluation.winrate import CELLS, Ids, WinRate, tail_beyond, win_rate

_STEPS, _LONGEST = 100, 2.0  # of Newton's method, and how far one may go in log-odds
_LEAST = 1e-4  # of a prompt: less of a win cannot be told from none, and its log-odds have no end


@dataclass(frozen=True)
class Strength:
    """Log-odds, the mean over models being 0: a beats b with probability sigmoid(strength_a - strength_b)."""

    name: str
    strength: float
    low: float
    high: float


@dataclass(frozen=True)
class Claim:
    """One pair of models. The winner is named only where the corrected p-value and the interval both allow it."""

    a: str
    b: str
    win: WinRate  # of a over b
    p_value: float  # by prompt, and by training seed where there are several
    p_corrected: float  # Holm's, over all pairs of the table
    winner: str | None


@dataclass(frozen=True)
class Table:
    """Strongest first; claims for every pair of models."""

    strengths: tuple[Strength, ...]
    claims: tuple[Claim, ...]
    prompts: int
    confidence: float = 0.95


def strengths(
    names: Sequence[str], scores: Sequence[np.ndarray], prompt_ids: Ids, *, confidence: float = 0.95,
    resamples: int = 2000, seed: int = 0,
) -> Table:  # fmt: skip
    """K models with scores [N] each on the same N samples: every pair of models compared on every sample, a tie half a
    win.

    Scores [S, N] are those of S training seeds of one method: one entry of the table, whose results hold for other
    seeds.

    Intervals are from the Bayesian bootstrap over prompts (Rubin 1981: every prompt has an exponential weight), widened
    for few prompts as those of means are. Each pair of models is given half a prompt won and half a prompt lost, so
    that for two models and a comparison per prompt the interval is that of Jeffreys' prior for their win rate: where
    every comparison is won it is wide and not a point. What seeds differ by is added through the derivatives of the
    strengths, as squares of half widths (`seeds_win`).

    Claims are tested by prompt (Student's t on the prompts' win rates; the sign test over prompts where all have one
    rate), those with several seeds by the test of their interval, and corrected by Holm's method over all K(K - 1)/2
    pairs. Raises PalateError for fewer than two models or scores of unequal length.
    """
    tables = [np.atleast_2d(np.asarray(one, dtype=np.float64)) for one in scores]  # [S, N] each
    if len(names) < 2 or len({one.shape[1] for one in tables}) != 1 or len(names) != len(tables):
        raise PalateError("strengths need two or more models with as many scores each.")
    _, index = np.unique(np.asarray(prompt_ids), return_inverse=True)
    prompts = int(index.max()) + 1
    won = [np.zeros((len(one), prompts, len(names))) for one in tables]  # by seed, prompt and opponent
    for i, j in combinations(range(len(names)), 2):
        outcomes = outcomes_of(tables[i], tables[j])  # [S, T, N]
        for k, other, of_seeds in ((i, j, outcomes.mean(axis=1)), (j, i, 1 - outcomes.mean(axis=0))):
            won[k][..., other] = [np.bincount(index, weights=row, minlength=prompts) for row in of_seeds]
    wins = np.stack([one.mean(axis=0) for one in won], axis=1)  # [P, K, K], row over column
    estimate = bradley_terry(wins.sum(axis=0)[None])[0]
    low = high = np.full(len(names), np.nan)
    if prompts > 1:
        tail = tail_beyond(prompts, confidence)
        low, high = np.quantile(bradley_terry(_resampled(wins, resamples, seed), prior=0.0), [tail, 1 - tail], axis=0)
        of_seeds = _of_seeds(estimate, wins, won, confidence)
        low = estimate - np.sqrt(np.maximum(0, estimate - low) ** 2 + of_seeds)
        high = estimate + np.sqrt(np.maximum(0, high - estimate) ** 2 + of_seeds)
    order = np.argsort(-estimate, kind="stable")
    return Table(
        tuple(Strength(names[k], float(estimate[k]), float(low[k]), float(high[k])) for k in order),
        _claims(names, tables, wins, prompt_ids, confidence),
        prompts,
        confidence,
    )


def _resampled(wins: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Tables of wins [resamples, K, K] with weights of the prompts, and of half a prompt won and half a one lost per
    pair."""
    prompts, models, _ = wins.shape
    rng, size = np.random.default_rng(seed), max(1, CELLS // prompts)
    flat = wins.reshape(prompts, -1)
    drawn = [rng.standard_exponential((min(size, resamples - at), prompts)) @ flat for at in range(0, resamples, size)]
    played = flat.sum() / prompts / (models * (models - 1) / 2)  # comparisons of a pair of models on a prompt
    half = rng.standard_gamma(0.5, (resamples, models, models)) * (1 - np.eye(models))
    least = _LEAST * (1 - np.eye(models))
    return np.asarray(np.concatenate(drawn).reshape(-1, models, models) + played * np.maximum(half, least))


def _of_seeds(estimate: np.ndarray, wins: np.ndarray, won: list[np.ndarray], confidence: float) -> np.ndarray:
    """What training seeds add to the squared half widths of the strengths, [K].

    To first order a win of model g over j more moves the strengths by C (e_g - e_j), with C the inverse of the
    likelihood's curvature; so a seed's wins are numbers by prompt whose variance over seeds is that of a mean.
    """
    total = wins.sum(axis=0)
    inverse = np.linalg.inv(_curvature(total + 0.5 * (1 - np.eye(len(total))), estimate) + 1.0 / len(total))
    square = np.zeros(len(total))
    for g, own in enumerate(won):
        if len(own) > 1:
            reach = stats.t.ppf((1 + confidence) / 2, len(own) - 1)
            moved = own.shape[1] * own @ (inverse[:, [g]] - inverse).T  # [S, P, K]: own [S, P, j], then (k, j) -> k
            square += reach**2 * np.array([seeds_variance(moved[..., k]) for k in range(len(total))])
    return square


def bradley_terry(wins: np.ndarray, prior: float = 0.5) -> np.ndarray:
    """Maximum-likelihood strengths [B, K], mean 0, of B tables of wins [B, K, K] (row over column), by Newton's method.

    One tie per pair of models is added (a `prior` of half a win on each side), without which a model that always wins
    would have an infinite strength.
    """
    models = wins.shape[-1]
    wins = wins + prior * (1 - np.eye(models))
    played, won = wins + wins.swapaxes(-1, -2), wins.sum(axis=-1)
    value = np.zeros(wins.shape[:-1])
    for _ in range(_STEPS):
        gradient = won - (played * expit(value[..., :, None] - value[..., None, :])).sum(axis=-1)
        curvature = _curvature(wins, value)
        step = np.linalg.solve(curvature + 1.0 / models, gradient[..., None])[..., 0]  # the constant has no curvature
        longest = np.abs(step).max(axis=-1, keepdims=True)
        value = value + step * np.minimum(1.0, _LONGEST / np.maximum(longest, 1e-300))
        if longest.max() < 1e-9:
            break
    return np.asarray(value - value.mean(axis=-1, keepdims=True))


def _curvature(wins: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Minus the second derivatives [..., K, K] of the log-likelihood at these strengths [..., K]."""
    p = expit(value[..., :, None] - value[..., None, :])
    weight = (wins + wins.swapaxes(-1, -2)) * p * (1 - p)
    return np.asarray(np.eye(wins.shape[-1]) * weight.sum(axis=-1)[..., None] - weight)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number (Holm 1979): the k-th smallest of m times m - k + 1, made monotone, at most
    1."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    out = np.empty_like(p)
    out[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return out


def _claims(
    names: Sequence[str], tables: Sequence[np.ndarray], wins: np.ndarray, prompt_ids: Ids, confidence: float
) -> tuple[Claim, ...]:
    pairs = list(combinations(range(len(names)), 2))
    found = []
    for i, j in pairs:
        if max(len(tables[i]), len(tables[j])) > 1:
            win = seeds_win(outcomes_of(tables[i], tables[j]), prompt_ids, confidence)
            found.append((win, win.p_value))
        else:
            win = win_rate(tables[i][0], tables[j][0], prompt_ids, confidence=confidence)
            found.append((win, _p_value(wins[:, i, j] / (wins[:, i, j] + wins[:, j, i]))))
    claims = []
    for (i, j), (win, p), corrected in zip(pairs, found, holm([p for _, p in found]), strict=True):
        sure = win.winner if corrected < 1 - confidence else None
        winner = {"a": names[i], "b": names[j], None: None}[sure]
        claims.append(Claim(names[i], names[j], win, p, float(corrected), winner))
    return tuple(claims)


def _p_value(rates: np.ndarray) -> float:
    """That the mean of the prompts' win rates [P] is one half."""
    if len(rates) < 2:
        return 1.0
    if np.ptp(rates) == 0:
        return 1.0 if rates[0] == 0.5 else 2 * 0.5 ** len(rates)
    return float(stats.ttest_1samp(rates, 0.5).pvalue)
