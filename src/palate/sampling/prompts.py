"""Prompt suites: lists of prompts read by their shape, parts of them, and the hash that goes into every result."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from os.path import exists
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from palate.addresses import number
from palate.errors import PalateError
from palate.files import short_hash
from palate.reading import open_plain, parse_json, quoted, read_text
from palate.world import EMOJI, SHIPPED

COLUMNS = ("prompt", "prompts", "caption", "text")  # names of the column of prompts, in upper or lower case
PARTS = ("category", "style", "challenge", "split", "source", "class", "tag")  # columns that name its part
_FILES = (".json", ".jsonl", ".txt", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Suite:
    """Prompts in the order of their file, each once."""

    source: str  # the file's name, with the requested part and limit
    prompts: tuple[str, ...]
    rows: int  # of the file or its part, before anything was left out
    repeated: int  # rows that repeat an earlier prompt: noise, and so picture, would be the same
    blank: int  # rows without text
    beyond_limit: int

    @property
    def hash(self) -> str:
        """A hash of the content: equal for equal prompts in equal order, wherever they come from."""
        return prompts_hash(list(self.prompts))

    def line(self) -> str:
        """One line: how many prompts were read, and how many were left out."""
        out = {"repeated": self.repeated, "blank": self.blank, "beyond the limit": self.beyond_limit}
        left_out = [f"{count:,} {why}" for why, count in out.items() if count]
        told = f" of {self.rows:,} (left out: {', '.join(left_out)})" if left_out else ""
        return f"prompts: {len(self.prompts):,}{told} from {self.source} · {self.hash}"


def load_suite(
    source: str | Path, part: str | None = None, limit: int | None = None, column: str | None = None
) -> Suite:
    """The suite in a file, in a folder of such files (each then a part), or a world's for "world" (shapes) or
    "emoji".

    Text is one prompt a line; JSON, JSONL, CSV, TSV and parquet are lists of prompts or of rows with a column prompt,
    caption or text, or the one that `column` names; a JSON object of lists has a part for each key, one of rows is a
    list of them. `part` is a category, style or challenge that a row names (in a column of that name or in its
    metadata), or rows like 2400:3200. `limit` draws that many prompts by their address, so that a larger limit contains
    a smaller one; they keep their order.

    Raises PalateError when the file is missing, of another kind, broken, or without prompts, and for a part that does
    not exist (naming those that do).
    """
    rows: list[tuple[Any, set[str]]] = (
        [*shipped_prompts(str(source))] if str(source) in SHIPPED else _read(Path(source), column)
    )
    read = [(_prompt(row, f"{source}: row {k + 1}", column), parts) for k, (row, parts) in enumerate(rows)]
    texts = [text for text, _ in (read if part is None else _part(read, part, str(source)))]
    prompts = list(dict.fromkeys(text for text in texts if text))
    blank = texts.count("")
    if not prompts:
        raise PalateError(f"{source}: no prompts in it. Give a file with one prompt a line, or a column 'prompt'.")
    if limit is not None and limit < 1:
        raise PalateError(f"limit: {limit}, but at least one prompt is needed.")
    chosen = prompts
    if limit is not None and limit < len(prompts):
        first = set(sorted(prompts, key=lambda prompt: number("suite", prompt))[:limit])
        chosen = [prompt for prompt in prompts if prompt in first]
    asked = [Path(source).name, *([f"part {part}"] if part else []), *([f"limit {limit}"] if limit else [])]
    return Suite(
        ", ".join(asked),
        tuple(chosen),
        len(texts),
        len(texts) - blank - len(prompts),
        blank,
        len(prompts) - len(chosen),
    )


def shipped_prompts(world: str) -> list[tuple[str, set[str]]]:
    """The prompts of a world that comes with palate, with the parts (groups) that each belongs to."""
    if world == EMOJI:
        from palate.world.emoji_pictures import GROUP_OF
        from palate.world.emoji_pictures import PROMPTS as names

        return [(name, {GROUP_OF[name]}) for name in names]
    from palate.world.pictures import PROMPTS

    return [(prompt, set()) for prompt in PROMPTS]


def as_suite(
    prompts: "PathLike[str] | Iterable[str] | Suite", part: str | None = None, limit: int | None = None,
    column: str | None = None,
) -> Suite:  # fmt: skip
    """The suite of one prompt, of several, or of a file, as a caller may give them.

    A text is a prompt unless it is "world" or "emoji", names a file or folder that is there, or ends like a file of
    prompts: the name of a missing file does not count as a prompt. Raises PalateError as `load_suite` does, for no
    prompts, and for a part of prompts that are not in a file.
    """
    if isinstance(prompts, PathLike) or (isinstance(prompts, str) and _names_a_file(prompts)):
        return load_suite(fspath(prompts), part, limit, column)
    if part is not None or limit is not None or column is not None:
        raise PalateError("part, limit and column are about a file of prompts, and here are the prompts themselves.")
    if isinstance(prompts, Suite):
        return prompts
    suite = listed([prompts] if isinstance(prompts, str) else prompts)
    if not suite.prompts:
        raise PalateError("no prompts are given. Give one, a list, or a file of them.")
    return suite


def _names_a_file(text: str) -> bool:
    return text in SHIPPED or text.lower().endswith(_FILES) or exists(text)


def listed(prompts: Iterable[str], source: str = "a list") -> Suite:
    """The suite of a list of prompts as they are, each once."""
    given = list(prompts)
    once = tuple(dict.fromkeys(given))
    return Suite(source, once, len(given), len(given) - len(once), 0, 0)


def load_prompts(
    source: str | Path, part: str | None = None, limit: int | None = None, column: str | None = None
) -> list[str]:
    """The prompts of `load_suite`."""
    return list(load_suite(source, part, limit, column).prompts)


def prompts_hash(prompts: list[str]) -> str:
    """A short hash of the prompts in their order."""
    return short_hash("\x1f".join(prompts), 12)


def _read(path: Path, column: str | None) -> list[tuple[Any, set[str]]]:
    """Rows (text, or a dict) with the parts that they belong to, in lower case."""
    if path.is_dir():
        files = sorted(
            file for file in path.iterdir() if file.suffix.lower() in _FILES and not file.name.startswith(".")
        )
        if not files:
            raise PalateError(f"{path}: no prompt files in this folder ({', '.join(_FILES)}).")
        return [(row, parts | {file.stem.lower()}) for file in files for row, parts in _read(file, column)]
    try:
        return [(row, parts | _parts(row)) for row, parts in _rows(path, column)]
    except OSError as error:
        raise PalateError(
            f"{path}: {error.strerror or error}. Give a file of prompts, or 'world' or 'emoji'."
        ) from error
    except (ValueError, csv.Error) as error:
        told = " ".join(str(error).split())
        raise PalateError(
            f"{path}: not a list of prompts ({told}). Use one prompt a line, or a column 'prompt'."
        ) from error


def _rows(path: Path, column: str | None) -> Iterator[tuple[Any, set[str]]]:
    kind = path.suffix.lower()
    if kind == ".parquet":  # only these columns: the others may hold pictures
        open_plain(path).close()
        there = pq.read_schema(path).names
        prompts = _column(there, str(path), column)
        parts = [name for name in there if name != prompts and name.lower() in (*PARTS, "metadata")]
        yield from (
            (row, set())
            for row in pq.read_table(path, columns=[prompts, *parts], page_checksum_verification=True).to_pylist()
        )
        return
    text = read_text(path)
    if kind == ".json":
        yield from _listed(parse_json(text))
    elif kind == ".jsonl":
        for line, row in enumerate(text.split("\n"), start=1):
            if row.strip():
                try:
                    yield parse_json(row), set()
                except ValueError as error:
                    raise ValueError(f"line {line}: {error}") from error
    elif kind in (".csv", ".tsv"):
        for cells in (table := csv.DictReader(io.StringIO(text), delimiter="\t" if kind == ".tsv" else ",")):
            if None in cells:  # cells beyond the header: most often a prompt with a comma
                raise ValueError(f"line {table.line_num} has more cells than the first; put quotes around its prompt")
            yield cells, set()
    elif kind == ".txt":
        yield from (
            (line, set()) for line in text.split("\n") if line.strip()
        )  # splitlines() splits at rarer characters, too
    else:
        raise ValueError(f"files of kind {path.suffix or 'without ending'} are not read")


def _listed(content: Any) -> Iterator[tuple[Any, set[str]]]:
    """Rows of a JSON list, of an object of lists (each key a part), or of an object of rows (each key its name)."""
    if isinstance(content, list):
        yield from ((row, set()) for row in content)
    elif isinstance(content, dict) and all(isinstance(rows, list) for rows in content.values()):
        yield from ((row, {part.lower()}) for part, rows in content.items() for row in rows)
    elif isinstance(content, dict) and all(isinstance(row, dict) for row in content.values()):
        yield from ((row, set()) for row in content.values())
    else:
        raise ValueError("neither a list, nor lists by category, nor rows by name")


def _parts(row: Any) -> set[str]:
    """The parts that a row belongs to, by columns of its own or by its metadata."""
    if not isinstance(row, dict):
        return set()
    metadata = row.get("metadata")
    more = metadata if isinstance(metadata, dict) else {}
    found = [value for name, value in [*row.items(), *more.items()] if str(name).lower() in PARTS]
    return {
        str(value).strip().lower()
        for values in found
        for value in (values if isinstance(values, list) else [values])
        if value
    }


def _part(rows: list[tuple[str, set[str]]], part: str, source: str) -> list[tuple[str, set[str]]]:
    if span := re.fullmatch(r"(\d*):(\d*)", part):
        first, last = int(span[1] or 0), int(span[2] or len(rows))
        if not first < last <= len(rows):
            raise PalateError(f"{source}: it has rows 0:{len(rows)}, and {part} is not among them.")
        return rows[first:last]
    chosen = [row for row in rows if part.strip().lower() in row[1]]
    if not chosen:
        there = Counter(name for _, names in rows for name in names).most_common(20)
        known = ", ".join(f"{name} ({count})" for name, count in there)
        told = f"there are {known}" if there else f"its rows name no parts; rows 0:{len(rows)} can be given"
        raise PalateError(f"{source}: no part {part!r} in it; {told}.")
    return chosen


def _prompt(row: Any, where: str, asked: str | None) -> str:
    if isinstance(row, dict):
        row = row[_column(list(row), where, asked)]
    if row is None:
        return ""
    if not isinstance(row, str):
        raise PalateError(f"{where}: {quoted(row)} is no prompt. Every row is a text, or has a column 'prompt'.")
    return row.strip()


def _column(there: list[str], where: str, asked: str | None) -> str:
    """The column of the prompt: the requested one, else the first of the known names, in upper or lower case."""
    wanted = COLUMNS if asked is None else (asked.lower(),)
    known = {name.lower(): name for name in reversed(there)} | ({asked: asked} if asked in there else {})
    for name in wanted if asked is None else (asked, *wanted):
        if name in known:
            return known[name]
    looked = " or ".join(COLUMNS) if asked is None else asked
    raise PalateError(f"{where}: no column {looked} among {', '.join(there) or 'none'}. Name it: --column NAME.")
