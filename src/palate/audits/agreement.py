"""How far votes agree, by one formula for people and judges: with the others, and with one's own earlier answers.

    credit(a, b) = 1/2 + 2 (a - 1/2) (b - 1/2)          a, b in [0, 1]

is the chance that an image drawn by a and one drawn by b are the same image; a tie is a coin. It is linear in both, so
the credit against a mean vote is the mean credit against single votes, and 1/2 is chance whatever the share of ties.
"""

import numpy as np

from palate.audits.intervals import Estimate, bootstrap_estimate, resampled, share_estimate
from palate.data.annotators import Votes

VALUES = np.array([0.0, 0.5, 1.0])  # image 1, tie, image 0


def credit(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 for the same image, 0 for opposite ones, 1/2 for a tie on either side; elementwise for votes in [0, 1]."""
    return np.asarray(0.5 + 2 * (a - 0.5) * (b - 0.5))


def krippendorff_alpha(counts: np.ndarray, values: np.ndarray | None = None) -> float:
    """Krippendorff's alpha of counts [U, C]: how many voters gave unit u the value c.

    alpha = 1 - (observed disagreement) / (disagreement expected by chance), K. Krippendorff, Content Analysis (2004),
    section 11.3. Nominal difference, or (v_c - v_k)^2 for numeric `values` [C]. Units with a single voter are
    ignored. 1 is perfect agreement, 0 chance, below 0 systematic disagreement; NaN if all values are the same.
    """
    counts = np.asarray(counts, dtype=np.float64)
    return float(_alpha(np.ones((1, len(counts))), *_parts(counts, values))[0])


def alpha_estimate(votes: Votes, group: np.ndarray, seed: int = 0) -> Estimate | None:
    """Alpha of the votes with a bootstrap interval over groups [N] (prompts); None if no pair was seen by two people.

    If a person voted several times on a pair, the first vote counts. A tie lies halfway between the images, with
    squared differences; without ties this is the nominal alpha.
    """
    votes = votes.first_only()
    counts = _counts(votes, len(group))
    shared = counts.sum(axis=1) > 1
    if not shared.any():
        return None
    counts, group = counts[shared], group[shared]
    parts = _parts(counts, VALUES)
    value = _alpha(np.ones((1, len(counts))), *parts)[0]
    return bootstrap_estimate(float(value), _alpha(resampled(group, seed=seed), *parts), group, int(shared.sum()))


def agreement_with_others(votes: Votes, group: np.ndarray) -> dict[str, Estimate | None]:
    """For each person the mean credit of the own vote against the others', on pairs that others voted on too."""
    votes = votes.first_only()
    total = np.bincount(votes.pair, weights=votes.value, minlength=len(group))
    count = np.bincount(votes.pair, minlength=len(group))
    shared = votes.take(count[votes.pair] > 1)
    agree = credit(shared.value, (total[shared.pair] - shared.value) / (count[shared.pair] - 1))
    return {
        name: share_estimate(agree[shared.annotator == k], group[shared.pair[shared.annotator == k]])
        for k, name in enumerate(votes.names)
    }


def a_person(votes: Votes, group: np.ndarray, weights: np.ndarray | None = None) -> Estimate | None:
    """What a person scores, judged by the others as a judge is: mean credit over all couples of voters of a pair, then
    over pairs; weights [N] of the pairs. None if no pair was seen by two people."""
    votes = votes.first_only()
    count = np.bincount(votes.pair, minlength=len(group))
    total = np.bincount(votes.pair, weights=votes.value - 0.5, minlength=len(group))
    squares = np.bincount(votes.pair, weights=(votes.value - 0.5) ** 2, minlength=len(group))
    shared = count > 1
    together = (total**2 - squares)[shared] / (count * (count - 1))[shared]  # of couples, in [-1/4, 1/4]
    return share_estimate(0.5 + 2 * together, group[shared], None if weights is None else weights[shared])


def ceiling(person: Estimate | None) -> float | None:
    """The most that any judge can score where a person scores so much: 1/2 + sqrt((person - 1/2) / 2).

    The best judge says what most people would, and scores 1/2 + E|q - 1/2| for the share q of all people who prefer
    image 0; that is at most 1/2 + sqrt(E (q - 1/2)^2), and a person scores 1/2 + 2 E (q - 1/2)^2. None where people
    agree no more than by chance.
    """
    if person is None or not person.value > 0.5:
        return None
    return float(0.5 + np.sqrt((person.value - 0.5) / 2))


def self_agreement(votes: Votes, group: np.ndarray) -> tuple[Estimate | None, dict[str, Estimate | None]]:
    """How far people agree with their own answer when they are shown a pair again: all together, and each person.

    Each person and pair with several votes gives one number: the mean credit of all two votes.
    """
    person, pair, same = _repeats(votes)
    by_person = {
        name: share_estimate(same[person == k], group[pair[person == k]]) for k, name in enumerate(votes.names)
    }
    return share_estimate(same, group[pair]), by_person


def first_share(votes: Votes, group: np.ndarray) -> Estimate | None:
    """Share of votes for the image that was shown first; a tie counts one half. None if the order is not recorded.

    One half means no position bias, provided that the order was random.
    """
    known = votes.take(votes.side != 0)
    return share_estimate(np.where(known.side > 0, known.value, 1 - known.value), group[known.pair])


def order_flips(votes: Votes, group: np.ndarray) -> Estimate | None:
    """Among pairs that one annotator voted on in both orders, the share whose answer changed with the order."""
    key = votes.pair * max(len(votes.names), 1) + votes.annotator
    changed, pairs = [], []
    ahead, behind = (
        {k: v for k, v in zip(key[votes.side == s], votes.value[votes.side == s], strict=True)} for s in (1, -1)
    )
    for k in ahead.keys() & behind.keys():
        changed.append(abs(ahead[k] - behind[k]))
        pairs.append(k // max(len(votes.names), 1))
    return share_estimate(np.array(changed), group[np.array(pairs, dtype=int)])


def _counts(votes: Votes, pairs: int) -> np.ndarray:
    column = np.rint(2 * votes.value).astype(int)
    return np.bincount(votes.pair * 3 + column, minlength=3 * pairs).reshape(pairs, 3).astype(np.float64)


def _repeats(votes: Votes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Person, pair, and the mean credit of two answers, for every pair that a person voted on more than once."""
    people = max(len(votes.names), 1)
    key, inverse = np.unique(votes.pair * people + votes.annotator, return_inverse=True)
    counts = np.bincount(inverse * 3 + np.rint(2 * votes.value).astype(int), minlength=3 * len(key)).reshape(-1, 3)
    times = counts.sum(axis=1)
    again = times > 1
    sided = (counts[:, 2] - counts[:, 0])[again]  # sum of 2 value - 1; its square has every couple twice, and each vote
    same = 0.5 + (sided**2 - (counts[:, 0] + counts[:, 2])[again]) / (2 * (times * (times - 1))[again])
    return key[again] % people, key[again] // people, same


def _parts(counts: np.ndarray, values: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Disagreement within each unit [U], counts [U, C] of units with several voters, and the differences [C, C]."""
    size = counts.shape[1]
    difference = 1 - np.eye(size) if values is None else np.square(np.subtract.outer(values, values))
    voters = counts.sum(axis=1)
    counts = np.where(voters[:, None] > 1, counts, 0.0)
    return np.einsum("uc,uk,ck->u", counts, counts, difference) / np.maximum(voters - 1, 1), counts, difference


def _alpha(times: np.ndarray, within: np.ndarray, counts: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """Alpha [R] of R resamples, in which each unit is taken times [R, U]."""
    totals = times @ counts  # [R, C]
    n = totals.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (times @ within) / n
        expected = np.einsum("rc,rk,ck->r", totals, totals, difference) / (n * (n - 1))
        return np.where(expected > 0, 1 - observed / expected, np.nan)
