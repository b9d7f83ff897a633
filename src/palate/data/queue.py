"""Which pair each person is shown next. Assigned views are stored, so that a person gets the same ones after a reload
or a restart."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from palate.addresses import number
from palate.data.database import reading, writing
from palate.data.store import KNOWN, LIVE, OF_PLAN, PLAN, VIEWS, VOTES, Settings, View

REPEAT_GAP = 10  # views between a pair and its repetition, so that people judge it again from scratch
ABANDONED = timedelta(minutes=10)  # an unanswered pair is then offered to others


def open_views(engine: sa.Engine, rater: str, count: int, settings: Settings) -> list[View]:
    """The next `count` unanswered views of a person, oldest first; fewer, or none, when no more are left.

    An assigned view stays this person's: the same ones come back after a reload. New ones are, in this order, a pair
    with a known answer or a repetition (each for a share of the views), the next pair that nobody has or that everyone
    is shown, and a pair that somebody else was shown some time ago and did not answer.
    """
    answered = sa.exists().where(VOTES.c.rater == VIEWS.c.rater, VOTES.c.number == VIEWS.c.number, LIVE)
    asked = sa.exists().where(KNOWN.c.pair_id == VIEWS.c.pair_id, KNOWN.c.asked)
    shown = sa.or_(sa.not_(VIEWS.c.slot.startswith("known ")), asked)
    waiting = sa.select(VIEWS.c.number, VIEWS.c.pair_id, VIEWS.c.order_shown, VIEWS.c.slot)
    waiting = waiting.where(VIEWS.c.rater == rater, sa.not_(answered), shown).order_by(VIEWS.c.number).limit(count)
    with reading(engine) as connection:
        views = [View(*row) for row in connection.execute(waiting)]
    if len(views) >= count:
        return views
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":  # SQLite has one writer anyway
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x70616C617465)))
        views = [View(*row) for row in connection.execute(waiting)]
        latest = connection.scalar(sa.select(sa.func.max(VIEWS.c.number)).where(VIEWS.c.rater == rater))
        next_number = 0 if latest is None else latest + 1
        while len(views) < count and (found := _next_pair(connection, rater, next_number, settings)):
            pair_id, slot = found
            order = "01" if number("side", settings.seed, rater, pair_id, slot) < 0.5 else "10"
            for question in _in_order(settings, rater, pair_id, slot):  # all about one pair, one after another
                view = View(next_number, pair_id, order, settings.marked(slot, question))
                row = asdict(view) | {"rater": rater, "created_at": datetime.now(UTC)}
                connection.execute(sa.insert(VIEWS), row)
                views.append(view)
                next_number += 1
    return views[:count]


def _in_order(settings: Settings, rater: str, pair_id: str, slot: str) -> list[str]:
    """The questions about a pair in the order in which this person is asked them, drawn anew for every pair; about a
    pair with a known answer the first one alone, which the answer is to."""
    if slot.startswith("known "):
        return [settings.names[0]]
    return sorted(settings.names, key=lambda name: number("question", settings.seed, rater, pair_id, slot, name))


def _next_pair(connection: sa.Connection, rater: str, at: int, settings: Settings) -> tuple[str, str] | None:
    if number("known", settings.seed, rater, at) < settings.known and (pair := _control(connection, rater, settings)):
        return pair, f"known {rater}"
    repeats = number("repeat", settings.seed, rater, at) < settings.repeats
    if repeats and (pair := _to_repeat(connection, rater, at, settings)):
        return pair, f"again {rater}"
    slot = sa.case((PLAN.c.shared, f"also {rater}"), else_="first")
    # the views of all questions about a pair are assigned together, so one of them tells
    marked = sa.case((PLAN.c.shared, _one(settings, f"also {rater}")), else_=_one(settings, "first"))
    taken = sa.exists().where(VIEWS.c.pair_id == PLAN.c.pair_id, VIEWS.c.slot == marked)
    fresh = sa.select(PLAN.c.pair_id, slot).where(PLAN.c.kind == "drawn", sa.not_(taken)).order_by(PLAN.c.rank)
    if found := connection.execute(fresh.limit(1)).first():
        return tuple(found)
    voted = sa.exists().where(VOTES.c.pair_id == VIEWS.c.pair_id, LIVE)
    mine = VIEWS.alias()
    seen = sa.exists().where(mine.c.pair_id == VIEWS.c.pair_id, mine.c.rater == rater)
    left = sa.select(VIEWS.c.pair_id).where(
        VIEWS.c.slot == _one(settings, "first"),
        VIEWS.c.created_at < datetime.now(UTC) - ABANDONED,
        sa.not_(voted),
        sa.not_(seen),
    )
    pair = connection.scalar(left.order_by(VIEWS.c.created_at).limit(1))
    return (pair, f"also {rater}") if pair else None


def _one(settings: Settings, slot: str) -> str:
    """The slot as the view of the first question has it."""
    return settings.marked(slot, settings.names[0])


def _control(connection: sa.Connection, rater: str, settings: Settings) -> str | None:
    """A pair with a known answer that this person was not asked yet; everyone has their own order."""
    had = sa.exists().where(VIEWS.c.pair_id == KNOWN.c.pair_id, VIEWS.c.slot == _one(settings, f"known {rater}"))
    rows = connection.execute(sa.select(KNOWN.c.pair_id, KNOWN.c.voters).where(KNOWN.c.asked, sa.not_(had)))
    ids = [pair_id for pair_id, voters in rows if rater not in json.loads(voters)]
    return min(ids, key=lambda pair_id: number("control", settings.seed, rater, pair_id), default=None)


def _to_repeat(connection: sa.Connection, rater: str, at: int, settings: Settings) -> str | None:
    """The oldest pair that this person answered long enough ago and has not seen twice."""
    again = VIEWS.alias()
    repeated = sa.exists().where(again.c.pair_id == VOTES.c.pair_id, again.c.slot == _one(settings, f"again {rater}"))
    found = sa.select(VOTES.c.pair_id).where(
        VOTES.c.rater == rater,
        LIVE,
        OF_PLAN,
        VOTES.c.choice != "skip",
        VOTES.c.number <= at - REPEAT_GAP,
        sa.not_(repeated),
    )
    return connection.scalar(found.order_by(VOTES.c.number).limit(1))
