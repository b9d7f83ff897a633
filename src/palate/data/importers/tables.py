"""Rows of tables from elsewhere: parquet, Arrow, folders of `datasets.save_to_disk`, and datasets on the hub."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from palate.data.importers.common import Reading, Record
from palate.data.shards import open_parquet
from palate.errors import PalateError
from palate.reading import inside, open_plain, parse_json, read_text, shown

HUB = "hf:"
ROWS_AT_ONCE = 16
BYTES_AT_ONCE = 64 * 2**20


@dataclass(frozen=True)
class Table:
    """A table that is not read yet: its columns, and what yields (number from 0, share read, row) of some of them."""

    columns: list[str]
    rows: Callable[[list[str]], Iterator[tuple[int, float, Mapping[str, Any]]]]


def is_hub(source: Path | str) -> bool:
    """Whether the source is a dataset by its name on the hub."""
    return str(source).startswith(HUB)


def folder_of(source: Path) -> Path:
    """The folder that relative paths in the rows of `source` are taken from."""
    return source if source.is_dir() else source.parent


def open_table(source: Path, how: Reading) -> Table:
    """The table at `source`. Raises PalateError for what is none, and where a split has to be named."""
    if is_hub(source):
        return _hub(str(source)[len(HUB) :], how)
    if source.is_dir():
        return _saved(source, how)
    with open_plain(source) as file:
        head = file.read(8)
    if source.suffix.lower() == ".arrow" or head.startswith(b"ARROW1"):
        return _arrow([source], source)
    return _parquet(source)


def table_records(
    source: Path, how: Reading, required: Iterable[str], optional: Iterable[str] = ()
) -> Iterator[Record]:
    """Rows of a table as dicts, a few at a time, counted from 0. Raises PalateError for a missing column."""
    table = open_table(source, how)
    missing = [name for name in required if name not in table.columns]
    if missing:
        raise PalateError(f"{source}: no column {', '.join(missing)}. Check the format given to `palate import`.")
    columns = [name for name in (*required, *optional) if name in table.columns]
    for number, done, row in table.rows(columns):
        yield f"{source} row {number}", done, row


def _parquet(source: Path) -> Table:
    def rows(columns: list[str]) -> Iterator[tuple[int, float, Mapping[str, Any]]]:
        with open_parquet(source) as file:
            about, number = file.metadata, 0
            for group in range(about.num_row_groups):
                told = about.row_group(group)
                size = max(told.total_byte_size, 1) / max(told.num_rows, 1)  # bytes per row when unpacked
                at_once = max(1, min(ROWS_AT_ONCE, int(BYTES_AT_ONCE / size)))
                for batch in file.iter_batches(batch_size=at_once, row_groups=[group], columns=columns):
                    for row in _dicts(batch):
                        number += 1
                        yield number - 1, number / max(about.num_rows, 1), row

    with open_parquet(source) as file:
        return Table(file.schema_arrow.names, rows)


def _arrow(files: list[Path], source: Path) -> Table:
    """Arrow files, as a stream (datasets writes these) or with a footer, one after another."""

    def rows(columns: list[str]) -> Iterator[tuple[int, float, Mapping[str, Any]]]:
        number = 0
        for position, file in enumerate(files):
            for batch in _batches(file):
                wanted = batch.select([name for name in columns if name in batch.schema.names])
                for start in range(0, len(wanted), ROWS_AT_ONCE):
                    for row in _dicts(wanted.slice(start, ROWS_AT_ONCE)):
                        number += 1
                        yield number - 1, (position + 1) / len(files), row

    if not files:
        raise PalateError(f"{source}: no Arrow files in it. Save the dataset again.")
    return Table(_schema(files[0]).names, rows)


def _schema(file: Path) -> pa.Schema:
    with _told(file), open_plain(file), pa.memory_map(str(file)) as mapped:
        return _reader(mapped).schema


def _batches(file: Path) -> Iterator[pa.RecordBatch]:
    with _told(file), open_plain(file), pa.memory_map(str(file)) as mapped:
        reader = _reader(mapped)
        streamed = not hasattr(reader, "num_record_batches")
        for batch in reader if streamed else map(reader.get_batch, range(reader.num_record_batches)):
            batch.validate(full=True)  # memory is read as the file says it lies: what it says is checked first
            yield batch


def _reader(mapped: pa.NativeFile) -> Any:
    footer = mapped.read(6) == b"ARROW1"
    mapped.seek(0)
    return pa.ipc.open_file(mapped) if footer else pa.ipc.open_stream(mapped)


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """What Arrow raises on a damaged file, as one line."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise PalateError(
            f"{file}: not a complete Arrow file (truncated or damaged). Replace it by a good copy."
        ) from error


