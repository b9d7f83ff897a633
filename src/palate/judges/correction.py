"""The corrected judge predicts the human vote from the votes of one or several judges and from how the pictures
differ.

It is a regularised logistic regression of the human vote on the judges' logits, on differences of picture statistics
and, if there are any, of picture embeddings, on which models made the two images, and on a judge's answers to the
questions of a rubric; with contexts, also on the products of all named features with the kind of
prompt, for a judge that is wrong about some prompts alone. It has no intercept, and every feature changes sign when the
images are swapped, so the probability is mirrored. Probabilities are cross-fitted: the model that gives a labelled pair
its probability saw neither that pair's human vote nor any other of its group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit
from scipy.stats import chi2

from palate.arithmetic import HALF_95
from palate.arrays import Bools, Floats
from palate.errors import PalateError
from palate.judges.contexts import Contexts, differences_in_words
from palate.judges.extra import Extra, Found, found_of, joined, used_of
from palate.judges.ridge import (
    choose_context_ridge,
    choose_ridges,
    curvature,
    deal_folds,
    fit_ridge,
    folds_of_all,
)
from palate.judges.together import CHANCE, chance_of_set, clearly_missed

FEWEST_VOTES = 10
_CLIP = 0.02  # probabilities are clipped to [0.02, 0.98] before their logit is taken
_CHANCE = 0.05


_DIRECTIONS = {  # statistic: (what more of it looks like, what less of it looks like)
    "brightness": ("brighter", "darker"),
    "contrast": ("higher-contrast", "lower-contrast"),
    "saturation": ("more colourful", "more muted"),
    "warmth": ("warmer", "cooler"),
    "sharpness": ("sharper", "softer"),
    "off_centre": ("less centred", "better centred"),
}


@dataclass(frozen=True)
class Agreement:
    """How well probabilities predict human votes on n pairs, each number with its standard error."""

    n: int
    accuracy: float  # mean credit; a tie on either side counts one half
    accuracy_error: float
    brier: float  # mean (vote - probability)^2
    brier_error: float
    brier_reference: float  # the score of always saying 1/2 on these votes: 1/4 only where no vote is a tie or a mean

    @property
    def skill(self) -> float:
        """1 - brier / brier_reference: 1 is perfect, 0 as good as always saying 1/2; NaN where every vote is a tie."""
        return 1 - self.brier / self.brier_reference if self.brier_reference else float("nan")


@dataclass(frozen=True)
class Correction:
    """A judge, or several together, corrected on human votes."""

    probability: Floats  # [N] that image 0 is preferred, cross-fitted; NaN where no judge voted
    weights: dict[str, float]  # of the standardised features that have a name, judges first, fitted on every human vote
    errors: dict[str, float]  # standard errors of the weights
    ridge: float  # strength chosen by cross-validation on every human vote
    before: Agreement  # the judge as it is; of several, the mean of their logits
    after: Agreement  # the corrected judge on votes it did not see
    judges: tuple[str, ...]  # which of the weights belong to judges
    directions: int = 0  # of the picture embeddings that were used
    chance: float = 1.0  # probability of weights on these directions as large as found, if people did not care
    contexts: tuple[str, ...] = ()  # that the judge may be wrong about each in its own way
    by_context: tuple[str, ...] = ()  # where it clearly is, in words
    together: float | None = None  # of several judges: probability of so much, if they added nothing as a set
    missed: tuple[str, ...] = ()  # the judges without whom the others clearly predict worse
    extras: tuple["Found", ...] = ()  # what was learnt of models and rubrics

    def sentence(self) -> str:
        """In plain words: where the judge was biased (weights beyond two standard errors), and what was gained."""
        gain = (
            f"On {self.before.n} pairs agreement with people goes from {_percent(self.before)} "
            f"to {_percent(self.after)} and the Brier score from {self.before.brier:.2f} to {self.after.brier:.2f} "
            f"(always one half: {self.after.brier_reference:.2f})."
        )
        return f"{self.finding()} {gain}"

    def finding(self) -> str:
        """The first part of `sentence`: what the judge is wrong about."""
        several = len(self.judges) > 1
        them, do, whose = ("the judges", "do", "The judges'") if several else ("the judge", "does", "The judge's")
        biases = [_bias(n, w) for n, w in self.weights.items() if n not in self.judges and self._clear(n)]
        if biases:
            found = [f"People prefer {joined(biases)} pictures than {them} {do}."]
        elif len(self.weights) > len(self.judges):
            found = [f"No bias of {them} on the picture statistics is clear from these votes."]
        elif not self.directions and not self.extras:
            found = [f"{whose} probabilities were calibrated on the human votes."]
        else:
            found = []
        if self.directions and self.chance < _CHANCE:
            found.append(f"Beyond what has a name, people differ from {them} on directions of the picture embeddings.")
        elif self.directions:
            found.append("No bias along directions of the picture embeddings is clear.")
        found += [told for extra in self.extras if (told := extra.sentence(them, do))]
        found += self.by_context
        if self.contexts and not self.by_context:
            found.append(f"No difference between the {len(self.contexts)} kinds of prompts is clear.")
        if self.together is not None:
            found.append(self._who_helps(self.together))
        return " ".join(found)

    def _who_helps(self, chance: float) -> str:
        """Whether several judges help as a set, and which of them."""
        if chance >= CHANCE:
            return "Even together the judges add nothing clear."
        if not self.missed:
            return "Together the judges help; which one of them cannot be told."
        rest = [name.removeprefix("judge ") for name in self.judges if name not in self.missed]
        named = " or without ".join(name.removeprefix("judge ") for name in self.missed)
        told = f"Together the judges help, and they predict worse without {named}"
        return f"{told}; of {joined(rest)} this is not clear." if rest else f"{told}."

    def _clear(self, name: str) -> bool:
        return abs(self.weights[name]) > 2 * self.errors[name]


def correct_judge(
    judge: Floats,
    differences: Floats,
    human: Floats,
    *,
    names: list[str] | tuple[str, ...],
    judges: list[str] | tuple[str, ...] = (),
    directions: Floats | None = None,
    contexts: Contexts | None = None,
    extras: Sequence[Extra] = (),
    folds: int = 5,
    seed: int = 0,
    groups: np.ndarray | list[Any] | None = None,
) -> Correction:
    """Correct a judge, or several judges together, on the human votes, and say where they were wrong.

    judge [N], or [N, J] for the J judges named by `judges`: probability that image 0 is preferred, NaN where it did not
    vote. A pair counts as judged if any of them voted; a missing vote is a logit of 0. differences [N, K]: statistics
    of image 0 minus those of image 1, named by `names`. directions [N, C]: differences of picture embeddings along
    unnamed directions. extras: which models made the images, answers to a rubric; columns that are 0 everywhere are
    left out. contexts: the kind of each pair's prompt; weights may then differ between kinds, as far as
    cross-validation finds that this helps, and a kind without votes has the common correction. human [N]: mean human
    vote for image 0, NaN where there is none. groups [N]: pairs of one group (prompt) are held out together.

    Every pair, labelled or not, gets its probability from the model of its fold. If unlabelled pairs used the mean of
    all models, which saw votes on their prompts, DeDPO would subtract a different judge from the one it added. The
    ridge strength is chosen inside each training part, so that a pair's own vote cannot influence its probability.
    Raises PalateError for fewer than 10 usable human votes, votes of a single group, or values out of range.
    """
    judge, human = np.asarray(judge, dtype=np.float64), np.asarray(human, dtype=np.float64)
    judge = judge.reshape(len(judge), -1)  # [N, J]
    differences = np.asarray(differences, dtype=np.float64).reshape(len(judge), -1)
    directions = np.empty((len(judge), 0)) if directions is None else np.asarray(directions, dtype=np.float64)
    own = ("judge",) if judge.shape[1] == 1 else tuple(f"judge {name}" for name in judges)
    _check(judge, differences, directions, human, names, own, extras)
    together = combine(judge)
    judged = ~np.isnan(together)
    usable = np.flatnonzero(judged & ~np.isnan(human))
    if len(usable) < FEWEST_VOTES:
        who = "the judge" if len(own) == 1 else "a judge"
        raise PalateError(
            f"correction: only {len(usable)} pairs have both a human vote and a vote of {who}, and it needs "
            f"{FEWEST_VOTES}. Add human votes to the dataset, or set correction: none."
        )
    named = _standardise(np.column_stack([np.nan_to_num(_logits(judge)), differences]), judged)
    told = [extra for given in extras if (extra := used_of(given, judged)) is not None]
    blocks = [_standardise(block, judged, together=True) for block in (directions, *(extra.values for extra in told))]
    features = np.column_stack([named, *blocks])
    sizes = (len(own), len(names), directions.shape[1], sum(len(extra.names) for extra in told))
    several = contexts if contexts is not None and len(contexts.names) > 1 else None
    if several is not None:
        features = np.column_stack(
            [features, (named[:, :, None] * several.indicators()[:, None]).reshape(len(named), -1)]
        )
    x, y = features[usable], human[usable]
    every_group = np.arange(len(human)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    group = every_group[usable]
    fold = deal_folds(group, folds, seed)
    place = folds_of_all(every_group, group, fold, seed)

    def choose(part: np.ndarray) -> np.ndarray:
        if several is not None:
            return choose_context_ridge(x[part], y[part], group[part], sizes, len(several.names), folds, seed + 1)
        widths = [width for width in (sizes[2], *(len(extra.names) for extra in told)) if width]
        return choose_ridges(x[part], y[part], group[part], sizes[0] + sizes[1], widths, folds, seed + 1)

    logits = np.full(len(human), np.nan)  # [N]
    ridges = [choose(fold != k) for k in range(fold.max() + 1)]
    for k, chosen in enumerate(ridges):
        seen, here = fold != k, judged & (place == k)
        logits[here] = features[here] @ fit_ridge(x[seen], y[seen], chosen)

    ridge = choose(np.ones(len(y), bool))
    weight = fit_ridge(x, y, ridge)
    covariance = np.linalg.inv(curvature(x, weight, ridge))
    labels, unnamed = (*own, *names), slice(len(own) + len(names), sum(sizes[:3]))
    as_a_set: float | None = None
    missed: list[bool] = []
    if len(own) > 1:
        of_judge = [_columns_of(j, sizes, x.shape[1]) for j in range(len(own))]
        of_judges = np.any(of_judge, axis=0)
        as_a_set = chance_of_set(x[:, of_judges], x[:, ~of_judges], y, ridge[~of_judges], group)
        missed = clearly_missed(x, y, group, fold, ridges, of_judge)
    return Correction(
        probability=expit(logits),
        weights=dict(zip(labels, weight[: len(labels)].tolist(), strict=True)),
        errors=dict(zip(labels, np.sqrt(np.diag(covariance))[: len(labels)].tolist(), strict=True)),
        ridge=float(ridge[0]),
        before=agreement(together[usable], y),
        after=agreement(expit(logits[usable]), y),
        judges=own,
        directions=directions.shape[1],
        chance=_chance(weight[unnamed], covariance[unnamed, unnamed]),
        contexts=() if several is None else several.names,
        by_context=()
        if several is None
        else differences_in_words(several, own, names, sum(sizes), weight, covariance, _bias),
        together=as_a_set,
        missed=tuple(name for name, clear in zip(own, missed, strict=False) if clear),
        extras=found_of(told, sum(sizes[:3]), weight, covariance),
    )


def calibrate_judge(
    judge: Floats,
    human: Floats,
    *,
    judges: list[str] | tuple[str, ...] = (),
    folds: int = 5,
    seed: int = 0,
    groups: np.ndarray | list[Any] | None = None,
) -> Correction:
    """`correct_judge` without covariates: it corrects only the judge's confidence and, if needed, its direction."""
    nothing = np.empty((len(judge), 0))
    return correct_judge(judge, nothing, human, names=(), judges=judges, folds=folds, seed=seed, groups=groups)


