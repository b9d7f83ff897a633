"""The value of a judge for DeDPO, the value of more human votes, and a recommendation.

At the start of training (z = 0) the gradient is as noisy as a mean over pairs: of a = y - 1/2 with human votes alone,
and with the judge g also of the residual d = a - power * (g - 1/2). With m of N pairs labelled at random and E the mean
over pairs,

    Var(human votes alone) = E a^2 / m        Var(DeDPO) = E a^2 / N + (1/m - 1/N) * E d^2

in the units in which the gradient of the logit has variance 1 (dedpo.md section 6; derived there). So with a
judge, m votes are worth m * Var(alone) / Var(DeDPO) votes, never more than N.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from palate.arithmetic import HALF_95
from palate.audits.intervals import Estimate, bootstrap_estimate, resampled
from palate.data.labels import Labels
from palate.judges.choice import ALIKE, Choice

NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Gain:
    """How much DeDPO gains from a judge, estimated on pairs with both a human vote and the judge's."""

    power: Estimate  # kappa, tuned: 1 for a calibrated judge, 0 for a useless one
    variance: Estimate  # of DeDPO at that power, relative to the human votes alone
    variance_full: Estimate  # the same at power 1
    worth: Estimate  # how many human votes alone would be as precise
    alone: float  # E a^2
    residual: float  # E d^2 at the tuned power
    labelled: int
    pairs: int

    def spread(self, votes: np.ndarray | float) -> np.ndarray | float:
        """Predicted variance if `votes` pairs are labelled, with this judge and power."""
        votes = np.minimum(votes, self.pairs)
        return self.alone / self.pairs + (1 / votes - 1 / self.pairs) * self.residual


def gain_of(labels: Labels, group: np.ndarray, seed: int = 0) -> Gain | None:
    """The gain from a judge, with intervals from the bootstrap over groups [N]; None if every human vote is a tie.

    The point estimates are `tuned_power` and `variance_ratio` of palate.labels.targets. Labelled pairs on which the
    judge did not vote are left out. The power is estimated on the same votes, so with few votes the ratio is slightly
    optimistic: look at the interval.
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
    """Tuned power, and the variance ratios at that power and at 1, [R] each; every pair is taken times [R, n]."""
    cross, square = times @ (a * b), times @ (b * b)
    power = np.clip(np.divide(cross, square, out=np.zeros_like(cross), where=square > 0), 0, 1)
    alone, own = times @ (w * w * a * a), times @ (w * a * a)
    aa, ab, bb = (times @ (w * (w - 1) * x) for x in (a * a, a * b, b * b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return power, *((own + aa - 2 * k * ab + k * k * bb) / alone for k in (power, np.ones_like(power)))


@dataclass(frozen=True)
class Step:
    """The precision from a number of human votes: half a 95 % interval of a share, in percentage points."""

    votes: int
    now: bool
    alone: float  # half width with the human votes alone
    judges: dict[str, float]  # the same for DeDPO, by "judge/correction"
    worth: dict[str, float]  # how many human votes alone would be as precise


def plan(gains: dict[str, Gain], labelled: int, pairs: int, square: float) -> list[Step]:
    """The expected precision for more human votes (or fewer, if every pair has one), including today's number.

    gains: by "judge/correction"; square: E a^2. It assumes that new votes go to pairs drawn at random and that judges
    stay as good as today, though a corrected one improves with more votes.
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
    """Each judge in its form of least variance, and of these the best `most`, as many as fit in a table."""
    best: dict[str, str] = {}
    for name in sorted(gains, key=lambda name: gains[name].variance.value):
        best.setdefault(name.rsplit("/", 1)[0], name)
    return {name: gains[name] for name in list(best.values())[:most]}


def _half_width(variance: float) -> float:
    return float(100 * HALF_95 * np.sqrt(max(variance, 0)))


@dataclass(frozen=True)
class Recommendation:
    """What to do, why, and the training configuration's keys for it."""

    sentence: str
    reason: str
    configuration: dict[str, str | float | list[str]] = field(default_factory=dict)


