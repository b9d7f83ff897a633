"""JSON lines: one pair, and at most one vote, per line."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from palate.data.importers.common import (
    ImportReport,
    Refused,
    Row,
    build_rows,
    embedded_image,
    line_records,
    parse_line,
    prompt_of,
)
from palate.data.importers.pickapic import choice_of_labels
from palate.data.schema import CHOICES, content_id

PAIR_FIELDS = ("group_id", "generator_0", "generator_1", "propensity")
VOTE_FIELDS = (
    "vote_id", "annotator_id", "source", "probability", "score_0", "score_1",
    "order_shown", "seconds", "instruction_version", "created_at",
)  # fmt: skip


def read(source: Path, report: ImportReport) -> Iterator[Row]:
    """The pairs of one file with `prompt` (or `caption`) and `image_0`, `image_1` (paths relative to the file).

    `choice` (or `label`) is the preferred image, 0 or 1, or "tie" (or 0.5), or "skip"; or `label_0` and `label_1` as in
    Pick-a-Pic. A line without any of them is a pair without a vote; lines with the same prompt and images are votes on
    one pair. Every other field of the two tables may be given too.
    """
    yield from build_rows(line_records(source), partial(_build, source.parent, {}), report)


def _build(folder: Path, own_ids: dict[str, str], where: str, done: float, line: bytes) -> Iterator[Row]:
    content = parse_line(line)
    prompt = prompt_of(content, "prompt", "caption")
    images = [embedded_image(content.get(name), folder, name) for name in ("image_0", "image_1")]
    keys = [content_id(image["bytes"]) for image in images]
    mine = content_id(prompt, *keys)
    pair = {"pair_id": mine, "prompt": prompt, "image_0": images[0], "image_1": images[1]}
    pair |= {name: content[name] for name in PAIR_FIELDS if content.get(name) is not None}
    mirror_id = content_id(prompt, *reversed(keys))
    if content.get("pair_id") is not None:
        pair["pair_id"], mirror_id = str(content["pair_id"]), None
        if own_ids.setdefault(pair["pair_id"], mine) != mine:
            detail = f"pair_id '{pair['pair_id']}' was used before for another prompt or other images"
            raise Refused("duplicate pair_id", detail)
    choice = _choice(content)
    vote = {name: content[name] for name in VOTE_FIELDS if content.get(name) is not None}
    yield Row(where, done, pair, [vote | {"choice": choice}] if choice else [], mirror_id)


def _choice(content: dict[str, Any]) -> str | None:
    if content.get("label_0") is not None or content.get("label_1") is not None:
        return choice_of_labels(content.get("label_0"), content.get("label_1"))
    value = next((content[name] for name in ("choice", "label") if content.get(name) is not None), None)
    if value is None:
        return None
    choice = "tie" if value == 0.5 else str(int(value)) if value in (0, 1) else str(value)
    if choice not in CHOICES:
        raise Refused("choice outside the set", f"choice {value!r} is none of {', '.join(CHOICES)}")
    return choice
