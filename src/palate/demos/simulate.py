"""Simulated people who label: they take pairs from the live store and answer them as the page does."""

import uuid
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from palate.data.dataset import PreferenceDataset
from palate.data.queue import open_views
from palate.data.store import progress, record_vote, settings_of
from palate.demos.dataset import measure_pairs
from palate.errors import PalateError
from palate.world.voters import VOTERS


@dataclass(frozen=True)
class Simulated:
    """What a simulated person did."""

    voter: str
    votes: int
    answered: int  # pairs with a vote, of all people, and pairs that were drawn
    drawn: int


def simulate_votes(
    engine: sa.Engine, dataset: PreferenceDataset, voter: str = "majority", count: int = 0, seed: int = 0
) -> Simulated:
    """Let a simulated person of the small world vote on `count` more pairs of the plan, or (0) until none is left.

    Everything goes as through the page: sides are shuffled, shared and repeated pairs come; a repeated one is judged
    afresh. Raises PalateError for a voter who is none, a store without a plan, or pictures that are not of the world.
    """
    people = [name for name, one in VOTERS.items() if one.source == "human"]
    if voter not in people:
        raise PalateError(f"--voter {voter}: the simulated people are {', '.join(people)}.")
    settings = settings_of(engine)
    if settings is None:
        raise PalateError("votes simulate: nothing is being labelled here yet. Start it: `palate label DATASET`.")
    shown_0, shown_1, pair_ids = measure_pairs(dataset)
    first, again = (
        dict(zip(pair_ids, np.where(VOTERS[voter].vote(shown_0, shown_1, drawn)[0], "0", "1"), strict=True))
        for drawn in (seed, seed + 1)
    )
    done = 0
    while (not count or done < count) and (views := open_views(engine, voter, 1, settings)):
        view = views[0]
        likes = (again if view.slot.startswith("again ") else first)[view.pair_id]
        side = "left" if view.order_shown[0] == likes else "right"
        record_vote(engine, uuid.uuid4().hex, voter, view.number, side, None, settings)
        done += 1
    now = progress(engine)
    return Simulated(voter, done, now["answered"], now["pairs"])
