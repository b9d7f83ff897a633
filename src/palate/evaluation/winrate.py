"""Paired win rates and means with intervals that know that samples of one prompt are not independent.

A win rate has a score interval (Wilson 1927): the spread of a rate depends on the rate, and an interval that takes it
from the estimate alone is too short near 0 and 1. How much the prompts' rates scatter says how many independent
comparisons all of them are worth.

A mean has the interval of the bootstrap over prompts: whole prompts are drawn with replacement, each with all samples.
The percentiles are widened for few prompts (the "expanded percentile interval" of T. Hesterberg, What Teachers Should
Know About the Bootstrap, 2015); with many prompts that is the plain percentile interval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from scipy import stats

from palate.arrays import Floats
from palate.errors import PalateError

Column = Sequence[float] | Floats  # [N], one number per picture
Ids = Sequence[Any] | np.ndarray  # [N], of prompts

Interval = tuple[float, float, float]  # mean, low, high

CELLS = 2**23  # draws held at once: resamples x prompts, 64 MiB


@dataclass(frozen=True)
class WinRate:
    """How often a beats b on the same prompts and noise. `rate` counts a tie as half a win."""

    n: int  # comparisons
    wins: int
    ties: int
    losses: int
    rate: float  # (wins + ties / 2) / n
    low: float  # NaN with a single prompt: nothing can then be said about other prompts
    high: float
    p_value: float  # exact sign test on prompts: those mostly won against those mostly lost
    prompts: int  # clusters
    confidence: float = 0.95
    seeds: int = (
        1  # training seeds of a; with several the interval holds for another seed, too, and p_value is of its test
    )
    seeds_b: int = 1  # training seeds of b, likewise

    @property
    def clustered_p(self) -> bool:
        """Whether `p_value` is the interval's own and knows of prompts and seeds, and not the sign test's."""
        return self.seeds > 1 or self.seeds_b > 1

    @property
    def winner(self) -> Literal["a", "b"] | None:
        """Either "a" or "b", or None where the interval touches or crosses one half or could not be estimated."""
        if self.low > 0.5:
            return "a"
        return "b" if self.high < 0.5 else None

    @property
    def test_words(self) -> str:
        """The p-value and of which test it is, for example "sign test p 0.031"; "" where a single prompt leaves a group
        none."""
        if self.clustered_p:
            return "" if np.isnan(self.low) else f"p {self.p_value:.2g}"
        return f"sign test p {self.p_value:.2g}"

    def sentence(self, name_a: str, name_b: str, more_of: str = "") -> str:
        """The result in plain words. It names a winner only where there is one; `more_of` is a statistic of the
        pictures, of which there is more or less, and no winner."""
        counts = f"{_count(self.n, 'comparison')} on {_count(self.prompts, 'prompt')}"
        counts += seeds_words(self)
        level = (
            f"No winner between {name_a} and {name_b}: {name_a} {f'has more {more_of} in' if more_of else 'won'}"
            f" {_percent(self.rate)} of {counts}"
        )
        if np.isnan(self.low):
            return f"{level}, and a single prompt gives no interval."
        interval = f"{self.confidence * 100:g} % interval {_percent(self.low)} to {_percent(self.high)}"
        if more_of:
            share = f"more in {_percent(self.rate)} of {counts} ({interval})"
            told = {
                "a": f"{name_a} has more {more_of} than {name_b}",
                "b": f"{name_a} has less {more_of} than {name_b}",
            }
            undecided = f"{name_a} and {name_b} do not clearly differ in {more_of}"
            return f"{told.get(self.winner or '', undecided)}: {share}. More of it is not better."
        if self.winner == "a":
            return f"{name_a} beats {name_b} in {_percent(self.rate)} of {counts} ({interval})."
        if self.winner == "b":
            return f"{name_a} loses to {name_b}: it wins {_percent(self.rate)} of {counts} ({interval})."
        return f"{level}, and the interval includes one half ({interval})."


def win_rate(
    score_a: Column,
    score_b: Column,
    prompt_ids: Ids,
    *,
    tie_tolerance: float = 0.0,
    confidence: float = 0.95,
) -> WinRate:
    """Compare two models sample by sample; higher scores are better.

    score_a, score_b: [N] scores of the two models on the same prompt and noise; prompt_ids: [N], equal for samples of
    one prompt. A comparison is a tie where the scores differ by at most `tie_tolerance`, and counts as half a win.

    The interval is `rate_interval` with the variance of the prompts' shares in the rate. Where all prompts have one and
    the same rate (all wins, say) nothing shows how much prompts vary; the exact binomial interval (Clopper and Pearson
    1934) with each prompt as one trial is given instead. With one prompt the interval is NaN. Raises PalateError for no
    comparisons, unequal lengths, and scores that are NaN or infinite.
    """
    a, b = _numbers(score_a, "score_a"), _numbers(score_b, "score_b")
    _same_length(score_a=a, score_b=b, prompt_ids=prompt_ids)
    difference = a - b
    ties = np.abs(difference) <= tie_tolerance
    outcome = np.where(ties, 0.5, difference > 0)  # [N] in {0, 1/2, 1}
    sums, counts = _by_prompt(outcome, prompt_ids)
    rate, low, high = float(outcome.mean()), float("nan"), float("nan")
    if len(sums) > 1 and np.all(sums * counts[0] == sums[0] * counts):
        low, high = binomial_interval(rate, len(sums), confidence)
    elif len(sums) > 1:
        variance = len(sums) / (len(sums) - 1) * np.square((sums - rate * counts) / len(outcome)).sum()
        low, high = rate_interval(rate, variance, len(sums), confidence)
    wins, losses = int((outcome == 1).sum()), int((outcome == 0).sum())
    p_value = sign_test(sums, counts)
    return WinRate(len(outcome), wins, int(ties.sum()), losses, rate, low, high, p_value, len(sums), confidence)


def sign_test(wins: np.ndarray, counts: np.ndarray) -> float:
    """Two-sided exact p-value of the prompts that were mostly won among those mostly won or lost, where both are as
    likely; 1 without any. A prompt counts once, because its samples are not independent: wins and counts [prompts], a
    tie half a win."""
    ahead, behind = int((wins > counts / 2).sum()), int((wins < counts / 2).sum())
    return float(stats.binomtest(ahead, ahead + behind).pvalue) if ahead + behind else 1.0


def rate_interval(
    rate: float, variance: float, clusters: float, confidence: float, *, spread: float | None = None, fitted: int = 0
) -> tuple[float, float]:
    """Score interval of a rate that was estimated with this variance from so many clusters: (low, high) in [0, 1].

    One win or loss has the variance `spread`, rate (1 - rate) when absent, so the estimate is worth spread / variance
    independent trials, and Wilson's interval for such a number is given, with Student's quantile for clusters - 1 less
    the number of `fitted` parameters. The variance is that of the clusters, or what it would be with one more cluster
    that is a single trial where that is larger: few clusters that agree by chance are not taken for certainty.
    """
    spread = rate * (1 - rate) if spread is None else spread
    variance = widened(variance, clusters, spread)
    reach = float(stats.t.ppf((1 + confidence) / 2, max(1, clusters - 1 - fitted)))
    return score_interval(rate, reach**2 * variance / spread)


def widened(variance: float, clusters: float, spread: float) -> float:
    """The variance of a rate with one more cluster that is a single trial, where that is larger."""
    return max(variance, (clusters * variance + spread / clusters) / (clusters + 1))


def score_interval(rate: float, ratio: float) -> tuple[float, float]:
    """All rates p that lie within sqrt(ratio p (1 - p)) of this one (Wilson 1927, where ratio is z² / trials)."""
    middle, half = rate + ratio / 2, np.sqrt(ratio * rate * (1 - rate) + ratio**2 / 4)
    return max(0.0, float((middle - half) / (1 + ratio))), min(1.0, float((middle + half) / (1 + ratio)))


def mean_interval(
    values: Column,
    prompt_ids: Ids,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of `values` [N] with its interval from the bootstrap over prompts: (mean, low, high), in the values' unit.

    prompt_ids: [N]. With one prompt the interval is NaN; values that do not vary give an interval of width zero.
    Raises PalateError for no values, unequal lengths, and values that are NaN or infinite.
    """
    return mean_intervals([values], prompt_ids, confidence=confidence, resamples=resamples, seed=seed)[0]


