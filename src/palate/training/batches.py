"""Which pairs a step trains on: a function of the step, so that resuming needs no state.

Stratified batches hold fixed numbers of labelled and unlabelled pairs; `scale` makes the mean over the batch an
unbiased estimate of the mean over the population in either case (DeDPO needs that: a batch's own ratio would be
biased).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from palate.arrays import Bools, Floats, Ints
from palate.distributed import part
from palate.errors import PalateError


@dataclass(frozen=True)
class Batch:
    """Rows of the population and how many times each was visited before: the number of its draw."""

    row: Ints  # [B] int
    draw: Ints  # [B] int
    scale: Floats  # [B] float: (share of the stratum in the population) / (its share in the batch)


class Batches:
    """Every stratum is visited in a new random order each epoch, without replacement.

    labelled: [N] bool, the population. labelled_per_batch: pairs of each batch that are labelled, or None for batches
    drawn from the whole population alike. Raises PalateError where a stratum is smaller than its part of the batch.
    """

    def __init__(self, labelled: Bools, size: int, labelled_per_batch: int | None, seed: int | str):
        strata = {"pairs": np.arange(len(labelled))}
        counts = {"pairs": size}
        if labelled_per_batch is not None:
            strata = {"labelled pairs": np.flatnonzero(labelled), "unlabelled pairs": np.flatnonzero(~labelled)}
            counts = {"labelled pairs": labelled_per_batch, "unlabelled pairs": size - labelled_per_batch}
        for name, rows in strata.items():
            if counts[name] > len(rows):
                raise PalateError(
                    f"a batch takes {counts[name]} {name}, but there are only {len(rows)}. Lower train_batch_size "
                    "or the batch's share, or collect more."
                )
            if len(rows) and not counts[name]:
                raise PalateError(
                    f"the batch takes none of the {len(rows)} {name}: they would silently be left out. Change"
                    " labelled_per_batch."
                )
        self.strata = [(rows, counts[name], f"{seed}:{name}") for name, rows in strata.items() if len(rows)]
        self.population, self.size = len(labelled), size

    def at(self, index: int) -> Batch:
        """The batch with this index (micro-batches counted from the start of the run); of several processes, this one's
        part."""
        row, draw, scale = [], [], []
        for rows, count, seed in self.strata:
            position = np.arange(index * count, (index + 1) * count)
            epoch, place = position // len(rows), position % len(rows)
            order = {e: _order(seed, int(e), len(rows)) for e in np.unique(epoch)}
            row.append(np.array([rows[order[e][p]] for e, p in zip(epoch, place, strict=True)]))
            draw.append(epoch)
            scale.append(np.full(count, (len(rows) / self.population) / (count / self.size)))
        own = part(self.size)
        return Batch(np.concatenate(row)[own], np.concatenate(draw)[own], np.concatenate(scale)[own])


@lru_cache(maxsize=8)  # a batch lies in one epoch of each stratum, or across two
def _order(seed: str, epoch: int, length: int) -> Ints:
    return np.random.default_rng([*seed.encode(), epoch]).permutation(length)
