"""Propensities of a run whose labelled pairs were not drawn by palate: estimated from what the dataset shows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.arrays import Bools, Floats, Ints
from palate.data.dataset import PreferenceDataset
from palate.data.labels import Labels, collect_labels
from palate.errors import PalateError
from palate.judges.calibration import unsaturated
from palate.judges.contexts import find_contexts
from palate.judges.embeddings import embedding_directions
from palate.judges.propensity import Seen, Selection, estimate_propensity, generators_of_pairs, seen_of_pairs
from palate.judges.statistics import statistics_of_pairs
from palate.labels.targets import on_another_source
from palate.run.config import TrainConfig


def with_propensities(
    dataset: PreferenceDataset,
    pairs: pa.Table,
    votes: pa.Table,
    labels: Labels,
    prompts: list[str],
    config: TrainConfig,
) -> tuple[Labels, dict[str, Any]]:
    """The labels with estimated propensities where the pairs table stores none, and what is to be told of them.

    Stored ones stay as they are, bit for bit. Raises PalateError for too few pairs, and for a density ratio where
    propensities are stored: people's pairs were then drawn from these.
    """
    unknown = np.isnan(pairs["propensity"].to_numpy())
    if config.propensity == "density-ratio" and not unknown.all():
        raise PalateError(
            f"propensity: density-ratio is for people's pairs of another source, and {(~unknown).sum():,} pairs have a "
            "stored propensity: they were drawn from these. Use propensity: estimated, or given."
        )
    ids = pairs["pair_id"].to_pylist()
    labels, account, selection = estimated(dataset, ids, prompts, votes, labels, unknown, seed=config.seed)
    if config.propensity == "density-ratio" and selection is not None:
        labels = on_another_source(labels, selection.ratio)  # every pair is here, as none has a stored propensity
    return labels, {"propensity": config.propensity} | account


def estimated(
    dataset: PreferenceDataset,
    ids: list[str],
    prompts: list[str],
    votes: pa.Table,
    labels: Labels,
    unknown: Bools,
    *,
    sides: Floats | None = None,
    seed: int = 0,
) -> tuple[Labels, dict[str, Any], Selection | None]:
    """The labels of N pairs with estimated propensities where they are `unknown` [N], what is to be told, and the
    estimate; None where there is nothing to estimate. `sides` [N] are those of `seen_of_dataset`."""
    if not unknown.any():
        return labels, {"sentences": ["There is no propensity to estimate: all pairs have a stored propensity."]}, None
    labelled = labels.labelled[unknown]
    if labelled.all() or not labelled.any():
        which = "all" if labelled.any() else "none"
        told = f"of the {unknown.sum():,} pairs without a stored propensity {which} have a human vote."
        return labels, {"sentences": [f"There is no propensity to estimate: {told}"]}, None
    place = np.flatnonzero(unknown)
    own_ids, own = [ids[i] for i in place.tolist()], [prompts[i] for i in place.tolist()]
    seen = seen_of_dataset(dataset, own_ids, own, votes, labelled, seed, None if sides is None else sides[place])
    selection = estimate_propensity(seen, labelled, _groups(own), seed)
    propensity = labels.propensity.copy()
    propensity[place] = selection.propensity
    return replace(labels, propensity=propensity), account_of_selection(selection, seen), selection


def seen_of_dataset(
    dataset: PreferenceDataset,
    ids: list[str],
    prompts: list[str],
    votes: pa.Table,
    labelled: Bools,
    seed: int = 0,
    sides: Floats | None = None,
) -> Seen:
    """What a dataset shows of these pairs [N]: picture statistics, embeddings, all its judges, prompts and generators.

    sides [N]: -1 for a pair whose images are to be swapped first, 1 for the others; then image 0 is that of one model
    and what is signed is seen too.
    """
    names = sorted(pc.unique(votes.filter(pc.equal(votes["source"], "judge"))["annotator_id"]).to_pylist())
    columns = [_votes_of(dataset, name, ids, votes) for name in names]
    known, statistics = statistics_of_pairs(dataset)
    nothing = np.zeros(len(statistics))
    differences = np.array([known.get(pair_id, nothing) for pair_id in ids]).reshape(len(ids), -1)
    judges = np.column_stack(columns) if columns else np.empty((len(ids), 0))
    if sides is not None:
        differences = differences * sides[:, None]
        judges = np.where(sides[:, None] > 0, judges, 1 - judges)
    return seen_of_pairs(
        differences, statistics, judges, names, prompts, labelled=labelled,
        directions=embedding_directions(dataset, ids)[0], contexts=find_contexts(prompts, seed),
        made_by=generators_of_pairs(dataset, ids), oriented=sides is not None,
    )  # fmt: skip


def _votes_of(dataset: PreferenceDataset, name: str, ids: list[str], votes: pa.Table) -> Floats:
    """The judge's probabilities [N] before any temperature; NaN where it did not vote, on all of them too."""
    own = votes.filter(pc.and_(pc.equal(votes["source"], "judge"), pc.equal(votes["annotator_id"], name)))
    if not pc.any(pc.is_in(own["pair_id"], pa.array(ids, pa.string())), min_count=0).as_py():
        return np.full(len(ids), np.nan)
    return unsaturated(dataset, name, ids, collect_labels(ids, own, judge=name).judge)


def _groups(prompts: Sequence[str]) -> Ints:
    return np.unique(np.array(prompts, dtype=object).astype(str), return_inverse=True)[1]


def account_of_selection(selection: Selection, seen: Seen) -> dict[str, Any]:
    """Plain numbers and sentences for labels.json."""
    told = selection.sentences()
    if seen.left_out:
        told.append(f"Not looked at, because they voted on too few pairs: {', '.join(seen.left_out)}.")
    return {
        "labelled": selection.labelled, "pairs": selection.pairs, "auc": selection.auc, "chance": selection.chance,
        "least": float(selection.propensity.min()), "floor": selection.floor, "below the floor": selection.below,
        "effective": selection.effective, "heaviest": selection.largest,
        "balance": {one.name: [one.before, one.after] for one in selection.balance[:10]}, "sentences": told,
    }  # fmt: skip
