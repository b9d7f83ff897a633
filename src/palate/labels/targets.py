"""Votes become one target per pair. DeDPO lives here.

Cross-entropy is linear in its label, loss(z, p) = softplus(z) - p*z, so every method that mixes, corrects or debiases
labels is a way to compute a target p and a weight per pair. A target may be any real number; debiased ones leave [0,
1].
"""

from dataclasses import dataclass

import numpy as np

from palate.arrays import Bools, Floats
from palate.data.labels import Labels
from palate.errors import PalateError

OWN = 0.01  # what a labelled pair of another source counts of itself, see `on_another_source`


@dataclass(frozen=True)
class Targets:
    """What training pulls each pair toward: arrays [N] in the order of the pairs.

    The objective is the weighted mean sum(weight * loss) / sum(weight). The weights of DeDPO have mean 1 (exactly, if
    the propensity is the labelled share), so that this is the mean of weight * loss over all N pairs. A pair of weight
    0 is not used, and its target is 1/2.
    """

    target: Floats  # any real number
    weight: Floats  # 0 or positive
    labelled: Bools  # bool: a human voted on the pair


def human_only(labels: Labels) -> Targets:
    """Preference optimisation on the human votes alone: target y and weight 1 on labelled pairs.

    Raises PalateError without a human vote.
    """
    _require_human(labels)
    return _targets(labels, labels.human, labels.labelled)


def judge_only(labels: Labels) -> Targets:
    """The judge's votes alone, uncorrected: target g and weight 1 where the judge voted.

    Raises PalateError where it never did.
    """
    if np.isnan(labels.judge).all():
        raise PalateError(
            "labels: the judge voted on no pair. Add its votes to the dataset, or train on human votes only."
        )
    return _targets(labels, labels.judge, ~np.isnan(labels.judge))


def mix(labels: Labels) -> Targets:
    """The human vote where there is one, else the judge's, uncorrected: most pipelines do this, and inherit the judge's
    bias.

    Raises PalateError without a human vote.
    """
    _require_human(labels)
    target = np.where(labels.labelled, labels.human, labels.judge)
    return _targets(labels, target, ~np.isnan(target))


def dedpo(labels: Labels, power: float = 1.0) -> Targets:
    """DeDPO (arXiv 2602.06195): the judge on every pair, plus the human-minus-judge residual on labelled pairs.

    With judge g, human y, propensity pi, labelled indicator R and power kappa, the objective is the mean over all
    pairs of

        kappa * CE(z, g) + (R / pi) * [CE(z, y) - kappa * CE(z, g)]

    whose expectation over which pairs were labelled is that of human votes on every pair, for any judge and any kappa.
    CE is linear in its label, so this is weight * CE(z, target) with

        labelled    weight = kappa + (1 - kappa) / pi      target = [kappa * g + (y - kappa * g) / pi] / weight
        unlabelled  weight = kappa                         target = g

    kappa = 1 is DeDPO (weight 1, target g + (y - g) / pi), kappa = 0 the human votes alone. Where the judge voted on
    only some unlabelled pairs, these represent all of them: their weight is raised by the ratio, and the others get
    weight 0.

    Raises PalateError without a human vote, for a labelled pair without the judge's vote, for unlabelled pairs none
    of which the judge voted on, a propensity outside (0, 1], or a power outside [0, 1].
    """
    _require_human(labels)
    if not 0 <= power <= 1:
        raise PalateError(f"power: {power:g} is outside [0, 1]. Use 1 for DeDPO, 0 for human votes only, or auto.")
    labelled, judged = labels.labelled, ~np.isnan(labels.judge)
    _require_propensity(labels)
    if power == 0:
        return _targets(labels, labels.human, np.where(labelled, 1 / labels.propensity, 0.0))
    _require_judge(labelled, judged)
    share = np.mean(judged[~labelled]) if (~labelled).any() else 1.0
    weight = np.where(labelled, power + (1 - power) / labels.propensity, np.where(judged, power / share, 0.0))
    return _targets(labels, debias(labels.human, labels.judge, labels.propensity, power), weight)


def debias(human: Floats, judge: Floats, propensity: Floats, power: float = 1.0) -> Floats:
    """The target of `dedpo` for each pair, [N] each: the judge's value, moved by the human one where there is one (not
    NaN)."""
    moved = (power * judge + (human - power * judge) / propensity) / (power + (1 - power) / propensity)
    return np.where(np.isnan(human), judge, moved)


