"""The propensity of pairs that nobody drew at random, estimated from what can be seen of them.

R says whether people voted on a pair, e(x) = P(R = 1 | x) is its propensity and x what is seen: how the two pictures
differ, how sure the judges are, the prompt, which models made them. It is a ridge logistic regression of R,
cross-fitted by prompt. Its features do not change when the images of a pair are swapped, so neither does the
propensity. Votes are never looked at. A debiased target then has the bias E[(e/estimate - 1)(what people say - what the
judge says)]: none if either the propensity or the judge is right, as long as R depends on the vote only through x
(derived).

For people's pairs from another source than the judge's (arXiv 2602.08259) the same regression gives the density ratio:
p(x without votes) / p(x with votes) is proportional to (1 - e)/e.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import chi2, f, rankdata

from palate.arithmetic import bounded_logit
from palate.arrays import Bools, Floats, Ints
from palate.data.dataset import PreferenceDataset
from palate.data.generators import models_of_pairs
from palate.errors import PalateError
from palate.judges.contexts import Contexts
from palate.judges.ridge import choose_ridge, deal_folds, fit_ridge

FLOOR = 0.1  # of the labelled share: no labelled pair counts more than ten times as much as with a constant propensity
FEWEST = 20  # pairs with a vote, and pairs without, from which a propensity is estimated
_MOST = 100_000  # pairs without a vote that a fit sees
_FOLDS = 5
_FEWEST_ALIKE = 10  # pairs of a kind (of prompts, of generators) that is a feature
_MOST_SEEN = 0.9  # a judge is looked at if it voted on this share of the pairs with a vote, and of those without


@dataclass(frozen=True)
class Seen:
    """What is seen of N pairs: features that stay the same when the two images of a pair are swapped."""

    features: Floats  # [N, F], the named ones first
    names: tuple[str, ...]  # in words, of the first features
    left_out: tuple[str, ...] = ()  # judges that voted on too few pairs


@dataclass(frozen=True)
class Balance:
    """How far the labelled pairs are from all pairs in one feature, in standard deviations."""

    name: str
    before: float
    after: float  # with the weights 1/propensity


@dataclass(frozen=True)
class Selection:
    """How labelled pairs were chosen, as far as can be seen."""

    propensity: Floats  # [N], cross-fitted; 1 over it sums to N over the labelled pairs; clipped
    labelled: int
    pairs: int
    floor: float  # the least propensity: a tenth of the labelled share
    below: float  # share of all pairs whose estimate was below it
    auc: float  # how well the estimate tells labelled pairs from others, on prompts that it did not see; 1/2 by chance
    chance: float  # p-value of features as different as these if labelled pairs had been drawn at random
    effective: float  # as many equally weighted labelled pairs would be as precise (Kish)
    largest: float  # share of the weight that the heaviest labelled pair has
    balance: tuple[Balance, ...]  # of the features with a name, the farthest first
    design: Floats  # [N, 1 + F] what the regression saw, standardised
    ridge: Floats  # [1 + F]

    @property
    def ratio(self) -> Floats:
        """How many of the pairs without votes each pair stands for, [N]: (1 - e)/e, which the labelled ones sum to."""
        return 1 / self.propensity - 1

    @property
    def at_random(self) -> bool:
        """Whether the labelled pairs may have been drawn at random (5 %)."""
        return self.chance >= 0.05

    def sentences(self) -> list[str]:
        """What was found, in words."""
        low = float(np.min(self.propensity))
        told = [
            f"The {self.labelled:,} labelled pairs {'may well have been' if self.at_random else 'were not'} drawn at "
            f"random (p {_chance(self.chance)}; told from the others with AUC {self.auc:.2f})."
        ]
        far = [one for one in self.balance if abs(one.before) >= 0.1][:3]
        if far and not self.at_random:
            listed = "; ".join(f"{b.name} {b.before:+.2f}, weighted {b.after:+.2f}" for b in far)
            told.append(f"They differ from all pairs, in standard deviations, in {listed}.")
        if self.at_random:
            return told
        told.append(
            f"Overlap: estimated propensities {low:.2g} to {float(np.max(self.propensity)):.2f}; weighted, the "
            f"labelled pairs count like {self.effective:,.0f}, and the heaviest has {self.largest:.1%} of the weight."
        )
        if self.below > 0:
            told.append(
                f"{self.below:.1%} of all pairs are below the floor of {self.floor:.3g} and are clipped to it: hardly "
                f"a labelled pair is like them, and the judge's errors there are not fully removed."
            )
        return told


def seen_of_pairs(
    differences: Floats,
    statistics: Sequence[str],
    judges: Floats,
    judge_names: Sequence[str],
    prompts: Sequence[str],
    *,
    labelled: Bools,
    directions: Floats | None = None,
    contexts: Contexts | None = None,
    made_by: Sequence[str] | None = None,
    oriented: bool = False,
) -> Seen:
    """What is seen of N pairs.

    differences [N, K]: statistics of image 0 minus those of image 1. judges [N, J]: probabilities of image 0, NaN where
    a judge did not vote; one that voted on less than 90 % of the pairs with a human vote, or of those without, is left
    out, because its silence would tell them apart. directions [N, C]: differences of embeddings, without names.
    A pair whose differences are all 0, because a picture cannot be read or has no embedding, is taken as a mean one.
    contexts: the kind of each prompt. made_by [N]: the generators of a pair, in words, whichever made image 0. With
    `oriented` image 0 is not any of the two (a contest of two models), so signed differences are seen too.
    """
    used = [j for j in range(judges.shape[1]) if _voted_everywhere(judges[:, j], labelled)]
    logits: Floats = np.nan_to_num(bounded_logit(judges[:, used])).reshape(len(labelled), -1)  # [N, J]
    together = logits.mean(axis=1) if used else np.zeros(len(labelled))
    known: Bools = np.any(differences != 0, axis=1)  # else a picture cannot be read, which must not tell pairs apart
    columns: list[tuple[str, Floats]] = []
    for k, name in enumerate(statistics):
        columns.append((f"the difference in {_plain(name)}", _filled(np.abs(differences[:, k]), known)))
        if used:
            columns.append((f"{_plain(name)} of the judges' choice", _filled(differences[:, k] * together, known)))
    columns += [(f"how sure {judge_names[j]} is", np.abs(logits[:, c])) for c, j in enumerate(used)]
    if used:
        columns.append(("how sure the judges are, squared", together**2))
    if len(used) > 1:
        columns.append(("how far judges disagree", logits.std(axis=1)))
    columns.append(("the length of the prompt", np.log1p([len(prompt) for prompt in prompts])))
    if contexts is not None and len(contexts.names) > 1:
        columns += [(f"prompts like {n}", (contexts.place == k).astype(float)) for k, n in enumerate(contexts.names)]
    if made_by is not None:
        kinds = [kind for kind, count in Counter(made_by).most_common(12) if count >= _FEWEST_ALIKE]
        here = np.asarray(made_by, dtype=object)
        columns += [(f"pictures of {kind}", (here == kind).astype(float)) for kind in (kinds if len(kinds) > 1 else [])]
    if oriented:
        columns += [(f"{_plain(name)} of a over b", differences[:, k]) for k, name in enumerate(statistics)]
        columns += [(f"{judge_names[j]} for a", logits[:, c]) for c, j in enumerate(used)]
    unnamed: Floats = np.empty((len(labelled), 0))
    if directions is not None and directions.shape[1]:
        unnamed = _filled(np.abs(directions), np.any(directions != 0, axis=1))
    names, named = zip(*columns, strict=True)
    features: Floats = np.column_stack([*named, unnamed])
    return Seen(features, names, tuple(judge_names[j] for j in range(judges.shape[1]) if j not in used))


def generators_of_pairs(dataset: PreferenceDataset, pair_ids: Sequence[str]) -> list[str] | None:
    """The models that made the pictures of each pair [N], in words and whichever made image 0; None where no pair names
    one."""
    models = models_of_pairs(dataset)
    own = [models[pair_id] for pair_id in pair_ids]
    if not any(name for both in own for name in both):
        return None
    return [" and ".join(sorted({one or "not named", two or "not named"})) for one, two in own]


def estimate_propensity(seen: Seen, labelled: Bools, groups: Ints, seed: int = 0) -> Selection:
    """The propensity of N pairs, `labelled` [N] bool: ridge logistic regression, cross-fitted over groups [N], prompts.

    The strength of the ridge is chosen by cross-validation. Where there are more than 100,000 pairs without a vote the
    fits see a random part of them. The odds are scaled so that 1/propensity sums to N over the labelled pairs, and
    propensities below a tenth of the labelled share are raised to that. Raises PalateError for fewer than 20 pairs with
    or without a vote.
    """
    count, total = int(labelled.sum()), len(labelled)
    if min(count, total - count) < FEWEST:
        raise PalateError(
            f"propensity: {count:,} pairs have a human vote and {total - count:,} have none; an estimate needs "
            f"{FEWEST} of each. Label more pairs at random (palate label), or set propensity: given."
        )
    group = np.unique(groups, return_inverse=True)[1]
    if group.max() < 1:
        group = np.arange(total)
    x = _standardised(seen.features)
    fold = deal_folds(group, _FOLDS, seed)
    kept, share = _kept(labelled, seed)
    design = np.column_stack([np.ones(total), x])
    shape = np.r_[0.0, np.ones(x.shape[1])]
    y = labelled.astype(float)
    ridge = choose_ridge(design[kept], y[kept], group[kept], [shape], _FOLDS, seed + 1)
    score = np.zeros(total)
    for k in range(fold.max() + 1):
        train = kept & (fold != k)
        if 0 < labelled[train].sum() < train.sum():
            score[fold == k] = design[fold == k] @ fit_ridge(design[train], y[train], ridge)
    score += np.log(share)
    floor = FLOOR * count / total
    free = expit(_scaled(score, labelled, floor))
    propensity = np.maximum(free, floor)
    weight = 1 / propensity[labelled]
    return Selection(
        propensity=propensity,
        labelled=count,
        pairs=total,
        floor=floor,
        below=float((free < floor * (1 - 1e-9)).mean()),
        auc=_told_apart(score, labelled, fold),
        chance=_chance_of(x, labelled, group),
        effective=float(weight.sum() ** 2 / (weight**2).sum()),
        largest=float(weight.max() / weight.sum()),
        balance=_balance(x, seen.names, labelled, weight),
        design=design,
        ridge=ridge,
    )


def votes_related(
    selection: Selection, labelled: Bools, votes: Floats, sides: Floats, groups: Ints
) -> tuple[float, Floats]:
    """Whether votes on the labelled pairs are other than those to be expected on all pairs, as far as can be seen.

    votes [N] minus 1/2 (or minus a judge), sides [N, J]: directions of a pair, which change their sign when its images
    are swapped. Compares the means of side * vote over the labelled pairs, each weighted 1/propensity, with those that
    count all alike (a test of Hausman's kind). The covariance is clustered by group and knows that the propensity was
    estimated: what the score of its regression explains is taken out. Returns the p-value of no difference in any
    direction, and the difference in each [J]. NaN where there are too few groups.
    """
    e, share, group = selection.propensity, labelled.mean(), np.unique(groups, return_inverse=True)[1]
    value = np.where(labelled[:, None], sides * np.where(labelled, votes, 0.0)[:, None], 0.0)  # [N, J]
    r = labelled.astype(float)
    weighted, plain = np.average(value, axis=0, weights=r / e), np.average(value, axis=0, weights=r)
    difference: Floats = weighted - plain
    own = (r / e)[:, None] * (value - weighted)
    x = selection.design
    curvature = x.T @ (x * (e * (1 - e))[:, None]) + np.diag(selection.ridge)
    slope = np.linalg.solve(curvature, x.T @ (own * (1 - e)[:, None]))  # [F, J]: how the weights move the means
    influence = (own - (r / share)[:, None] * (value - plain) - (x @ slope) * (r - e)[:, None]) / len(r)
    sums = np.zeros((group.max() + 1, value.shape[1]))
    np.add.at(sums, group, influence)
    clusters, rank = len(np.unique(group[labelled])), int(np.linalg.matrix_rank(sums))
    if clusters <= rank + 1 or rank == 0:
        return float("nan"), difference
    square = float(difference @ np.linalg.pinv(sums.T @ sums, rcond=1e-9, hermitian=True) @ difference)
    return _hotelling(square, rank, clusters), difference


def _hotelling(square: float, dimensions: int, clusters: int) -> float:
    """p-value of Hotelling's T squared, which allows for few clusters."""
    rest = clusters - dimensions
    return float(f.sf(square * rest / (dimensions * (clusters - 1)), dimensions, rest))


def _voted_everywhere(judge: Floats, labelled: Bools) -> bool:
    voted = ~np.isnan(judge)
    return all(bool(part.any()) and voted[part].mean() >= _MOST_SEEN for part in (labelled, ~labelled))


def _filled(values: Floats, known: Bools) -> Floats:
    """[N, ...] with the mean of the known ones where nothing is known."""
    if known.all() or not known.any():
        return values
    filled: Floats = values.copy()
    filled[~known] = values[known].mean(axis=0)
    return filled


def _standardised(features: Floats) -> Floats:
    spread = features.std(axis=0)
    scaled: Floats = (features - features.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    return scaled


def _kept(labelled: Bools, seed: int) -> tuple[Bools, float]:
    """[N] bool: the pairs that a fit sees, all labelled ones among them; and the share of the others that it sees."""
    kept = np.ones(len(labelled), bool)
    others = np.flatnonzero(~labelled)
    if len(others) <= _MOST:
        return kept, 1.0
    kept[others] = False
    kept[np.random.default_rng(seed).choice(others, _MOST, replace=False)] = True
    return kept, _MOST / len(others)


def _scaled(score: Floats, labelled: Bools, floor: float) -> Floats:
    """The logits [N], moved so that 1/propensity, clipped at the floor, sums to N over the labelled pairs."""
    mine, total = score[labelled], len(score)

    def excess(shift: float) -> float:
        return float((1 / np.maximum(expit(mine + shift), floor)).sum() - total)

    reach = 40.0 + float(np.abs(mine).max())
    moved: Floats = score + float(brentq(excess, -reach, reach))
    return moved


def _told_apart(score: Floats, labelled: Bools, fold: Ints) -> float:
    """AUC of the cross-fitted score for labelled pairs against the others of their fold; 1/2 by chance."""
    right, both = 0.0, 0.0
    for k in range(fold.max() + 1):
        r, s = labelled[fold == k], score[fold == k]
        ones, zeros = int(r.sum()), int((~r).sum())
        if ones and zeros:
            right += rankdata(s)[r].sum() - ones * (ones + 1) / 2
            both += ones * zeros
    return right / both if both else 0.5


def _chance_of(x: Floats, labelled: Bools, group: Ints) -> float:
    """p-value of features [N, F], standardised, as different between labelled pairs and others by chance.

    The sum over features of the squared differences of means; by chance these are normal with a covariance that is
    clustered by group, and the sum of their squares is that of a scaled chi square (Satterthwaite).
    """
    sums = np.zeros((group.max() + 1, x.shape[1]))
    np.add.at(sums, group, x * (labelled - labelled.mean())[:, None])
    clusters, covariance = len(sums), sums.T @ sums
    trace, square = float(np.trace(covariance)), float((covariance**2).sum())
    if trace < 1e-9 or clusters < 2:
        return 1.0
    total = float((sums.sum(axis=0) ** 2).sum())
    return float(chi2.sf(total * trace / square, trace**2 / square))


def _balance(x: Floats, names: Sequence[str], labelled: Bools, weight: Floats) -> tuple[Balance, ...]:
    """x [N, F] standardised, so that a mean of the labelled pairs is its distance from all pairs."""
    mine = x[labelled][:, : len(names)]
    before, after = mine.mean(axis=0), np.average(mine, axis=0, weights=weight)
    found = [Balance(n, float(b), float(a)) for n, b, a in zip(names, before, after, strict=True)]
    return tuple(sorted(found, key=lambda one: -abs(one.before)))


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _chance(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.2g}"
