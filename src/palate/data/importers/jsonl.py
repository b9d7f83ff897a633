"""JSON lines: one pair or one single image, and at most one vote, per line."""

import json
import math
import os
from collections.abc import Iterator, Mapping
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
    path_inside,
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
    "order_shown", "seconds", "instruction_version", "created_at", "question",
)  # fmt: skip
ADDRESS = "://"
NOT_OF_SINGLE = ("image_0", "image_1", "generator_1", "choice", "label_0", "label_1", "score_1", "order_shown")


def read(source: Path, report: ImportReport, how: Reading) -> Iterator[Row]:
    """The pairs of one file with `prompt` (or `caption`) and `image_0`, `image_1` (paths relative to the file).

    `choice` (or `label`) is the preferred image, 0 or 1, or "tie" (or 0.5), or "skip"; or `label_0` and `label_1` as in
    Pick-a-Pic. A line without any of them is a pair without a vote; lines with the same prompt and images are votes on
    one pair. Every other field of the two tables may be given too. A line that says two different choices is refused.

    A judge's line with `score_0` and `score_1` needs no choice and no probability: the higher score wins.

    Pictures may be elsewhere: where neither of the two files is there, or both are addresses, the pair keeps their
    names, as those of ranked lists do, and the files may be put there later. They may be nowhere: a line without
    `image_0` and `image_1` is a pair of which only the votes are known; it has a `pair_id`, or two generators that tell
    it from other pairs of its prompt, and with the `pair_id` of a pair that is there it is a vote on that one.

    A line with `image` in place of the two is a single image, with `label` true or 1 (liked), false or 0 (disliked),
    "tie" (or 0.5) or "skip".
    """
    build = partial(_build, source.parent, how.allow_outside, {}, how.source)
    yield from build_rows(line_records(source), build, report)


def _build(
    folder: Path, outside: bool, own_ids: dict[str, str], source: str, where: str, done: float, line: str | PalateError
) -> Iterator[Row]:
    content = parse_line(line)
    prompt = prompt_of(content, "prompt", "caption")
    if content.get("image") is not None:
        yield _build_single(folder, outside, own_ids, where, done, content, prompt)
        return
    pair: dict[str, Any] = {"prompt": prompt, "image_0": None, "image_1": None}
    pair |= {name: content[name] for name in PAIR_FIELDS if content.get(name) is not None}
    given = [content.get(name) for name in ("image_0", "image_1")]
    paths = [path for value in given if (path := _path(value))]
    by_path: list[tuple[str, ...]] = []
    if len(paths) == 2:
        by_path = [("elsewhere", prompt, *paths), ("elsewhere", prompt, *reversed(paths))]
    ids: list[tuple[str, ...]]
    if given == [None, None]:
        names = _unseen(content)
        ids = [("unseen", prompt, *names), ("unseen", prompt, *reversed(names))]
    elif by_path and all(_is_elsewhere(path, folder, outside) for path in paths):
        images = [path if ADDRESS in path else str(folder.resolve() / path) for path in paths]
        pair |= {f"image_{k}": {"bytes": None, "path": path} for k, path in enumerate(images)}
        ids = by_path
    else:
        embedded = [embedded_image(value, folder, f"image_{k}", outside) for k, value in enumerate(given)]
        pair |= {f"image_{k}": image for k, image in enumerate(embedded)}
        keys = [content_id(image["bytes"]) for image in embedded]
        ids = [(prompt, *keys), (prompt, *reversed(keys)), *by_path]  # by path: imported before the files were there
    mine, *others = (content_id(*parts) for parts in ids)
    # a line without pictures may be a vote on a pair of this name that another line shows
    pair["pair_id"] = _own_id(content, mine, {} if given == [None, None] else own_ids)
    named = content.get("pair_id") is not None
    other_ids = {} if named else {other: k % 2 == 0 for k, other in enumerate(others)}
    other_ids.pop(mine, None)  # one picture twice
    yield Row(
        where, done, pair, _votes(content, _choice(content) or _by_scores(content, source)), other_ids, named=named
    )


def _path(value: Any) -> str | None:
    """The name of the file that an image is given by; None for encoded bytes, and for what is no image."""
    if isinstance(value, Mapping) and not value.get("bytes"):
        value = value.get("path")
    return value if isinstance(value, str) and value else None


def _is_elsewhere(path: str, folder: Path, outside: bool) -> bool:
    """Whether this is an address, or the name of a file that does not exist; refuses one that leaves the folder."""
    return ADDRESS in path or not os.path.lexists(path_inside(path, folder, "image", outside))


def _unseen(content: dict[str, Any]) -> list[str]:
    """What tells a pair without pictures from others of its prompt: its generators, or the pair_id that it is given."""
    made = [content.get(f"generator_{k}") for k in "01"]
    if content.get("pair_id") is None and (None in made or made[0] == made[1]):
        raise Refused(
            "image missing",
            "image_0 and image_1 are missing, and nothing else tells this pair from others of its prompt; give their"
            " names, a pair_id, or two different generators",
        )
    return [json.dumps(one, sort_keys=True) if isinstance(one, Mapping) else str(one) for one in made]


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


def _by_scores(content: dict[str, Any], source: str) -> str | None:
    """The choice of a judge's line that has the scores of both images and says nothing else: the higher one wins."""
    scores: list[Any] = [content.get("score_0"), content.get("score_1")]
    if content.get("source", source) != "judge" or None in scores or content.get("probability") is not None:
        return None
    try:
        difference = float(scores[0]) - float(scores[1])
    except (TypeError, ValueError, OverflowError) as error:
        raise Refused("field of the wrong form", f"scores {quoted(scores[0])} and {quoted(scores[1])}") from error
    if not math.isfinite(difference):
        raise Refused("field of the wrong form", f"scores {quoted(scores[0])} and {quoted(scores[1])}")
    return "0" if difference > 0 else "1" if difference < 0 else "tie"


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
