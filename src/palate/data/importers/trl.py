"""TRL's preference datasets (`prompt`, `chosen`, `rejected`) and unpaired preference datasets (`prompt`, `completion`,
`label`, as its KTO trainer reads them), with images where TRL has answers."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from palate.data.importers.common import (
    ImportReport,
    Reading,
    Record,
    Row,
    build_rows,
    choice_of_label,
    embedded_image,
    line_records,
    parse_line,
    prompt_of,
    shuffled_pair,
    single_image,
    text_id,
)
from palate.data.importers.tables import folder_of, open_table, table_records
from palate.errors import PalateError

PAIRED = ("prompt", "chosen", "rejected")
UNPAIRED = ("completion", "image", "label")


def read(source: Path, report: ImportReport, how: Reading) -> Iterator[Row]:
    """The pairs, or the single images, of one parquet, Arrow or JSONL file, of a folder of `save_to_disk`, or of a
    dataset on the hub.

    A row with `chosen` or `rejected` is a pair; the order of its images is drawn by its id, so that the chosen one is
    image 0 half of the time. A row without both is a single image, `completion` (or `image`), with a `label`: true for
    liked. An image is a path relative to the file, encoded bytes, {"bytes", "path"}, or a conversation of one message
    that holds one of them.
    """
    if source.suffix.lower() in (".jsonl", ".json"):
        records: Iterator[Record] = line_records(source)
    else:
        records = table_records(source, how, _columns(open_table(source, how).columns))
    yield from build_rows(records, partial(_build, folder_of(source), how.allow_outside), report)


def _build(
    folder: Path, outside: bool, where: str, done: float, content: Mapping[str, Any] | str | PalateError
) -> Iterator[Row]:
    row = content if isinstance(content, Mapping) else parse_line(content)
    prompt = prompt_of({"prompt": _content(row.get("prompt"))}, "prompt")
    if row.get("chosen") is None and row.get("rejected") is None and row.keys() & {*UNPAIRED}:
        yield _single(folder, outside, where, done, row, prompt)
        return
    images = [embedded_image(_content(row.get(name)), folder, name, outside) for name in ("chosen", "rejected")]
    pair, swapped = shuffled_pair(prompt, *images)
    yield Row(
        where, done, pair, [{"choice": "1" if swapped else "0", "question": text_id(row.get("question"), "question")}]
    )


def _single(folder: Path, outside: bool, where: str, done: float, row: Mapping[str, Any], prompt: str) -> Row:
    name = "image" if row.get("image") is not None else "completion"
    image = embedded_image(_content(row.get(name)), folder, name, outside)
    choice = choice_of_label(row.get("label"))
    vote = {"choice": choice, "question": text_id(row.get("question"), "question")}
    return Row(where, done, single_image(prompt, image), [vote] if choice else [])


def _columns(there: list[str]) -> tuple[str, ...]:
    names = set(there)
    asked = names & {"question"}
    if names & {*PAIRED[1:]} or not names & {*UNPAIRED}:
        return (*PAIRED, *asked)
    return ("prompt", "image" if "image" in names else "completion", "label", *asked)


def _content(value: Any) -> Any:
    """What a conversation of one message holds, [{"role", "content": text or [{"type", "image"}]}]; else as it is."""
    if not (isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping)):
        return value
    for name in ("content", "image", "text"):
        if value[0].get(name) is not None:
            return _content(value[0][name])
    return value
