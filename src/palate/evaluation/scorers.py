"""One number per picture, higher wins: the world's truth, picture statistics, or a plug-in.

A plug-in is a function (images uint8 [N, H, W, 3], prompts) -> scores [N], found by the entry point group `palate.scorers`.
"""

from importlib.metadata import entry_points

import numpy as np

from palate.errors import PalateError
from palate.evaluation.samples import Samples
from palate.judges.covariates import picture_statistics

STATISTICS = tuple(picture_statistics(np.zeros((8, 8, 3), np.uint8)))


def score(samples: Samples, scorer: str) -> np.ndarray:
    """Scores [N] of samples by a scorer's name. Raises PalateError when there is no such scorer, or a score is no number."""
    images = samples.images()
    if scorer == "world":
        from palate.world.measure import measure
        from palate.world.voters import true_utility

        scores = true_utility(measure(images, samples.prompts))
    elif scorer in STATISTICS:
        scores = np.array([picture_statistics(image)[scorer] for image in images])
    else:
        scores = np.asarray(_plug_in(scorer)(images, samples.prompts), dtype=np.float64)
    broken = int(np.isnan(scores).sum())
    if broken or len(scores) != len(images):
        raise PalateError(
            f"scorer {scorer!r}: {len(scores)} scores for {len(images)} pictures, {broken} of them not a number."
        )
    return scores


def drift(samples: Samples) -> dict[str, float]:
    """Mean picture statistics: what changed that nobody asked for."""
    rows = [picture_statistics(image) for image in samples.images()]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _plug_in(name: str):
    found = entry_points(group="palate.scorers")
    if name not in found.names:
        known = ", ".join(["world", *STATISTICS, *found.names])
        raise PalateError(
            f"scorer {name!r} is not known; there are {known}. A package can add one (entry point group palate.scorers)."
        )
    return found[name].load()
