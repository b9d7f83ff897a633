"""The labels of every question, on pairs of the small world: one dataset per seed, all voters in it under their own ids.

A seed is a whole repetition: other pairs, other votes, another labelled subset, other training.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from palate.addresses import address
from palate.data.dataset import PreferenceDataset
from palate.demos.dataset import make_dataset, measure_pairs
from palate.world.measure import Measurement
from palate.world.voters import VOTERS, Voter, true_utility

PAIRS = 768
FLIPS = (10, 20, 30, 40)  # per cent of the votes turned around
MINORITY = 30  # per cent of the pairs voted on by people of the opposite taste in composition
FEW = 96  # pairs with a human vote in the question of all together
NOISE = (
    0.55  # of the good judge's utilities; it then agrees with about 80 % of the votes, as the DeDPO paper's best judge
)


@dataclass(frozen=True)
class Shown:
    """What the pairs of a dataset show, and their ids."""

    ids: list[str]
    image_0: Measurement
    image_1: Measurement

    @property
    def difference(self) -> np.ndarray:
        """True utility of image 0 minus that of image 1, [N]."""
        return true_utility(self.image_0) - true_utility(self.image_1)


def prepare(folder: Path, seed: int, pairs: int = PAIRS) -> PreferenceDataset:
    """The dataset of a seed; goes on where it was interrupted."""
    dataset = make_dataset(folder, pairs, seed, voters=())
    cast = set(dataset.votes(columns=["annotator_id"])["annotator_id"].to_pylist())
    image_0, image_1, ids = measure_pairs(dataset)
    shown = Shown(ids, image_0, image_1)
    votes = {**people(shown, seed), **judges(shown, seed)}
    for name, (source, prefers_0, probability) in votes.items():
        if name not in cast:
            dataset.append_votes(_rows(name, source, ids, prefers_0, probability))
    return dataset


def people(shown: Shown, seed: int) -> dict[str, tuple]:
    """annotator -> ("human", prefers image 0 [N] with NaN where not asked, None)."""
    cast = {
        name: VOTERS[name].vote(shown.image_0, shown.image_1, seed)[0].astype(float)
        for name in ("majority", "hesitant", "minority")
    }
    clean = cast["majority"]
    votes = {"majority": clean, "hesitant": cast["hesitant"]}
    for percent in FLIPS:
        votes[f"flipped-{percent}"] = flipped(clean, shown.ids, seed, percent)
    other = shares(shown.ids, seed, "minority") < MINORITY / 100
    votes["crowd"] = np.where(other, cast["minority"], clean)
    few = shares(shown.ids, seed, "few").argsort().argsort() < FEW  # a fifth of the votes on them are the minority's
    votes["few-crowd"] = np.where(
        few, np.where(shares(shown.ids, seed, "fifth") < 0.2, cast["minority"], clean), np.nan
    )
    votes |= {f"three-{percent}": majority_of_three(shown, seed, percent) for percent in (0, *FLIPS)}
    return {name: ("human", value, None) for name, value in votes.items()}


def flipped(votes: np.ndarray, ids: list[str], seed: int, percent: int) -> np.ndarray:
    """The votes with a share turned around; a larger share turns those of a smaller one around too."""
    return np.where(shares(ids, seed, "flip") < percent / 100, 1 - votes, votes)


def majority_of_three(shown: Shown, seed: int, percent: int) -> np.ndarray:
    """As many votes, spent three on a pair: the majority of three people on a third of the pairs, NaN elsewhere."""
    asked = shares(shown.ids, seed, "three") < 1 / 3
    voters = [VOTERS["majority"].vote(shown.image_0, shown.image_1, 1000 * (k + 1) + seed)[0] for k in range(3)]
    turned = [
        np.where(shares(shown.ids, seed, f"flip {k}") < percent / 100, ~vote, vote) for k, vote in enumerate(voters)
    ]
    return np.where(asked, np.sum(turned, axis=0) >= 2, np.nan)


def judges(shown: Shown, seed: int) -> dict[str, tuple]:
    """annotator -> ("judge", votes for image 0 [N], probability [N])."""
    noisy = Voter("noisy", "judge", **_taste("majority"), temperature=1.0, noise=NOISE)
    cast = {
        "calibrated": calibrated(logit(np.clip(noisy.vote(shown.image_0, shown.image_1, seed)[1], 1e-9, 1 - 1e-9)), shown),
        "adversarial": Voter("adversarial", "judge", **_taste("majority", -1), temperature=0.3).vote(shown.image_0, shown.image_1, seed)[1],
        "chance": expit(2 * np.random.default_rng([seed, 7]).standard_normal(len(shown.ids))),
    }  # fmt: skip
    cast |= {name: VOTERS[name].vote(shown.image_0, shown.image_1, seed)[1] for name in ("biased-judge", "poor-judge")}
    return {name: ("judge", probability > 0.5, probability) for name, probability in cast.items()}


def calibrated(score: np.ndarray, shown: Shown) -> np.ndarray:
    """P(a majority vote is for image 0 | score), by a regression on the true probabilities of all pairs."""
    true = expit(shown.difference / VOTERS["majority"].temperature)  # [N]
    fitted = minimize_scalar(lambda slope: np.mean(np.logaddexp(0, slope * score) - true * slope * score), (0.1, 1.0))
    return expit(fitted.x * score)


def shares(ids: list[str], seed: int, purpose: str) -> np.ndarray:
    """One number in [0, 1) per pair, [N]: a function of pair, seed and purpose."""
    return np.array([address(purpose, seed, i) / 2**63 for i in ids])


def _taste(name: str, sign: float = 1.0) -> dict[str, float]:
    return {part: sign * getattr(VOTERS[name], part) for part in ("fidelity", "centring", "brightness")}


def _rows(
    name: str, source: str, ids: list[str], prefers_0: np.ndarray, probability: np.ndarray | None
) -> Iterator[dict]:
    for i, pair_id in enumerate(ids):
        if not np.isnan(prefers_0[i]):
            yield {
                "vote_id": f"{pair_id}/{name}", "pair_id": pair_id, "annotator_id": name, "source": source,
                "choice": "0" if prefers_0[i] else "1", "probability": None if probability is None else float(probability[i]),
            }  # fmt: skip
