"""Each person's reliability from the votes alone: Dawid and Skene's model, and Bradley-Terry with noisy voters."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit, ndtri

from palate.arithmetic import HALF_95
from palate.audits.couples import voices
from palate.audits.intervals import Estimate, bootstrap_estimate, resampled
from palate.data.annotators import FEWEST_PEOPLE, FEWEST_SHARED, Votes, dawid_skene, shared_votes

_MOST_PEOPLE = 60  # at most so many have their own parameters in Bradley-Terry: the busiest


def dawid_skene_estimates(
    votes: Votes,
    group: np.ndarray,
    seed: int = 0,
    resamples: int = 200,
    sets: tuple[tuple[str, ...], ...] = (),
) -> dict[str, Estimate | None]:
    """Reliability per person with a bootstrap interval over groups; a person's first vote on a pair counts.

    `sets`: people who count as one (`counted_as_one`): on a pair on which several of them voted, their votes weigh as
    much as one. None for a person with few shared pairs, and for everybody if fewer than three people share pairs.
    """
    votes, shared = shared_votes(votes, len(group))
    known = np.unique(votes.annotator)
    if len(known) - sum(len(names) - 1 for names in sets) < FEWEST_PEOPLE:
        return dict.fromkeys(votes.names)
    voice = voices(votes, sets)
    fit = dawid_skene(votes, len(group), voice=voice)
    resamples = min(resamples, max(50, 4_000_000 // len(votes)))  # many votes need fewer: their spread is small
    draws = np.stack([
        dawid_skene(votes, len(group), times=times, start=fit.posterior, iterations=12, voice=voice).reliability
        for times in resampled(group, resamples, seed)
    ])  # fmt: skip
    return {
        name: (
            bootstrap_estimate(
                float(fit.reliability[k]), draws[:, k], group[votes.pair[votes.annotator == k]], int(shared[k])
            )
            if shared[k] >= FEWEST_SHARED
            else None
        )
        for k, name in enumerate(votes.names)
    }


@dataclass(frozen=True)
class NoisyBradleyTerry:
    """How steadily each person follows the pairs' common utility differences."""

    steadiness: np.ndarray  # [P] slope on the common utility; negative: the opposite taste
    steadiness_error: np.ndarray  # [P] standard error
    position: np.ndarray  # [P] logit toward the image shown first
    position_error: np.ndarray  # [P]


def noisy_bradley_terry(votes: Votes, pairs: int, nodes: int = 31) -> NoisyBradleyTerry:
    """Bradley-Terry votes of people who follow one common utility, each with a slope and a position bias.

    P(person k prefers image 0 of pair i) = sigmoid(a_k s_i + b_k side), where s_i, the utility difference of the pair,
    is standard normal and integrated out by Gauss-Hermite quadrature, side is +1 where image 0 was shown first, -1
    where image 1 was and 0 where that is not known. Weak normal priors: a_k around 1 with standard deviation 2, b_k
    around 0 with 1. Errors come from the curvature. Derived from an idea of X. Chen et al., Pairwise ranking
    aggregation in a crowdsourced setting (2013), whose voters mix truth and its opposite. Here only a handful of people
    see a pair, so its utility cannot be fitted as in that paper; with the utility integrated out, the paper's mixing
    rate cannot be told from the spread of utilities.
    """
    people = len(votes.names)
    points, mass = np.polynomial.hermite_e.hermegauss(nodes)
    s, log_mass = torch.from_numpy(points), torch.from_numpy(np.log(mass / mass.sum()))
    pair, person = torch.from_numpy(votes.pair.astype(np.int64)), torch.from_numpy(votes.annotator.astype(np.int64))
    y, side = torch.from_numpy(votes.value)[:, None], torch.from_numpy(votes.side)[:, None]

    def loss(parameters: torch.Tensor) -> torch.Tensor:
        a, b = parameters[:people], parameters[people:]
        z = a[person, None] * s + b[person, None] * side  # [M, nodes]
        log = y * z - torch.nn.functional.softplus(z)
        by_pair = torch.zeros(pairs, nodes, dtype=torch.float64).index_add(0, pair, log)
        prior = torch.square((a - 1) / 2).sum() / 2 + torch.square(b).sum() / 2
        return prior - torch.logsumexp(by_pair + log_mass, dim=1).sum()

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.tensor(parameters, requires_grad=True)
        value = loss(at)
        value.backward()
        assert at.grad is not None  # backward has filled it
        return value.item(), at.grad.numpy()

    toward_others = 2 * dawid_skene(votes, pairs).reliability - 1
    start = np.concatenate([np.where(toward_others < 0, -1.0, 1.0), np.zeros(people)])
    best = minimize(objective, start, jac=True, method="L-BFGS-B").x
    curvature = torch.autograd.functional.hessian(loss, torch.from_numpy(best)).numpy()
    errors = np.sqrt(np.maximum(np.diag(np.linalg.pinv(curvature, hermitian=True)), 0))
    return NoisyBradleyTerry(best[:people], errors[:people], best[people:], errors[people:])


def bradley_terry_estimates(votes: Votes, pairs: int) -> dict[str, Estimate | None]:
    """Reliability per person with a 95 % interval: the probability of following the common utility on a typical pair.

    It is the mean of sigmoid(a |s|) over pairs. It is comparable with `dawid_skene_estimates`, but hesitating between
    nearly equal pictures does not make a person unreliable. At most the 60 busiest people.
    """
    votes, shared = shared_votes(votes, pairs)
    judged = np.flatnonzero(shared >= FEWEST_SHARED)
    judged = np.sort(judged[np.argsort(-shared[judged], kind="stable")][:_MOST_PEOPLE])
    found: dict[str, Estimate | None] = dict.fromkeys(votes.names)
    if len(judged) < FEWEST_PEOPLE:
        return found
    kept = votes.take(np.isin(votes.annotator, judged))
    place = np.searchsorted(judged, kept.annotator)
    fit = noisy_bradley_terry(
        Votes(kept.pair, place, kept.value, kept.side, tuple(votes.names[k] for k in judged)), pairs
    )
    reach = HALF_95 * fit.steadiness_error
    for k, (a, r) in enumerate(zip(fit.steadiness, reach, strict=True)):
        low, value, high = (_followed(x) for x in (a - r, a, a + r))
        found[votes.names[judged[k]]] = Estimate(value, low, high, int(shared[judged[k]]))
    return found


def _followed(slope: float) -> float:
    quantile = (np.arange(1000) + 0.5) / 1000
    return float(np.mean(expit(slope * np.abs(ndtri(quantile)))))
