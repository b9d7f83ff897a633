"""Finds the votes that are most likely wrong, or come from a minority taste."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.special import expit, logsumexp, softmax

from palate.arithmetic import bounded_logit
from palate.audits.evidence import Evidence
from palate.audits.intervals import Estimate
from palate.data.annotators import Votes
from palate.errors import PalateError
from palate.judges.correction import correct_judge

_NODES = 21


@dataclass(frozen=True)
class Suspect:
    """A human vote that looks wrong."""

    pair_id: str
    prompt: str
    annotator: str
    choice: int  # the image that it prefers
    flip: float  # probability that somebody else would prefer the other image
    metric: float | None  # Adaptive-DPO's, from a run


def flip_probabilities(
    evidence: Evidence, probability: np.ndarray, reliability: dict[str, Estimate | None]
) -> np.ndarray:
    """For each person's first vote on a pair, the probability [M] that somebody else would say the opposite.

    probability [N]: the prediction for a pair without its votes, from `predicted_votes`. The votes of the *other*
    people on the same pair are added, never the vote itself. The model (derived): the utility difference s of a pair is
    normal around the prediction, and person k prefers image 0 with probability sigmoid(a_k s). a_k is the logit of the
    reliability: 1 for the mean person, negative for the opposite taste. The standard deviation of s has the maximum
    likelihood for all votes. So two people against one say little if the pictures are nearly equal. Ties are NaN.
    """
    votes = evidence.human.first_only()
    z = bounded_logit(probability)  # [N]
    slope = _slopes(votes.names, reliability)[votes.annotator]  # [M]
    posteriors = [_given_the_others(votes, z, slope, spread) for spread in _spreads(votes)]
    expected = max(posteriors, key=lambda found: found[0])[1]
    return np.where(votes.value == 0.5, np.nan, np.where(votes.value > 0.5, 1 - expected, expected))


def _given_the_others(votes: Votes, z: np.ndarray, slope: np.ndarray, spread: float) -> tuple[float, np.ndarray]:
    """Log likelihood of all votes for this standard deviation of s, and P(image 0) [M] given the other votes."""
    node, mass = np.polynomial.hermite_e.hermegauss(_NODES if spread else 1)
    s = z[:, None] * np.sqrt(1 + np.pi / 8 * spread**2) + spread * node  # [N, nodes]; keeps the mean of sigmoid(s)
    at = slope[:, None] * s[votes.pair]
    log = votes.value[:, None] * at - np.logaddexp(0, at)  # [M, nodes]
    joint = np.tile(np.log(mass / mass.sum()), (len(z), 1))
    np.add.at(joint, votes.pair, log)
    others = softmax(joint[votes.pair] - log, axis=1)
    return float(logsumexp(joint, axis=1).sum()), np.sum(others * expit(s[votes.pair]), axis=1)


def _spreads(votes: Votes) -> tuple[float, ...]:
    shared = len(np.unique(votes.pair)) < len(votes)
    return (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0) if shared else (0.0,)


def _slopes(names: tuple[str, ...], reliability: dict[str, Estimate | None]) -> np.ndarray:
    """Logits of the reliabilities [P], scaled to mean 1 over the people who agree with the others; 1 if unknown."""
    known = np.array([r.value if (r := reliability.get(name)) else np.nan for name in names])
    slopes = bounded_logit(known)
    scale = np.mean(slopes[slopes > 0]) if (slopes > 0).any() else 1.0
    return np.nan_to_num(slopes / scale, nan=1.0)


def predicted_votes(evidence: Evidence, seed: int = 0) -> np.ndarray:
    """P(people prefer image 0) for each pair [N], cross-validated: from judges and pictures, never from its own votes.

    It is the corrected judge's regression on the logits of all judges together with the picture statistics; for a pair
    without judges' votes only the statistics count. 1/2 everywhere if there are too few votes for a fit.
    """
    human = evidence.labels().human
    judges = np.nan_to_num(evidence.fitted, nan=0.5) if evidence.judges.names else np.full((len(human), 1), 0.5)
    try:
        return correct_judge(
            judges, evidence.differences, human, names=evidence.statistics, judges=evidence.judges.names,
            directions=evidence.directions, groups=evidence.group.tolist(), seed=seed,
        ).probability  # fmt: skip
    except PalateError:  # fewer than ten votes, or votes of one group
        return np.full(len(human), 0.5)


def read_metric(run: str | Path, ids: list[str]) -> np.ndarray:
    """Adaptive-DPO's minority metric of each pair [N], as stored by a run; NaN for pairs that it was not trained on.

    Raises PalateError if the run has no metric, or was trained on other pairs.
    """
    path = Path(run) / "minority.parquet"
    if not path.is_file():
        raise PalateError(
            f"{path}: no such file. Give a run of an adaptive method (adaptive: true) that has finished, or leave out"
            " --run."
        )
    try:
        table = pq.read_table(path, columns=["pair_id", "minority"], page_checksum_verification=True)
    except Exception as error:
        raise PalateError(
            f"{path}: not the table of an adaptive run ({error}). Train again, or leave out --run."
        ) from error
    known = dict(zip(table["pair_id"].to_pylist(), table["minority"].to_pylist(), strict=True))
    metric = np.array([known.get(pair_id, np.nan) for pair_id in ids], dtype=np.float64)
    if np.isnan(metric).all():
        raise PalateError(
            f"{path}: none of its {len(known):,} pairs is in this dataset. Give a run that was trained on it."
        )
    return metric


def suspects(evidence: Evidence, flip: np.ndarray, metric: np.ndarray | None = None, most: int = 24) -> list[Suspect]:
    """The most suspicious votes first: by the run's metric if there is one, else by flip probability."""
    votes = evidence.human.first_only()
    order = np.argsort(-np.nan_to_num(flip, nan=-1), kind="stable")
    if metric is not None:
        order = order[np.argsort(-np.nan_to_num(metric[votes.pair[order]], nan=-1), kind="stable")]
    found = [m for m in order if not np.isnan(flip[m])][:most]
    return [
        Suspect(
            evidence.ids[votes.pair[m]], evidence.prompts[votes.pair[m]], votes.names[votes.annotator[m]],
            0 if votes.value[m] > 0.5 else 1, float(flip[m]), _or_none(metric, votes.pair[m]),
        )
        for m in found
    ]  # fmt: skip


def _or_none(metric: np.ndarray | None, pair: int) -> float | None:
    return None if metric is None or np.isnan(metric[pair]) else float(metric[pair])
