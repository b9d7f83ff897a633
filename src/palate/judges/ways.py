"""The ways to train that a dataset's votes allow: a judge as it is, each correction of it, and the choice among them.

A run with target: auto and the audit both ask here, so that what is advised is what is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.arrays import Floats
from palate.data.labels import Labels
from palate.errors import PalateError
from palate.judges.choice import RESOLUTION, RESOLUTION_SPREAD, SIMPLEST, Choice, choose_way
from palate.judges.contexts import Contexts
from palate.judges.correction import Correction, calibrate_judge, correct_judge
from palate.judges.extra import Extra

_LEAST = 0.01  # of S: people who nearly flip coins
_SPREAD_OF_ONE = 0.2  # of a pair's product of two votes, where so few were voted on twice that they do not tell


@dataclass(frozen=True)
class Resolution:
    """S, how well it is known, and on how many pairs several people voted."""

    value: float = RESOLUTION
    spread: float = RESOLUTION_SPREAD
    pairs: int = 0

    def in_words(self) -> str:
        """What repeated votes said; "" without any."""
        if not self.pairs:
            return ""
        share = 50 + 200 * self.value
        return f"On {self.pairs:,} pairs several people voted: two of them agree on about {share:.0f} % of pairs."


@dataclass(frozen=True)
class Seen:
    """What corrections see of N pairs beside the votes of people."""

    fitted: Floats  # [N, J] the judges' probabilities
    differences: Floats  # [N, K] picture statistics of image 0 minus image 1
    statistics: tuple[str, ...]  # their names
    directions: Floats | None  # [N, C] differences of picture embeddings
    prompts: list[str]  # pairs of one prompt are held out together
    contexts: Contexts
    extras: tuple[Extra, ...] = ()  # which models made the images, answers to a rubric


def correct(correction: str, human: Floats, seen: Seen, judges: Sequence[str], seed: int) -> Correction:
    """The correction of this name (calibrate, covariates or context) on human votes [N], NaN where there is none.

    Raises PalateError as `correct_judge` does.
    """
    options: dict[str, Any] = {"judges": tuple(judges), "groups": seen.prompts, "seed": seed}
    if correction == "calibrate":
        return calibrate_judge(seen.fitted, human, **options)
    contexts = seen.contexts if correction == "context" else None
    return correct_judge(
        seen.fitted, seen.differences, human, names=seen.statistics, directions=seen.directions, contexts=contexts,
        extras=seen.extras, **options,
    )  # fmt: skip


def choose(
    labels: Labels, seen: Seen, judges: Sequence[str], resolution: Resolution, seed: int
) -> tuple[Choice, dict[str, str]]:
    """The way of least risk with these judges together, and why some corrections could not be tried: name -> reason.

    labels: of people, and of the judges as they are. Raises PalateError without a human vote.
    """
    found, lacking = {"none": labels.judge}, {}
    of_pictures = bool(seen.statistics) or (seen.directions is not None and seen.directions.shape[1] > 0)
    of_pictures = of_pictures or bool(seen.extras)
    for correction in SIMPLEST[1:]:
        if correction == "covariates" and not of_pictures:
            continue  # it would be the calibrated judge again
        try:
            found[correction] = correct(correction, labels.human, seen, judges, seed).probability
        except PalateError as error:
            lacking[correction] = str(error)
    kinds = len(seen.contexts.names)
    choice = choose_way(
        labels, found, groups=seen.prompts, contexts=kinds, resolution=resolution.value, spread=resolution.spread,
        seed=seed,
    )  # fmt: skip
    return choice, lacking


def resolution_of(pair_ids: Sequence[str], votes: pa.Table) -> Resolution:
    """S of these pairs, E (q - 1/2)^2 with q what people say on the mean, as far as repeated votes tell it.

    Where several people voted on a pair, the product of two of their votes (y - 1/2) has the mean (q - 1/2)^2, whatever
    makes them differ: S is (agreement - 1/2)/2. Its mean over pairs is taken together with RESOLUTION, each as precise
    as it is; where nobody voted twice it is RESOLUTION. votes: pair_id, annotator_id, source, choice.
    """
    told = votes.filter(pc.and_(pc.equal(votes["source"], "human"), pc.not_equal(votes["choice"], "skip")))
    place = pc.index_in(told["pair_id"].cast(pa.string()), value_set=pa.array(pair_ids, pa.string()))
    known = pc.is_valid(place)
    told, place = told.filter(known), place.filter(known)
    if not len(told):
        return Resolution()
    pair = place.to_numpy()
    who = np.unique(np.array(told["annotator_id"].to_pylist(), dtype=object).astype(str), return_inverse=True)[1]
    value = np.array([{"0": 0.5, "1": -0.5}.get(choice, 0.0) for choice in told["choice"].to_pylist()])
    _, first = np.unique(pair * (who.max() + 1) + who, return_index=True)  # not what one person said twice
    pair, value = pair[first], value[first]
    count, total, square = (np.bincount(pair, weights=w) for w in (np.ones(len(pair)), value, value * value))
    several = count > 1
    n = int(several.sum())
    if n == 0:
        return Resolution()
    count, total, square = count[several], total[several], square[several]
    products = (total * total - square) / (count * (count - 1))
    error = max(float(products.std()), _SPREAD_OF_ONE) / np.sqrt(n)
    weight = RESOLUTION_SPREAD**2 / (RESOLUTION_SPREAD**2 + error**2)
    together = max(float(weight * products.mean() + (1 - weight) * RESOLUTION), _LEAST)
    return Resolution(together, float(np.sqrt(weight) * error), n)