def tuned_power(human: Floats, judge: Floats) -> float:
    """The power that makes the DeDPO gradient least noisy at the start (z = 0): clip(sum(a*b) / sum(b*b), 0, 1).

    a = y - 1/2 and b = g - 1/2 over the pairs where both are present ([N] each, NaN elsewhere); the scalar form of
    the tuned lambda of PPI++ (arXiv 2311.01453). A calibrated judge gives about 1, hard votes of accuracy A give 2A -
    1, a judge that always says 1/2 gives 0. Use pairs on which the judge was not fitted (cross-fitted probabilities
    qualify). Raises PalateError when no pair has both.
    """
    a, b = np.asarray(human, dtype=np.float64) - 0.5, np.asarray(judge, dtype=np.float64) - 0.5
    both = ~np.isnan(a) & ~np.isnan(b)
    if not both.any():
        raise PalateError("labels: no pair has a human and a judge's vote. Add its votes on the labelled pairs.")
    a, b = a[both], b[both]
    square = b @ b
    return float(np.clip(a @ b / square, 0, 1)) if square > 0 else 0.0


def on_another_source(labels: Labels, ratio: Floats) -> Labels:
    """The labels where people's pairs are another source than the pairs to train on (arXiv 2602.08259).

    ratio [N]: how many of the pairs without a human vote each labelled pair stands for, summing to their number over
    the labelled ones (a density ratio). The objective is then the judge on the pairs without a vote plus, over the
    labelled pairs, ratio * [CE(z, y) - CE(z, g)], which is linear in z: no cross-entropy of their own. A row has a
    cross-entropy, so labelled pairs keep a hundredth of one (OWN): exactly the objective of `dedpo` on the pairs
    without a vote and a hundredth of each labelled pair, with the propensities returned here. Multiply the weights of
    labelled pairs by OWN afterwards (`of_another_source`).
    """
    propensity = np.where(labels.labelled, OWN / (np.where(labels.labelled, ratio, 1.0) + OWN), labels.propensity)
    return Labels(labels.human, labels.judge, propensity)


def of_another_source(targets: Targets) -> Targets:
    """Targets of `on_another_source`, labelled pairs weighing OWN times as much."""
    weight = np.where(targets.labelled, OWN * targets.weight, targets.weight)
    return Targets(targets.target, weight, targets.labelled)


def variance_ratio(labels: Labels, power: float = 1.0, own: float = 1.0) -> float:
    """Predicted variance of the DeDPO gradient at z = 0, relative to that of the human votes alone (below 1: the
    judge helps).

    Over labelled subsets and pairs, with f the gradient of CE(z, y), h that of CE(z, g) and d = f - power * h,
    Var(DeDPO) = [E f^2 + E (1/pi - 1) d^2] / n and Var(human only) = [E f^2 / pi] / n. At z = 0, f = -(y - 1/2) s and
    d = -[(y - 1/2) - power * (g - 1/2)] s, where s, the gradient of the logit, is taken as unrelated to the labels
    and cancels. For a constant propensity this is pi + (1 - pi) * mean (a - power * b)^2 / mean a^2. Expectations
    over all pairs are estimated from the labelled ones, each weighted by 1 / pi. NaN when every human vote is a tie.
    own: what a labelled pair counts in what is trained on, OWN for labels of `on_another_source`. Raises PalateError as
    `dedpo` does.
    """
    dedpo(labels, power)  # the same checks
    labelled, weight = labels.labelled, own / labels.propensity[labels.labelled]
    a = labels.human[labelled] - 0.5
    d = a - power * (labels.judge[labelled] - 0.5) if power > 0 else a
    alone = np.sum(weight * weight * a * a)
    return float(np.sum(weight * (a * a + (weight - own) * d * d)) / alone) if alone > 0 else float("nan")


def conservative(target: Floats, epsilon: float) -> Floats:
    """Conservative DPO: (1 - epsilon)*p + epsilon*(1 - p), elementwise, for targets p of any shape.

    Labels are taken to be wrong with probability epsilon, and the loss is its own mean over that: the logit of a hard
    label stops at log((1 - epsilon)/epsilon). Raises PalateError for an epsilon outside [0, 1/2).
    """
    _require_flip_rate("conservative", epsilon)
    target = np.asarray(target, dtype=np.float64)
    return (1 - epsilon) * target + epsilon * (1 - target)


def robust(target: Floats, epsilon: float) -> Floats:
    """Robust DPO (arXiv 2403.00409): (p - epsilon)/(1 - 2*epsilon), elementwise; undoes `conservative`.

    Its mean over labels flipped with probability epsilon is the clean label, so that the loss is unbiased under that
    noise. Hard labels leave [0, 1], and the loss is then unbounded below. Raises PalateError for an epsilon outside [0,
    1/2).
    """
    _require_flip_rate("robust", epsilon)
    return (np.asarray(target, dtype=np.float64) - epsilon) / (1 - 2 * epsilon)


