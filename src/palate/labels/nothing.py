"""Rows from which a run cannot learn, reported before it trains."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.data.dataset import PreferenceDataset
from palate.labels.rows import Rows
from palate.run.checks import SELF
from palate.run.config import TrainConfig


def nothing_to_learn(dataset: PreferenceDataset, rows: Rows, votes: pa.Table, config: TrainConfig) -> str | None:
    """Why these rows teach nothing, or next to nothing, as one sentence; None where they teach something.

    votes: those of the dataset (pair_id, source, choice). Pictures are read only up to the first pair of two different
    ones.
    """
    if config.source in ("steps", "teacher"):
        return None
    if len(rows) == 1:
        return "there is one row alone, and a model can only learn it by heart. Add pairs and votes."
    if config.source != "pairs":
        return None
    if config.judge != SELF and bool((np.asarray(rows.target) == 0.5).all()):
        return f"{_why_tied(rows, votes)}: no pair has a better picture. Add votes that prefer one."
    if _all_identical(dataset, rows):
        return f"both pictures of all {len(rows):,} pairs are the same picture. Import pairs of two different ones."
    return None


def _why_tied(rows: Rows, votes: pa.Table) -> str:
    human = votes.filter(pc.and_(pc.equal(votes["source"], "human"), pc.is_in(votes["choice"], pa.array(["0", "1"]))))
    decided = pc.any(pc.is_in(human["pair_id"], pa.array(rows.id.tolist(), pa.string())), min_count=0).as_py()
    if decided:
        return f"the votes on each of the {len(rows):,} pairs cancel out"
    if rows.labelled.any():
        return f"all {len(rows):,} pairs are ties"
    return f"the judge gives each of the {len(rows):,} pairs one half"


def _all_identical(dataset: PreferenceDataset, rows: Rows) -> bool:
    """Whether image_0 and image_1 are the same bytes, or the same file, in every row; unknown ones are not."""
    used = set(rows.id.tolist())
    for batch in dataset.iter_pairs(["pair_id", "image_0", "image_1"], batch_size=16):
        for row in batch.to_pylist():
            if row["pair_id"] in used and (row["image_0"] is None or row["image_0"] != row["image_1"]):
                return False
    return True
