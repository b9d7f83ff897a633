"""Find the problems of a dataset on disk without reading an image: one line per kind of problem and shard."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from palate.data.propensity import BY_QUESTION, FILE, PROPENSITY
from palate.data.schema import CHOICES, PAIRS, SCHEMA_VERSION, SOURCES, VOTES
from palate.data.shards import open_shard, shard_paths
from palate.errors import PalateError


def find_problems(dataset: Path) -> list[str]:
    """Every problem of the dataset in folder `dataset`, as lines with file, first row (from 0) and remedy."""
    problems = _about_problems(dataset / "dataset.json")
    pair_ids: dict[str, str] = {}
    for path in shard_paths(dataset / "pairs"):
        table = _read(path, PAIRS, ["pair_id", "prompt", "propensity", "image_0.path", "image_1.path"], problems)
        if table is None:
            continue
        problems += _duplicates(path, table["pair_id"], pair_ids, "pair")
        blank = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(table["prompt"], "")), "")
        problems += _first(path, blank, "no prompt", "Import those pairs again with their prompts.")
        half = pc.and_(pc.is_null(table["image_0"]), pc.is_valid(table["image_1"]))
        problems += _first(path, half, "no image_0", "Store a single image as image_0.")
        outside = pc.or_(pc.less_equal(table["propensity"], 0.0), pc.greater(table["propensity"], 1.0))
        problems += _first(path, outside, "propensity outside (0, 1]", "It is the probability to be shown to humans.")
    vote_ids: dict[str, str] = {}
    known = pa.array(pair_ids, pa.string())
    if (path := dataset / FILE).exists() and (
        table := _read(path, PROPENSITY, BY_QUESTION.names, problems)
    ) is not None:
        outside = pc.invert(pc.and_(pc.greater(table["propensity"], 0.0), pc.less_equal(table["propensity"], 1.0)))
        problems += _first(path, pc.fill_null(outside, True), "propensity outside (0, 1]", "Export the votes again.")
        problems += _duplicates(path, _asked(table), {}, "pair")
    for path in shard_paths(dataset / "votes"):
        table = _read(path, VOTES, ["vote_id", "pair_id", "source", "choice", "probability"], problems)
        if table is None:
            continue
        problems += _duplicates(path, table["vote_id"], vote_ids, "vote")
        unknown = pc.invert(pc.is_in(table["pair_id"], known))
        problems += _first(path, unknown, "vote on a pair that is not here", "Restore the pair, or delete the vote.")
        for name, allowed in (("choice", CHOICES), ("source", SOURCES)):
            bad = pc.invert(pc.is_in(table[name], pa.array(allowed)))
            problems += _first(path, bad, f"{name} is none of {', '.join(allowed)}", "Write the votes again.")
        p = table["probability"]
        outside = pc.or_(pc.or_(pc.less(p, 0.0), pc.greater(p, 1.0)), pc.is_nan(p))
        problems += _first(path, outside, "probability outside [0, 1]", "Write the votes again.")
    return problems


def _about_problems(file: Path) -> list[str]:
    try:
        version = json.loads(file.read_text(encoding="utf-8"))["schema_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return [f"{file}: missing, or not the description of a dataset. Restore it, or import the data again."]
    if version != SCHEMA_VERSION:
        return [f"{file}: schema version {version} instead of {SCHEMA_VERSION}. Use the palate that wrote it."]
    return []


def _read(path: Path, schema: pa.Schema, columns: list[str], problems: list[str]) -> pa.Table | None:
    try:
        with open_shard(path, schema) as file:
            return file.read(columns=columns)
    except PalateError as error:
        problems.append(str(error))
        return None


def _duplicates(path: Path, ids: pa.ChunkedArray, seen: dict[str, str], what: str) -> list[str]:
    """One line for the ids of `path` that already occurred; adds the ids to `seen` (id -> place)."""
    again, first = 0, ""
    for row, name in enumerate(ids.to_pylist()):
        if name in seen:
            again += 1
            first = first or f"{path} row {row}: {what}_id '{name}' is also in {seen[name]}"
        else:
            seen[name] = f"{path.name} row {row}"
    more = f" ({again - 1} more in this file)" if again > 1 else ""
    return [f"{first}{more}. Delete one of the two files, or write it again without them."] if again else []


def _asked(table: pa.Table) -> pa.ChunkedArray:
    """pair_ids of the propensities, with the question where one is named: one of each is no duplicate."""
    if "question" not in table.column_names:
        return table["pair_id"]
    suffix = pc.fill_null(pc.binary_join_element_wise(" for ", table["question"], ""), "")
    return pc.binary_join_element_wise(table["pair_id"], suffix, "")


def _first(path: Path, bad: pa.ChunkedArray, what: str, remedy: str) -> list[str]:
    rows = pc.indices_nonzero(pc.fill_null(bad, False))
    if not len(rows):
        return []
    more = f" ({len(rows) - 1} more in this file)" if len(rows) > 1 else ""
    return [f"{path} row {rows[0]}: {what}{more}. {remedy}"]
