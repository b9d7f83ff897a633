"""Votes become one target per pair. DeDPO lives here.

Cross-entropy is linear in its label, loss(z, p) = softplus(z) - p*z, so every method that mixes, corrects or debiases
labels is a way to compute a target p and a weight per pair. A target may be any real number; debiased ones leave [0,
1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.errors import PalateError


@dataclass(frozen=True)
class Labels:
    """What humans and one judge said about N pairs, as float64 arrays [N] in the order of the pairs.

    Raises PalateError when the lengths differ or a human or judge value lies outside [0, 1].
    """

    human: np.ndarray  # mean of the human votes: 1 image 0 preferred, 0 image 1, tie 1/2; NaN where no human voted
    judge: np.ndarray  # the judge's probability that image 0 is preferred; NaN where it did not vote
    propensity: np.ndarray  # probability with which the pair was chosen to be shown to humans

    def __post_init__(self) -> None:
        for name in ("human", "judge", "propensity"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        lengths = {name: getattr(self, name).shape for name in ("human", "judge", "propensity")}
        if len(set(lengths.values())) != 1 or self.human.ndim != 1:
            raise PalateError(f"labels: human, judge and propensity need one value per pair, got {lengths}.")
        for name in ("human", "judge"):
            value = getattr(self, name)
            wrong = np.flatnonzero((value < 0) | (value > 1))
            if len(wrong):
                raise PalateError(
                    f"labels: the {name} value of pair number {wrong[0]} is {value[wrong[0]]:g}, outside [0, 1] "
                    f"({len(wrong)} such pairs). Give the probability that image 0 is preferred."
                )

    @property
    def labelled(self) -> np.ndarray:
        """True where at least one human voted, [N] bool."""
        return ~np.isnan(self.human)


@dataclass(frozen=True)
class Targets:
    """What training pulls each pair toward: arrays [N] in the order of the pairs.

    The objective is the weighted mean sum(weight * loss) / sum(weight). The weights of DeDPO have mean 1 (exactly, if
    the propensity is the labelled share), so that this is the mean of weight * loss over all N pairs. A pair of weight
    0 is not used, and its target is 1/2.
    """

    target: np.ndarray  # any real number
    weight: np.ndarray  # 0 or positive
    labelled: np.ndarray  # bool: a human voted on the pair


def collect_labels(
    pair_ids: Sequence[str] | pa.Array | pa.ChunkedArray,
    votes: pa.Table | Sequence[dict],
    *,
    judge: str | None = None,
    propensity: Sequence[float] | np.ndarray | None = None,
    hard: bool = False,
    human_fraction: float = 1.0,
    seed: int = 0,
) -> Labels:
    """Aggregate votes (columns pair_id, annotator_id, source, choice, probability) to one row per pair of `pair_ids`.

    Skipped votes are left out, as are votes on pairs that are not in `pair_ids`. Several votes of one kind on a pair
    are averaged. `judge` is the annotator_id of the judge to use; its probability counts where it gave one, its
    choice otherwise, or always with `hard`. `propensity` [N] comes from the pairs table; where it is None or NaN, the
    labelled share of the pairs without one is used. `human_fraction` keeps the human votes of that share of the
    labelled pairs and lowers the propensity to match. The draw is a function of (seed, pair_id), so a smaller
    fraction is a subset of a larger one and the order of pairs does not matter.

    Raises PalateError for duplicate pair ids, an unknown choice, a probability outside [0, 1], or a judge without any
    vote.
    """
    ids = _strings(pair_ids)
    if pc.count_distinct(ids).as_py() != len(ids):
        counts = pc.value_counts(ids)
        name = counts.field("values")[pc.index(pc.greater(counts.field("counts"), 1), True).as_py()]
        raise PalateError(f"pairs: pair_id {name} appears more than once. Give every pair its own id.")
    pa.default_memory_pool().release_unused()  # of a million pairs the check keeps 100 MB
    table = votes if isinstance(votes, pa.Table) else _rows_to_table(votes)
    choice = _strings(table["choice"])
    table = table.set_column(table.schema.get_field_index("choice"), "choice", choice)
    table = _only(table, pc.fill_null(pc.not_equal(choice, "skip"), True))
    position = pc.index_in(_strings(table["pair_id"]), value_set=ids)  # in place of the ids, which are long
    table = table.drop_columns("pair_id").append_column("position", position)
    pa.default_memory_pool().release_unused()
    source = _strings(table["source"])

    human = _mean_by_pair(ids, table.filter(pc.equal(source, "human")), hard=True)
    human, share = _keep_fraction(ids, human, human_fraction, seed)
    judged = _judge_votes(ids, table.filter(pc.equal(source, "judge")), judge, hard=hard)
    given = np.full(len(ids), np.nan) if propensity is None else np.array(propensity, dtype=np.float64) * share
    unknown = np.isnan(given)
    if unknown.any():
        given[unknown] = np.mean(~np.isnan(human[unknown])) or np.nan
    del table, choice, source, position
    pa.default_memory_pool().release_unused()
    return Labels(human=human, judge=judged, propensity=given)


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
    """The human vote where there is one, else the judge's, uncorrected: most pipelines do this, and inherit its bias.

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
    only some unlabelled pairs, these stand for all of them: their weight is raised by the ratio, and the others get
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