def combine(judges: Floats) -> Floats:
    """Several judges [N, J] as one [N], uncorrected: the mean logit of those that voted, each probability clipped to
    [0.02, 0.98]; NaN where none voted. A single judge [N, 1] is left as it is."""
    if judges.shape[1] == 1:
        return judges[:, 0]
    voted = ~np.isnan(judges)
    count, total = voted.sum(axis=1), np.nan_to_num(_logits(judges)).sum(axis=1)
    together: Floats = expit(np.divide(total, count, out=np.full(len(judges), np.nan), where=count > 0))
    return together


def majority(judges: Floats) -> Floats:
    """The majority of several judges [N, J], uncorrected: 1 where more of them prefer image 0 than image 1, 0 where
    fewer do, 1/2 where as many do; NaN where none voted (BalancedDPO, arXiv 2503.12575)."""
    voted = ~np.isnan(judges)
    lead = np.sign(np.nan_to_num(judges, nan=0.5) - 0.5).sum(axis=1)
    together: Floats = np.where(voted.any(axis=1), (1 + np.sign(lead)) / 2, np.nan)
    return together


def agreement(probability: Floats, human: Floats) -> Agreement:
    """Accuracy and Brier score of probabilities against human votes, [n] each without NaN, n >= 2."""
    side = np.sign(2 * probability - 1)
    credit = 0.5 + side * (human - 0.5)
    square = (human - probability) ** 2
    root = np.sqrt(len(human))
    return Agreement(
        n=len(human),
        accuracy=float(credit.mean()),
        accuracy_error=float(credit.std(ddof=1) / root),
        brier=float(square.mean()),
        brier_error=float(square.std(ddof=1) / root),
        brier_reference=float(np.mean((human - 0.5) ** 2)),
    )


