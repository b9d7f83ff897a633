"""Each person's reliability from the votes alone: Dawid and Skene's model, and Bradley-Terry with noisy voters."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit, ndtri

from palate.arithmetic import HALF_95
from palate.audits.couples import voices
from palate.audits.evidence import Votes
from palate.audits.intervals import Estimate, bootstrap_estimate, resampled

FEWEST_PEOPLE = 3  # with two people only their agreement is known, not which of them is right
FEWEST_SHARED = 5  # a person with fewer votes on shared pairs is not judged
_MOST_PEOPLE = 60  # at most so many have their own parameters in Bradley-Terry: the busiest


@dataclass(frozen=True)
class DawidSkene:
    """Which image of each pair is better, and how often each person says so."""

    posterior: np.ndarray  # [N, 2] P(image 1 is better), P(image 0 is better); the prior if nobody voted
    confusion: np.ndarray  # [P, 2, 3] probability of the answers image 1, image 0, tie, given the better image
    prior: np.ndarray  # [2]

    @property
    def reliability(self) -> np.ndarray:
        """[P] probability that a person's answer, unless it is a tie, is the better image."""
        right = self.confusion[:, [0, 1], [0, 1]].sum(axis=1)
        return np.asarray(right / np.maximum(self.confusion[:, :, :2].sum(axis=(1, 2)), 1e-300))


def dawid_skene(
    votes: Votes,
    pairs: int,
    *,
    symmetric: bool = True,
    smoothing: float = 0.1,
    iterations: int = 200,
    tolerance: float = 1e-8,
    times: np.ndarray | None = None,
    start: np.ndarray | None = None,
    voice: np.ndarray | None = None,
) -> DawidSkene:
    """Expectation maximisation of A. P. Dawid and A. M. Skene (1979), started from the shares of the votes.

    `symmetric` (ours) makes a person's confusion and the prior invariant to swapping the images, because which image is
    called 0 means nothing; a person then has one reliability and one rate of ties. `smoothing` is added to every count
    of answers, `times` [N] are weights of the pairs, `start` [N, 2] is the initial posterior, and `voice` [M] is how
    far each vote counts in the posterior (`voices`). With `symmetric` off, `smoothing` 0 and no ties this is the
    published algorithm.
    """
    answer = np.where(votes.value == 0.5, 2, votes.value).astype(int)
    people = len(votes.names)
    posterior = _vote_shares(votes, pairs) if start is None else start
    times = np.ones(pairs) if times is None else times
    voice = np.ones(len(votes)) if voice is None else voice
    for _ in range(iterations):
        confusion, prior = _maximise(votes, answer, people, posterior, times, symmetric, smoothing)
        log = np.log(np.maximum(confusion, 1e-300))[votes.annotator, :, answer] * voice[:, None]  # [M, 2]
        likelihood = np.stack([np.bincount(votes.pair, weights=log[:, t], minlength=pairs) for t in (0, 1)], axis=1)
        scaled = likelihood + np.log(np.maximum(prior, 1e-300))
        scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        before, posterior = posterior, scaled / scaled.sum(axis=1, keepdims=True)
        if np.abs(posterior - before).max() < tolerance:
            break
    confusion, prior = _maximise(votes, answer, people, posterior, times, symmetric, smoothing)
    return DawidSkene(posterior, confusion, prior)


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


def shared_votes(votes: Votes, pairs: int) -> tuple[Votes, np.ndarray]:
    """First votes on pairs that several people saw, and the number of them per person [P]."""
    votes = votes.first_only()
    votes = votes.take(np.bincount(votes.pair, minlength=pairs)[votes.pair] > 1)
    return votes, np.bincount(votes.annotator, minlength=len(votes.names))


def _followed(slope: float) -> float:
    quantile = (np.arange(1000) + 0.5) / 1000
    return float(np.mean(expit(slope * np.abs(ndtri(quantile)))))


def _vote_shares(votes: Votes, pairs: int) -> np.ndarray:
    count = np.bincount(votes.pair, minlength=pairs)
    total = np.bincount(votes.pair, weights=votes.value, minlength=pairs)
    share = np.divide(total, count, out=np.full(pairs, 0.5), where=count > 0)
    return np.stack([1 - share, share], axis=1)


def _maximise(
    votes: Votes,
    answer: np.ndarray,
    people: int,
    posterior: np.ndarray,
    times: np.ndarray,
    symmetric: bool,
    smoothing: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Confusion [P, 2, 3] and prior [2] of the posterior [N, 2], pairs without a vote left out of the prior."""
    weight = times[votes.pair, None] * posterior[votes.pair]  # [M, 2]
    answers = np.stack(
        [np.bincount(votes.annotator * 3 + answer, weights=weight[:, t], minlength=3 * people) for t in (0, 1)], axis=1
    )
    counts: np.ndarray = answers.reshape(people, 3, 2).transpose(0, 2, 1) + smoothing
    voted = times * (np.bincount(votes.pair, minlength=len(posterior)) > 0)
    prior = voted @ posterior / max(voted.sum(), 1e-300)
    if symmetric:
        counts = (counts + counts[:, ::-1][:, :, [1, 0, 2]]) / 2
        prior = np.full(2, 0.5)
    return counts / np.maximum(counts.sum(axis=2, keepdims=True), 1e-300), prior
