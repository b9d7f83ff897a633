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

VOTE_FIELDS = ("vote_id", "pair_id", "choice", "order_shown", "seconds", "instruction_version", "created_at")


@dataclass(frozen=True)
class Exported:
    """What an export did."""

    added: int  # votes that are new in the dataset
    already_there: int
    drawn: int  # pairs that were to be shown
    answered: int  # of these, pairs with a vote that is no skip
    propensities: int  # pairs whose propensity was set
    right: dict[str, dict[str, Any]]  # by person: share of right answers on pairs with a known one, low, high, n


def export_votes(engine: sa.Engine, dataset: PreferenceDataset) -> Exported:
    """Append the store's votes to the dataset and set its pairs' propensities; repeated, it adds what is new.

    Votes on pairs with a known answer go into known.parquet and nowhere else: those pairs were chosen for their answer,
    and further votes on them would move their targets, and their propensity, for no reason that DeDPO allows for.

    An exported vote cannot be taken back. Killed in between, the next export goes on: votes are told apart by vote_id.

    What propensities are set to: `labelled_propensities`. This takes skips for random; a person who skips hard pairs
    makes them count less. Raises PalateError when the store has no plan, or that of another dataset.
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
    answered = {vote["pair_id"] for vote in votes if vote["choice"] != "skip"} & drawn
    changed = 0
    if answered:
        changed = dataset.set_propensities(labelled_propensities(settings, plan, answered))
    right = {name: told for name, outcomes in sorted(known_right(votes).items()) if (told := share(outcomes))}
    return Exported(appended.added, appended.already_there, len(drawn), len(answered), changed, right)
