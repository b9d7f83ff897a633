"""Answers of judges, keyed by content and not by pair id: a second run costs nothing, an interrupted one resumes."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from palate.data.schema import content_id
from palate.errors import PalateError
from palate.judges.base import Answer


class NotKept(PalateError):
    """Answers cannot be stored and exist only in memory."""


class AnswerStore:
    """The file judges/answers.sqlite of a dataset. A context manager; every `put` is one durable transaction.

    Raises NotKept if the file cannot be read or written, or was deleted.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __enter__(self) -> "AnswerStore":
        columns = "judge TEXT, content TEXT, answer TEXT, PRIMARY KEY (judge, content)"
        self._database = connect(self.path, f"answers ({columns}) WITHOUT ROWID")
        with kept(self.path, self._database):
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA user_version = 1")  # a write: fails before a batch is paid for
            self._inode = self.path.stat().st_ino
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def get(self, judge: str, content: str) -> Answer | None:
        """This judge's answer for this content; None if there is none, or only a failure, which is worth a retry."""
        with kept(self.path, self._database):
            row = self._database.execute(
                "SELECT answer FROM answers WHERE judge = ? AND content = ?", (judge, content)
            ).fetchone()
        answer = Answer(**json.loads(row[0])) if row else None
        return answer if answer and answer.failure is None else None

    def put(self, judge: str, answers: Mapping[str, Answer]) -> None:
        """Store answers by content: all of them or, on failure, none."""
        rows = [(judge, content, json.dumps(asdict(answer))) for content, answer in answers.items()]
        with kept(self.path, self._database):
            self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)
        with kept(self.path, self._database):
            gone = self.path.stat().st_ino != self._inode  # SQLite keeps writing into a deleted file
        if gone:
            raise _unusable(self.path, "another file is there now")

    def forget(self, judge: str) -> None:
        """Remove all answers of this judge."""
        with kept(self.path, self._database):
            self._database.execute("DELETE FROM answers WHERE judge = ?", (judge,))


def connect(path: Path, *tables: str) -> sqlite3.Connection:
    """Open the SQLite file and create missing tables. Raises NotKept if it cannot be used."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=60)
        database.execute("PRAGMA synchronous = FULL")
        for table in tables:
            database.execute(f"CREATE TABLE IF NOT EXISTS {table}")
    except (sqlite3.Error, OSError) as error:
        raise _unusable(path, error) from error
    return database


@contextmanager
def kept(path: Path, database: sqlite3.Connection) -> Iterator[None]:
    """One transaction, all or nothing. Raises NotKept if it fails."""
    try:
        with database:
            yield
    except (sqlite3.Error, OSError) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, why: Exception | str) -> NotKept:
    why = why.strerror.lower() if isinstance(why, OSError) and why.strerror else why
    return NotKept(
        f"{path}: the answers of judges cannot be kept ({why}). Make the file and its folder writable, or move a"
        " damaged file away; the same command resumes from the votes in the dataset."
    )


def judge_key(name: str, version: str, settings: Mapping[str, Any]) -> str:
    """The cache key of a judge: any change of its version or settings gives another key."""
    return content_id("judge", name, version, json.dumps(settings, sort_keys=True, default=str))


def pair_content(prompt: str, images: Iterable[bytes]) -> str:
    """The cache key of what a judge is shown: prompt, image 0, image 1."""
    return content_id("pair", prompt, *images)
