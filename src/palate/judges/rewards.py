"""Rewards: one number per picture, higher is better. The truth of a world, picture statistics, or a plug-in.

A plug-in is a function (images uint8 [N, H, W, 3], prompts) -> scores [N], found by the entry point group
`palate.scorers`.
"""

from collections.abc import Callable
from importlib.metadata import entry_points

import numpy as np

from palate.errors import PalateError, did_you_mean
from palate.judges.covariates import picture_statistics
from palate.world import SHIPPED

Reward = Callable[[np.ndarray, list[str]], np.ndarray]

STATISTICS = tuple(picture_statistics(np.zeros((8, 8, 3), np.uint8)))


def load_reward(name: str) -> Reward:
    """The reward of that name, wrapped by `checked`. Raises PalateError, with a list of all names, for another one."""
    if name == "world":
        return checked(name, _true_utility)
    if name == "emoji":
        return checked(name, _true_emoji_utility)
    if name in STATISTICS:
        return checked(name, lambda images, prompts: [picture_statistics(image)[name] for image in images])
    found = entry_points(group="palate.scorers")
    if name not in found.names:
        known = [*SHIPPED, *STATISTICS, *found.names]
        near = did_you_mean(name, known, "a package can add one (entry point palate.scorers).")
        raise PalateError(f"scorer {name!r} is not known: there are {', '.join(known)}{near}")
    return checked(name, found[name].load())


def checked(name: str, reward: Callable[[np.ndarray, list[str]], np.ndarray | list[float]]) -> Reward:
    """The same reward as float64 [N]. It raises PalateError if a score is missing or NaN."""

    def scores_of(images: np.ndarray, prompts: list[str]) -> np.ndarray:
        scores = np.asarray(reward(images, prompts), dtype=np.float64)
        broken = int(np.isnan(scores).sum())
        if broken or scores.shape != (len(images),):
            raise PalateError(
                f"scorer {name!r}: {scores.size} scores for {len(images)} pictures, {broken} of them NaN. "
                "It must give one number for each picture."
            )
        return scores

    return scores_of


def _true_emoji_utility(images: np.ndarray, prompts: list[str]) -> np.ndarray:
    from palate.world.emoji_measure import measure_emoji
    from palate.world.emoji_voters import true_emoji_utility

    return true_emoji_utility(measure_emoji(images, prompts))


def _true_utility(images: np.ndarray, prompts: list[str]) -> np.ndarray:
    from palate.world.measure import measure
    from palate.world.voters import true_utility

    return true_utility(measure(images, prompts))
