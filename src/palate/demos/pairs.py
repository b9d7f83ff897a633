"""What the datasets of both small worlds share: the pictures of pairs, and the votes of simulated voters as rows."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from palate.arrays import Bools, Floats, Pixels
from palate.data.dataset import PreferenceDataset
from palate.data.images import decode_image
from palate.errors import PalateError


def pictures_of_pairs(dataset: PreferenceDataset, world: str) -> tuple[Pixels, Pixels, list[str], list[str]]:
    """Both pictures of every pair [N, H, W, 3], prompts [N] and ids [N], in the dataset's order. Raises PalateError for
    pictures of several sizes, which are not of this `world`."""
    images: list[list[Pixels]] = [[], []]
    prompts, pair_ids = [], []
    for batch in dataset.iter_pairs(columns=["pair_id", "prompt", "image_0", "image_1"]):
        for row in batch.to_pylist():
            pair_ids.append(row["pair_id"])
            prompts.append(row["prompt"])
            for side in (0, 1):
                images[side].append(np.asarray(decode_image(row[f"image_{side}"], dataset.path)))
    if len({picture.shape for side in images for picture in side}) > 1:
        raise PalateError(
            f"{dataset.path}: its pictures are not all of one size, so they are not of the {world} world."
        )
    return np.stack(images[0]), np.stack(images[1]), prompts, pair_ids


def vote_rows(
    name: str, source: str, pair_ids: list[str], prefers_0: Bools, probability: Floats
) -> Iterator[dict[str, Any]]:
    """The votes of one voter on N pairs; a probability that is NaN is not stored."""
    for pair_id, first, p in zip(pair_ids, prefers_0, probability, strict=True):
        yield {
            "vote_id": f"{pair_id}/{name}", "pair_id": pair_id, "annotator_id": name, "source": source,
            "choice": "0" if first else "1", "probability": None if np.isnan(p) else float(p),
        }  # fmt: skip
