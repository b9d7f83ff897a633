"""A dataset's votes as arrays: who gave which answer on which pair, shown in which order."""

from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.data.annotators import Votes
from palate.data.dataset import PreferenceDataset
from palate.data.identity import single_images
from palate.data.labels import Labels, collect_labels, only_people
from palate.data.questions import require_question, votes_on
from palate.data.schema import OVERALL
from palate.errors import PalateError
from palate.judges.calibration import imported_scores, unsaturated
from palate.judges.contexts import Contexts, kinds_of_prompts
from palate.judges.embeddings import embedding_directions
from palate.judges.extra import Extra
from palate.judges.extras import extras_of
from palate.judges.statistics import statistics_of_pairs


@dataclass(frozen=True)
class Evidence:
    """The N pairs of a dataset and every vote on them."""

    ids: list[str]
    prompts: list[str]
    group: np.ndarray  # [N] independent units: the prompt, or the pair itself if there is only one prompt
    human: Votes
    judges: Votes
    table: pa.Table  # the same votes, as `collect_labels` reads them
    propensity: np.ndarray  # [N]
    differences: np.ndarray  # [N, K] picture statistics of image 0 minus image 1; K = 0 if no picture can be read
    statistics: tuple[str, ...]
    directions: np.ndarray  # [N, C] differences of picture embeddings; C = 0 if no judge stored any
    fitted: np.ndarray  # [N, J] the judges' probabilities for a correction, see `unsaturated`
    in_both_orders: dict[str, np.ndarray] = field(default_factory=dict)  # see `_in_both_orders`
    contexts: Contexts | None = None  # which prompts are alike, found by their words or given; None where all are
    extras: list[Extra] = field(default_factory=list)  # which models made the images, answers to a rubric
    notes: list[str] = field(default_factory=list)  # what could not be measured, and why

    def labels(self, judge: str | None = None) -> Labels:
        """Mean human vote, the judge's probability and the propensity of every pair."""
        return collect_labels(self.ids, self.table, judge=judge, propensity=self.propensity)

    def of_people(self, people: tuple[str, ...]) -> "Evidence":
        """The same evidence with the human votes of these people only."""
        table = only_people(self.table, people)
        return replace(self, table=table, human=_votes(self.ids, table, "human"))


def read_evidence(
    dataset: PreferenceDataset,
    human_annotators: tuple[str, ...] | None = None,
    human_votes: int | None = None,
    seed: int = 0,
    contexts: str = "words",
    question: str = OVERALL,
) -> Evidence:
    """Everything the audit uses. Single images, and pictures that cannot be read, are left out with a note.

    `human_annotators` keeps only these people's votes, and `human_votes` only those on so many pairs, like the
    training keys of these names (so `contexts`): the audit then sees the votes that a run would use. Picture statistics
    are computed once and stored in the dataset's cache folder. People's votes are those on `question`, and so are the
    judges', but for those without any on it, whose overall votes stand in, with a note. Raises PalateError for a
    dataset without pairs of two images, people who never voted, and more pairs than have a human vote.
    """
    notes: list[str] = []
    singles = single_images(dataset)
    require_question(dataset, question)
    pairs = dataset.pairs(["pair_id", "prompt", "propensity"], question=question)
    if singles:
        pairs = pairs.filter(pc.invert(pc.is_in(pairs["pair_id"], pa.array(sorted(singles), pa.string()))))
        notes.append(f"{len(singles):,} single images are left out: there is nothing to compare them with.")
    if not len(pairs):
        raise PalateError(f"{dataset.path}: no pair of two images, so there is nothing to audit. Import pairs first.")
    ids, prompts = pairs["pair_id"].to_pylist(), pairs["prompt"].to_pylist()
    columns = ["pair_id", "annotator_id", "source", "choice", "probability", "order_shown", "score_0", "score_1"]
    votes, stand_ins = votes_on(dataset, question, columns)
    if stand_ins:
        notes.append(
            f"No votes of {', '.join(stand_ins)} on {question}: its overall votes are measured in their place."
        )
    propensity = pairs["propensity"].to_numpy()
    if human_annotators:
        votes = only_people(votes, human_annotators)
    if human_votes is not None:
        votes, propensity = _on_some(ids, votes, propensity, human_votes, seed)
    differences, statistics = _statistics(dataset, ids, notes)
    directions, _ = embedding_directions(dataset, ids)
    group = np.unique(prompts, return_inverse=True)[1]
    if len(ids) > 1 and group.max() == 0:
        group = np.arange(len(ids))
        notes.append("All pairs have one prompt: intervals cover other pairs of this prompt, not other prompts.")
    kinds = kinds_of_prompts(dataset, ids, prompts, contexts, seed)
    human, judges = _votes(ids, votes, "human"), _votes(ids, votes, "judge")
    both_orders = _in_both_orders(dataset, ids, votes)
    on = [OVERALL if name in stand_ins else question for name in judges.names]
    raw = [collect_labels(ids, votes, judge=name).judge for name in judges.names]
    told = [unsaturated(dataset, *one) for one in zip(judges.names, [ids] * len(on), raw, on, strict=True)]
    if scored := [name for name, asked in zip(judges.names, on, strict=True) if imported_scores(dataset, name, asked)]:
        notes.append(
            f"Corrections of {', '.join(scored)} use the scores that came with the votes, calibrated on people's votes;"
            " as it is, each counts by its probability, or by its choice where it gives none."
        )
    fitted = np.column_stack(told) if told else np.empty((len(ids), 0))
    return Evidence(
        ids,
        prompts,
        group,
        human,
        judges,
        votes,
        propensity,
        differences,
        statistics,
        directions,
        fitted,
        both_orders,
        kinds if len(kinds.names) > 1 else None,
        extras_of(dataset, ids),
        notes,
    )


