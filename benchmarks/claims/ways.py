"""The ways of the map: from the votes of one repetition to targets and weights, by palate's own functions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.claims.proxy import World
from palate.data.labels import Labels
from palate.judges.correction import calibrate_judge
from palate.labels.targets import Targets, dedpo, human_only, judge_only, mix, ramped, robust, tuned_power

RESIDUALS = (0.0, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Way:
    """One way to train: its targets from the votes, and what of the loss is not the usual."""

    name: str
    targets: Callable[["Seen"], Targets]
    link: str = "sigmoid"
    adaptive: bool = False


@dataclass(frozen=True)
class Seen:
    """What a user sees of a repetition: people's votes, the judge's, the judge's calibrated on them."""

    labels: Labels
    calibrated: Labels
    flips: float


def see(world: World, votes: int, flips: float) -> Seen:
    """The first `votes` human votes of a repetition and its judge, corrected by palate."""
    human = world.labelled(votes)
    labels = _labels(human, world.judge)
    groups = world.prompt
    return Seen(labels, _labels(human, calibrate_judge(world.judge, human, groups=groups).probability), flips)


def _labels(human: np.ndarray, judge: np.ndarray) -> Labels:
    return Labels(human, judge, np.full(len(human), np.mean(~np.isnan(human))))


def all_votes(world: World, flips: float) -> Seen:
    """The same with every pair labelled: what the ways are measured against."""
    labels = _labels(world.human, world.judge)
    return Seen(labels, labels, flips)


def kept(labels: Labels, residual: float) -> Targets:
    """DeDPO with a share of the residual, as the key `residual` makes it."""
    whole = dedpo(labels)
    return Targets(ramped(whole.target, labels.judge, residual), whole.weight, whole.labelled)


def _tuned(labels: Labels) -> Targets:
    return dedpo(labels, tuned_power(labels.human, labels.judge))


def _undone(seen: Seen) -> Targets:
    found = human_only(seen.labels)
    return Targets(robust(found.target, seen.flips), found.weight, found.labelled)


WAYS = (
    Way("human only", lambda seen: human_only(seen.labels)),
    Way("judge only", lambda seen: judge_only(seen.labels)),
    Way("mix", lambda seen: mix(seen.labels)),
    Way("DeDPO", lambda seen: dedpo(seen.labels)),
    Way("DeDPO, tuned", lambda seen: _tuned(seen.labels)),
    Way("calibrated, DeDPO", lambda seen: dedpo(seen.calibrated)),
    Way("calibrated, mix", lambda seen: mix(seen.calibrated)),
)
# What flipped votes ask for: on the human votes alone
ROBUST = (
    Way("IPO", lambda seen: human_only(seen.labels), "ipo"),
    Way("hinge", lambda seen: human_only(seen.labels), "hinge"),
    Way("DMPO", lambda seen: human_only(seen.labels), "dmpo"),
    Way("Hölder-DPO", lambda seen: human_only(seen.labels), "holder"),
    Way("robust DPO, rate known", _undone),
    Way("Adaptive-DPO", lambda seen: human_only(seen.labels), adaptive=True),
)
