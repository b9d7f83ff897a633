"""Pairs with a known answer: control questions that show how reliable each person is.

Votes on them are not a sample of a population, so they never become votes of the dataset: they have their own table.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from palate.data.database import writing
from palate.data.dataset import PreferenceDataset
from palate.data.identity import single_images
from palate.data.locks import locked
from palate.data.schema import OVERALL, VOTES
from palate.data.shards import open_shard, write_table
from palate.data.store import KNOWN, PLAN

FILE = "known.parquet"
KNOWN_VOTES = pa.schema(
    [VOTES.field(name) for name in ("vote_id", "pair_id", "annotator_id", "choice")]
    + [pa.field("answer", pa.string(), nullable=False)]
    + [VOTES.field(name) for name in ("order_shown", "seconds", "instruction_version", "created_at")]
)


@dataclass(frozen=True)
class Answer:
    """The known answer of a pair: the better image, 0 or 1, and who said so."""

    pair_id: str
    answer: str
    voters: tuple[str, ...]


def known_answers(dataset: PreferenceDataset, people: int = 1, question: str = OVERALL) -> list[Answer]:
    """The pairs of two images on which at least `people` people answered a question, all of them with the same image;
    skips left out."""
    votes = dataset.votes(["pair_id", "annotator_id", "source", "choice"], question=question)
    votes = votes.filter(pc.and_(pc.equal(votes["source"], "human"), pc.not_equal(votes["choice"], "skip")))
    said: dict[str, set[str]] = defaultdict(set)
    by: dict[str, set[str]] = defaultdict(set)
    for vote in votes.to_pylist():
        said[vote["pair_id"]].add(vote["choice"])
        by[vote["pair_id"]].add(vote["annotator_id"])
    single = single_images(dataset)
    return [
        Answer(pair_id, next(iter(choices)), tuple(sorted(by[pair_id])))
        for pair_id, choices in said.items()
        if len(by[pair_id]) >= people and choices in ({"0"}, {"1"}) and pair_id not in single
    ]


def save_known(engine: sa.Engine, answers: Iterable[Answer]) -> tuple[list[str], int]:
    """Make these pairs the controls; returns their ids, and how many were left out because the plan draws from them.

    Controls of an earlier start that are not among them are not asked any more; answers to them are kept.
    """
    with writing(engine) as connection:
        planned = set(connection.scalars(sa.select(PLAN.c.pair_id).where(PLAN.c.kind != "before")))
        wanted = {answer.pair_id: answer for answer in answers}
        kept = [answer for pair_id, answer in wanted.items() if pair_id not in planned]
        rows = {row["pair_id"]: dict(row) | {"asked": False} for row in connection.execute(sa.select(KNOWN)).mappings()}
        for one in kept:
            told = {"pair_id": one.pair_id, "answer": one.answer, "voters": json.dumps(one.voters), "asked": True}
            rows[one.pair_id] = told
        connection.execute(sa.delete(KNOWN))
        if rows:
            connection.execute(sa.insert(KNOWN), list(rows.values()))
    return [one.pair_id for one in kept], len(wanted) - len(kept)


def read_known_votes(dataset: Path) -> pa.Table:
    """People's votes on pairs with a known answer: one row per vote with the right `answer`, columns KNOWN_VOTES.

    Empty where nothing was asked. An answer is right when choice equals answer; a tie is wrong, a skip neither. Raises
    PalateError when the file is damaged.
    """
    if not (file := dataset / FILE).exists():
        return KNOWN_VOTES.empty_table()
    with open_shard(file, KNOWN_VOTES) as opened:
        return opened.read(columns=KNOWN_VOTES.names)


def write_known_votes(dataset: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add votes on pairs with a known answer; a vote with an existing vote_id replaces it. Atomic."""
    with locked(dataset):
        by_id = {row["vote_id"]: row for row in read_known_votes(dataset).to_pylist()}
        by_id |= {row["vote_id"]: {name: row[name] for name in KNOWN_VOTES.names} for row in rows}
        write_table(dataset / FILE, pa.Table.from_pylist(list(by_id.values()), schema=KNOWN_VOTES))
