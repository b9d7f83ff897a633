"""Votes aggregated to one row per pair: what people said, what one judge said, and how likely it was to be asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.addresses import random_order
from palate.arrays import Bools, Floats
from palate.errors import PalateError, did_you_mean


@dataclass(frozen=True)
class Labels:
    """What humans and one judge said about N pairs, as float64 arrays [N] in the order of the pairs.

    Raises PalateError when the lengths differ or a human or judge value lies outside [0, 1].
    """

    human: Floats  # mean of the human votes: 1 image 0 preferred, 0 image 1, tie 1/2; NaN where no human voted
    judge: Floats  # the judge's probability that image 0 is preferred; NaN where it did not vote
    propensity: Floats  # probability with which the pair was chosen to be shown to humans

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
    def labelled(self) -> Bools:
        """True where at least one human voted, [N] bool."""
        return ~np.isnan(self.human)


def collect_labels(
    pair_ids: Sequence[str] | pa.Array | pa.ChunkedArray,
    votes: pa.Table | Sequence[dict[str, Any]],
    *,
    judge: str | None = None,
    propensity: Sequence[float] | Floats | None = None,
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


def _strings(column: Sequence[object] | pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column as one pyarrow string array; dictionary-encoded and integer columns are decoded."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if not isinstance(column, pa.Array):
        column = pa.array([str(value) for value in column], pa.string())
    return column.cast(pa.string())


def _rows_to_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    text = {name: [row.get(name) for row in rows] for name in ("pair_id", "annotator_id", "source", "choice")}
    strings = {name: [v if v is None else str(v) for v in column] for name, column in text.items()}
    columns = {name: pa.array(column, pa.string()) for name, column in strings.items()}
    return pa.table(columns | {"probability": pa.array([row.get("probability") for row in rows], pa.float64())})


def _judge_votes(ids: pa.Array, votes: pa.Table, judge: str | None, *, hard: bool) -> Floats:
    if judge is None:
        return np.full(len(ids), np.nan)
    names = _strings(votes["annotator_id"])
    judged = _mean_by_pair(ids, _only(votes, pc.equal(names, judge)), hard=hard)
    if np.isnan(judged).all():
        known = sorted(pc.unique(names).to_pylist())
        raise PalateError(
            f"votes: judge {judge!r} voted on none of the {len(ids)} pairs (judges in the votes: "
            f"{', '.join(known) or 'none'}){did_you_mean(judge, known, 'add its votes, or name another judge.')}"
        )
    return judged


def _mean_by_pair(ids: pa.Array, votes: pa.Table, *, hard: bool) -> Floats:
    """Mean vote for image 0 on each pair, [N], NaN where there is none; with `hard` from the choices alone."""
    votes = _only(votes, pc.is_valid(votes["position"]))
    position, value = votes["position"].to_numpy(), _vote_values(ids, votes, hard=hard)
    count = np.bincount(position, minlength=len(ids))
    total = np.bincount(position, weights=value, minlength=len(ids))
    mean: Floats = np.divide(total, count, out=np.full(len(ids), np.nan), where=count > 0)
    return mean


def _only(votes: pa.Table, chosen: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The rows that are chosen; no copy, which of millions of votes is large, where that is all of them."""
    return votes if pc.all(chosen, min_count=0).as_py() and not chosen.null_count else votes.filter(chosen)


def _vote_values(ids: pa.Array, votes: pa.Table, *, hard: bool) -> Floats:
    meaning = np.array([1.0, 0.0, 0.5, np.nan])  # the last one: a choice outside the set
    code = pc.fill_null(pc.index_in(_strings(votes["choice"]), value_set=pa.array(["0", "1", "tie"])), 3)
    value: Floats = meaning[code.to_numpy(zero_copy_only=False)]
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


def _keep_fraction(ids: pa.Array, human: Floats, fraction: float, seed: int) -> tuple[Floats, float]:
    """Keep the human votes of a random share of the labelled pairs; also returns the share kept."""
    if not 0 < fraction <= 1:
        raise PalateError(f"human_fraction: {fraction:g} is outside (0, 1]. Use 0.125 for one eighth of them.")
    labelled = np.flatnonzero(~np.isnan(human))
    if fraction == 1 or len(labelled) == 0:
        return human, 1.0
    order = random_order(f"{seed}/{ids[i].as_py()}" for i in labelled)
    keep = labelled[order[: max(1, round(fraction * len(labelled)))]]
    kept = np.full(len(human), np.nan)
    kept[keep] = human[keep]
    return kept, len(keep) / len(labelled)


def only_people(votes: pa.Table, people: tuple[str, ...]) -> pa.Table:
    """The votes without the human ones of anybody else. Raises PalateError for people who never voted."""
    human = pc.equal(votes["source"], "human")
    known = set(pc.unique(votes.filter(human)["annotator_id"]).to_pylist())
    if unknown := set(people) - known:
        raise PalateError(
            f"human_annotators: {', '.join(sorted(unknown))} never voted; there are"
            f" {', '.join(sorted(known)) or 'none'}{did_you_mean(min(unknown), known)}"
        )
    return votes.filter(
        pc.or_(pc.invert(human), pc.is_in(votes["annotator_id"], pa.array(sorted(people), pa.string())))
    )
