import numpy as np
import pytest
from parity.powered_mean import classical_mean, powered_mean
from scipy import stats

from palate.errors import PalateError


def votes(rng, n, n_unlabelled, sharpness=2.0, lean=0.3):
    """Human votes, and the probabilities of a judge that follows them and leans to one side."""
    utility = rng.normal(size=n + n_unlabelled)
    human = (rng.random(n + n_unlabelled) < 1 / (1 + np.exp(-2 * utility))).astype(float)
    judge = 1 / (1 + np.exp(-sharpness * utility - lean))
    return human[:n], judge[:n], judge[n:]


def test_by_hand():
    """human 1, 0, 1, 1; judge .8, .4, .6, .6 there and .5, .7 elsewhere; power 1/2."""
    made = powered_mean([1, 0, 1, 1], [0.8, 0.4, 0.6, 0.6], [0.5, 0.7], power=0.5, confidence=0.9)
    corrected = np.array([0.6, -0.2, 0.7, 0.7])
    assert made.estimate == pytest.approx(0.3 + corrected.mean(), rel=1e-12)
    error = np.sqrt(np.var([0.25, 0.35]) / 2 + np.var(corrected) / 4)
    assert made.error == pytest.approx(error, rel=1e-12)
    reach = stats.norm.ppf(0.95) * error
    assert [made.low, made.high] == pytest.approx([made.estimate - reach, made.estimate + reach], rel=1e-12)
    assert (made.power, made.n, made.n_unlabelled, made.confidence) == (0.5, 4, 2, 0.9)


def test_power_zero_is_the_classical_mean():
    human, judged, others = votes(np.random.default_rng(0), 30, 50)
    made, alone = powered_mean(human, judged, others, power=0.0), classical_mean(human)
    assert [made.estimate, made.error, made.low, made.high] == [alone.estimate, alone.error, alone.low, alone.high]
    assert alone.estimate == pytest.approx(human.mean()) and alone.error == pytest.approx(human.std() / np.sqrt(30))
    assert (alone.power, alone.n_unlabelled) == (0, 0)


def test_a_perfect_judge_counts_as_human_answers_on_every_sample():
    rng = np.random.default_rng(1)
    human, others = rng.normal(size=2000), rng.normal(size=5000)
    made = powered_mean(human, human, others, power=1.0)
    assert made.estimate == pytest.approx(others.mean()) and made.error == pytest.approx(others.std() / np.sqrt(5000))
    assert powered_mean(human, human, others).power == pytest.approx(1 / (1 + 2 / 5), rel=0.05)


def test_the_tuned_power_has_the_least_error_and_is_cut_to_one_and_zero():
    human, judged, others = votes(np.random.default_rng(2), 400, 2000)
    best = powered_mean(human, judged, others)
    assert 0.2 < best.power < 0.95
    for power in (0.0, best.power - 0.1, best.power + 0.1, 1.0):
        assert powered_mean(human, judged, others, power=power).error > best.error
    assert powered_mean(human, 1 - judged, 1 - others).power == 0  # against the humans
    assert powered_mean(human, 0.2 * judged, 0.2 * others).power == 1  # too timid
    assert powered_mean(human, 0.2 * judged, 0.2 * others).estimate != best.estimate


def test_the_judge_may_lean_without_moving_the_estimate():
    human, judged, others = votes(np.random.default_rng(3), 100, 300)
    for power in ("tuned", 1.0):
        plain, leaning = (powered_mean(human, judged + b, others + b, power=power) for b in (0.0, 7.0))
        np.testing.assert_allclose(leaning.estimate, plain.estimate, rtol=1e-9)
        np.testing.assert_allclose(leaning.error, plain.error, rtol=1e-9)
    assert others.mean() + 7 - human.mean() > 5  # what the judge alone would say


@pytest.mark.parametrize("power", ["tuned", 1.0])
def test_the_interval_holds_the_mean_as_often_as_it_says(power):
    rng, repeats, truth = np.random.default_rng(4), 2000, 0.5  # the utility is symmetric
    held = 0
    for _ in range(repeats):
        made = powered_mean(*votes(rng, 200, 600, lean=0.8), power=power)
        held += made.low <= truth <= made.high
    error = np.sqrt(0.95 * 0.05 / repeats)
    assert abs(held / repeats - 0.95) < 3 * error


def test_one_sided_intervals_hold_the_mean_as_often_as_they_say_and_the_judge_alone_does_not():
    rng, repeats = np.random.default_rng(5), 1000
    held, fooled = {"larger": 0, "smaller": 0}, 0
    for _ in range(repeats):
        human, judged, others = votes(rng, 200, 1500, lean=0.8)
        for alternative in held:
            made = powered_mean(human, judged, others, alternative=alternative)
            held[alternative] += made.low <= 0.5 <= made.high
        alone = classical_mean(others)
        fooled += not alone.low <= 0.5 <= alone.high
    assert all(abs(count / repeats - 0.95) < 3 * np.sqrt(0.95 * 0.05 / repeats) for count in held.values())
    assert fooled > 0.95 * repeats