def debias(human: np.ndarray, judge: np.ndarray, propensity: np.ndarray, power: float = 1.0) -> np.ndarray:
    """The target of `dedpo` for each pair, [N] each: the judge's value, moved by the human one where there is one (not
    NaN)."""
    moved = (power * judge + (human - power * judge) / propensity) / (power + (1 - power) / propensity)
    return np.where(np.isnan(human), judge, moved)


def tuned_power(human: np.ndarray, judge: np.ndarray) -> float:
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


def variance_ratio(labels: Labels, power: float = 1.0) -> float:
    """Predicted variance of the DeDPO gradient at z = 0, relative to that of the human votes alone (below 1: the
    judge helps).

    Over labelled subsets and pairs, with f the gradient of CE(z, y), h that of CE(z, g) and d = f - power * h,
    Var(DeDPO) = [E f^2 + E (1/pi - 1) d^2] / n and Var(human only) = [E f^2 / pi] / n. At z = 0, f = -(y - 1/2) s and
    d = -[(y - 1/2) - power * (g - 1/2)] s, where s, the gradient of the logit, is taken as unrelated to the labels
    and cancels. For a constant propensity this is pi + (1 - pi) * mean (a - power * b)^2 / mean a^2. Expectations
    over all pairs are estimated from the labelled ones, each weighted by 1 / pi. NaN when every human vote is a tie.
    Raises PalateError as `dedpo` does.
    """
    dedpo(labels, power)  # the same checks
    labelled, weight = labels.labelled, 1 / labels.propensity[labels.labelled]
    a = labels.human[labelled] - 0.5
    d = a - power * (labels.judge[labelled] - 0.5) if power > 0 else a
    alone = np.sum(weight * weight * a * a)
    return float(np.sum(weight * (a * a + (weight - 1) * d * d)) / alone) if alone > 0 else float("nan")


def conservative(target: np.ndarray, epsilon: float) -> np.ndarray:
    """Conservative DPO: (1 - epsilon)*p + epsilon*(1 - p), elementwise, for targets p of any shape.

    Labels are taken to be wrong with probability epsilon, and the loss is its own mean over that: the logit of a hard
    label stops at log((1 - epsilon)/epsilon). Raises PalateError for an epsilon outside [0, 1/2).
    """
    _require_flip_rate("conservative", epsilon)
    target = np.asarray(target, dtype=np.float64)
    return (1 - epsilon) * target + epsilon * (1 - target)


def robust(target: np.ndarray, epsilon: float) -> np.ndarray:
    """Robust DPO (arXiv 2403.00409): (p - epsilon)/(1 - 2*epsilon), elementwise; undoes `conservative`.

    Its mean over labels flipped with probability epsilon is the clean label, so that the loss is unbiased under that
    noise. Hard labels leave [0, 1], and the loss is then unbounded below. Raises PalateError for an epsilon outside [0,
    1/2).
    """
    _require_flip_rate("robust", epsilon)
    return (np.asarray(target, dtype=np.float64) - epsilon) / (1 - 2 * epsilon)