def _check(
    judge: Floats,
    differences: Floats,
    directions: Floats,
    human: Floats,
    names: list[str] | tuple[str, ...],
    judges: tuple[str, ...],
    extras: Sequence[Extra],
) -> None:
    if differences.shape[1] != len(names) or not len(human) == len(directions) == len(judge):
        raise PalateError(
            f"correction: {len(judge)} judge values, {len(human)} human values, differences {differences.shape},"
            f" directions {directions.shape} and {len(names)} names do not belong together. Give one row per pair and"
            " one name per column."
        )
    if len(judges) != judge.shape[1]:
        raise PalateError(f"correction: {judge.shape[1]} judges, and names of {len(judges)}. Give one name per judge.")
    for what, value in ((judges[j], judge[:, j]) for j in range(len(judges))):
        _check_range(what, value)
    _check_range("human", human)
    for extra in extras:
        if extra.values.shape != (len(judge), len(extra.names)) or not np.isfinite(extra.values).all():
            raise PalateError(
                f"correction: {extra.kind} {extra.values.shape} are not finite numbers of {len(judge)} pairs and"
                f" {len(extra.names)} names. Give one row per pair and one name per column."
            )
    broken = np.argwhere(~np.isfinite(np.column_stack([differences, directions])))
    if len(broken):
        what = (*names, *["an embedding"] * directions.shape[1])[broken[0][1]]
        raise PalateError(
            f"correction: {what} of pair number {broken[0][0]} is NaN or infinite. "
            "Leave that pair out, or compute its picture statistics again."
        )