def recommend(
    gains: dict[str, Gain],
    choices: dict[str, Choice],
    judges: tuple[str, ...],
    labelled: int,
    pairs: int,
    opposed: tuple[str, ...] = (),
    agreeing: tuple[str, ...] = (),
    keys: Mapping[str, str] = NOTHING,
) -> Recommendation:
    """The recommendation when `labelled` of `pairs` pairs have human votes: what `method: auto` would do with the best
    judge, and why.

    `choices` has what it would do with each of the `judges` and with all together, by name. `opposed` people vote
    against the others, the `agreeing` do not. Gains, choices and numbers exclude the votes of the opposed. `keys` are
    those of method: auto beside the judge.
    """
    advice = _main_advice(gains, choices, judges, labelled, pairs, keys)
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


def best_choice(choices: Mapping[str, Choice], judges: tuple[str, ...]) -> str:
    """The judge whose choice promises most, a single one where several promise nearly as much."""
    top = max(choice.chosen.share for choice in choices.values())
    near = [name for name, choice in choices.items() if choice.chosen.share > top - ALIKE]
    single = [name for name in near if name in judges]
    return max(single or near, key=lambda name: choices[name].chosen.share)


def _main_advice(
    gains: dict[str, Gain], choices: Mapping[str, Choice], judges: tuple[str, ...], labelled: int, pairs: int,
    keys: Mapping[str, str],
) -> Recommendation:  # fmt: skip
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
    best = best_choice(choices, judges)
    choice = choices[best]
    if choice.chosen.correction:
        to_name = best if best in judges else list(judges)
        which = best if best in judges else ", ".join(judges)
        more = "" if labelled == pairs else f" {_worth(gains, best, labelled, pairs)}"
        return Recommendation(
            f"Train with method: auto on the human votes and {which}, which takes {choice.promise()}.",
            f"{_other_judges(choices, best)}{_bias(choice)}{more}",
            {"method": "auto", "judge": to_name, **keys},
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
    needed = _votes_to_halve(labelled, pairs)
    return Recommendation(
        f"Train on the {labelled:,} human votes alone, and label {needed:,} more pairs before trusting a judge.",
        f"No judge is clearly a help (method: auto says so, too). {choice.sentence()}", alone,
    )  # fmt: skip


def _bias(choice: Choice) -> str:
    kept = choice.chosen.residual
    if kept == 1:
        return "It keeps the whole residual, so it is unbiased however wrong the judge is."
    return "It keeps less than the whole residual: less noise, and some bias toward the judge."


def _other_judges(choices: Mapping[str, Choice], best: str) -> str:
    others = [choice.chosen for name, choice in choices.items() if name != best and choice.chosen.correction]
    if not others:
        return ""
    other = max(others, key=lambda way: way.share)
    return f"The next best judge or combination promises {100 * other.share:.0f} %. "


def _worth(gains: dict[str, Gain], best: str, labelled: int, pairs: int) -> str:
    """What the judge is worth without any bias, in its form of least variance."""
    own = {name: gain for name, gain in gains.items() if name.rsplit("/", 1)[0] == best}
    if not own:
        return ""
    gain = min(own.values(), key=lambda gain: gain.variance.value)
    double = min(float(gain.alone / gain.spread(2 * labelled)), pairs)
    return (
        f"Without bias, by method: dedpo, {labelled:,} labelled pairs would count like {gain.worth.value:,.0f} (95 %"
        f" {gain.worth.low:,.0f} to {gain.worth.high:,.0f}), and {min(labelled, pairs - labelled):,} more would make"
        f" that {double:,.0f}: a predicted variance {gain.variance.value:.2f} (95 % {gain.variance.low:.2f} to"
        f" {gain.variance.high:.2f}) of that of the human votes alone."
    )


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


def _votes_to_halve(labelled: int, pairs: int) -> int:
    """Three times as many new votes as there are now halve every interval."""
    return min(3 * labelled, pairs - labelled)
