"""Each annotator's votes as arrays, and how often each one says which image is better: Dawid and Skene's model."""

from dataclasses import dataclass

import numpy as np

FEWEST_PEOPLE = 3  # with two people only their agreement is known, not which of them is right
FEWEST_SHARED = 5  # a person with fewer votes on shared pairs is not judged


@dataclass(frozen=True)
class Votes:
    """M votes of one kind of annotator, without skips, in the order in which they were cast."""

    pair: np.ndarray  # [M] position of the pair
    annotator: np.ndarray  # [M] position in `names`
    value: np.ndarray  # [M] 1 for image 0, 0 for image 1, 1/2 for a tie
    side: np.ndarray  # [M] +1 if image 0 was shown first, -1 if image 1 was, 0 if not recorded
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pair)

    def take(self, kept: np.ndarray) -> "Votes":
        """The votes at these positions, or those that this mask selects."""
        return Votes(self.pair[kept], self.annotator[kept], self.value[kept], self.side[kept], self.names)

    def of(self, name: str) -> "Votes":
        """The votes of one annotator."""
        return self.take(self.annotator == self.names.index(name))

    def first_only(self) -> "Votes":
        """Only the first vote of each annotator on each pair."""
        _, kept = np.unique(self.pair * max(len(self.names), 1) + self.annotator, return_index=True)
        return self.take(np.sort(kept))


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
    of answers, `times` [N] are weights of the pairs, `start` [N, 2] is the initial posterior, and
    `voice` [M] how far each vote counts in the posterior (less for people who answer alike). With `symmetric` off,
    `smoothing` 0 and no ties this is the published algorithm.
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


def shared_votes(votes: Votes, pairs: int) -> tuple[Votes, np.ndarray]:
    """First votes on pairs that several people saw, and the number of them per person [P]."""
    votes = votes.first_only()
    votes = votes.take(np.bincount(votes.pair, minlength=pairs)[votes.pair] > 1)
    return votes, np.bincount(votes.annotator, minlength=len(votes.names))


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