def _check_range(what: str, value: Floats) -> None:
    wrong = np.flatnonzero((value < 0) | (value > 1))
    if len(wrong):
        raise PalateError(
            f"correction: the {what} value of pair number {wrong[0]} is {value[wrong[0]]:g}, outside [0, 1] "
            f"({len(wrong)} such pairs). Give the probability that image 0 is preferred."
        )


def _logits(probability: Floats) -> Floats:
    logits: Floats = logit(np.clip(probability, _CLIP, 1 - _CLIP))
    return logits


def _columns_of(judge: int, sizes: tuple[int, int, int, int], columns: int) -> Bools:
    """[F] which features are a judge's: its own, and its products with each context."""
    judges, covariates, *_ = sizes
    products = (columns - sum(sizes)) // (judges + covariates)
    mask: Bools = np.zeros(columns, bool)
    mask[judge] = True
    start = sum(sizes) + judge * products
    mask[start : start + products] = True
    return mask


def _standardise(features: Floats, used: Bools, together: bool = False) -> Floats:
    """Divide each feature, or all of them `together`, by the root mean square. Features are not centred: swapping the
    images of a pair must only change their sign."""
    if not features.shape[1]:
        return features
    scale = np.sqrt(np.mean(features[used] ** 2, axis=None if together else 0))
    return features / np.where(scale > 1e-9, scale, 1.0)


def _chance(weight: Floats, covariance: Floats) -> float:
    """p-value of Wald's test that all weights [C] are 0; 1 for none. Cautious: a ridge shrinks weights more than
    their errors."""
    return float(chi2.sf(weight @ np.linalg.solve(covariance, weight), len(weight))) if len(weight) else 1.0


def _bias(name: str, weight: float) -> str:
    more, less = _DIRECTIONS.get(name, (f"more-{name}", f"less-{name}"))
    return more if weight > 0 else less


def _percent(value: Agreement) -> str:
    half = HALF_95 * value.accuracy_error
    low, high = max(0.0, value.accuracy - half), min(1.0, value.accuracy + half)
    return f"{100 * value.accuracy:.0f} % (95 % {100 * low:.0f} to {100 * high:.0f})"
