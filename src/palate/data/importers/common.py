"""What the importers share: the row they yield, the report they fill, and how they read tables, lines and images."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palate.data.schema import content_id
from palate.data.shards import open_parquet
from palate.errors import PalateError

MESSAGES_KEPT = 5


@dataclass
class Row:
    """One pair of a source with the votes on it; `done` is the share of the source that has been read."""

    where: str  # file and row, for messages
    done: float
    pair: dict[str, Any]
    votes: list[dict[str, Any]]  # pair_id is filled when the vote is written
    mirror_id: str | None = None  # the pair_id that the same two images have in the other order


@dataclass
class ImportReport:
    """Counts of one import. Every row that was read is in `pairs_added`, `pairs_known` or `skipped`.

    Single images count as pairs there, and once more in `single_images`.
    Of ranked lists `read` counts the lists, each of which gives several pairs; `skipped` counts lists, pairs whose
    image does not decode, and rankings of single annotators.
    """

    read: int = 0
    pairs_added: int = 0
    pairs_known: int = 0  # in the dataset already, or named again by a later row
    single_images: int = 0  # of the pairs added
    without_vote: int = 0
    without_images: int = 0
    votes_added: int = 0
    votes_known: int = 0
    ties: int = 0
    skips: int = 0
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> rows
    messages: list[str] = field(default_factory=list)  # the first few refusals, with file and row
    notes: list[str] = field(default_factory=list)
    broken_sources: list[str] = field(default_factory=list)

    def refuse(self, where: str, reason: str, detail: str = "") -> None:
        """Count a row that is not imported, and keep the first few as a line each."""
        self.skipped[reason] += 1
        if len(self.messages) < MESSAGES_KEPT:
            self.messages.append(f"{where}: {detail or reason}.")


class Refused(Exception):
    """A row that is left out: `reason` is counted, `detail` is shown. Never leaves the importers."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason, self.detail = reason, detail


Record = tuple[str, float, Any]  # where, share of the source read, content


def build_rows(
    records: Iterable[Record], build: Callable[[str, float, Any], Iterable[Row]], report: ImportReport
) -> Iterator[Row]:
    """The rows that `build` makes of each record; a record that it refuses is counted and left out."""
    for where, done, content in records:
        report.read += 1
        try:
            yield from build(where, done, content)
        except Refused as refusal:
            report.refuse(where, refusal.reason, refusal.detail)


def parquet_records(source: Path, required: Iterable[str], optional: Iterable[str] = ()) -> Iterator[Record]:
    """Rows of a parquet file as dicts, a few at a time, counted from 0. Raises PalateError for a missing column."""
    with open_parquet(source) as file:
        names = file.schema_arrow.names
        missing = [name for name in required if name not in names]
        if missing:
            raise PalateError(f"{source}: no column {', '.join(missing)}. Check the format given to `palate import`.")
        columns = [name for name in (*required, *optional) if name in names]
        number, total = 0, max(file.metadata.num_rows, 1)
        for batch in file.iter_batches(batch_size=16, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{source} row {number - 1}", number / total, row


def line_records(source: Path) -> Iterator[Record]:
    """Lines of a JSONL file that are not blank, counted from 1, as text for `parse_line`."""
    size, read = max(source.stat().st_size, 1), 0
    with open(source, "rb") as handle:
        for number, line in enumerate(handle, start=1):
            read += len(line)
            if line.strip():
                yield f"{source} line {number}", read / size, line


def parse_line(line: bytes) -> dict[str, Any]:
    """A JSON object from one line; refuses the row otherwise."""
    try:
        content = json.loads(line)
    except ValueError as error:
        raise Refused("not JSON", f"not JSON ({error})") from error
    if not isinstance(content, dict):
        raise Refused("not a JSON object")
    return content


def prompt_of(content: Mapping[str, Any], *names: str) -> str:
    """The first non-blank text under one of `names`; refuses the row otherwise."""
    for name in names:
        value = content.get(name)
        if isinstance(value, str) and value.strip():
            return value
    raise Refused("no prompt", f"no prompt ({' or '.join(names)} is missing or blank)")


def embedded_image(value: Any, folder: Path, name: str) -> dict[str, Any]:
    """The encoded bytes of an image given as bytes, as {"bytes", "path"} or as a path in `folder`, as they are."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bytes):
        value = {"bytes": value}
    elif isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, Mapping) or not (value.get("bytes") or value.get("path")):
        raise Refused("image missing", f"{name} is missing")
    if value.get("bytes"):
        return {"bytes": value["bytes"], "path": None}
    try:
        return {"bytes": Path(folder, value["path"]).read_bytes(), "path": None}
    except (OSError, ValueError) as error:
        raise Refused("image missing", f"{name} is missing: no readable file {value['path']!r} in {folder}") from error


def shuffled_pair(prompt: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """A pair of two images whose order means something (winner first, rank), stored in an order that means nothing.

    The order follows from the pair_id, and the pair_id from the prompt and the contents, whichever is called first; so
    a model cannot learn that image 0 is the better one. Returns the pair, and whether `first` became image 1.
    """
    keys = [content_id(image.get("bytes") or image["path"]) for image in (first, second)]
    pair_id = content_id(prompt, *sorted(keys))
    swapped = (keys[0] > keys[1]) ^ bool(int(pair_id[-1], 16) & 1)
    image_0, image_1 = (second, first) if swapped else (first, second)
    return {"pair_id": pair_id, "prompt": prompt, "image_0": dict(image_0), "image_1": dict(image_1)}, swapped


def single_image(prompt: str, image: Mapping[str, Any]) -> dict[str, Any]:
    """A single image as a row of the pairs, under an id made of the prompt and its content."""
    pair_id = content_id(prompt, content_id(image.get("bytes") or image["path"]))
    return {"pair_id": pair_id, "prompt": prompt, "image_0": dict(image), "image_1": None}


def choice_of_label(label: Any) -> str | None:
    """The choice on a single image, '0' (liked) or '1' (disliked), of its label; None where there is no label.

    A label is true or 1 for liked, false or 0 for disliked, "tie" or 0.5, or "skip"; the row is refused otherwise. So
    that label 1 never meets choice 1, a single image has no field `choice`.
    """
    if label is None:
        return None
    if isinstance(label, bool | int | float) and label in (0, 0.5, 1):
        return {1: "0", 0: "1", 0.5: "tie"}[label]
    if label in ("tie", "skip"):
        return str(label)
    raise Refused("label outside the set", f"label {label!r} of a single image is none of true, false, tie, skip")
