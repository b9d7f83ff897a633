"""A database by URL, SQLite or PostgreSQL: transactions that are on disk when they end, failures in one line."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from palate.errors import PalateError, first_line
from palate.foreign import one_line, without_secrets

_turn = threading.Lock()  # SQLite's one writer: threads that queue here are served sooner than those that poll its lock


class Unreachable(PalateError):
    """The database did not answer, or cannot be written; what was sent is not stored and may be sent again."""


def connect(url: str | sa.URL) -> sa.Engine:
    """The database at a SQLAlchemy URL; nothing is asked of it yet. Raises PalateError for a URL that is none."""
    try:
        parsed = sa.make_url(url)
    except SQLAlchemyError as error:
        line = "--store: not a database URL. Write sqlite:///votes.sqlite or postgresql://host/name."
        raise PalateError(line) from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        sqlite = parsed.get_backend_name() == "sqlite"
        engine = sa.create_engine(parsed, hide_parameters=True, **({} if sqlite else {"pool_pre_ping": True}))
    except (ImportError, SQLAlchemyError) as error:
        line = f"--store: no driver for {parsed.drivername}. Use SQLite, or PostgreSQL with psycopg."
        raise PalateError(line) from error
    if sqlite:
        sa.event.listen(engine, "connect", _durable_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def name_of(engine: sa.Engine) -> str:
    """Where the store is, without a password."""
    if engine.url.get_backend_name() == "sqlite":
        return engine.url.database or ":memory:"
    return engine.url.set(query={}).render_as_string()  # the query may hold one, too


def make_private(engine: sa.Engine) -> None:
    """Where the database is a file of SQLite, others of this machine may not read it (mode 0600); it is made if it is
    not there. What cannot be done is left to SQLite, which says why."""
    file = engine.url.database or ""
    if engine.url.get_backend_name() != "sqlite" or file in ("", ":memory:") or file.startswith("file:"):
        return
    with suppress(OSError):
        os.close(os.open(file, os.O_RDONLY | os.O_CREAT, 0o600))
        os.chmod(file, os.stat(file).st_mode & 0o700)


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction, committed on a clean exit. Raises Unreachable when the database fails."""
    turn = _turn if engine.dialect.name == "sqlite" else nullcontext()
    with (
        _reaching(engine),
        turn,
        engine.connect().execution_options(palate_writes=True) as connection,
        connection.begin(),
    ):
        yield connection


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction that only reads. Raises Unreachable when the database fails."""
    with _reaching(engine), engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def _reaching(engine: sa.Engine) -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, sa.exc.TimeoutError) as error:
        raise Unreachable(_why(engine, error)) from error


def _why(engine: sa.Engine, error: Exception) -> str:
    """One line without parameters, password or stack."""
    query = [
        value for values in engine.url.query.values() for value in ([values] if isinstance(values, str) else values)
    ]
    said = first_line(getattr(error, "orig", None) or error)
    said = one_line(without_secrets(said, [*query, str(engine.url.password or "")]))
    if "readonly" in said or "read-only" in said:
        return f"{name_of(engine)}: the votes' database is read-only. Change its permissions, or give another --store."
    if "unable to open" in said:
        return f"{name_of(engine)}: the votes' database cannot be opened. Check the folder and its permissions."
    if "not a database" in said:
        return f"{name_of(engine)}: not a votes' database. Move the file away, or give another --store."
    return f"{name_of(engine)}: the votes' database does not answer ({said}). Nothing was stored; try again."


def _durable_sqlite(connection: Any, _record: object) -> None:  # the driver's own connection
    connection.isolation_level = None  # transactions begin where we say so, in _begin_sqlite
    for pragma in ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("palate_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")  # a writer waits for its turn at the start