def ramped(target: np.ndarray, pseudo: np.ndarray, alpha: float) -> np.ndarray:
    """Doubly robust self-training (arXiv 2306.00265): the correction at strength alpha, g + alpha*(p - g), elementwise.

    target: debiased targets p, g + (R/pi)*(y - g), of any shape, also with an axis of classes; pseudo: the judge's g,
    of the same shape. alpha = 0 is the judge alone, 1 the debiased target. In between the objective is *biased* toward
    the judge: the power of `dedpo` moves between human votes and DeDPO without a bias, and is another knob. The
    published ramp goes on above 1 after its scheduled epochs, so no upper bound is set here; the published loss takes
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


def _targets(labels: Labels, target: np.ndarray, weight: np.ndarray) -> Targets:
    weight = np.asarray(weight, dtype=np.float64)
    return Targets(target=np.where(weight > 0, target, 0.5), weight=weight, labelled=labels.labelled)


def _require_flip_rate(name: str, epsilon: float) -> None:
    if not 0 <= epsilon < 0.5:
        raise PalateError(f"{name}: the flip rate {epsilon:g} is outside [0, 1/2). At 1/2 a label says nothing.")


def _require_human(labels: Labels) -> None:
    if not labels.labelled.any():
        raise PalateError("labels: no pair has a human vote. Add human votes, or use method judge.")


def _require_propensity(labels: Labels) -> None:
    known = labels.labelled | ~np.isnan(labels.propensity)  # that of an unlabelled pair is not needed
    wrong = np.flatnonzero(known & ~((labels.propensity > 0) & (labels.propensity <= 1)))
    if len(wrong):
        raise PalateError(
            f"labels: the propensity of pair number {wrong[0]} is {labels.propensity[wrong[0]]:g}, outside (0, 1] "
            f"({len(wrong)} such pairs). Store the probability with which it was chosen for humans, or leave it empty."
        )


def _require_judge(labelled: np.ndarray, judged: np.ndarray) -> None:
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


def _strings(column: Sequence | pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column as one pyarrow string array; dictionary-encoded and integer columns are decoded."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if not isinstance(column, pa.Array):
        column = pa.array([str(value) for value in column], pa.string())
    return column.cast(pa.string())


def _rows_to_table(rows: Sequence[dict]) -> pa.Table:
    text = {name: [row.get(name) for row in rows] for name in ("pair_id", "annotator_id", "source", "choice")}
    strings = {name: [v if v is None else str(v) for v in column] for name, column in text.items()}
    columns = {name: pa.array(column, pa.string()) for name, column in strings.items()}
    return pa.table(columns | {"probability": pa.array([row.get("probability") for row in rows], pa.float64())})


def _judge_votes(ids: pa.Array, votes: pa.Table, judge: str | None, *, hard: bool) -> np.ndarray:
    if judge is None:
        return np.full(len(ids), np.nan)
    names = _strings(votes["annotator_id"])
    judged = _mean_by_pair(ids, _only(votes, pc.equal(names, judge)), hard=hard)
    if np.isnan(judged).all():
        raise PalateError(
            f"votes: judge {judge!r} voted on none of the {len(ids)} pairs (judges in the votes: "
            f"{', '.join(sorted(pc.unique(names).to_pylist())) or 'none'}). Add its votes, or name another judge."
        )
    return judged


def _mean_by_pair(ids: pa.Array, votes: pa.Table, *, hard: bool) -> np.ndarray:
    """Mean vote for image 0 on each pair, [N], NaN where there is none; with `hard` from the choices alone."""
    votes = _only(votes, pc.is_valid(votes["position"]))
    position, value = votes["position"].to_numpy(), _vote_values(ids, votes, hard=hard)
    count = np.bincount(position, minlength=len(ids))
    total = np.bincount(position, weights=value, minlength=len(ids))
    return np.divide(total, count, out=np.full(len(ids), np.nan), where=count > 0)


def _only(votes: pa.Table, chosen: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The rows that are chosen; no copy, which of millions of votes is large, where that is all of them."""
    return votes if pc.all(chosen, min_count=0).as_py() and not chosen.null_count else votes.filter(chosen)


def _vote_values(ids: pa.Array, votes: pa.Table, *, hard: bool) -> np.ndarray:
    meaning = np.array([1.0, 0.0, 0.5, np.nan])  # the last one: a choice outside the set
    code = pc.fill_null(pc.index_in(_strings(votes["choice"]), value_set=pa.array(["0", "1", "tie"])), 3)
    value = meaning[code.to_numpy(zero_copy_only=False)]
    if not hard:
        probability = votes["probability"].cast(pa.float64()).combine_chunks().to_numpy(zero_copy_only=False)
        value = np.where(np.isnan(probability), value, probability)
    wrong = np.flatnonzero(~((value >= 0) & (value <= 1)))
    if len(wrong):
        row = votes.slice(wrong[0], 1).to_pylist()[0]
        raise PalateError(
            f"votes: {row['annotator_id']} on pair {ids[row['position']]}: choice {row['choice']!r}, probability "
            f"{row['probability']} is not a vote ({len(wrong)} such). Choices are 0, 1, tie, skip."
        )
    return value


def _keep_fraction(ids: pa.Array, human: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, float]:
    """Keep the human votes of a random share of the labelled pairs; also returns the share kept."""
    if not 0 < fraction <= 1:
        raise PalateError(f"human_fraction: {fraction:g} is outside (0, 1]. Use 0.125 for one eighth of them.")
    labelled = np.flatnonzero(~np.isnan(human))
    if fraction == 1 or len(labelled) == 0:
        return human, 1.0
    rank = [blake2b(f"{seed}/{ids[i].as_py()}".encode(), digest_size=8).digest() for i in labelled]
    keep = labelled[np.argsort(np.array(rank, dtype="S8"), kind="stable")[: max(1, round(fraction * len(labelled)))]]
    kept = np.full(len(human), np.nan)
    kept[keep] = human[keep]
    return kept, len(keep) / len(labelled)
