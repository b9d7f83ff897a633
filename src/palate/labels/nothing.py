"""Rows from which a run cannot learn, reported before it trains."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.arrays import Floats
from palate.data.dataset import PreferenceDataset
from palate.data.schema import IMAGE_COLUMNS, content_id
from palate.data.views import TIE
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
    if config.judge != SELF and _cancel_across_pairs(dataset, rows):
        return (
            f"the votes in {len(rows):,} pairs cancel out: they show the same pictures again (also with sides swapped),"
            " once with the one preferred, once with the other. Remove the copies that are wrong."
        )
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


def _cancel_across_pairs(dataset: PreferenceDataset, rows: Rows) -> bool:
    """Whether the votes on any two pictures, summed over all pairs that show them for one prompt on either side, are
    none in the end: loss(z, p) has its slope p - 1/2 at z = 0, and z changes its sign where the sides are swapped.

    Pictures are read only where every prompt has two decided pairs or more, and at first those of one prompt alone.
    """
    pull = np.asarray(rows.weight, float) * (np.asarray(rows.target, float) - 0.5)  # [N]
    decided: list[int] = np.flatnonzero(pull).tolist()
    counts = Counter(rows.prompt[i] for i in decided)
    if not counts or min(counts.values()) < 2:
        return False
    shortest = min(counts, key=lambda prompt: counts[prompt])
    few = [i for i in decided if rows.prompt[i] == shortest]
    return _cancel(dataset, rows, pull, few) and (len(few) == len(decided) or _cancel(dataset, rows, pull, decided))


def _cancel(dataset: PreferenceDataset, rows: Rows, pull: Floats, which: Iterable[int]) -> bool:
    """Whether these rows cancel; reads their pictures up to the last of them."""
    waiting = {rows.id[i]: i for i in which}
    pulls: dict[tuple[str, ...], list[float]] = {}
    for batch in dataset.iter_pairs(["pair_id", "image_0", "image_1"], batch_size=16):
        for row in batch.to_pylist():
            i = waiting.pop(row["pair_id"], None)
            if i is not None:
                first, second = (_shown(dataset, row[name]) or f"{row['pair_id']}/{name}" for name in IMAGE_COLUMNS)
                sign = (first < second) - (first > second)  # 0: one picture twice says nothing
                pulls.setdefault((rows.prompt[i], *sorted((first, second))), []).append(sign * pull[i])
        if not waiting:
            break
    return all(abs(sum(some)) <= TIE * sum(map(abs, some)) for some in pulls.values())


def _shown(dataset: PreferenceDataset, image: Mapping[str, Any] | None) -> str:
    """A name that is the same for the same picture; empty for one that is not there."""
    if not image or not (image["bytes"] or image["path"]):
        return ""
    return content_id(image["bytes"]) if image["bytes"] else str((dataset.path / str(image["path"])).resolve())
