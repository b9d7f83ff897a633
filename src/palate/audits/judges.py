"""Every judge against human votes: its accuracy, calibration and biases."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from palate.arithmetic import bounded_logit
from palate.audits.agreement import credit, first_share, order_flips
from palate.audits.evidence import Evidence
from palate.audits.intervals import Estimate, mean_estimate, ratio_estimate, share_estimate, slope_estimate
from palate.audits.planning import ALL, Gain, gain_of, with_worth
from palate.data.labels import Labels
from palate.errors import PalateError
from palate.judges.contexts import Contexts
from palate.judges.correction import Correction, calibrate_judge, correct_judge

_BINS = 6
_FEWEST_IN_BIN = 8
_OF_A_FIT = (
    16  # by simulation and on real votes (docs/real-votes.md): intervals of fits on 80 votes were a fifth too short
)


@dataclass(frozen=True)
class Bin:
    """Pairs on which the judge is similarly confident, whichever image it prefers."""

    confidence: float  # mean probability of the image that the judge prefers
    share: Estimate  # how often people prefer that image


@dataclass(frozen=True)
class Judge:
    """A source of soft votes, measured on the pairs that people also voted on; each number has its n and interval.

    Expectations are over all pairs: a pair chosen with propensity pi has weight 1/pi. None: not measurable.
    """

    name: str
    correction: str  # none | calibrate | covariates | context, as in a configuration
    votes: int  # pairs it voted on
    accuracy: Estimate | None = None  # credit of its choice against the mean human vote
    brier: Estimate | None = None
    brier_reference: float | None = None  # of always saying 1/2 on these votes; 1/4 only without ties and mean votes
    skill: Estimate | None = None  # 1 - brier / brier_reference: below 0 it is worse than saying nothing
    confidence: Estimate | None = (
        None  # logistic slope of the human vote on its logit: below 1 too sure, above too timid
    )
    calibration: list[Bin] = field(default_factory=list)
    first: Estimate | None = None  # share of its votes for the image shown first
    flips: Estimate | None = None  # share of pairs on which the answer changed when the images were exchanged
    length: Estimate | None = None  # accuracy on the longer half of the prompts minus that on the shorter half
    favours: dict[str, Estimate] = field(default_factory=dict)  # statistic: see `favours`
    gain: Gain | None = None  # its value for DeDPO
    finding: str = ""  # in words
    notes: list[str] = field(default_factory=list)


def audit_judges(evidence: Evidence, seed: int = 0) -> tuple[list[Judge], dict[str, np.ndarray]]:
    """Every judge as it is and, with enough human votes, corrected; then the same for all judges combined. Also the
    probabilities [N] of each, by "name/correction".

    The correction is that of `palate.judges.correction`, cross-fitted: a pair's corrected probability never depends on
    its own vote.
    """
    found: list[Judge] = []
    probabilities: dict[str, np.ndarray] = {}
    for j, name in enumerate(evidence.judges.names):
        labels = evidence.labels(name)
        found.append(_as_it_is(evidence, name, labels))
        probabilities[f"{name}/none"] = labels.judge
        try:
            correction = _correct(evidence, evidence.fitted[:, j], labels.human, (name,), seed)
        except PalateError as error:
            found[-1].notes.append(f"It cannot be corrected: {str(error).removeprefix('correction: ')}")
            continue
        found.append(_corrected(evidence, name, correction))
        probabilities[f"{name}/{found[-1].correction}"] = correction.probability
        if evidence.contexts is not None:
            fine = _correct(evidence, evidence.fitted[:, j], labels.human, (name,), seed, evidence.contexts)
            if _better(fine.probability, correction.probability, labels.human):
                found.append(_corrected(evidence, name, fine))
                probabilities[f"{name}/{found[-1].correction}"] = fine.probability
    several = evidence.judges.names
    if sum(judge.correction != "none" for judge in found) > 1:
        correction = _correct(evidence, evidence.fitted, evidence.labels().human, several, seed)
        found.append(_corrected(evidence, ALL, correction))
        probabilities[f"{ALL}/{found[-1].correction}"] = correction.probability
    return found, probabilities


def favours(residual: np.ndarray, difference: np.ndarray, group: np.ndarray, weights: np.ndarray) -> Estimate | None:
    """How much more often than people the judge prefers the picture with more of a statistic, as a share of pairs.

    The mean of (judge - human) * sign(statistic of image 0 - statistic of image 1), [n] each. It does not depend on
    which image is called 0. It is a systematic error, which DeDPO has to remove.
    """
    known = difference != 0
    return mean_estimate((residual * np.sign(difference))[known], group[known], weights[known])


def calibration_curve(judge: np.ndarray, human: np.ndarray, group: np.ndarray, weights: np.ndarray) -> list[Bin]:
    """People's agreement by the judge's confidence, [n] each, in up to six bins of equally many pairs, least confident
    first.

    A probability g for image 0 is a confidence max(g, 1 - g) in the preferred image, so the curve does not change when
    images are swapped. Pairs with exactly 1/2 are left out; equal confidences share a bin.
    """
    sided = judge != 0.5
    judge, human, group, weights = (x[sided] for x in (judge, human, group, weights))
    confidence, agrees = np.maximum(judge, 1 - judge), np.where(judge > 0.5, human, 1 - human)
    bins = int(np.clip(len(judge) // _FEWEST_IN_BIN, 1, _BINS))
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])) if len(judge) else np.array([])
    place = np.searchsorted(edges, confidence, side="right")
    curve = []
    for k in np.unique(place):
        here = place == k
        share = share_estimate(agrees[here], group[here], weights[here])
        if share is not None:
            curve.append(Bin(float(np.average(confidence[here], weights=weights[here])), share))
    return curve


def _as_it_is(evidence: Evidence, name: str, labels: Labels) -> Judge:
    first, flips = _by_order(evidence, name)
    judge = Judge(**measured(evidence, name, "none", labels), first=first, flips=flips)
    voted = labels.judge[~np.isnan(labels.judge)]
    if np.ptp(voted) == 0 and len(voted) > 1:
        judge.notes.append(f"It always says {voted[0]:g}: it cannot tell pairs apart.")
    return judge


def _by_order(evidence: Evidence, name: str) -> tuple[Estimate | None, Estimate | None]:
    """The share for the image shown first, and the share of answers that changed with the order."""
    if name not in evidence.in_both_orders:
        own = evidence.judges.of(name)
        return first_share(own, evidence.group), order_flips(own, evidence.group)
    pair, ahead, behind = evidence.in_both_orders[name].T
    group = evidence.group[pair.astype(int)]
    changed = np.abs(np.sign(ahead - 0.5) + np.sign(behind - 0.5)) / 2  # 1 if the same position won in both orders
    return share_estimate((ahead + behind) / 2, group), share_estimate(changed, group)


def measured(evidence: Evidence, name: str, correction: str, labels: Labels) -> dict[str, Any]:
    """What probabilities and human votes give, as arguments of `Judge`."""
    notes: list[str] = []
    voted = ~np.isnan(labels.judge)
    both = labels.labelled & voted
    measured = {"name": name, "correction": correction, "votes": int(voted.sum()), "notes": notes}
    unjudged = int((labels.labelled & ~voted).sum())
    if unjudged and both.any():
        notes.append(f"It did not vote on {unjudged:,} pairs that have a human vote; DeDPO needs its votes there.")
    if both.sum() < 2:
        notes.append(f"{both.sum()} pairs have both a human vote and its vote: nothing can be said of its errors.")
        return measured
    g, y, group, weights = labels.judge[both], labels.human[both], evidence.group[both], 1 / labels.propensity[both]
    right, square, reference = credit(0.5 + np.sign(g - 0.5) / 2, y), (y - g) ** 2, (y - 0.5) ** 2
    differences = evidence.differences[both]
    return measured | {
        "accuracy": share_estimate(right, group, weights),
        "brier": ratio_estimate(square, np.ones(len(square)), group, weights),
        "brier_reference": float(np.average(reference, weights=weights)),
        "skill": _skill(ratio_estimate(square, reference, group, weights)),
        "confidence": slope_estimate(bounded_logit(g), y, group, weights),
        "calibration": calibration_curve(g, y, group, weights),
        "length": _by_length(right, [evidence.prompts[i] for i in np.flatnonzero(both)], group, weights),
        "favours": {
            statistic: estimate
            for k, statistic in enumerate(evidence.statistics)
            if (estimate := favours(g - y, differences[:, k], group, weights)) is not None
        },
        "gain": gain_of(labels, evidence.group),
    }


def _skill(ratio: Estimate | None) -> Estimate | None:
    """1 - Brier score / that of always saying one half."""
    return None if ratio is None else Estimate(1 - ratio.value, 1 - ratio.high, 1 - ratio.low, ratio.n)


def _by_length(right: np.ndarray, prompts: list[str], group: np.ndarray, weights: np.ndarray) -> Estimate | None:
    """Accuracy on prompts longer than the median minus accuracy on the others; None if all are equally long.

    Both images of a pair have the same prompt, so its length cannot favour one of them; it can only make the judge less
    accurate. The difference of two weighted means is one mean of signed, rescaled values.
    """
    length = np.array([len(prompt) for prompt in prompts])
    longer = length > np.median(length)
    if longer.all() or not longer.any():
        return None
    sides = [mean_estimate(right[side], group[side], weights[side]) for side in (longer, ~longer)]
    long, short = sides
    if long is None or short is None:
        return None
    value = long.value - short.value
    reach = np.hypot(long.high - long.value, short.high - short.value)  # independent: no prompt is on both sides
    return Estimate(value, value - reach, value + reach, len(right))


def _better(probability: np.ndarray, common: np.ndarray, human: np.ndarray) -> bool:
    """Whether the Brier score is lower by more than two standard errors of the difference, on the same votes [N]."""
    gain = (human - common) ** 2 - (human - probability) ** 2
    gain = gain[~np.isnan(gain)]
    return bool(gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(len(gain)))


def _correct(
    evidence: Evidence,
    judge: np.ndarray,
    human: np.ndarray,
    names: tuple[str, ...],
    seed: int,
    contexts: Contexts | None = None,
) -> Correction:
    options: dict[str, Any] = {"judges": names, "groups": evidence.group.tolist(), "seed": seed}
    if contexts is None and not evidence.statistics and not evidence.directions.shape[1] and not evidence.extras:
        return calibrate_judge(judge, human, **options)
    return correct_judge(
        judge,
        evidence.differences,
        human,
        names=evidence.statistics,
        directions=evidence.directions,
        contexts=contexts,
        extras=evidence.extras,
        **options,
    )


def _corrected(evidence: Evidence, name: str, correction: Correction) -> Judge:
    """The corrected judge. What the correction gained is in the table, with intervals that know about prompts."""
    kind = (
        "context"
        if correction.contexts
        else "covariates"
        if correction.directions or correction.extras or len(correction.weights) > len(correction.judges)
        else "calibrate"
    )
    labels = replace(evidence.labels(), judge=correction.probability)
    return fitted(Judge(**measured(evidence, name, kind, labels), finding=correction.finding()))


def fitted(judge: Judge) -> Judge:
    """A corrected judge with the intervals that its fit asks for.

    Its probabilities on a pair come from votes on the other pairs, so that errors on different pairs are not quite
    independent, and the strength of the fit was chosen on few votes. Second-order effects, which fall with the number
    of labelled pairs and which no formula of independent pairs knows; the width is that of `_OF_A_FIT` votes more.
    """
    if judge.accuracy is None:
        return judge
    factor = 1 + _OF_A_FIT / judge.accuracy.n
    wider = {name: e.widened(factor) for name in ("brier", "skill", "confidence") if (e := getattr(judge, name))}
    gain = judge.gain and replace(
        judge.gain, variance=judge.gain.variance.widened(factor), variance_full=judge.gain.variance_full.widened(factor)
    )
    return replace(judge, gain=gain and with_worth(gain), **wider)
