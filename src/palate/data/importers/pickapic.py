"""Pick-a-Pic v1 and v2 (Kirstain et al. 2023, arXiv:2305.01569): parquet files with two encoded images per row."""

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
    embedded_image,
    number_of_label,
    prompt_of,
    text_id,
)
from palate.data.importers.tables import folder_of, table_records
from palate.data.schema import OVERALL, content_id
from palate.reading import quoted, shown

REQUIRED = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
OPTIONAL = (
    "has_label",
    "user_id",
    "ranking_id",
    "image_0_uid",
    "image_1_uid",
    "model_0",
    "model_1",
    "created_at",
    "question",
)


def read(source: Path, report: ImportReport, how: Reading) -> Iterator[Row]:
    """The rows of one parquet or Arrow file, of a folder of `save_to_disk`, or of a dataset on the hub.

    label_0 and label_1 are 1 for the preferred image and 0 for the other; 0.5 and 0.5 is a tie. A row whose has_label
    is false becomes a pair without a vote. Rows of several users on the same caption and images are votes on one pair,
    in whichever order each row has the images. Refused: labels that contradict one another, has_label that is neither
    true nor false, one picture under two uids of a row or two pictures under one.
    """
    yield from build_rows(
        table_records(source, how, REQUIRED, OPTIONAL), partial(_build, folder_of(source), how), report
    )


def _build(folder: Path, how: Reading, where: str, done: float, content: Mapping[str, Any]) -> Iterator[Row]:
    prompt = prompt_of(content, "caption")
    images = [embedded_image(content[f"jpg_{i}"], folder, f"jpg_{i}", how.allow_outside) for i in "01"]
    uids = [text_id(content.get(f"image_{i}_uid"), f"image_{i}_uid") for i in "01"]
    keys = [uid or content_id(image["bytes"]) for uid, image in zip(uids, images, strict=True)]
    if keys[0] == keys[1] and images[0]["bytes"] != images[1]["bytes"]:
        raise Refused("one uid for two pictures", f"image_0_uid and image_1_uid are both {quoted(keys[0])}")
    pair = {"pair_id": content_id(prompt, *keys), "prompt": prompt, "image_0": images[0], "image_1": images[1]}
    for i in "01":
        if model := text_id(content.get(f"model_{i}"), f"model_{i}"):
            pair[f"generator_{i}"] = {"model": model}
    votes = [_vote(content, content_id(*sorted([prompt, *keys])), how)] if _has_label(content.get("has_label")) else []
    yield Row(where, done, pair, votes, other_ids={content_id(prompt, *reversed(keys)): True}, named=any(uids))


def _has_label(value: Any) -> bool:
    if value is None:
        return True
    told = number_of_label(value)
    if told not in (0, 1):
        raise Refused("has_label of the wrong type", f"has_label is {quoted(value)}, neither true nor false")
    return told == 1


def _vote(content: Mapping[str, Any], pair_key: str, how: Reading) -> dict[str, Any]:
    asked = text_id(content.get("question"), "question") or how.question
    own = ["question", asked] if asked and asked != OVERALL else []
    user, ranking = (text_id(content.get(name), name) for name in ("user_id", "ranking_id"))
    return {
        "vote_id": content_id("pickapic", pair_key, user, ranking, *own) if user or ranking else None,
        "annotator_id": f"user-{user}" if user else None,
        "choice": choice_of_labels(content["label_0"], content["label_1"]),
        "created_at": content.get("created_at") or None,
        "question": asked,
    }


def choice_of_labels(label_0: Any, label_1: Any) -> str:
    """'0', '1' or 'tie' from one label per image in {0, 0.5, 1}, numbers or text, that sum to 1; refuses the row
    otherwise."""
    first, second = number_of_label(label_0), number_of_label(label_1)
    if first is None or second is None:
        kind = "text " if isinstance(label_0, str) or isinstance(label_1, str) else ""
        told = f"labels {kind}{_told(label_0)} and {_told(label_1)} are not both in {{0, 0.5, 1}}"
        raise Refused("label outside {0, 0.5, 1}", told)
    if first + second != 1:
        raise Refused("label_0 + label_1 is not 1", f"label_0 + label_1 is {first + second:g}, not 1")
    return {1: "0", 0: "1", 0.5: "tie"}[first]


def _told(label: Any) -> str:
    return quoted(label) if isinstance(label, str | bytes) else shown(label, 60)
