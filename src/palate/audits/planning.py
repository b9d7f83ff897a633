"""What a judge is worth to DeDPO, what more human votes would buy, and what to do.

At the start of training (z = 0) the noise of the gradient is that of a mean over pairs of a = y - 1/2, human votes
alone, or of a corrected by the judge, d = a - power * (g - 1/2). With m of N pairs labelled at random and E the mean
over pairs,

    Var(human votes alone) = E a^2 / m        Var(DeDPO) = E a^2 / N + (1/m - 1/N) * E d^2

in the units in which the gradient of the logit has variance 1 (dedpo.md section 6; derived there). So a judge turns m
votes into as many as m * Var(alone) / Var(DeDPO) would be, never more than N.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from palate.arithmetic import HALF_95
from palate.audits.intervals import Estimate, bootstrap_estimate, resampled
from palate.data.labels import Labels

CLEAR = 0.95  # a judge is recommended where the whole interval of the variance ratio lies below this


@dataclass(frozen=True)
class Gain:
    """What DeDPO makes of a judge, estimated on the pairs that both judged."""

    power: Estimate  # kappa, tuned: 1 for a calibrated judge, 0 for one to leave out
    variance: Estimate  # of DeDPO at that power, relative to the human votes alone
    variance_full: Estimate  # the same at power 1
    worth: Estimate  # how many human votes alone would be as precise
    alone: float  # E a^2
    residual: float  # E d^2 at the tuned power
    labelled: int
    pairs: int

    def spread(self, votes: np.ndarray | float) -> np.ndarray | float:
        """Predicted variance with so many pairs labelled, this judge, and the power as it is."""
        votes = np.minimum(votes, self.pairs)
        return self.alone / self.pairs + (1 / votes - 1 / self.pairs) * self.residual


def gain_of(labels: Labels, group: np.ndarray, seed: int = 0) -> Gain | None:
    """The gain from a judge, intervals from the bootstrap over groups [N]; None where every human vote is a tie.

    The point estimates are `tuned_power` and `variance_ratio` of palate.labels.targets. Labelled pairs on which the
    judge did not vote are left out. The power is estimated on the same votes, one number from all of them: with few
    votes the ratio is a little too good, and the interval is what to look at.
    """
    both = labels.labelled & ~np.isnan(labels.judge)
    a, b, w = labels.human[both] - 0.5, labels.judge[both] - 0.5, 1 / labels.propensity[both]
    if not np.any(a):
        return None
    pairs, labelled = len(labels.human) - int((labels.labelled & ~both).sum()), int(both.sum())
    point = _ratios(np.ones((1, labelled)), a, b, w)
    draws = _ratios(resampled(group[both], seed=seed), a, b, w)
    power, variance, full = (
        bootstrap_estimate(float(value[0]), drawn, group[both], labelled)
        for value, drawn in zip(point, draws, strict=True)
    )
    value, low, high = (min(labelled / max(x, 1e-9), pairs) for x in (variance.value, variance.high, variance.low))
    worth = Estimate(value, low, high, labelled)
    return Gain(
        power, variance, full, worth, float(np.average(a * a, weights=w)),
        float(np.average((a - power.value * b) ** 2, weights=w)), labelled, pairs,
    )  # fmt: skip


def _ratios(
    times: np.ndarray, a: np.ndarray, b: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tuned power, and variance ratio at it and at power 1, [R] each, with every pair taken times [R, n]."""
    cross, square = times @ (a * b), times @ (b * b)
    power = np.clip(np.divide(cross, square, out=np.zeros_like(cross), where=square > 0), 0, 1)
    alone, own = times @ (w * w * a * a), times @ (w * a * a)
    aa, ab, bb = (times @ (w * (w - 1) * x) for x in (a * a, a * b, b * b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return power, *((own + aa - 2 * k * ab + k * k * bb) / alone for k in (power, np.ones_like(power)))


@dataclass(frozen=True)
class Step:
    """What so many human votes buy: half of a 95 % interval of a share, in percentage points, and votes it is worth."""

    votes: int
    now: bool
    alone: float  # half width with the human votes alone
    judges: dict[str, float]  # the same for DeDPO, by "judge/correction"
    worth: dict[str, float]  # human votes alone that would be as precise


def plan(gains: dict[str, Gain], labelled: int, pairs: int, square: float) -> list[Step]:
    """The table of what to expect at more human votes (or fewer, where every pair has one), today's number among them.

    gains: by "judge/correction"; square: E a^2. Votes are taken to go to new pairs drawn at random, and judges to stay
    as good as they are today, though a corrected one gets better with more votes.
    """
    factors = (1, 1.5, 2, 3, 4, 8, 16) if labelled < pairs else (0.03125, 0.0625, 0.125, 0.25, 0.5, 1)
    grid = {min(round(factor * labelled), pairs) for factor in factors} | ({pairs} if pairs <= 32 * labelled else set())
    steps = []
    for votes in sorted(v for v in grid if v > 0):
        judges = {name: _half_width(float(gain.spread(votes))) for name, gain in gains.items()}
        worth = {name: float(min(gain.alone / gain.spread(votes), pairs)) for name, gain in gains.items()}
        steps.append(Step(votes, votes == labelled, _half_width(square / votes), judges, worth))
    return steps


def leading(gains: dict[str, Gain], most: int = 5) -> dict[str, Gain]:
    """Of each judge the form of least variance, of these the best: what a table has room for."""
    best: dict[str, str] = {}
    for name in sorted(gains, key=lambda name: gains[name].variance.value):
        best.setdefault(name.rsplit("/", 1)[0], name)
    return {name: gains[name] for name in list(best.values())[:most]}


def _half_width(variance: float) -> float:
    return float(100 * HALF_95 * np.sqrt(max(variance, 0)))


@dataclass(frozen=True)
class Recommendation:
    """What to do, why, and the keys of a training configuration that do it."""

    sentence: str
    reason: str
    configuration: dict[str, str | float | list[str]] = field(default_factory=dict)


def recommend(
    gains: dict[str, Gain],
    judges: tuple[str, ...],
    labelled: int,
    pairs: int,
    opposed: tuple[str, ...] = (),
    agreeing: tuple[str, ...] = (),
) -> Recommendation:
    """The recommendation for `labelled` of `pairs` pairs with human votes, judges' names (all of them are meant by the
    name of their combination), and people who vote against the others (`opposed`) among those who do not (`agreeing`).
    Gains and numbers are without the votes of the opposed."""
    advice = _main_advice(gains, judges, labelled, pairs)
    if not opposed or not agreeing:
        return advice
    them = ", ".join(opposed)
    return replace(
        advice,
        reason=(
            f"{advice.reason} {them} {'votes' if len(opposed) == 1 else 'vote'} against the others more often than with"
            " them: follow one side (human_annotators), or let adaptive: true find the pairs. The numbers of judges"
            f" and of more votes are without {them}."
        ),
        configuration=advice.configuration | {"human_annotators": list(agreeing)},
    )


def _main_advice(gains: dict[str, Gain], judges: tuple[str, ...], labelled: int, pairs: int) -> Recommendation:
    if not labelled:
        return _without_people(judges)
    alone: dict[str, str | float | list[str]] = {"method": "dpo"}
    if not judges:
        return Recommendation(
            (
                f"Train on the {labelled:,} human votes."
                if labelled == pairs
                else f"Train on the {labelled:,} human votes, or add a judge for the other {pairs - labelled:,} pairs."
            ),
            "There is no judge in the dataset, so human votes are all there is.",
            alone,
        )
    if labelled == pairs:
        return Recommendation(
            f"Train on the human votes: all {pairs:,} pairs have one.",
            "A judge can only stand in for votes that are missing. The table of votes shows how many would have been"
            " enough.",
            alone,
        )
    if not gains:
        return Recommendation(
            f"Label more pairs: {labelled:,} with a human vote are too few to measure a judge.",
            "About 50 pairs drawn at random show whether a judge is better than a coin, some 200 how much it is worth.",
            alone,
        )
    best = min(gains, key=lambda name: gains[name].variance.value)
    gain, (judge, correction) = gains[best], best.rsplit("/", 1)
    which = judge if correction == "none" else f"{judge}, corrected,"
    chosen = judge if judge in judges else list(judges)
    ratio = (
        f"predicted variance {gain.variance.value:.2f} (95 % {gain.variance.low:.2f} to {gain.variance.high:.2f}) of"
        " that of the human votes alone"
    )
    if gain.variance.high < CLEAR:
        double = min(float(gain.alone / gain.spread(2 * labelled)), pairs)
        return Recommendation(
            f"Train with DeDPO on the human votes and {which.rstrip(',')}: {labelled:,} labelled pairs then count like"
            f" {gain.worth.value:,.0f} (95 % {gain.worth.low:,.0f} to {gain.worth.high:,.0f}), and"
            f" {min(labelled, pairs - labelled):,} more would make that {double:,.0f}.",
            f"It has a {ratio}{_second_best(gains, best)}.",
            {"method": "dedpo", "judge": chosen, "correction": correction, "power": "auto"},
        )
    needed = _votes_to_halve(labelled, pairs)
    return Recommendation(
        f"Train on the {labelled:,} human votes alone, and label {needed:,} more pairs before trusting a judge.",
        f"No judge is clearly a help: the best, {which} has a {ratio}.", alone,
    )  # fmt: skip


def _without_people(judges: tuple[str, ...]) -> Recommendation:
    if not judges:
        return Recommendation(
            "Label some pairs, or let a judge vote: there are no votes.", "Nothing can be trained on."
        )
    return Recommendation(
        "Label about 50 pairs drawn at random before training: without human votes no judge can be checked or"
        " corrected.",
        "Training on a judge alone gives its taste, bias included.",
        {"method": "judge", "judge": judges[0], "correction": "none"},
    )


def _second_best(gains: dict[str, Gain], best: str) -> str:
    judge = best.rsplit("/", 1)[0]
    raw = gains.get(f"{judge}/none")
    if raw and not best.endswith("/none"):
        return f"; as it is, not corrected, {raw.variance.value:.2f}"
    single = [gain.variance.value for name, gain in gains.items() if name != best]
    return f"; the best single one, {min(single):.2f}" if single and not raw else ""


def _votes_to_halve(labelled: int, pairs: int) -> int:
    """Three times as many new votes as there are halve every interval."""
    return min(3 * labelled, pairs - labelled)
