"""What judges answered, kept by content: a second run costs nothing, an interrupted one goes on, whatever the pairs'
ids."""

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
    """What a judge said cannot be kept: it is in memory alone."""


class AnswerStore:
    """The file judges/answers.sqlite of a dataset. A context manager; every `put` is one durable transaction.

    Raises NotKept where the file cannot be read or written, or is gone.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __enter__(self) -> "AnswerStore":
        columns = "judge TEXT, content TEXT, answer TEXT, PRIMARY KEY (judge, content)"
        self._database = connect(self.path, f"answers ({columns}) WITHOUT ROWID")
        with kept(self.path, self._database):
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA user_version = 1")  # a write: fails now, not after a batch is paid for
            self._inode = self.path.stat().st_ino
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def get(self, judge: str, content: str) -> Answer | None:
        """The answer of this judge on this content; None where there is none, or only a failure (worth another try)."""
        with kept(self.path, self._database):
            row = self._database.execute(
                "SELECT answer FROM answers WHERE judge = ? AND content = ?", (judge, content)
            ).fetchone()
        answer = Answer(**json.loads(row[0])) if row else None
        return answer if answer and answer.failure is None else None

    def put(self, judge: str, answers: Mapping[str, Answer]) -> None:
        """Keep answers by content; all of them or, where that fails, none."""
        rows = [(judge, content, json.dumps(asdict(answer))) for content, answer in answers.items()]
        with kept(self.path, self._database):
            self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)
        with kept(self.path, self._database):
            gone = self.path.stat().st_ino != self._inode  # SQLite goes on writing into a file that was deleted
        if gone:
            raise _unusable(self.path, "another file stands there now")

    def forget(self, judge: str) -> None:
        """Remove all answers of this judge."""
        with kept(self.path, self._database):
            self._database.execute("DELETE FROM answers WHERE judge = ?", (judge,))


def connect(path: Path, *tables: str) -> sqlite3.Connection:
    """The SQLite file with these tables in it, made where they are missing. Raises NotKept where it cannot be used."""
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
    """One transaction, all of it or nothing. Raises NotKept where it fails."""
    try:
        with database:
            yield
    except (sqlite3.Error, OSError) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, why: Exception | str) -> NotKept:
    why = why.strerror.lower() if isinstance(why, OSError) and why.strerror else why
    return NotKept(
        f"{path}: the answers of judges cannot be kept ({why}). Make the file and its folder writable, or move a"
        " damaged file away; the same command goes on from the votes that are in the dataset."
    )


def judge_key(name: str, version: str, settings: Mapping[str, Any]) -> str:
    """A name for a judge as it is: any change of its version or settings gives another one."""
    return content_id("judge", name, version, json.dumps(settings, sort_keys=True, default=str))


def pair_content(prompt: str, images: Iterable[bytes]) -> str:
    """A name for what a judge is shown: prompt, image 0, image 1."""
    return content_id("pair", prompt, *images)
