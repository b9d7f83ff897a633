"""Who gave which vote on the pairs of a run, and how often each person is right, where a method asks."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.arrays import Bools, Floats, Ints
from palate.data.annotators import FEWEST_PEOPLE, FEWEST_SHARED, Votes, dawid_skene, shared_votes
from palate.errors import PalateError
from palate.run.config import TrainConfig


@dataclass(frozen=True)
class People:
    """P people, and the rate with which each one's vote is taken to be right where training starts."""

    names: tuple[str, ...]
    rate: Floats  # [P]


@dataclass(frozen=True)
class VotesOfPeople:
    """Each person's votes on N pairs, V at most on one: places without a vote hold -1 and NaN."""

    people: People
    voter: Ints  # [N, V] position of the person
    vote: Floats  # [N, V] 1 image 0 preferred, 0 image 1, 1/2 a tie


def votes_of_people(pairs: pa.Table, votes: pa.Table, labelled: Bools, config: TrainConfig) -> VotesOfPeople:
    """The human votes on the labelled pairs [N], and the people's rates: reliability_start, or Dawid and Skene's.

    Raises PalateError where the rates cannot be estimated from the votes.
    """
    people = pc.and_(pc.equal(votes["source"], "human"), pc.not_equal(votes["choice"], "skip"))
    votes = votes.filter(people)
    ids = pairs["pair_id"].cast(pa.string()).combine_chunks()
    found = pc.index_in(votes["pair_id"].cast(pa.string()).combine_chunks(), value_set=ids)
    votes, pair = votes.filter(pc.is_valid(found)), found.drop_null().to_numpy()
    kept = labelled[pair]
    pair = pair[kept]
    who = np.array(votes["annotator_id"].to_pylist(), dtype=object)[kept].astype(str)
    names, voter = np.unique(who, return_inverse=True)
    value = np.array([{"0": 1.0, "1": 0.0}.get(choice, 0.5) for choice in votes["choice"].to_pylist()])[kept]
    order = np.argsort(pair, kind="stable")
    start = np.searchsorted(pair[order], pair[order])
    place = np.arange(len(pair)) - start  # of a vote among those on its pair
    shape = (len(pairs), int(place.max()) + 1)
    by_pair, by_vote = np.full(shape, -1), np.full(shape, np.nan)
    by_pair[pair[order], place], by_vote[pair[order], place] = voter[order], value[order]
    rate = np.full(len(names), config.reliability_start)
    if config.reliability == "audit":
        told = Votes(pair, voter, value, np.zeros(len(pair)), tuple(names.tolist()))
        rate = _dawid_skene(told, len(pairs), config.reliability_start)
    return VotesOfPeople(People(tuple(names.tolist()), rate), by_pair, by_vote)


def _dawid_skene(votes: Votes, pairs: int, otherwise: float) -> Floats:
    """Dawid and Skene's reliability [P], `otherwise` for people with few votes on shared pairs."""
    shared, counts = shared_votes(votes, pairs)
    judged = counts >= FEWEST_SHARED
    if judged.sum() < FEWEST_PEOPLE:
        raise PalateError(
            f"reliability: audit needs {FEWEST_PEOPLE} people with {FEWEST_SHARED} votes each on pairs that others saw,"
            f" and there are {int(judged.sum())}. Use reliability: learned, or link: mixture with one rate for all."
        )
    return np.where(judged, dawid_skene(shared, pairs).reliability, otherwise)
