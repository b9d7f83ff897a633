"""Reliability per person, from the votes alone: against another implementation, and against a known truth."""

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from palate.audits.reliability import (
    bradley_terry_estimates,
    dawid_skene_estimates,
    noisy_bradley_terry,
)
from palate.data.annotators import Votes, dawid_skene


def one_coin(rng, reliability, pairs=150, seen=0.8, ties=0.0) -> tuple[Votes, np.ndarray]:
    """Votes that are right with each person's probability, and the truth."""
    truth = rng.integers(0, 2, pairs)
    pair, person = (x.ravel() for x in np.meshgrid(np.arange(pairs), np.arange(len(reliability)), indexing="ij"))
    kept = rng.random(len(pair)) < seen
    pair, person = pair[kept], person[kept]
    right = rng.random(len(pair)) < np.array(reliability)[person]
    value = np.where(rng.random(len(pair)) < ties, 0.5, np.where(right, truth[pair], 1 - truth[pair]))
    return Votes(pair, person, value, np.zeros(len(pair)), tuple(f"p{k}" for k in range(len(reliability)))), truth


def utilities(rng, steadiness, position, pairs=300) -> Votes:
    s = rng.normal(size=pairs)
    pair, person = (x.ravel() for x in np.meshgrid(np.arange(pairs), np.arange(len(steadiness)), indexing="ij"))
    side = rng.choice([-1.0, 1.0], len(pair))
    z = np.array(steadiness)[person] * s[pair] + np.array(position)[person] * side
    value = (rng.random(len(pair)) < expit(z)).astype(float)
    return Votes(pair, person, value, side, tuple(f"p{k}" for k in range(len(steadiness))))


def test_dawid_skene_equals_that_of_crowd_kit():
    DawidSkene = pytest.importorskip("crowdkit.aggregation").DawidSkene
    votes, _ = one_coin(np.random.default_rng(0), [0.9, 0.75, 0.65, 0.3, 0.8], pairs=40)
    frame = pd.DataFrame({"task": votes.pair, "worker": votes.annotator, "label": votes.value.astype(int)})
    theirs = DawidSkene(n_iter=15, tol=-1).fit(frame)
    ours = dawid_skene(votes, 40, symmetric=False, smoothing=0, iterations=15, tolerance=0)
    seen = theirs.probas_.index.to_numpy()
    assert ours.posterior[seen] == pytest.approx(theirs.probas_[[0, 1]].to_numpy(), abs=1e-6)
    assert ours.prior == pytest.approx(theirs.priors_.loc[[0, 1]].to_numpy(), abs=1e-6)
    for person in range(5):
        confusion = theirs.errors_.loc[person].loc[[0, 1], [0, 1]].to_numpy().T  # [truth, answer]
        assert ours.confusion[person, :, :2] == pytest.approx(confusion, abs=1e-6)


def test_one_step_by_hand():
    """Two people agree on pair 0 and disagree on pair 1; shares of the votes, then one maximisation."""
    votes = Votes(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.array([1.0, 1, 1, 0]), np.zeros(4), ("a", "b"))
    found = dawid_skene(votes, 2, symmetric=False, smoothing=0, iterations=0)
    assert found.prior == pytest.approx([0.25, 0.75])
    assert found.confusion[0] == pytest.approx(np.array([[0, 1, 0], [0, 1, 0]]))
    assert found.confusion[1] == pytest.approx(np.array([[1, 0, 0], [0.5 / 1.5, 1 / 1.5, 0]]))


def test_which_image_is_called_0_does_not_matter():
    votes, _ = one_coin(np.random.default_rng(1), [0.9, 0.7, 0.6], ties=0.1)
    exchanged = Votes(votes.pair, votes.annotator, 1 - votes.value, -votes.side, votes.names)
    one, other = dawid_skene(votes, 150), dawid_skene(exchanged, 150)
    assert one.reliability == pytest.approx(other.reliability, abs=1e-9)
    assert one.posterior == pytest.approx(other.posterior[:, ::-1], abs=1e-7)
    steady, mirrored = (noisy_bradley_terry(v, 150) for v in (votes, exchanged))
    assert steady.steadiness == pytest.approx(mirrored.steadiness, abs=1e-4)