def test_it_is_shorter_than_the_classical_interval_with_a_good_judge_and_no_longer_with_a_random_one():
    rng = np.random.default_rng(6)
    human, judged, others = votes(rng, 200, 4000)
    alone, good = classical_mean(human), powered_mean(human, judged, others)
    assert good.high - good.low < 0.85 * (alone.high - alone.low)
    noise = rng.random(200), rng.random(4000)
    random, forced = powered_mean(human, *noise), powered_mean(human, *noise, power=1.0)
    assert random.high - random.low < 1.01 * (alone.high - alone.low) < forced.high - forced.low


def test_one_sided_alternatives_leave_the_other_end_open():
    human, judged, others = votes(np.random.default_rng(7), 50, 100)
    two = powered_mean(human, judged, others, confidence=0.9)
    larger = powered_mean(human, judged, others, alternative="larger", confidence=0.95)
    smaller = powered_mean(human, judged, others, alternative="smaller", confidence=0.95)
    assert larger.low == pytest.approx(two.low, rel=1e-12) and larger.high == np.inf
    assert smaller.high == pytest.approx(two.high, rel=1e-12) and smaller.low == -np.inf


def test_equal_weights_change_nothing_and_doubled_ones_are_rescaled():
    human, judged, others = votes(np.random.default_rng(8), 40, 60)
    plain = powered_mean(human, judged, others)
    assert powered_mean(human, judged, others, np.full(40, 3.0), np.full(60, 0.1)).error == pytest.approx(plain.error)
    w = np.random.default_rng(9).uniform(0.5, 2, 40)
    once, twice = powered_mean(human, judged, others, w), powered_mean(human, judged, others, 2 * w)
    assert once.estimate == pytest.approx(twice.estimate, rel=1e-12) and once.estimate != plain.estimate
    weighted = classical_mean(human, w)
    assert weighted.estimate == pytest.approx(np.average(human, weights=w), rel=1e-12)


def test_columns_are_means_of_their_own_with_one_power_or_each_its_own():
    rng = np.random.default_rng(10)
    first, second = votes(rng, 80, 300), votes(rng, 80, 300, sharpness=0.3)
    table = [np.stack(pair, axis=1) for pair in zip(first, second, strict=True)]
    apart = powered_mean(*table, per_coordinate=True)
    for k, column in enumerate((first, second)):
        alone = powered_mean(*column)
        assert apart.power[k] == pytest.approx(alone.power, rel=1e-12)
        assert [apart.estimate[k], apart.low[k], apart.high[k]] == pytest.approx(
            [alone.estimate, alone.low, alone.high]
        )
    together = powered_mean(*table)
    assert isinstance(together.power, float) and isinstance(powered_mean(*first, per_coordinate=True).power, float)
    assert min(apart.power) < together.power < max(apart.power)
    for k, column in enumerate((first, second)):
        assert together.estimate[k] == pytest.approx(powered_mean(*column, power=together.power).estimate)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6, 1e-9])
def test_a_judge_that_always_says_the_same_leaves_the_human_answers_alone(value):
    human = np.random.default_rng(11).normal(size=23)
    made, alone = powered_mean(human, np.full(23, value), np.full(57, value)), classical_mean(human)
    assert made.power == 0 and made.estimate == pytest.approx(alone.estimate) and made.error == alone.error
    two = powered_mean(
        np.stack([human, human], axis=1),
        np.stack([np.full(23, value), human], axis=1),
        np.stack([np.full(57, value), np.linspace(-1, 1, 57)], axis=1),
        per_coordinate=True,
    )
    assert two.power[0] == 0 < two.power[1]


def test_a_single_sample_claims_no_interval():
    made = powered_mean([1.0], [0.8], [0.5, 0.7], alternative="larger")
    assert made.estimate == 1 and np.isnan([made.error, made.low, made.high]).all()
    assert np.isnan(powered_mean([1.0, 0.0], [0.8, 0.1], [0.5], power=1.0).error)
    assert np.isfinite(powered_mean([1.0, 0.0], [0.8, 0.1], [0.5], power=0.0).error)
    assert np.isnan(classical_mean([0.5]).low)


GOOD = {"human": [1.0, 0.0], "judged": [0.5, 0.4], "judged_unlabelled": [0.3, 0.2, 0.1]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"human": [1.0]}, ["do not fit", "(1,)", "(2,)"]),
        ({"judged_unlabelled": np.ones((3, 2))}, ["do not fit", "(3, 2)"]),
        ({"judged_unlabelled": []}, ["judged_unlabelled", "at least one row"]),
        ({"judged": [0.5, np.nan]}, ["judged", "1 of 2", "row 1", "Leave them out"]),
        ({"weights": [1.0]}, ["weights", "2 weights"]),
        ({"weights": [1.0, -0.5]}, ["none negative"]),
        ({"weights_unlabelled": [0.0, 0.0, 0.0]}, ["weights_unlabelled", "not all 0"]),
        ({"power": "auto"}, ["'auto'", "tuned"]),
        ({"power": np.inf}, ["inf", "tuned"]),
        ({"alternative": "greater"}, ["'greater'", "larger"]),
        ({"confidence": 95}, ["95", "0.95"]),
    ],
)
def test_bad_input_gets_one_clear_line(change, words):
    with pytest.raises(PalateError) as failure:
        powered_mean(**(GOOD | change))
    assert "\n" not in str(failure.value)
    for word in words:
        assert word in str(failure.value)
