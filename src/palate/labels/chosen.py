"""The pairs that a run trains on where it does not take all: by conditions on their columns, or a random part."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.addresses import address
from palate.arrays import Floats
from palate.data.dataset import PreferenceDataset
from palate.data.where import fulfil
from palate.errors import PalateError
from palate.run.config import TrainConfig


def chosen_pairs(dataset: PreferenceDataset, pairs: pa.Table, config: TrainConfig) -> tuple[int, pa.Table]:
    """How many of these pairs the run leaves out, and the others: those that fulfil `where`, and of these
    `max_train_samples`, chosen by addresses, so that a smaller number takes a part of a larger one's pairs. Prints a
    line where some are left out."""
    kept = pairs
    if config.where:
        ids = dataset.pairs(["pair_id"])["pair_id"].filter(pa.array(fulfil(dataset, config.where)))
        kept = pairs.filter(pc.is_in(pairs["pair_id"], pc.unique(ids)))
        if not len(kept):
            raise PalateError(f"where: none of the {len(pairs):,} pairs that this run can use fulfils it. Change it.")
    most = config.max_train_samples
    if most is not None and most < len(kept):
        order = [address("train samples", config.seed, pair_id) for pair_id in kept["pair_id"].to_pylist()]
        kept = kept.take(pa.array(np.sort(np.argsort(np.array(order), kind="stable")[:most])))
    left_out = len(pairs) - len(kept)
    if left_out:
        print(f"labels: {left_out:,} of {len(pairs):,} pairs are left out by where and max_train_samples")
    return left_out, kept


def spread(dataset: PreferenceDataset, pairs: pa.Table, values: Floats) -> Floats:
    """The values of some pairs, [n], at their places among all pairs of the dataset, [N]: NaN at the others."""
    every = dataset.pairs(["pair_id"])["pair_id"]
    if len(every) == len(pairs):
        return values
    found = np.full(len(every), np.nan)
    found[pc.index_in(pairs["pair_id"], every.combine_chunks()).to_numpy()] = values
    return found
