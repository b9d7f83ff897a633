"""Simulated people who label: they take pairs from the live store and vote as the page does."""

import uuid
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import sqlalchemy as sa

from palate.arrays import Bools
from palate.data.dataset import PreferenceDataset
from palate.data.queue import open_views
from palate.data.store import progress, record_vote, settings_of
from palate.demos.dataset import measure_pairs
from palate.demos.emoji_dataset import measure_emoji_pairs
from palate.errors import PalateError, did_you_mean
from palate.world.emoji_pictures import GROUP_OF
from palate.world.emoji_voters import EMOJI_VOTERS
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

    The dataset's prompts say of which world: those of names alone are the emoji world's. Everything works as on the
    page: sides are shuffled, and shared and repeated pairs are shown; a repeated pair is judged again. Raises
    PalateError for an unknown voter, a store without a plan, or pictures of another kind.
    """
    emoji = _is_emoji(dataset)
    people = [name for name, one in (EMOJI_VOTERS if emoji else VOTERS).items() if one.source == "human"]
    if voter not in people:
        raise PalateError(f"--voter {voter}: the simulated people are {', '.join(people)}{did_you_mean(voter, people)}")
    settings = settings_of(engine)
    if settings is None:
        raise PalateError("votes simulate: nothing is being labelled here yet. Start it: `palate label DATASET`.")
    pair_ids, votes = _votes(dataset, voter, (seed, seed + 1), emoji)
    first, again = (dict(zip(pair_ids, np.where(prefers_0, "0", "1"), strict=True)) for prefers_0 in votes)
    done = 0
    while (not count or done < count) and (views := open_views(engine, voter, 1, settings)):
        view = views[0]
        likes = (again if view.slot.startswith("again ") else first)[view.pair_id]
        side = "left" if view.order_shown[0] == likes else "right"
        record_vote(engine, uuid.uuid4().hex, voter, view.number, side, None, settings)
        done += 1
    now = progress(engine)
    return Simulated(voter, done, now["answered"], now["pairs"])


def _is_emoji(dataset: PreferenceDataset) -> bool:
    return all(prompt in GROUP_OF for prompt in pc.unique(dataset.pairs(["prompt"])["prompt"]).to_pylist())


def _votes(
    dataset: PreferenceDataset, voter: str, seeds: tuple[int, int], emoji: bool
) -> tuple[list[str], list[Bools]]:
    """Pair ids [N], and for each seed whether image 0 is preferred [N]."""
    if emoji:
        shown_0, shown_1, pair_ids = measure_emoji_pairs(dataset)
        return pair_ids, [EMOJI_VOTERS[voter].vote(shown_0, shown_1, seed)[0] for seed in seeds]
    seen_0, seen_1, pair_ids = measure_pairs(dataset)
    return pair_ids, [VOTERS[voter].vote(seen_0, seen_1, seed)[0] for seed in seeds]