def _saved(folder: Path, how: Reading) -> Table:
    """A folder of `datasets.save_to_disk`: of one split, or of several in folders of their own."""
    if (folder / "dataset_dict.json").is_file():
        splits = _list(_json(folder / "dataset_dict.json").get("splits"))
        return _saved(inside(folder, _split([str(split) for split in splits], how, folder)), Reading())
    if not (folder / "state.json").is_file():
        raise PalateError(
            f"{folder}: a folder, but not one of datasets.save_to_disk (no state.json). Name its files one by one."
        )
    files = _list(_json(folder / "state.json").get("_data_files"))
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in files]
    return _arrow([inside(folder, name) for name in names], folder)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _json(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_text(file))
    except ValueError as error:
        raise PalateError(f"{file}: not JSON ({error}). Save the dataset again.") from error
    if not isinstance(content, dict):
        raise PalateError(f"{file}: not the description of a dataset. Save the dataset again.")
    return content


def _split(there: list[str], how: Reading, source: Path | str) -> str:
    if how.split in there:
        return str(how.split)
    if how.split is None and len(there) == 1:
        return there[0]
    asked = "it has several splits" if how.split is None else f"no split {how.split!r}"
    raise PalateError(f"{source}: {asked}. There are: {', '.join(there) or 'none'}. Name one with --split.")


def _hub(name: str, how: Reading) -> Table:
    """A dataset by name (owner/name, with @revision where one is wanted) or folder, streamed through `datasets`."""
    try:
        import datasets
    except ImportError as error:
        raise PalateError(f"{HUB}{name}: needs the library datasets. Install it: pip install 'palate[hub]'.") from error
    address, _, revision = name.partition("@")
    try:
        found = datasets.load_dataset(
            address, how.config, split=how.split, streaming=True, **({"revision": revision} if revision else {})
        )
        if isinstance(found, dict):
            found = found[_split([str(split) for split in found], how, f"{HUB}{name}")]
        found = found.decode(False)  # pictures as they are stored
        columns = list(found.column_names or next(iter(found), {}))
    except PalateError:
        raise
    except Exception as error:  # of the network, the hub, and readers of every format
        raise PalateError(
            f"{HUB}{name}: cannot be read ({shown(error)}). Check the name, --config and --split."
        ) from error

    def rows(columns: list[str]) -> Iterator[tuple[int, float, Mapping[str, Any]]]:
        try:
            for number, row in enumerate(found.select_columns(columns)):
                yield number, 0.0, row
        except Exception as error:
            raise PalateError(f"{HUB}{name}: reading stopped ({shown(error)}). Run it again.") from error

    return Table(columns, rows)


def _dicts(batch: pa.RecordBatch) -> Iterator[Mapping[str, Any]]:
    """Rows as dicts, one at a time where a value of one cannot be a Python object; that row then holds the error."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError, UnicodeError):  # a time out of range, text that is none
        for row in range(len(batch)):
            yield _Lazy(batch, row)


class _Lazy(Mapping[str, Any]):
    """A row whose values are made when they are asked for, so that a bad one ends only its own row."""

    def __init__(self, batch: pa.RecordBatch, row: int):
        self.batch, self.row = batch, row

    def __getitem__(self, name: str) -> Any:
        if name not in self.batch.schema.names:
            raise KeyError(name)
        return self.batch.column(name)[self.row].as_py()

    def __iter__(self) -> Iterator[str]:
        return iter(self.batch.schema.names)

    def __len__(self) -> int:
        return int(self.batch.num_columns)
