"""The named row of a table is as good as it is said to be, and no more complex than the votes ask for."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from palate.audits.choosing import corrected_for, name_a_row
from palate.audits.planning import gain_and_draws, gain_of
from palate.data.labels import Labels


def rows_of(rng, noises, labelled=80, pairs=400, names=None):
    """A table of judges of given noises on the same votes, and the variance ratio that each truly has at its power."""
    utility = 1.5 * rng.normal(size=pairs)
    human = np.where(rng.permutation(pairs) < labelled, (rng.random(pairs) < expit(utility)).astype(float), np.nan)
    names = names or [f"j{k:02}/calibrate" for k in range(len(noises))]
    gains, draws, truth = {}, {}, {}
    many = 1.5 * rng.normal(size=20_000)
    for name, noise in zip(names, noises, strict=True):
        judge = expit(utility + noise * rng.normal(size=pairs))
        gains[name], draws[name] = gain_and_draws(
            Labels(human, judge, np.full(pairs, labelled / pairs)), np.arange(pairs)
        )
        b = expit(many + noise * rng.normal(size=len(many))) - 0.5
        k = gains[name].power.value
        square = 0.25 - 2 * k * np.mean((expit(many) - 0.5) * b) + k * k * np.mean(b * b)
        truth[name] = labelled / pairs + (1 - labelled / pairs) * square / 0.25
    return gains, draws, truth


def test_of_rows_that_are_equally_good_the_named_one_is_not_said_to_be_better():
    """Twelve rows, each alone the complexity of the others: naively the luckiest is named at its own word."""
    naive, corrected = [], []
    for seed in range(30):
        gains, draws, truth = rows_of(np.random.default_rng([1, seed]), [1.5] * 12)
        named = name_a_row(gains, draws)
        luckiest = min(gains, key=lambda name: gains[name].variance.value)
        naive.append(gains[luckiest].variance.value - truth[luckiest])
        corrected.append(named.gain.variance.value - truth[named.name])
    assert np.mean(naive) < -0.04
    assert abs(np.mean(corrected)) < abs(np.mean(naive)) / 3


def test_a_single_row_is_corrected_for_its_tuned_power_alone():
    wrong = []
    for seed in range(60):
        gains, draws, truth = rows_of(np.random.default_rng([2, seed]), [3.0], labelled=30)
        named = name_a_row(gains, draws)
        wrong.append((named.seen - truth[named.name], named.gain.variance.value - truth[named.name]))
    naive, corrected = np.mean(wrong, axis=0)
    assert naive < 0 and abs(corrected) < abs(naive)


def test_the_simpler_row_is_named_unless_the_other_is_clearly_better():
    rng = np.random.default_rng(3)
    names = ["clip/none", "clip/covariates", "all judges/covariates"]
    alike, draws, _ = rows_of(rng, [1.0, 1.0, 0.98], labelled=200, pairs=800, names=names)
    assert name_a_row(alike, draws).name == "clip/none"
    better, draws, _ = rows_of(rng, [2.5, 2.5, 0.3], labelled=200, pairs=800, names=names)
    named = name_a_row(better, draws)
    assert named.name == "all judges/covariates" and named.rows == 3
    assert named.seen == better[named.name].variance.value
    assert named.gain.variance.value == pytest.approx(named.seen + named.optimism)
    assert name_a_row({}, {}) is None


def test_what_follows_from_a_corrected_variance():
    gains, _, _ = rows_of(np.random.default_rng(4), [1.0])
    gain = gains["j00/calibrate"]
    other = corrected_for(gain, 0.05)
    assert other.variance.value == pytest.approx(gain.variance.value + 0.05)
    assert other.worth.value == pytest.approx(80 / other.variance.value) and other.worth.low < gain.worth.low
    assert other.spread(80) / (gain.alone / 80) == pytest.approx(other.variance.value)
    assert corrected_for(gain, 0.0).residual == pytest.approx(gain.residual)
    everything = replace(gain, pairs=80)
    assert corrected_for(everything, 0.0).residual == everything.residual


def test_the_same_prompts_are_drawn_for_every_judge_also_where_one_did_not_vote():
    rng = np.random.default_rng(5)
    human = (rng.random(60) < 0.5).astype(float)
    judge = expit(2 * (human - 0.5) + rng.normal(size=60))
    some = np.where(np.arange(60) < 50, judge, np.nan)
    group = np.arange(60) // 2
    whole, part = (gain_and_draws(Labels(human, g, np.full(60, 0.5)), group) for g in (judge, some))
    assert gain_of(Labels(human, judge, np.full(60, 0.5)), group) == whole[0]
    assert np.corrcoef(whole[1].variance, part[1].variance)[0, 1] > 0.8
