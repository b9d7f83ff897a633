"""Intervals hold what they promise, also where pairs of one prompt go together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from palate.audits.intervals import (
    bootstrap_estimate,
    mean_estimate,
    ratio_estimate,
    resampled,
    share_estimate,
    slope_estimate,
)


def clustered(rng, groups=25, spread=0.8):
    """Votes of prompts that differ: group [n], probability of each vote [n], vote [n]."""
    group = np.repeat(np.arange(groups), rng.integers(2, 9, groups))
    probability = expit(0.9 + spread * rng.normal(size=groups))[group]
    return group, probability, (rng.random(len(group)) < probability).astype(float)


def test_a_share_of_independent_votes_has_wilsons_interval():
    votes = np.repeat([1.0, 0.0], [63, 37])
    found = share_estimate(votes, np.arange(100))
    t = stats.t.ppf(0.975, 99)
    size = 0.63 * 0.37 / (0.63 * 0.37 / 99)
    middle, reach = (0.63 + t**2 / (2 * size)) / (1 + t**2 / size), t / (1 + t**2 / size)
    reach *= np.sqrt(0.63 * 0.37 / size + t**2 / (4 * size**2))
    assert (found.value, found.n) == (pytest.approx(0.63), 100)
    assert (found.low, found.high) == (pytest.approx(middle - reach), pytest.approx(middle + reach))


def test_a_mean_of_independent_values_has_students_interval():
    values = np.random.default_rng(0).normal(size=12)
    found = mean_estimate(values, np.arange(12))
    low, high = stats.t.interval(0.95, 11, values.mean(), values.std(ddof=1) / np.sqrt(12))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_copies_of_a_group_tell_nothing_new():
    values, group = np.repeat([1.0, 0.0], [6, 4]), np.arange(10)
    for estimate in (mean_estimate, share_estimate):
        once, thrice = estimate(values, group), estimate(np.repeat(values, 3), np.repeat(group, 3))
        assert (thrice.low, thrice.high) == (pytest.approx(once.low), pytest.approx(once.high))


def test_intervals_cover_the_truth_with_pairs_of_one_prompt_together():
    rng = np.random.default_rng(3)
    truth = np.mean(expit(0.9 + 0.8 * rng.normal(size=200_000)))
    held, naive = np.zeros((400, 2)), np.zeros(400)
    for i in range(400):
        group, _, votes = clustered(rng)
        for k, estimate in enumerate((share_estimate, mean_estimate)):
            found = estimate(votes, group)
            held[i, k] = found.low <= truth <= found.high
        alone = share_estimate(votes, np.arange(len(votes)))
        naive[i] = alone.low <= truth <= alone.high
    assert (np.abs(held.mean(axis=0) - 0.95) < 0.04).all()
    assert naive.mean() < held[:, 0].mean() - 0.04  # without the groups it would not hold


@pytest.mark.parametrize(("tied", "width"), [(0.0, 0.218), (0.44, 0.166), (0.8, 0.100)])
def test_ties_narrow_an_interval_and_it_still_holds(tied, width):
    """40 prompts with two pairs each; a tie is one half, so that credits vary less than votes of 0 and 1."""
    rng = np.random.default_rng(8)
    group, held, widths = np.repeat(np.arange(40), 2), [], []
    for _ in range(600):
        right = (rng.random(80) < np.repeat(rng.beta(6, 4, 40), 2)).astype(float)
        found = share_estimate(np.where(rng.random(80) < tied, 0.5, right), group)
        held.append(found.low <= tied / 2 + (1 - tied) * 0.6 <= found.high)
        widths.append(found.high - found.low)
    assert 0.93 <= np.mean(held) <= 0.975
    assert np.mean(widths) == pytest.approx(width, rel=0.08)  # capped at n it was .22 for all three


def test_the_interval_of_a_ratio_of_skewed_values_is_that_of_its_logarithm_and_holds():
    rng = np.random.default_rng(9)
    values, group = rng.normal(size=30), np.arange(30)
    square, mean = ratio_estimate(values**2, np.ones(30), group), mean_estimate(values**2, group)
    assert square.value == pytest.approx(mean.value)
    assert np.log(square.high / square.value) == pytest.approx((mean.high - mean.value) / mean.value)
    assert square.value / square.low == pytest.approx(square.high / square.value)
    assert ratio_estimate(values, np.zeros(30), group) is None
    held = []
    for _ in range(400):
        spread = np.repeat(0.5 + rng.random(40), 3)  # of a prompt
        below = spread * rng.exponential(size=120)
        above = 0.3 * below * rng.exponential(size=120)
        found = ratio_estimate(above, below, np.repeat(np.arange(40), 3))
        held.append(found.low <= 0.3 <= found.high)
    assert 0.92 < np.mean(held) < 0.98


def test_unequal_chances_of_being_labelled_are_undone():
    rng = np.random.default_rng(4)
    held = []
    for _ in range(500):
        hard = rng.random(600) < 0.5
        right = rng.random(600) < np.where(hard, 0.55, 0.95)
        propensity = np.where(hard, 0.5, 0.1)
        seen = rng.random(600) < propensity
        found = share_estimate(right[seen].astype(float), np.flatnonzero(seen), 1 / propensity[seen])
        held.append(found.low <= 0.75 <= found.high)
    assert np.mean(held) > 0.92


def test_the_slope_recovers_how_sure_a_judge_may_be_and_its_interval_holds():
    rng = np.random.default_rng(5)
    held = []
    for _ in range(300):
        x = 2 * rng.normal(size=150)
        y = (rng.random(150) < expit(0.5 * x)).astype(float)
        found = slope_estimate(x, y, np.arange(150))
        held.append(found.low <= 0.5 <= found.high)
    assert 0.92 < np.mean(held) < 0.98
    mirrored = slope_estimate(-x, 1 - y, np.arange(150))
    assert (mirrored.value, mirrored.low) == (pytest.approx(found.value), pytest.approx(found.low))


def test_separated_votes_and_huge_logits_give_a_finite_slope():
    x = np.concatenate([np.full(20, 1e4), np.full(20, -1e4)])
    found = slope_estimate(x, (x > 0).astype(float), np.arange(40))
    assert np.isfinite([found.value, found.low, found.high]).all() and found.value >= 0
    assert slope_estimate(np.zeros(5), np.ones(5), np.arange(5)) is None


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 5)), min_size=1, max_size=40))
def test_a_share_stays_inside_its_interval_and_that_inside_zero_and_one(votes):
    values, group = (np.array(column) for column in zip(*votes, strict=True))
    found = share_estimate(values, group)
    swapped = share_estimate(1 - values, group)
    if len(set(group)) == 1:
        assert np.isnan(found.low) and np.isnan(found.high)
    else:
        assert 0 <= found.low <= found.value + 1e-12 and found.value - 1e-12 <= found.high <= 1
        assert (1 - swapped.high, 1 - swapped.low) == (pytest.approx(found.low), pytest.approx(found.high))


def test_unanimous_votes_are_no_certainty_and_none_are_nothing():
    found = share_estimate(np.ones(10), np.arange(10))
    assert (found.value, found.high) == (1, 1) and 0.6 < found.low < 0.75
    assert share_estimate(np.zeros(0), np.zeros(0)) is None and mean_estimate(np.zeros(0), np.zeros(0)) is None


def test_resampling_takes_whole_groups():
    group = np.array([0, 0, 1, 2, 2, 2])
    times = resampled(group, 50)
    assert (times[:, 0] == times[:, 1]).all() and (times[:, 3] == times[:, 5]).all()
    assert (times[:, [0, 2, 3]].sum(axis=1) == 3).all() and len(np.unique(times[:, 0])) > 2


def test_a_bootstrap_without_a_second_group_has_no_interval():
    assert np.isnan(bootstrap_estimate(0.3, np.array([0.3, 0.3]), np.zeros(4), 4).low)
