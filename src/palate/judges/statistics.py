"""Picture statistics of the pairs of a dataset, computed once: what the corrected judge looks at beside the judge."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from palate.data.dataset import PreferenceDataset
from palate.data.images import decode_image
from palate.data.shards import read_table, write_table
from palate.errors import PalateError
from palate.judges.covariates import picture_statistics
from palate.progress import progress_bar


def statistics_of_pairs(dataset: PreferenceDataset) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Picture statistics of image 0 minus those of image 1 for every pair that can be read, and their names.

    Computed once and kept in the dataset's cache folder; pairs that are added later are added there. Without a name
    where no pair can be read.
    """
    path = dataset.path / "cache" / "statistics.parquet"
    rows = read_table(path).to_pylist() if path.exists() else []
    known = {row["pair_id"] for row in rows}
    if len(known) < len(dataset):
        rows += list(_new_statistics(dataset, known))
    if len(rows) > len(known):
        write_table(path, pa.Table.from_pylist(rows))
    if not rows:
        return {}, ()
    names = tuple(name for name in rows[0] if name != "pair_id")
    return {row["pair_id"]: np.array([row[name] for name in names]) for row in rows}, names


def _new_statistics(dataset: PreferenceDataset, known: set[str]) -> Iterator[dict[str, Any]]:
    with progress_bar("picture statistics", len(dataset) - len(known)) as advance:
        for batch in dataset.iter_pairs(columns=["pair_id", "image_0", "image_1"]):
            rows = [row for row in batch.to_pylist() if row["pair_id"] not in known]
            for row in rows:
                try:
                    images = [np.asarray(decode_image(row[name], dataset.path)) for name in ("image_0", "image_1")]
                except PalateError:
                    continue  # counted where pairs are encoded
                first, second = map(picture_statistics, images)
                yield {"pair_id": row["pair_id"], **{name: first[name] - second[name] for name in first}}
            advance(len(rows))
