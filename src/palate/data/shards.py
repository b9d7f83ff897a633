"""Parquet files of one table: list them, read them with errors that name the file, write one more atomically."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from palate.errors import PalateError
from palate.files import atomic_path
from palate.reading import open_plain

LATER = ("question",)  # columns that shards of earlier versions lack; they read as null there
ROWS_PER_GROUP = 64  # small, so that a reader of images holds few of them


def shard_paths(folder: Path) -> list[Path]:
    """The finished shards of `folder` in the order in which they were written, without leftovers of killed writes."""
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


class CountedFile(pq.ParquetFile):  # type: ignore[misc]  # pyarrow brings no types
    """A parquet file that raises ArrowInvalid when it gives other than the rows that its footer promises: the checksum
    of a page does not cover the page's header, and some versions of the reader end quietly at a damaged one."""

    def read(self, columns: list[str] | None = None, **options: Any) -> pa.Table:
        table = super().read(columns=columns, **options)
        _require_rows(len(table), self.metadata.num_rows)
        return table

    def iter_batches(
        self,
        batch_size: int = 65536,
        row_groups: list[int] | None = None,
        columns: list[str] | None = None,
        **options: Any,
    ) -> Iterator[pa.RecordBatch]:
        groups = range(self.num_row_groups) if row_groups is None else row_groups
        found = 0
        for batch in super().iter_batches(batch_size=batch_size, row_groups=row_groups, columns=columns, **options):
            found += len(batch)
            yield batch
        _require_rows(found, sum(self.metadata.row_group(group).num_rows for group in groups))


def _require_rows(found: int, promised: int) -> None:
    if found != promised:
        raise pa.ArrowInvalid(f"{found} rows of {promised}")


@contextmanager
def open_parquet(path: Path) -> Iterator[CountedFile]:
    """Open a parquet file; errors while opening or reading it become a PalateError that names the file."""
    try:
        open_plain(path).close()
        with CountedFile(path, memory_map=False, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise PalateError(
            f"{path}: not a complete parquet file (truncated or damaged). Replace it by a good copy and run again."
        ) from error


@contextmanager
def open_shard(path: Path, schema: pa.Schema) -> Iterator[CountedFile]:
    """Open a shard that must have the columns of `schema`, but for LATER; raises PalateError otherwise."""
    with open_parquet(path) as file:
        found = file.schema_arrow
        foreign = set(found.names) - set(schema.names)  # one of them may be a column whose name was damaged
        there = [f for f in schema if f.name in found.names or f.name not in LATER or foreign]
        wrong = [f.name for f in there if f.name not in found.names or found.field(f.name).type != f.type]
        if wrong:
            names = ", ".join(wrong)
            raise PalateError(f"{path}: column {names} is missing or of another type. Import the data again.")
        yield file


def count_rows(folder: Path, schema: pa.Schema) -> int:
    """Rows in all shards of `folder`, from the files' footers."""
    total = 0
    for path in shard_paths(folder):
        with open_shard(path, schema) as file:
            total += file.metadata.num_rows
    return total


def read_columns(folder: Path, schema: pa.Schema, columns: list[str]) -> pa.Table:
    """`columns` of all shards of `folder` as one table, in the order of `columns`."""
    unknown = [name for name in columns if name not in schema.names]
    if unknown:
        raise PalateError(f"{folder}: no column {unknown[0]!r}. There are: {', '.join(schema.names)}.")
    tables = [pa.schema([schema.field(name) for name in columns]).empty_table()]
    for path in shard_paths(folder):
        with open_shard(path, schema) as file:
            table = file.read(columns=columns)
            for name in columns:
                if name not in file.schema_arrow.names:  # one of LATER
                    table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
            if not set(columns) <= set(table.column_names):
                raise pa.ArrowInvalid("a column whose name is damaged")
            tables.append(table.select(columns).replace_schema_metadata())
    return pa.concat_tables(tables)


def write_shard(folder: Path, table: pa.Table, columns_without_dictionary: tuple[str, ...] = ()) -> Path:
    """Write `table` as the next shard of `folder`, atomically; returns its path.

    The name carries a random part, so that two processes that write at once never replace each other's shard.
    """
    numbers = [int(m[1]) for path in shard_paths(folder) if (m := re.match(rf"{folder.name}-(\d+)-", path.name))]
    path = folder / f"{folder.name}-{max(numbers, default=-1) + 1:05d}-{uuid.uuid4().hex[:8]}.parquet"
    plain = set(columns_without_dictionary)
    write_table(
        path,
        table,
        row_group_size=ROWS_PER_GROUP if plain else None,
        use_dictionary=[name for name in table.column_names if name not in plain],
        write_statistics=[name for name in table.column_names if name not in plain],
    )
    return path


def write_table(path: Path, table: pa.Table, **options: Any) -> None:
    """Write `table` to `path` atomically, with a checksum of every page: parquet itself notices no flipped byte."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True, **options)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A whole parquet file, or some of its columns, checksums verified; raises PalateError as `open_parquet` does."""
    with open_parquet(path) as file:
        return file.read(columns=columns)
