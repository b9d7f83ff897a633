"""From the live store into the dataset: votes as one more shard, propensities as a table beside the pairs."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from palate.data.dataset import PreferenceDataset
from palate.data.known import write_known_votes
from palate.data.store import fix_votes, plan_rows, settings_of
from palate.errors import PalateError
from palate.web.overview import known_right, share
from palate.web.plan import dataset_key, labelled_propensities

VOTE_FIELDS = (
    "vote_id",
    "pair_id",
    "choice",
    "order_shown",
    "seconds",
    "instruction_version",
    "created_at",
    "question",
)


@dataclass(frozen=True)
class Exported:
    """What an export did."""

    added: int  # votes that are new in the dataset
    already_there: int
    drawn: int  # pairs that were to be shown
    answered: int  # of these, pairs with a vote other than skip
    propensities: int  # pairs whose propensity was set, once for each question
    right: dict[str, dict[str, Any]]  # by person: share of right answers on control pairs, low, high, n


def export_votes(engine: sa.Engine, dataset: PreferenceDataset) -> Exported:
    """Append the store's votes to the dataset and set its pairs' propensities. A second call adds only new votes.

    Votes on pairs with a known answer go only into known.parquet: those pairs were chosen for their answer, not at
    random, so more votes on them would change their targets and propensities in a way that biases DeDPO.

    An exported vote cannot be taken back. After a kill the next export resumes: votes are identified by vote_id.

    Propensities come from `labelled_propensities`, which assumes that skips are random: if a person skips hard pairs,
    those pairs count less. Raises PalateError when the store has no plan, or that of another dataset.
    """
    settings = settings_of(engine)
    if settings is None:
        raise PalateError("votes export: this store has no votes yet. Label first: `palate label DATASET`.")
    if settings.dataset != dataset_key(dataset):
        raise PalateError(f"votes export: the store holds the votes of another dataset than {dataset.path}.")
    votes = fix_votes(engine)
    rows = [
        {name: vote[name] for name in VOTE_FIELDS} | {"annotator_id": vote["rater"], "source": "human"}
        for vote in votes
        if vote["answer"] is None
    ]
    appended = dataset.append_votes(rows)
    controls = [vote | {"annotator_id": vote["rater"]} for vote in votes if vote["answer"] is not None]
    if controls:
        write_known_votes(dataset.path, controls)
    plan = plan_rows(engine)
    drawn = {row["pair_id"] for row in plan if row["kind"] == "drawn"}
    answered: set[str] = set()
    changed = 0
    for question in settings.names:
        own = {v["pair_id"] for v in votes if v["choice"] != "skip" and v["question"] == question} & drawn
        if own:
            propensities = labelled_propensities(settings, plan, own)
            changed += dataset.set_propensities(propensities, question=question)
        answered |= own
    right = {name: told for name, outcomes in sorted(known_right(votes).items()) if (told := share(outcomes))}
    return Exported(appended.added, appended.already_there, len(drawn), len(answered), changed, right)