def test_reliabilities_are_found_their_intervals_hold_and_ties_are_not_errors():
    rng = np.random.default_rng(2)
    truth = np.array([0.92, 0.85, 0.7, 0.6, 0.25])
    held, error = [], []
    for seed in range(4):
        votes, better = one_coin(rng, truth, ties=0.1)
        found = list(dawid_skene_estimates(votes, np.arange(150), seed, resamples=50).values())
        held += [e.low <= r <= e.high for e, r in zip(found, truth, strict=True)]
        error += [e.value - r for e, r in zip(found, truth, strict=True)]
    assert np.mean(held) > 0.85 and np.sqrt(np.mean(np.square(error))) < 0.07
    assert found[4].beyond(0.5) == -1 and found[0].beyond(0.5) == 1  # the opposed and the reliable one
    assert np.mean((dawid_skene(votes, 150).posterior[:, 1] > 0.5) == better) > 0.88


def test_steadiness_and_position_bias_are_found_and_their_errors_hold():
    rng = np.random.default_rng(3)
    steadiness, position = [3.0, 2.0, 1.0, 0.0, -2.0], [0.0, 0.0, 0.0, 1.0, 0.0]
    held = []
    for _ in range(3):
        votes = utilities(rng, steadiness, position)
        found = noisy_bradley_terry(votes, 300)
        held.append(np.abs(found.steadiness - steadiness) < 1.96 * found.steadiness_error)
        held.append(np.abs(found.position - position) < 1.96 * found.position_error)
    assert np.mean(held) > 0.85
    assert found.position[3] > 2 * found.position_error[3]
    reliable = bradley_terry_estimates(votes, 300)
    assert reliable["p4"].beyond(0.5) == -1 and reliable["p0"].beyond(0.5) == 1 and reliable["p3"].beyond(0.5) == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # crowd-kit's own overflows
def test_the_steadier_of_two_workers_is_the_one_that_crowd_kit_finds():
    NoisyBradleyTerry = pytest.importorskip("crowdkit.aggregation").NoisyBradleyTerry
    votes = utilities(np.random.default_rng(4), [4.0, 4.0, 4.0, 0.2], [0.0] * 4, pairs=30)
    left, right = 2 * votes.pair, 2 * votes.pair + 1
    label = np.where(votes.value == 1, left, right)
    frame = pd.DataFrame({"worker": votes.annotator, "left": left, "right": right, "label": label})
    skills = NoisyBradleyTerry(n_iter=30).fit(frame).skills_
    assert skills.idxmin() == 3 == np.argmin(noisy_bradley_terry(votes, 30).steadiness)


def test_reliability_is_the_mean_over_typical_pairs():
    found = bradley_terry_estimates(utilities(np.random.default_rng(5), [3.0, 2.0, 1.0], [0.0] * 3), 300)
    fit = noisy_bradley_terry(utilities(np.random.default_rng(5), [3.0, 2.0, 1.0], [0.0] * 3), 300)
    for k, a in enumerate(fit.steadiness):
        expected = 2 * quad(lambda s, a=a: expit(a * s) * norm.pdf(s), 0, 12)[0]
        assert found[f"p{k}"].value == pytest.approx(expected, abs=1e-4)


def test_two_people_or_few_shared_pairs_give_none():
    rng = np.random.default_rng(6)
    two, _ = one_coin(rng, [0.9, 0.8])
    assert set(dawid_skene_estimates(two, np.arange(150)).values()) == {None}
    assert set(bradley_terry_estimates(two, 150).values()) == {None}
    votes, _ = one_coin(rng, [0.9, 0.8, 0.8, 0.7])
    rare = votes.take((votes.annotator != 3) | (np.cumsum(votes.annotator == 3) <= 3))
    assert dawid_skene_estimates(rare, np.arange(150), resamples=50)["p3"] is None
    assert bradley_terry_estimates(rare, 150)["p3"] is None and bradley_terry_estimates(rare, 150)["p0"] is not None