def _on_some(
    ids: list[str], votes: pa.Table, propensity: np.ndarray, wanted: int, seed: int
) -> tuple[pa.Table, np.ndarray]:
    """The votes, with human votes on `wanted` pairs only, and the matching propensities [N]."""
    labelled = collect_labels(ids, votes).labelled
    if not 0 < wanted <= labelled.sum():
        raise PalateError(f"human_votes: {wanted} pairs were asked for, and {labelled.sum()} have a human vote.")
    share = wanted / labelled.sum()
    kept = collect_labels(ids, votes, human_fraction=share, seed=seed).labelled
    on_kept = pc.is_in(votes["pair_id"], pa.array([ids[i] for i in np.flatnonzero(kept)], pa.string()))
    return votes.filter(pc.or_(pc.not_equal(votes["source"], "human"), on_kept)), propensity * share


def _statistics(dataset: PreferenceDataset, ids: list[str], notes: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    try:
        by_pair, names = statistics_of_pairs(dataset)
    except PalateError as error:
        notes.append(f"Picture statistics cannot be kept: {error}")
        by_pair, names = {}, ()
    lacking = sum(pair_id not in by_pair for pair_id in ids)
    if lacking:
        notes.append(
            f"{lacking:,} of {len(ids):,} pairs have a picture that cannot be read; nothing is said of their looks."
        )
    nothing = np.zeros(len(names))
    return np.array([by_pair.get(pair_id, nothing) for pair_id in ids]).reshape(len(ids), len(names)), names


def _votes(ids: list[str], table: pa.Table, source: str) -> Votes:
    table = table.filter(pc.and_(pc.equal(table["source"], source), pc.not_equal(table["choice"], "skip")))
    pair = pc.index_in(table["pair_id"].combine_chunks(), value_set=pa.array(ids, pa.string()))
    table, pair = table.filter(pc.is_valid(pair)), pair.drop_null().to_numpy()
    names, annotator = np.unique(
        np.array(table["annotator_id"].to_pylist(), dtype=object).astype(str), return_inverse=True
    )
    value = np.array([{"0": 1.0, "1": 0.0, "tie": 0.5}[choice] for choice in table["choice"].to_pylist()])
    side = np.array([{"01": 1.0, "10": -1.0}.get(order, 0.0) for order in table["order_shown"].to_pylist()])
    return Votes(pair, annotator, value, side, tuple(names.tolist()))


def _in_both_orders(dataset: PreferenceDataset, ids: list[str], votes: pa.Table) -> dict[str, np.ndarray]:
    """For each judge that saw every pair in both orders, rows [K, 3]: position of the pair, and the probability of the
    image shown first when that was image 0, and when it was image 1.

    `palate annotate` stores these two as raw scores, and the provenance says that they are not scores of pictures.
    """
    sources = [entry for entry in dataset.provenance if isinstance(entry, dict) and "annotator" in entry]
    names = {entry["annotator"] for entry in sources if entry.get("answers") == "probabilities"}
    position, found = {pair_id: i for i, pair_id in enumerate(ids)}, {}
    for name in names:
        own = votes.filter(pc.and_(pc.equal(votes["source"], "judge"), pc.equal(votes["annotator_id"], name)))
        rows = zip(*(own[column].to_pylist() for column in ("pair_id", "score_0", "score_1")), strict=True)
        known = [(position[i], a, b) for i, a, b in rows if i in position and None not in (a, b)]
        if known and all(0 <= score <= 1 for row in known for score in row[1:]):
            found[name] = np.array(known, dtype=np.float64)
    return found
