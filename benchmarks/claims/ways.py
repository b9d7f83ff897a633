"""The ways of the map: from the votes of one repetition to targets and weights, by palate's own functions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.claims.proxy import World
from palate.data.labels import Labels
from palate.judges.choice import RESIDUALS, choose_way
from palate.judges.choice import Way as Advised
from palate.judges.contexts import given_contexts
from palate.judges.correction import calibrate_judge, correct_judge
from palate.labels.targets import Targets, dedpo, human_only, judge_only, mix, ramped, robust, tuned_power

AGREEMENT = 0.106  # S of the people of this world without flips: E (q - 1/2)^2, mean of 40 worlds


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
    context: Labels
    chosen: Advised
    told: Advised  # the same where it is known how far people agree
    flips: float


def see(world: World, votes: int, flips: float) -> Seen:
    """The first `votes` human votes of a repetition and its judge, corrected by palate."""
    human, nothing = world.labelled(votes), np.empty((len(world.human), 0))
    contexts = given_contexts(world.group.tolist())
    labels = _labels(human, world.judge)
    judges = {
        "none": world.judge,
        "calibrate": calibrate_judge(world.judge, human, groups=world.prompt).probability,
        "context": correct_judge(
            world.judge, nothing, human, names=(), contexts=contexts, groups=world.prompt
        ).probability,
    }
    common = {"groups": world.prompt, "contexts": len(contexts.names)}
    choice = choose_way(labels, judges, **common)
    told = choose_way(labels, judges, **common, resolution=AGREEMENT * (1 - 2 * flips) ** 2, spread=0.0)
    calibrated, context = _labels(human, judges["calibrate"]), _labels(human, judges["context"])
    return Seen(labels, calibrated, context, choice.chosen, told.chosen, flips)


def _labels(human: np.ndarray, judge: np.ndarray) -> Labels:
    return Labels(human, judge, np.full(len(human), np.mean(~np.isnan(human))))


def kept(labels: Labels, residual: float, power: float = 1.0) -> Targets:
    """DeDPO with a share of the residual, as the key `residual` makes it."""
    whole = dedpo(labels, power)
    return Targets(ramped(whole.target, labels.judge, residual), whole.weight, whole.labelled)


def _tuned(labels: Labels) -> Targets:
    return dedpo(labels, tuned_power(labels.human, labels.judge))


def _advised(seen: Seen, way: Advised) -> Targets:
    if not way.correction:
        return human_only(seen.labels)
    judges = {"none": seen.labels, "calibrate": seen.calibrated, "context": seen.context}
    return kept(judges[way.correction], way.residual, way.power)


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
    *(Way(f"as it is, residual {r:g}", lambda seen, r=r: kept(seen.labels, r)) for r in RESIDUALS[1:-1]),
    *(Way(f"calibrated, residual {r:g}", lambda seen, r=r: kept(seen.calibrated, r)) for r in RESIDUALS[:-1]),
    *(Way(f"context, residual {r:g}", lambda seen, r=r: kept(seen.context, r)) for r in RESIDUALS),
    Way("advised", lambda seen: _advised(seen, seen.chosen)),
    Way("advised, agreement known", lambda seen: _advised(seen, seen.told)),
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
