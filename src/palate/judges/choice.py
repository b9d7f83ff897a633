"""Which way to train, chosen by risk: how far a judge's bias and the noise of few votes turn a run from the taste.

At equal drift what a run gains is the cosine between the direction in which its targets pull the model and that in
which people would, had they voted on everything (the first order in the drift; derived). With a = y - 1/2 of people, b
= g - 1/2 of a judge on pairs that it did not see, q what people say on the mean, a residual kept to the share r, a
power k, and a taste of P parts that pairs tell of equally much, targets g + r (R / pi)(y - g) pull with

    signal  (1 - r) E ab + r S                              S = E (q - 1/2)^2
    square  (1 - r)^2 E b^2 + 2 r (1 - r) E ab + r^2 S      its own length, and the noise of m votes among N pairs:
            + P [ (1/m - 1/N) E ((1 - k - r) b + r a)^2 + r^2 E a^2 / N ]

and the cosine is signal / sqrt(S * square). What is missing to 1 is bias^2 (what the judge says that people do not) and
variance, each in its share. Human votes alone are k = 0, r = 1; `mix` is r = pi; DeDPO is r = 1, which has no bias and
all of the variance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from palate.arrays import Floats, Ints
from palate.data.labels import Labels
from palate.errors import PalateError

RESIDUALS = (0.0, 0.1, 0.25, 0.5, 1.0)
SIMPLEST = ("none", "calibrate", "covariates", "context")  # corrections, the simplest first
RESOLUTION = 0.08  # S where two people agree on 66 % of pairs, before any repeated vote tells
RESOLUTION_SPREAD = 0.04  # its standard deviation between datasets
PARTS_OF_A_CONTEXT = 8  # P for each kind of prompt: an assumption, like S; docs/labels.md says what it does
ALIKE = 0.005  # of two ways that differ less the simpler one is taken
_DRAWS = 400
_SIGMAS = np.linspace(-2, 2, 9)  # where S is looked at
_RIGHT = np.linspace(0, 1, 41)  # how right a judge is: the cosine of what it says and what people say


@dataclass(frozen=True)
class Way:
    """One way to train, and what it would gain at equal drift, as a share of what votes on every pair would."""

    correction: str  # as in a configuration; "" for human votes alone
    residual: float
    power: float
    share: float  # expected, by which ways are ranked
    low: float  # 95 % of what it may be: of how right the judge is, and of how far people agree
    high: float

    @property
    def configuration(self) -> dict[str, Any]:
        """The keys of a configuration that train this way, beside the judge."""
        if not self.correction:
            return {"target": "human"}
        return {"target": "dedpo", "correction": self.correction, "residual": self.residual, "power": self.power}

    def in_words(self) -> str:
        if not self.correction:
            return "human votes alone"
        kind = {"none": "the judge as it is", "calibrate": "the judge, calibrated", "covariates": "the corrected judge",
                "context": "the judge, corrected by kind of prompt"}[self.correction]  # fmt: skip
        of_residual = {0.0: "no residual", 1.0: "the whole residual"}.get(
            self.residual, f"{self.residual:g} of the residual"
        )
        return f"{kind}, {of_residual}" + (f", power {self.power:.2f}" if self.power != 1 else "")


@dataclass(frozen=True)
class Choice:
    """The way to train, and all that were compared, best first."""

    chosen: Way
    ways: tuple[Way, ...]

    @property
    def alone(self) -> Way:
        return next(way for way in self.ways if not way.correction)

    def promise(self) -> str:
        """The way, and what it is expected to gain."""
        best = self.chosen
        told = f"{best.in_words()}: at equal drift about {_percent(best)} of the gain of votes on every pair"
        return told if best is self.alone else f"{told}, human votes alone {100 * self.alone.share:.0f} %"

    def sentence(self) -> str:
        """What is advised, and why."""
        best, alone = self.chosen, self.alone
        told = f"Train on {self.promise()}"
        if best is not alone:
            return f"{told}."
        other = self.ways[0] if self.ways[0] is not alone else self.ways[1] if len(self.ways) > 1 else None
        return told + (
            "." if other is None else f"; {other.in_words()} {_percent(other)}, which is not better beyond doubt."
        )


def choose_way(
    labels: Labels,
    judges: Mapping[str, Floats],
    *,
    groups: Floats | Sequence[object] | None = None,
    contexts: int = 1,
    resolution: float = RESOLUTION,
    spread: float = RESOLUTION_SPREAD,
    seed: int = 0,
) -> Choice:
    """The way of least risk for these votes, the simplest of those that are nearly as good.

    judges: correction -> its probabilities [N], for a labelled pair without its vote (cross-fitted). groups [N]: pairs
    that belong together (prompts), for the errors. contexts: how many kinds of prompts there are. resolution: S, known
    to a standard deviation of `spread` (`resolution_of` tells both). Raises PalateError without a human vote.

    What a way gains is expected over S and over how right each judge is: before any vote every cosine from 0 to 1 is
    equally likely, and the votes' mean of ab, with its error, says which are.
    """
    if not labels.labelled.any():
        raise PalateError("choice: no pair has a human vote, so no way can be judged. Add some, or use method judge.")
    total, count = len(labels.human), int(labels.labelled.sum())
    parts = PARTS_OF_A_CONTEXT * max(contexts, 1)
    a = labels.human[labels.labelled] - 0.5
    square = float(np.average(a * a, weights=1 / labels.propensity[labels.labelled]))
    known = np.clip(resolution + spread * _SIGMAS, 0.01, 0.25)[:, None]  # [S, 1]
    likely = np.exp(-0.5 * _SIGMAS**2)[:, None] / np.exp(-0.5 * _SIGMAS**2).sum()
    whole = np.sqrt(known / (known + parts * square / total))
    found = [Way("", 1.0, 0.0, *_expected(np.sqrt(known / (known + parts * square / count)) / whole, likely))]
    for correction, judge in judges.items():
        both = labels.labelled & ~np.isnan(judge)
        everywhere = float(np.nanmean((judge - 0.5) ** 2)) if both.sum() > 1 else 0.0
        if everywhere == 0:
            continue
        group = np.arange(total) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        times = _times(group[both], 1 / labels.propensity[both], seed)  # [1 + draws, n], the first as it is
        a, b = labels.human[both] - 0.5, judge[both] - 0.5
        aa, ab, on_votes = (times @ x / times.sum(axis=1) for x in (a * a, a * b, b * b))
        error = max(float(ab[1:].std()), 0.5 * np.sqrt(aa[0] * on_votes[0] / both.sum()), 1e-9)
        signal = _RIGHT * np.sqrt(known * everywhere)  # [S, R]
        off = (ab[0] - signal) / error
        probable = np.exp(-0.5 * (off**2 - (off**2).min(axis=1, keepdims=True)))
        probable = likely * probable / probable.sum(axis=1, keepdims=True)
        tuned = float(np.clip(ab[0] / max(on_votes[0], 1e-12), 0, 1))
        for residual in RESIDUALS:
            for power in {1.0, round(tuned, 2)}:
                rest, kept = 1 - power - residual, 1 - residual
                noise = (1 / both.sum() - 1 / total) * (
                    rest**2 * on_votes[0] + 2 * rest * residual * signal + residual**2 * aa[0]
                )
                length = kept**2 * everywhere + 2 * residual * kept * signal + residual**2 * known
                length = np.maximum(length, 1e-12) + parts * (np.maximum(noise, 0) + residual**2 * aa[0] / total)
                share = (kept * signal + residual * known) / np.sqrt(known * length) / whole
                found.append(Way(correction, residual, power, *_expected(share, probable)))
    ways = sorted(found, key=lambda way: -way.share)
    near = [way for way in ways if way.share >= ways[0].share - ALIKE]
    return Choice(min(near, key=_complexity), tuple(ways))


def _expected(share: Floats, probable: Floats) -> tuple[float, float, float]:
    """Mean and central 95 % of shares that are so probable, of one shape."""
    value, weight = share.ravel(), np.broadcast_to(probable, share.shape).ravel()
    order = np.argsort(value)
    below = np.cumsum(weight[order]) / weight.sum()
    low, high = value[order][np.minimum(np.searchsorted(below, (0.025, 0.975)), len(value) - 1)]
    return float(value @ weight / weight.sum()), float(low), float(high)


def _complexity(way: Way) -> tuple[int, bool, float]:
    """Human votes alone are the simplest; then corrections in their order, power 1, and more of the residual."""
    place = SIMPLEST.index(way.correction) + 1 if way.correction in SIMPLEST else len(SIMPLEST) * bool(way.correction)
    return place, way.power != 1, -way.residual


def _times(group: Ints, weight: Floats, seed: int) -> Floats:
    """How often each labelled pair counts, [1 + draws, n]: as it is, and with groups drawn again."""
    unique, place = np.unique(group, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=_DRAWS)
    return np.concatenate([np.ones((1, len(place))), drawn[:, place]]) * weight


def _percent(way: Way) -> str:
    return f"{100 * way.share:.0f} % (95 % {100 * way.low:.0f} to {100 * way.high:.0f})"
