"""Pick-a-Pic v1 and v2 (Kirstain et al. 2023, arXiv:2305.01569): parquet files with two encoded images per row."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from palate.data.importers.common import (
    ImportReport,
    Refused,
    Row,
    build_rows,
    embedded_image,
    parquet_records,
    prompt_of,
)
from palate.data.schema import content_id

REQUIRED = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
OPTIONAL = ("has_label", "user_id", "ranking_id", "image_0_uid", "image_1_uid", "model_0", "model_1", "created_at")


def read(source: Path, report: ImportReport) -> Iterator[Row]:
    """The rows of one parquet file.

    label_0 and label_1 are 1 for the preferred image and 0 for the other; 0.5 and 0.5 is a tie. A row whose has_label
    is false becomes a pair without a vote. Rows of several users on the same caption and images are votes on one pair,
    in whichever order each row has the images.
    """
    yield from build_rows(parquet_records(source, REQUIRED, OPTIONAL), partial(_build, source), report)


def _build(source: Path, where: str, done: float, content: Mapping[str, Any]) -> Iterator[Row]:
    prompt = prompt_of(content, "caption")
    images = [embedded_image(content[f"jpg_{i}"], source.parent, f"jpg_{i}") for i in "01"]
    keys = [content.get(f"image_{i}_uid") or content_id(image["bytes"]) for i, image in zip("01", images, strict=True)]
    pair = {"pair_id": content_id(prompt, *keys), "prompt": prompt, "image_0": images[0], "image_1": images[1]}
    for i in "01":
        if content.get(f"model_{i}"):
            pair[f"generator_{i}"] = {"model": str(content[f"model_{i}"])}
    votes = [] if content.get("has_label") is False else [_vote(content, content_id(*sorted([prompt, *keys])))]
    yield Row(where, done, pair, votes, mirror_id=content_id(prompt, *reversed(keys)))


def _vote(content: Mapping[str, Any], pair_key: str) -> dict[str, Any]:
    user, ranking = (None if content.get(name) is None else str(content[name]) for name in ("user_id", "ranking_id"))
    return {
        "vote_id": content_id("pickapic", pair_key, user, ranking) if user or ranking else None,
        "annotator_id": f"user-{user}" if user else None,
        "choice": choice_of_labels(content["label_0"], content["label_1"]),
        "created_at": content.get("created_at") or None,
    }


def choice_of_labels(label_0: Any, label_1: Any) -> str:
    """'0', '1' or 'tie' from one label per image in {0, 0.5, 1} that sum to 1; refuses the row otherwise."""
    if label_0 not in (0, 0.5, 1) or label_1 not in (0, 0.5, 1):
        raise Refused("label outside {0, 0.5, 1}", f"labels {label_0} and {label_1} are not both in {{0, 0.5, 1}}")
    if label_0 + label_1 != 1:
        raise Refused("label_0 + label_1 is not 1", f"label_0 + label_1 is {label_0 + label_1:g}, not 1")
    return {1: "0", 0: "1", 0.5: "tie"}[label_0]
