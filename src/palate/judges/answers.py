"""What judges answered, kept by content: a second run costs nothing, an interrupted one goes on, whatever the pairs' ids."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from palate.data.schema import content_id
from palate.errors import PalateError
from palate.judges.base import Answer


class NotKept(PalateError):
    """Answers cannot be kept: what was said so far is in memory alone."""


class AnswerStore:
    """The file judges/answers.sqlite of a dataset. A context manager; every `put` is one durable transaction.

    Raises NotKept where the file cannot be read or written, or is gone.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __enter__(self) -> "AnswerStore":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=60)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS answers (judge TEXT, content TEXT, answer TEXT, PRIMARY KEY (judge, content)) "
                "WITHOUT ROWID"
            )
            self._database.execute("PRAGMA user_version = 1")  # a write: fails now, not after a batch is paid for
            self._inode = self.path.stat().st_ino
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def get(self, judge: str, content: str) -> Answer | None:
        """The answer of this judge on this content; None where there is none, or only a failure (worth another try)."""
        try:
            row = self._database.execute(
                "SELECT answer FROM answers WHERE judge = ? AND content = ?", (judge, content)
            ).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        answer = Answer(**json.loads(row[0])) if row else None
        return answer if answer and answer.failure is None else None

    def put(self, judge: str, answers: Mapping[str, Answer]) -> None:
        """Keep answers by content; all of them or, where that fails, none."""
        rows = [(judge, content, json.dumps(asdict(answer))) for content, answer in answers.items()]
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)
            gone = self.path.stat().st_ino != self._inode  # SQLite goes on writing into a file that was deleted
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error
        if gone:
            raise self._unusable("another file stands there now")

    def _unusable(self, why: Exception | str) -> NotKept:
        why = why.strerror.lower() if isinstance(why, OSError) else why
        return NotKept(
            f"{self.path}: the answers of judges cannot be kept ({why}). Make the file and its folder writable, or move "
            "a damaged file away; the same command goes on from the votes that are in the dataset."
        )


def judge_key(name: str, version: str, settings: Mapping[str, Any]) -> str:
    """A name for a judge as it is: any change of its version or settings gives another one."""
    return content_id("judge", name, version, json.dumps(settings, sort_keys=True, default=str))


def pair_content(prompt: str, images: Iterable[bytes]) -> str:
    """A name for what a judge is shown: prompt, image 0, image 1."""
    return content_id("pair", prompt, *images)