def mean_intervals(
    columns: Sequence[Column],
    prompt_ids: Ids,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Interval]:
    """`mean_interval` of each of the columns, all [N]. They share the draws, which take most of the time."""
    tables = [_numbers(values, "values") for values in columns]
    for values in tables:
        _same_length(values=values, prompt_ids=prompt_ids)
    if not tables:
        return []
    by_prompt = [_by_prompt(values, prompt_ids) for values in tables]
    sums, counts = np.stack([sums for sums, _ in by_prompt], axis=1), by_prompt[0][1]  # [prompts, columns], [prompts]
    low = high = np.full(len(tables), np.nan)
    if len(counts) > 1:
        means = [(times @ sums) / (times @ counts)[:, None] for times in prompt_draws(len(counts), resamples, seed)]
        tail = tail_beyond(len(counts), confidence)
        low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return [
        (float(values.mean()), float(below), float(above))
        for values, below, above in zip(tables, low, high, strict=True)
    ]


def prompt_draws(prompts: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each prompt is drawn, [resamples, prompts] in chunks of bounded size; the same for the same
    arguments."""
    if prompts * resamples <= CELLS:
        yield _kept_draws(prompts, resamples, seed)
        return
    rng, chunk = np.random.default_rng(seed), max(1, CELLS // prompts)
    for start in range(0, resamples, chunk):
        yield _drawn(rng, prompts, min(chunk, resamples - start))


@lru_cache(maxsize=2)  # a comparison asks for the same ones dozens of times, and drawing takes most of the time
def _kept_draws(prompts: int, resamples: int, seed: int) -> np.ndarray:
    return _drawn(np.random.default_rng(seed), prompts, resamples)


def _drawn(rng: np.random.Generator, prompts: int, resamples: int) -> np.ndarray:
    return rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(np.float64)


def tail_beyond(prompts: int, confidence: float) -> float:
    """The share of resamples on each side of an interval.

    A resample of K prompts varies by (K-1)/K too little, and K prompts call for Student's quantile: go further out.
    """
    reach = np.sqrt(prompts / (prompts - 1)) * stats.t.ppf((1 + confidence) / 2, prompts - 1)
    return float(stats.norm.sf(reach))


def binomial_interval(rate: float, trials: int, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a rate in so many trials."""
    wins, tail = rate * trials, (1 - confidence) / 2
    low = 0.0 if wins <= 0 else float(stats.beta.ppf(tail, wins, trials - wins + 1))
    high = 1.0 if wins >= trials else float(stats.beta.ppf(1 - tail, wins + 1, trials - wins))
    return low, high


def _by_prompt(values: np.ndarray, prompt_ids: Ids) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts [prompts] of values [N], by sorted id: the order of the samples must not change an interval."""
    _, index = np.unique(np.asarray(prompt_ids), return_inverse=True)
    return np.bincount(index, weights=values), np.bincount(index)


def _numbers(values: Column, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise PalateError(
            f"{name}: {len(bad):,} of {len(array):,} are NaN or infinite (first at row {bad[0]}). "
            "Score those samples again or leave them out on both sides."
        )
    return array


def _same_length(**columns: Column | Ids) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} has {length:,}" for name, length in lengths.items())
        raise PalateError(f"{shown} rows. Give one row per sample in each, in the same order.")
    if not next(iter(lengths.values())):
        raise PalateError("There is nothing to compare: 0 samples were scored. Score samples of at least two prompts.")


def interval_text(interval: Interval, places: str) -> str:
    """For example `0.70 [0.56, 0.84]` for the format ".2f"; where there is no interval, why."""
    mean, low, high = (f"{number:{places}}" for number in interval)
    return f"{mean} [no interval: one prompt only]" if np.isnan(interval[1]) else f"{mean} [{low}, {high}]"


def seeds_words(win: WinRate) -> str:
    """For example " with 3 training seeds", of both sides where both have several; "" where none has."""
    if win.seeds_b == 1:
        return f" with {win.seeds} training seeds" if win.seeds > 1 else ""
    return f" with {win.seeds} and {win.seeds_b} training seeds"


def _percent(rate: float) -> str:
    rounded = round(rate * 100)
    if rounded == 50 and rate != 0.5:  # on which side of one half it lies is the point
        return f"{rate * 100:.1f} %"
    return f"{rounded} %"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
