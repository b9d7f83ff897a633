"""A preference dataset: a folder with the tables of pairs and votes, opened, read, extended and checked."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from palate.data.checks import find_problems
from palate.data.images import bytes_of_pair, decode_image, encode_image
from palate.data.locks import locked
from palate.data.propensity import apply_propensity, read_propensity, write_propensity
from palate.data.schema import (
    DTYPES,
    IMAGE_COLUMNS,
    OVERALL,
    OVERALL_VOTES,
    PAIRS,
    SCHEMA_VERSION,
    VOTES,
    pair_row,
    vote_row,
)
from palate.data.shards import count_rows, open_shard, read_columns, shard_paths, write_shard
from palate.errors import PalateError
from palate.files import write_text
from palate.foreign import record_without_passwords
from palate.reading import read_text

__all__ = ["Appended", "PreferenceDataset", "decode_image", "encode_image", "open_dataset"]

ROWS_PER_SHARD = 1024
BYTES_PER_SHARD = 256 * 2**20
_README = """---
configs:
- config_name: pairs
  data_files: pairs/*.parquet
  default: true
- config_name: votes
  data_files: votes/*.parquet
{}---
Pairs of pictures, and votes on them, as palate keeps them. The library `datasets` reads them:
`load_dataset("this/folder")` gives the pairs, `load_dataset("this/folder", "votes")` the votes.
"""
README_BEFORE = _README.format("")  # of versions without questions
README = _README.format(  # with the columns of the votes: some shards lack the question
    "dataset_info:\n- config_name: votes\n  features:\n"
    + "".join(f"  - name: {f.name}\n    dtype: {DTYPES[f.type]}\n" for f in VOTES)
)


@dataclass(frozen=True)
class Appended:
    """The result of `append_votes`: votes written, and votes that were already there, which are not changed."""

    added: int
    already_there: int


class PreferenceDataset:
    """Pairs and votes in a folder. Made by `create` or `open`; every write adds a shard and never changes one.

    Memory does not grow with the images: they are read a batch at a time (`iter_pairs`) and written a shard at a time.
    Only ids are remembered, to refuse duplicates.
    """

    def __init__(self, path: str | Path, about: dict[str, Any]):
        """Use `create` or `open`, which check the folder."""
        self.path = Path(path)
        self._about = about
        self._ids: dict[Path, dict[str, str]] = {}  # folder of a table -> id -> shard that holds it
        self._ids_read: set[Path] = set()

    @classmethod
    def create(
        cls, path: str | Path, name: str, provenance: Mapping[str, Any] | str | None = None
    ) -> "PreferenceDataset":
        """Make an empty dataset in folder `path`. Raises PalateError when a dataset is there already."""
        path = Path(path)
        if (path / "dataset.json").exists():
            raise PalateError(f"{path}: already holds a dataset. Add to it, or choose another folder.")
        if path.exists() and not path.is_dir():
            raise PalateError(f"{path}: a file, not a folder. Choose another name for the dataset.")
        about = {"name": name, "provenance": [] if provenance is None else [record_without_passwords(provenance)]}
        dataset = cls(path, about)
        with locked(path):
            if (path / "dataset.json").exists():  # another process was faster
                raise PalateError(f"{path}: already holds a dataset. Add to it, or choose another folder.")
            dataset._write_about()
        return dataset

    @classmethod
    def open_or_create(cls, path: str | Path, name: str) -> "PreferenceDataset":
        """The dataset in folder `path`, made where there is none; safe when several processes ask for it at once."""
        with locked(Path(path)):
            return cls.open(path) if (Path(path) / "dataset.json").exists() else cls.create(path, name)

    @classmethod
    def open(cls, path: str | Path) -> "PreferenceDataset":
        """Open the dataset in folder `path`.

        Raises PalateError when there is none, or when it was written under another schema version.
        """
        file = Path(path) / "dataset.json"
        if not os.path.lexists(file):
            raise PalateError(f"{path}: no dataset here (no dataset.json). Make one with `palate import`.")
        try:
            about = json.loads(read_text(file))
            version = about["schema_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PalateError(f"{file}: not the description of a dataset. Restore it, or import again.") from error
        if version != SCHEMA_VERSION:
            raise PalateError(
                f"{file}: schema version {version}, but this palate reads version {SCHEMA_VERSION}. "
                "Use the palate that wrote it, or import the data again."
            )
        return cls(path, about)

    def __len__(self) -> int:
        """Number of pairs on disk, single images among them."""
        return count_rows(self.path / "pairs", PAIRS)

    @property
    def name(self) -> str:
        """The name given when the dataset was made."""
        return str(self._about.get("name", self.path.name))

    @property
    def provenance(self) -> list[Any]:
        """Where the pairs and votes came from, one entry per source."""
        return list(self._about.get("provenance", []))

    def pairs(self, columns: list[str] | None = None, *, question: str = OVERALL) -> pa.Table:
        """The pairs as one table [N]: `columns`, or all but the two images, which may not fit into memory.

        The propensity is that of being asked this question.
        """
        names = columns or [name for name in PAIRS.names if name not in IMAGE_COLUMNS]
        folder = self.path / "pairs"
        if "propensity" not in names:
            return read_columns(folder, PAIRS, names)
        rows = read_columns(folder, PAIRS, list(dict.fromkeys([*names, "pair_id"])))
        return apply_propensity(rows, read_propensity(self.path, question)).select(names)

    def iter_pairs(self, columns: list[str] | None = None, batch_size: int = 256) -> Iterator[pa.RecordBatch]:
        """All pairs in stored order, images included, as batches of at most `batch_size` rows, shard by shard."""
        names = columns or PAIRS.names
        known = read_propensity(self.path) if "propensity" in names else None
        needed = names if known is None else list(dict.fromkeys([*names, "pair_id"]))
        for path in shard_paths(self.path / "pairs"):
            with open_shard(path, PAIRS) as file:
                for batch in file.iter_batches(batch_size=batch_size, columns=needed):
                    yield apply_propensity(batch, known).select(names)

    def votes(self, columns: list[str] | None = None, *, question: str | None = OVERALL) -> pa.Table:
        """The votes on one question as a table [M], oldest shard first: `columns`, or all of them.

        question: what they answer, the overall preference unless another is named, because votes on different questions
        are never averaged; None gives the votes on all of them.
        """
        names = columns or VOTES.names
        rows = read_columns(self.path / "votes", VOTES, list(dict.fromkeys([*names, "question"])))
        asked = rows["question"]
        if question is not None and (question != OVERALL or asked.null_count < len(asked)):
            rows = rows.filter(pc.equal(pc.fill_null(asked, OVERALL), question))
        return rows.select(names)

    def pair_ids(self) -> Mapping[str, str]:
        """Every pair_id on disk with the name of the shard that holds it."""
        return self._known(self.path / "pairs", PAIRS, "pair_id")

    def vote_ids(self) -> Mapping[str, str]:
        """Every vote_id on disk with the name of the shard that holds it."""
        return self._known(self.path / "votes", VOTES, "vote_id")

    def add_pairs(
        self, rows: Iterable[Mapping[str, Any]], rows_per_shard: int = ROWS_PER_SHARD, skip_known: bool = False
    ) -> int:
        """Add pairs, written shard by shard while `rows` is read; returns how many were added.

        A shard is closed at `rows_per_shard` rows or 256 MB of images. A kill loses at most the unfinished shard; the
        same call with `skip_known` then adds the missing pairs. Raises PalateError at the first bad row or duplicate
        pair_id (unless `skip_known`); rows before it are kept.
        """
        known = self.pair_ids()
        added, size = 0, 0
        waiting: dict[str, dict[str, Any]] = {}
        try:
            for number, given in enumerate(rows):
                row = pair_row(given, f"pairs row {number}")
                pair_id = row["pair_id"]
                place = known.get(pair_id) or ("this call" if pair_id in waiting else None)
                if place and skip_known:
                    continue
                if place:
                    raise PalateError(
                        f"pairs row {number}: pair_id '{pair_id}' is already in {place}. Give each pair its own id; "
                        "the rows before this one were added."
                    )
                waiting[pair_id] = row
                size += bytes_of_pair(row)
                if len(waiting) >= rows_per_shard or size >= BYTES_PER_SHARD:
                    full, waiting, size = waiting, {}, 0  # emptied first: a failed write is not tried twice
                    added += self._write_pairs(full, skip_known)
        finally:
            added += self._write_pairs(waiting, skip_known)
        return added

    def append_votes(self, rows: Iterable[Mapping[str, Any]]) -> Appended:
        """Append votes as one new shard; fills vote_id and created_at where they are missing.

        A vote whose vote_id already exists is not changed, only counted, so a call can be repeated. Raises PalateError,
        and writes nothing, when a vote is malformed or is about a pair that the dataset lacks.
        """
        with locked(self.path):  # from reading the vote_ids to the write
            return self._append_votes(rows)

    def _append_votes(self, rows: Iterable[Mapping[str, Any]]) -> Appended:
        pairs = self.pair_ids()
        votes = self.vote_ids()
        numbered, batches, new, already = enumerate(rows), [], set(), 0
        while chunk := list(islice(numbered, 8192)):
            fresh = []
            for number, given in chunk:
                row = vote_row(given, f"votes row {number}")
                if row["pair_id"] not in pairs:
                    raise PalateError(
                        f"votes row {number}: pair '{row['pair_id']}' is not in {self.path}. Add the pair first."
                    )
                if row["vote_id"] in votes or row["vote_id"] in new:
                    already += 1
                    continue
                new.add(row["vote_id"])
                fresh.append(row)
            batches.append(pa.RecordBatch.from_pylist(fresh, schema=VOTES))
        if new:
            table = pa.Table.from_batches(batches, schema=VOTES)
            if table["question"].null_count == len(table):
                table = table.select(OVERALL_VOTES.names).replace_schema_metadata(OVERALL_VOTES.metadata)
            shard = write_shard(self.path / "votes", table)
            self._remember(shard, new)
            self._write_about()
        return Appended(len(new), already)

    def set_propensities(self, propensity: Mapping[str, float], *, question: str = OVERALL) -> int:
        """Set the propensity of these pairs to be asked this question, by pair_id; returns how many changed.

        It goes into a table of its own (propensity.parquet), which overrides the column of the pairs; unknown pairs are
        left out. Atomic: a reader sees all the old values or all the new ones. Raises PalateError, and writes nothing,
        for a value outside (0, 1].
        """
        for pair_id, value in propensity.items():
            if not 0 < value <= 1:
                raise PalateError(f"propensity {value} of pair '{pair_id}' is outside (0, 1].")
        with locked(self.path):
            rows = self.pairs(["pair_id", "propensity"], question=question)
            before = dict(zip(rows["pair_id"].to_pylist(), rows["propensity"].to_pylist(), strict=True))
            changed = {p: value for p, value in propensity.items() if p in before and before[p] != value}
            if changed:
                write_propensity(self.path, changed, question)
        return len(changed)

    def add_provenance(self, entry: Mapping[str, Any] | str) -> None:
        """Record where data came from; an entry that is already there is not repeated."""
        with locked(self.path):
            entry = record_without_passwords(entry)
            if entry not in self.provenance:
                self._about["provenance"] = [*self.provenance, entry]
            self._write_about()

    def problems(self) -> list[str]:
        """Everything that is wrong on disk, one line each with file and row; empty when all is well."""
        return find_problems(self.path)

    def validate(self) -> None:
        """Raise PalateError with the first problem and the number of others, if there are any."""
        if found := self.problems():
            others = f" ({len(found) - 1} more problems; PreferenceDataset.problems() lists them)" if found[1:] else ""
            raise PalateError(found[0] + others)

    def _write_pairs(self, rows: Mapping[str, Mapping[str, Any]], skip_known: bool) -> int:
        if not rows:
            return 0
        with locked(self.path):
            known = self.pair_ids()  # another process may have written in the meantime
            new = {pair_id: row for pair_id, row in rows.items() if pair_id not in known}
            if len(new) < len(rows) and not skip_known:
                again = next(pair_id for pair_id in rows if pair_id in known)
                raise PalateError(
                    f"{self.path}: pair_id '{again}' was just added by another process. Give each pair its own id."
                )
            if new:
                table = pa.Table.from_pylist(list(new.values()), schema=PAIRS)
                shard = write_shard(self.path / "pairs", table, columns_without_dictionary=IMAGE_COLUMNS)
                self._remember(shard, new)
                self._write_about()
            return len(new)

    def _known(self, folder: Path, schema: pa.Schema, column: str) -> dict[str, str]:
        for path in shard_paths(folder):  # only shards that are new since the last call are read
            if path not in self._ids_read:
                with open_shard(path, schema) as file:
                    self._remember(path, file.read(columns=[column])[column].to_pylist())
        return self._ids.setdefault(folder, {})

    def _remember(self, shard: Path, ids: Iterable[str]) -> None:
        place = f"{shard.parent.name}/{shard.name}"
        self._ids.setdefault(shard.parent, {}).update(dict.fromkeys(ids, place))
        self._ids_read.add(shard)

    def _write_about(self) -> None:
        """Write dataset.json, keeping what other processes have written into it since. The lock must be held."""
        there = _about_on_disk(self.path / "dataset.json")
        provenance = there.get("provenance", [])
        self._about |= {name: there[name] for name in ("name", "created_at") if there.get(name)}
        self._about = {
            "name": self.name,
            "schema_version": SCHEMA_VERSION,
            "counts": {
                "pairs": len(self._known(self.path / "pairs", PAIRS, "pair_id")),
                "votes": len(self._known(self.path / "votes", VOTES, "vote_id")),
            },
            "created_at": self._about.get("created_at") or datetime.now(UTC).isoformat(timespec="seconds"),
            "provenance": [*provenance, *(entry for entry in self.provenance if entry not in provenance)],
        }
        write_text(self.path / "dataset.json", json.dumps(self._about, indent=2, ensure_ascii=False) + "\n")
        about = self.path / "README.md"
        if not about.exists() or (about.stat().st_size == len(README_BEFORE) and read_text(about) == README_BEFORE):
            write_text(about, README)


def _about_on_disk(file: Path) -> dict[str, Any]:
    try:
        about = json.loads(read_text(file)) if file.exists() else {}
    except (PalateError, ValueError, RecursionError):
        return {}  # damaged since it was opened: written anew
    return about if isinstance(about, dict) else {}


def open_dataset(path: str | Path) -> PreferenceDataset:
    """Open the dataset in folder `path`; see `PreferenceDataset.open`."""
    return PreferenceDataset.open(path)