def ramped(target: Floats, pseudo: Floats, alpha: float) -> Floats:
    """Doubly robust self-training (arXiv 2306.00265): the correction at strength alpha, g + alpha*(p - g), elementwise.

    target: debiased targets p, g + (R/pi)*(y - g), of any shape, also with an axis of classes; pseudo: the judge's g,
    of the same shape. alpha = 0 is the judge alone, 1 the debiased target. In between the objective is *biased* toward
    the judge: the power of `dedpo` moves between human votes and DeDPO without a bias, and is another knob. The
    published ramp rises above 1 after its scheduled epochs, so no upper bound is set here; the published loss takes
    R/pi from the batch, and on a batch without a label averages over all pairs, as this does.

    Raises PalateError for a negative alpha.
    """
    if not alpha >= 0:
        raise PalateError(f"ramp: alpha {alpha:g} is negative. Use 0 for the judge alone, 1 for the debiased target.")
    target, pseudo = np.asarray(target, dtype=np.float64), np.asarray(pseudo, dtype=np.float64)
    return pseudo + alpha * (target - pseudo)


def ramp(step: int, steps: int) -> float:
    """The alpha of `ramped` at a step counted from 0: (step + 1)/steps, and 1 from the last step on.

    The published code counts (epoch + (batch + 1)/batches)/epochs, the same number, but lets it rise above 1 in its
    additional epochs. Raises PalateError for steps below 1.
    """
    if steps < 1:
        raise PalateError(f"ramp: {steps} steps are none. Give the number of training steps.")
    return min((step + 1) / steps, 1.0)


def steadiest_number(target: Floats, weight: Floats, labelled: Bools, size: int) -> int:
    """How many of a batch of `size` pairs should be labelled for the least noisy gradient at the start (z = 0), of
    targets, weights and whether labelled, [N] each: each kind in proportion to its number of pairs times the root mean
    square of their pull, weight * (target - 1/2) (Neyman's allocation), at least one of each kind.

    Half is about right for the whole residual, whose few labelled pairs pull 1/pi times as hard; with a small share of
    it half of the batch would be spent on pairs that count little.
    """
    pull = weight * (target - 0.5)
    parts = [float(np.sum(kind) * np.sqrt(np.mean(pull[kind] ** 2))) for kind in (labelled, ~labelled)]
    share = parts[0] / sum(parts) if sum(parts) > 0 else 0.5
    least, most = max(1, size - int((~labelled).sum())), min(size - 1, int(labelled.sum()))
    return min(max(round(size * share), least), most)


def _targets(labels: Labels, target: Floats, weight: Floats | Bools) -> Targets:
    weights = np.asarray(weight, dtype=np.float64)
    return Targets(target=np.where(weights > 0, target, 0.5), weight=weights, labelled=labels.labelled)


def _require_flip_rate(name: str, epsilon: float) -> None:
    if not 0 <= epsilon < 0.5:
        raise PalateError(f"{name}: the flip rate {epsilon:g} is outside [0, 1/2). At 1/2 a label says nothing.")


def _require_human(labels: Labels) -> None:
    if not labels.labelled.any():
        judged = not np.isnan(labels.judge).all()
        raise PalateError(
            "labels: no pair has a human vote. Add human votes"
            + (", or use method judge." if judged else " (palate label): no judge voted on them either.")
        )


def _require_propensity(labels: Labels) -> None:
    known = labels.labelled | ~np.isnan(labels.propensity)  # that of an unlabelled pair is not needed
    wrong = np.flatnonzero(known & ~((labels.propensity > 0) & (labels.propensity <= 1)))
    if len(wrong):
        raise PalateError(
            f"labels: the propensity of pair number {wrong[0]} is {labels.propensity[wrong[0]]:g}, outside (0, 1] "
            f"({len(wrong)} such pairs). Store the probability with which it was chosen for humans, or leave it empty."
        )


def _require_judge(labelled: Bools, judged: Bools) -> None:
    missing = np.flatnonzero(labelled & ~judged)
    if len(missing):
        raise PalateError(
            f"labels: {len(missing)} of {labelled.sum()} labelled pairs have no vote of the judge (first: pair number "
            f"{missing[0]}), so its error cannot be measured there. Add its votes on them, or set power: 0."
        )
    if (~labelled).any() and not judged[~labelled].any():
        raise PalateError(
            f"labels: the judge voted on none of the {np.sum(~labelled)} unlabelled pairs. "
            "Add its votes on them, or set power: 0."
        )
