"""JSON lines: one pair or one single image, and at most one vote, per line."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from palate.data.importers.common import (
    ImportReport,
    Reading,
    Refused,
    Row,
    build_rows,
    choice_of_label,
    embedded_image,
    line_records,
    number_of_label,
    parse_line,
    prompt_of,
    single_image,
    text_id,
)
from palate.data.importers.pickapic import choice_of_labels
from palate.data.schema import CHOICES, content_id
from palate.errors import PalateError
from palate.reading import quoted

PAIR_FIELDS = ("group_id", "generator_0", "generator_1", "propensity")
VOTE_FIELDS = (
    "vote_id", "annotator_id", "source", "probability", "score_0", "score_1",
    "order_shown", "seconds", "instruction_version", "created_at",
)  # fmt: skip
NOT_OF_SINGLE = ("image_0", "image_1", "generator_1", "choice", "label_0", "label_1", "score_1", "order_shown")


def read(source: Path, report: ImportReport, how: Reading) -> Iterator[Row]:
    """The pairs of one file with `prompt` (or `caption`) and `image_0`, `image_1` (paths relative to the file).

    `choice` (or `label`) is the preferred image, 0 or 1, or "tie" (or 0.5), or "skip"; or `label_0` and `label_1` as in
    Pick-a-Pic. A line without any of them is a pair without a vote; lines with the same prompt and images are votes on
    one pair. Every other field of the two tables may be given too. A line that says two different choices is refused.

    A line with `image` in place of the two is a single image, with `label` true or 1 (liked), false or 0 (disliked),
    "tie" (or 0.5) or "skip".
    """
    yield from build_rows(line_records(source), partial(_build, source.parent, how.allow_outside, {}), report)


def _build(
    folder: Path, outside: bool, own_ids: dict[str, str], where: str, done: float, line: str | PalateError
) -> Iterator[Row]:
    content = parse_line(line)
    prompt = prompt_of(content, "prompt", "caption")
    if content.get("image") is not None:
        yield _build_single(folder, outside, own_ids, where, done, content, prompt)
        return
    images = [embedded_image(content.get(name), folder, name, outside) for name in ("image_0", "image_1")]
    keys = [content_id(image["bytes"]) for image in images]
    mine = content_id(prompt, *keys)
    pair = {"pair_id": mine, "prompt": prompt, "image_0": images[0], "image_1": images[1]}
    pair |= {name: content[name] for name in PAIR_FIELDS if content.get(name) is not None}
    mirror_id = content_id(prompt, *reversed(keys)) if content.get("pair_id") is None else None
    pair["pair_id"] = _own_id(content, mine, own_ids)
    yield Row(where, done, pair, _votes(content, _choice(content)), mirror_id, named=content.get("pair_id") is not None)


def _build_single(
    folder: Path, outside: bool, own_ids: dict[str, str], where: str, done: float, content: dict[str, Any], prompt: str
) -> Row:
    foreign = [name for name in NOT_OF_SINGLE if content.get(name) is not None]
    if foreign:
        raise Refused("field of a pair", f"{foreign[0]} does not belong to a single image, which has image and label")
    pair = single_image(prompt, embedded_image(content["image"], folder, "image", outside))
    pair |= {name: content[name] for name in PAIR_FIELDS if content.get(name) is not None}
    pair["pair_id"] = _own_id(content, pair["pair_id"], own_ids)
    votes = _votes(content, choice_of_label(content.get("label")))
    return Row(where, done, pair, votes, named=content.get("pair_id") is not None)


def _own_id(content: dict[str, Any], mine: str, own_ids: dict[str, str]) -> str:
    """The pair_id that the line gives, else `mine`, which is made of its content; refuses one id for two contents."""
    if content.get("pair_id") is None:
        return mine
    given = text_id(content["pair_id"], "pair_id") or ""
    if own_ids.setdefault(given, mine) != mine:
        raise Refused(
            "duplicate pair_id", f"pair_id {quoted(given)} was used before for another prompt or other images"
        )
    return given


def _votes(content: dict[str, Any], choice: str | None) -> list[dict[str, Any]]:
    vote = {name: content[name] for name in VOTE_FIELDS if content.get(name) is not None}
    return [vote | {"choice": choice}] if choice else []


def _choice(content: dict[str, Any]) -> str | None:
    """What the line says of the two images; refuses one that says two different things."""
    said = {name: _one(content[name]) for name in ("choice", "label") if content.get(name) is not None}
    if content.get("label_0") is not None or content.get("label_1") is not None:
        said["label_0 and label_1"] = choice_of_labels(content.get("label_0"), content.get("label_1"))
    if len(set(said.values())) > 1:
        told = ", ".join(f"{name} says {choice}" for name, choice in said.items())
        raise Refused("contradicting choices", f"the line contradicts itself: {told}")
    return next(iter(said.values()), None)


def _one(value: Any) -> str:
    """A choice of one field: true and false are refused, since either image could be meant."""
    text = str(value).strip().lower()[:8]
    number = None if text.isalpha() else number_of_label(value)
    choice = text if number is None else {0: "0", 1: "1", 0.5: "tie"}[number]
    if choice not in CHOICES:
        raise Refused("choice outside the set", f"choice {quoted(value)} is none of {', '.join(CHOICES)}")
    return choice
