"""Rows with `prompt`, `chosen` and `rejected`, as TRL's preference datasets have them, the last two being images."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from palate.data.importers.common import (
    ImportReport,
    Record,
    Row,
    build_rows,
    embedded_image,
    line_records,
    parquet_records,
    parse_line,
    prompt_of,
    shuffled_pair,
)


def read(source: Path, report: ImportReport) -> Iterator[Row]:
    """The pairs of one parquet file or JSONL file.

    An image is a path relative to the file, encoded bytes, or {"bytes", "path"}. The order of the two images in the
    pair is drawn by its id, so that the chosen one is image 0 half of the time.
    """
    if source.suffix.lower() in (".jsonl", ".json"):
        records: Iterator[Record] = line_records(source)
    else:
        records = parquet_records(source, ("prompt", "chosen", "rejected"))
    yield from build_rows(records, partial(_build, source.parent), report)


def _build(folder: Path, where: str, done: float, content: Mapping[str, Any] | bytes) -> Iterator[Row]:
    row = parse_line(content) if isinstance(content, bytes) else content
    prompt = prompt_of({"prompt": _text(row.get("prompt"))}, "prompt")
    images = [embedded_image(row.get(name), folder, name) for name in ("chosen", "rejected")]
    pair, swapped = shuffled_pair(prompt, *images)
    yield Row(where, done, pair, [{"choice": "1" if swapped else "0"}])


def _text(prompt: Any) -> Any:
    """The text of a prompt that is written as a conversation of one message, [{"role", "content"}]; else as it is."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], Mapping):
        return prompt[0].get("content")
    return prompt
