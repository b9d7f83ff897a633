"""Several models in one table: Bradley-Terry strengths from all pairs of models, and which of them differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats
from scipy.special import expit

from palate.errors import PalateError
from palate.evaluation.winrate import WinRate, prompt_draws, tail_beyond, win_rate

_STEPS, _LONGEST = 100, 2.0  # of Newton's method, and how far one may go in log-odds


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
    p_value: float  # by prompt
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
    names: Sequence[str], scores: Sequence[np.ndarray], prompt_ids: Sequence, *, confidence: float = 0.95,
    resamples: int = 2000, seed: int = 0,
) -> Table:  # fmt: skip
    """K models with scores [N] each on the same N samples: every pair of models compared on every sample, a tie half a win.

    Intervals are from the bootstrap over prompts, widened for few prompts as those of win rates are. Claims are tested by
    prompt (Student's t on the prompts' win rates; the sign test over prompts where all have one rate) and corrected by
    Holm's method over all K(K - 1)/2 pairs. Raises PalateError for fewer than two models or scores of unequal length.
    """
    if len(names) < 2 or len({len(one) for one in scores}) != 1 or len(names) != len(scores):
        raise PalateError("strengths need two or more models with as many scores each.")
    table = np.stack(scores).astype(np.float64)  # [K, N]
    _, index = np.unique(np.asarray(prompt_ids), return_inverse=True)
    prompts = index.max() + 1
    wins = np.zeros((prompts, len(names), len(names)))
    for i, j in combinations(range(len(names)), 2):
        outcome = np.where(table[i] == table[j], 0.5, table[i] > table[j])
        wins[:, i, j] = np.bincount(index, weights=outcome)
        wins[:, j, i] = np.bincount(index, weights=1 - outcome)
    estimate = bradley_terry(wins.sum(axis=0)[None])[0]
    low = high = np.full(len(names), np.nan)
    if prompts > 1:
        drawn = [(times @ wins.reshape(prompts, -1)).reshape(-1, *wins.shape[1:]) for times in prompt_draws(prompts, resamples, seed)]  # fmt: skip
        tail = tail_beyond(prompts, confidence)
        low, high = np.quantile(bradley_terry(np.concatenate(drawn)), [tail, 1 - tail], axis=0)
    order = np.argsort(-estimate, kind="stable")
    return Table(
        tuple(Strength(names[k], float(estimate[k]), float(low[k]), float(high[k])) for k in order),
        _claims(names, table, wins, prompt_ids, confidence, resamples, seed),
        int(prompts),
        confidence,
    )


def bradley_terry(wins: np.ndarray) -> np.ndarray:
    """Maximum-likelihood strengths [B, K], mean 0, of B tables of wins [B, K, K] (row over column), by Newton's method.

    One tie per pair of models is added, without which a model that always wins would have an infinite strength.
    """
    models = wins.shape[-1]
    wins = wins + 0.5 * (1 - np.eye(models))
    played, won = wins + wins.swapaxes(-1, -2), wins.sum(axis=-1)
    value = np.zeros(wins.shape[:-1])
    for _ in range(_STEPS):
        p = expit(value[..., :, None] - value[..., None, :])
        gradient = won - (played * p).sum(axis=-1)
        weight = played * p * (1 - p)
        curvature = np.eye(models) * weight.sum(axis=-1)[..., None] - weight
        step = np.linalg.solve(curvature + 1.0 / models, gradient[..., None])[..., 0]  # the constant has no curvature
        longest = np.abs(step).max(axis=-1, keepdims=True)
        value = value + step * np.minimum(1.0, _LONGEST / np.maximum(longest, 1e-300))
        if longest.max() < 1e-9:
            break
    return value - value.mean(axis=-1, keepdims=True)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number (Holm 1979): the k-th smallest of m times m - k + 1, made monotone, at most 1."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    out = np.empty_like(p)
    out[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return out


def _claims(names, table, wins, prompt_ids, confidence: float, resamples: int, seed: int) -> tuple[Claim, ...]:
    pairs = list(combinations(range(len(names)), 2))
    rates = [wins[:, i, j] / (wins[:, i, j] + wins[:, j, i]) for i, j in pairs]
    p_values = [_p_value(rate) for rate in rates]
    found = []
    for (i, j), p, corrected in zip(pairs, p_values, holm(p_values), strict=True):
        win = win_rate(table[i], table[j], prompt_ids, confidence=confidence)
        sure = win.winner if corrected < 1 - confidence else None
        winner = {"a": names[i], "b": names[j], None: None}[sure]
        found.append(Claim(names[i], names[j], win, p, float(corrected), winner))
    return tuple(found)


def _p_value(rates: np.ndarray) -> float:
    """That the mean of the prompts' win rates [P] is one half."""
    if len(rates) < 2:
        return 1.0
    if np.ptp(rates) == 0:
        return 1.0 if rates[0] == 0.5 else 2 * 0.5 ** len(rates)
    return float(stats.ttest_1samp(rates, 0.5).pvalue)
