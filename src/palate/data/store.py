"""The live vote store: a database that records which pair is shown to whom, and every vote as soon as it is given.

SQLite in the dataset's folder, or PostgreSQL by URL. When a function has returned, its changes are committed to disk.
"""

import json
import math
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from palate.addresses import number
from palate.data.database import connect, make_private, reading, writing
from palate.data.schema import CHOICES, OVERALL, content_id
from palate.errors import PalateError

MARK = "\x1f"  # in a slot: the name of a question follows
ANSWERS = ("left", "right", "tie", "skip")
LONGEST = 3600.0  # seconds on one pair; more is a lunch break

TABLES = sa.MetaData()
META = sa.Table("palate_meta", TABLES, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text))
PLAN = sa.Table(
    "palate_plan", TABLES,
    sa.Column("pair_id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),  # drawn | left, not drawn | before: people had voted on it already
    sa.Column("propensity", sa.Float(53), nullable=False),
    sa.Column("rank", sa.Float(53), nullable=False),
    sa.Column("score", sa.Float(53)),
    sa.Column("wave", sa.Integer, nullable=False),  # which of the budgets drew it; -1: none did
    sa.Column("shared", sa.Boolean, nullable=False),  # to be shown to everyone
    sa.Index("palate_plan_rank", "kind", "rank"),
)  # fmt: skip
VIEWS = sa.Table(
    "palate_views", TABLES,
    sa.Column("rater", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("pair_id", sa.Text, nullable=False),
    sa.Column("slot", sa.Text, nullable=False),  # first | also RATER | again RATER | known RATER: nobody gets one twice
    sa.Column("order_shown", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.UniqueConstraint("pair_id", "slot"),
)  # fmt: skip
VOTES = sa.Table(
    "palate_votes", TABLES,
    sa.Column("vote_id", sa.Text, primary_key=True),
    sa.Column("rater", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("pair_id", sa.Text, nullable=False),
    sa.Column("choice", sa.Text, nullable=False),
    sa.Column("order_shown", sa.Text, nullable=False),
    sa.Column("seconds", sa.Float(53)),
    sa.Column("instruction_version", sa.Text),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("withdrawn", sa.Boolean, nullable=False),
    sa.Column("exported", sa.Boolean, nullable=False),
    sa.Index("palate_votes_pair", "pair_id"),
)  # fmt: skip
KNOWN = sa.Table(
    "palate_known", TABLES,
    sa.Column("pair_id", sa.Text, primary_key=True),
    sa.Column("answer", sa.Text, nullable=False),  # 0 | 1
    sa.Column("voters", sa.Text, nullable=False),  # JSON: who said so; they are not asked
    sa.Column("asked", sa.Boolean, nullable=False),
)  # fmt: skip
LIVE = sa.not_(VOTES.c.withdrawn)
OF_PLAN = sa.exists().where(PLAN.c.pair_id == VOTES.c.pair_id, PLAN.c.kind == "drawn")  # not on a known pair
sa.Index("palate_votes_live", VOTES.c.rater, VOTES.c.number, unique=True, sqlite_where=LIVE, postgresql_where=LIVE)


@dataclass(frozen=True)
class Settings:
    """How a store's pairs are shown; fixed when the plan is made, but for the budget, which may grow."""

    dataset: str  # which dataset the plan is about
    budgets: tuple[int, ...]  # pairs to show: as first planned, and after each extension
    select: str = "uniform"
    seed: int = 0
    repeats: float = 0.05  # share of views that are a repetition, for self-agreement
    shared: float = 0.1  # share of pairs that everyone is shown, for agreement between people
    known: float = 0.0  # share of views that are a pair with a known answer; may differ at every start
    question: str = "Which picture do you prefer for this prompt?"
    instruction_version: str = ""
    questions: dict[str, str] = field(default_factory=dict)
    """Names of questions and their wordings, each asked about every pair; empty: the overall one alone, as `question`
    words it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The questions that are asked, by name."""
        return tuple(self.questions) or (OVERALL,)

    def wording(self, question: str) -> str:
        """The sentence in which a question is asked."""
        return self.questions.get(question, self.question)

    def version(self, question: str) -> str:
        """The instruction_version of a vote on a question."""
        return content_id("question", self.questions[question])[:12] if self.questions else self.instruction_version

    def marked(self, slot: str, question: str) -> str:
        """The slot of a view that asks a question; without named questions slots are as they ever were."""
        return f"{slot}{MARK}{question}" if self.questions else slot


@dataclass(frozen=True)
class View:
    """One pair as one person is shown it: `number` counts that person's views from 0."""

    number: int
    pair_id: str
    order_shown: str  # 01: image 0 is on the left
    slot: str

    @property
    def question(self) -> str:
        """What it asks."""
        return question_of(self.slot)

    @property
    def known(self) -> bool:
        """It is a control: its pair has a known answer and is not one of the plan."""
        return self.slot.startswith("known ")


class Refused(PalateError):
    """A vote that cannot be accepted; sending it again would not help."""


def default_store(dataset: str | Path) -> str | sa.URL:
    """The URL of a dataset's live store: PALATE_STORE, or votes.sqlite in its folder, whose name may hold any
    character."""
    file = Path(dataset).absolute() / "votes.sqlite"
    return os.environ.get("PALATE_STORE") or sa.URL.create("sqlite", database=str(file))


def open_store(url: str | sa.URL) -> sa.Engine:
    """Open the store at a SQLAlchemy URL, and make its tables if they are missing.

    Raises PalateError, without the URL's password, when it cannot be reached or written.
    """
    engine = connect(url)
    make_private(engine)
    with writing(engine) as connection:
        TABLES.create_all(connection)
        connection.execute(sa.delete(META).where(META.c.key == "probe"))  # fails here for a read-only database
    return engine


def settings_of(engine: sa.Engine) -> Settings | None:
    """The settings of the plan, None before one is made."""
    with reading(engine) as connection:
        stored = connection.scalar(sa.select(META.c.value).where(META.c.key == "settings"))
    if stored is None:
        return None
    told = json.loads(stored)
    return Settings(**told | {"budgets": tuple(told["budgets"])})


def save_plan(engine: sa.Engine, settings: Settings, rows: list[dict[str, Any]]) -> None:
    """Store settings and plan, one row per pair of the population (pair_id, kind, propensity, rank, score,
    wave).

    An existing plan is replaced, but its views and votes are kept, so a larger budget adds pairs to it.
    """
    shared = [{"shared": number("shared", settings.seed, row["pair_id"]) < settings.shared} for row in rows]
    with writing(engine) as connection:
        connection.execute(sa.delete(PLAN))
        connection.execute(sa.delete(META).where(META.c.key == "settings"))
        for start in range(0, len(rows), 10_000):
            part = slice(start, start + 10_000)
            connection.execute(sa.insert(PLAN), [row | s for row, s in zip(rows[part], shared[part], strict=True)])
        connection.execute(sa.insert(META), {"key": "settings", "value": json.dumps(asdict(settings))})


def plan_rows(engine: sa.Engine) -> list[dict[str, Any]]:
    """The plan as it was saved, in the order in which pairs are shown."""
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(sa.select(PLAN).order_by(PLAN.c.rank)).mappings()]


def view_of(engine: sa.Engine, rater: str, number: int) -> View | None:
    """A view that was assigned to this person, or None."""
    with reading(engine) as connection:
        return _view(connection, rater, number)


def record_vote(
    engine: sa.Engine, vote_id: str, rater: str, number: int, answer: str, seconds: float | None, settings: Settings
) -> bool:
    """Store the answer (left, right, tie, skip) to a view; True when it is new, False when this vote was already
    stored.

    After the return it is committed. The sender makes `vote_id`, so that a vote that is sent again, because the reply
    was lost, counts once. Raises Refused for a view that was not assigned to this person or has another vote, for a
    vote_id of another vote, or an unknown answer, and Unreachable when the database fails.
    """
    if answer not in ANSWERS:
        raise Refused(f"answer {answer!r} is none of {', '.join(ANSWERS)}.")
    try:
        with writing(engine) as connection:
            view = _view(connection, rater, number)
            if view is None:
                raise Refused("this pair was not shown to you. Reload the page.")
            row = {
                "vote_id": vote_id, "rater": rater, "number": number, "pair_id": view.pair_id,
                "choice": choice_of(answer, view.order_shown), "order_shown": view.order_shown,
                "seconds": _seconds(seconds), "instruction_version": settings.version(view.question),
                "created_at": datetime.now(UTC), "withdrawn": False, "exported": False,
            }  # fmt: skip
            connection.execute(sa.insert(VOTES), row)
        return True
    except IntegrityError:
        return _already_there(engine, vote_id, rater, number, answer)


def withdraw_vote(engine: sa.Engine, vote_id: str, rater: str) -> None:
    """Take back a vote of this person; doing it twice is harmless. Raises Refused when there is no such vote, or it was
    exported."""
    mine = (VOTES.c.vote_id == vote_id) & (VOTES.c.rater == rater)
    with writing(engine) as connection:
        found = connection.execute(sa.select(VOTES.c.exported).where(mine)).first()
        if found is None:
            raise Refused("there is no such vote of yours.")
        if found.exported:
            raise Refused("this vote was exported already and stands.")
        connection.execute(sa.update(VOTES).where(mine).values(withdrawn=True))


def latest_vote(engine: sa.Engine, rater: str) -> str | None:
    """The vote_id of this person's last vote that can still be taken back, or None."""
    mine = sa.select(VOTES.c.vote_id).where(VOTES.c.rater == rater, LIVE, sa.not_(VOTES.c.exported))
    with reading(engine) as connection:
        return connection.scalar(mine.order_by(VOTES.c.number.desc()).limit(1))


def live_votes(engine: sa.Engine) -> list[dict[str, Any]]:
    """All current votes, in order of time, each with the slot of its view, the question that it answers, and the known
    answer, None without one."""
    at = (VIEWS.c.rater == VOTES.c.rater) & (VIEWS.c.number == VOTES.c.number)
    control = (KNOWN.c.pair_id == VOTES.c.pair_id) & VIEWS.c.slot.startswith("known ")
    found = sa.select(VOTES, VIEWS.c.slot, KNOWN.c.answer).join(VIEWS, at).outerjoin(KNOWN, control)
    found = found.where(LIVE).order_by(VOTES.c.created_at)
    with reading(engine) as connection:
        rows = [dict(row) for row in connection.execute(found).mappings()]
    for row in rows:
        row["question"] = question_of(row["slot"])  # SQLite drops the time zone
        row["created_at"] = row["created_at"].replace(tzinfo=row["created_at"].tzinfo or UTC)
    return rows


def repeated_choices(engine: sa.Engine, rater: str) -> list[tuple[str, str]]:
    """The two choices of each pair, and each question about it, that this person judged twice; skips left out."""
    settings = settings_of(engine) or Settings("", ())
    before, after, first = VOTES.alias(), VOTES.alias(), VIEWS.alias()
    here = (after.c.rater == VIEWS.c.rater) & (after.c.number == VIEWS.c.number)
    same = (
        (before.c.pair_id == VIEWS.c.pair_id) & (before.c.rater == VIEWS.c.rater) & (before.c.number < VIEWS.c.number)
    )
    at = (first.c.rater == before.c.rater) & (first.c.number == before.c.number)
    told: list[tuple[str, str]] = []
    for question in settings.names:
        found = sa.select(before.c.choice, after.c.choice)
        found = found.select_from(VIEWS.join(after, here).join(before, same).join(first, at))
        found = found.where(VIEWS.c.rater == rater, VIEWS.c.slot == settings.marked(f"again {rater}", question))
        if settings.questions:
            found = found.where(first.c.slot.endswith(f"{MARK}{question}", autoescape=True))
        for votes in (before, after):
            found = found.where(sa.not_(votes.c.withdrawn), votes.c.choice != "skip")
        with reading(engine) as connection:
            told += [tuple(row) for row in connection.execute(found)]
    return told


def fix_votes(engine: sa.Engine) -> list[dict[str, Any]]:
    """All current votes, for an export; from now on they cannot be taken back."""
    with writing(engine) as connection:
        connection.execute(sa.update(VOTES).where(LIVE).values(exported=True))
    return [vote for vote in live_votes(engine) if vote["exported"]]


def progress(engine: sa.Engine, rater: str | None = None) -> dict[str, int]:
    """The numbers of drawn pairs, of pairs that anybody answered, and of votes of `rater`."""
    standing = sa.select(sa.func.count(sa.distinct(VOTES.c.pair_id))).where(LIVE, OF_PLAN)
    with reading(engine) as connection:
        drawn = connection.scalar(sa.select(sa.func.count()).where(PLAN.c.kind == "drawn"))
        mine = sa.select(sa.func.count()).where(LIVE, VOTES.c.rater == rater)
        counts = {"pairs": drawn, "answered": connection.scalar(standing), "votes": connection.scalar(mine)}
        return {name: count or 0 for name, count in counts.items()}


def question_of(slot: str) -> str:
    """The question that a view in this slot asks."""
    return slot.partition(MARK)[2] or OVERALL


def choice_of(answer: str, order_shown: str) -> str:
    """The choice 0, 1, tie or skip for an answer left, right, tie or skip in this order."""
    choice = {"left": order_shown[0], "right": order_shown[1]}.get(answer, answer)
    assert choice in CHOICES
    return choice


def _view(connection: sa.Connection, rater: str, number: int) -> View | None:
    here = sa.select(VIEWS.c.number, VIEWS.c.pair_id, VIEWS.c.order_shown, VIEWS.c.slot)
    row = connection.execute(here.where(VIEWS.c.rater == rater, VIEWS.c.number == number)).first()
    return View(*row) if row else None


def _already_there(engine: sa.Engine, vote_id: str, rater: str, number: int, answer: str) -> bool:
    with reading(engine) as connection:
        same = connection.execute(sa.select(VOTES).where(VOTES.c.vote_id == vote_id)).first()
    if same is None:
        raise Refused("this pair has a vote of yours already. Reload the page.")
    if (same.rater, same.number, same.choice) != (rater, number, choice_of(answer, same.order_shown)):
        raise Refused("this vote_id was used for another vote.")
    return False


def _seconds(seconds: float | None) -> float | None:
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return None
    return min(float(seconds), LONGEST)
