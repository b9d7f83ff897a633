import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import refusal

from palate.data.labels import Labels
from palate.errors import PalateError
from palate.labels.targets import (
    conservative,
    dedpo,
    human_only,
    judge_only,
    mix,
    ramp,
    ramped,
    robust,
    steadiest_number,
    tuned_power,
    variance_ratio,
)
from palate.training.batches import Batches

probabilities = st.floats(0, 1, allow_nan=False)


def cross_entropy(z, p):
    return np.logaddexp(0, z) - p * z


def objective(targets, z):
    return np.mean(targets.weight * cross_entropy(z, targets.target))


def random_pool(rng, n=40, n_l=10):
    """A judge, votes on every pair, and labels that show n_l of them."""
    judge, truth, z = rng.random(n), rng.integers(0, 2, n).astype(float), rng.normal(scale=2, size=n)
    human = np.full(n, np.nan)
    shown = rng.choice(n, n_l, replace=False)
    human[shown] = truth[shown]
    return Labels(human, judge, np.full(n, n_l / n)), z


def test_published_targets_at_factor_four():
    cases = {(0.2, 1): 3.4, (0, 1): 4, (1, 0): -3, (0.5, 1): 2.5, (0.5, 0): -1.5}
    judge, human = np.array(list(cases)).T
    made = dedpo(Labels(human, judge, np.full(5, 0.25)))
    np.testing.assert_allclose(made.target, list(cases.values()), rtol=1e-14)
    np.testing.assert_array_equal(made.weight, np.ones(5))


@pytest.mark.parametrize("power", [0.0, 0.3, 0.5, 1.0])
def test_four_forms_of_dedpo_are_one(power):
    labels, z = random_pool(np.random.default_rng(0))
    y, g, shown = labels.human, labels.judge, labels.labelled
    n, n_l, n_u = len(z), shown.sum(), (~shown).sum()
    human, pseudo = cross_entropy(z[shown], y[shown]), cross_entropy(z, g)
    strength = human.mean() + power * (pseudo.mean() - pseudo[shown].mean())
    prediction_powered = human.mean() + power * n_u / n * (pseudo[~shown].mean() - pseudo[shown].mean())
    w = 1 - power * (1 - n_l / n)
    short = cross_entropy(z[shown], g[shown] + (y[shown] - g[shown]) / w).mean()
    compact = w * short + (1 - w) * pseudo[~shown].mean()
    made = dedpo(labels, power)
    np.testing.assert_allclose([objective(made, z), prediction_powered, compact], strength, rtol=1e-12)
    assert made.weight.mean() == pytest.approx(1, abs=1e-12)
    if power == 1:
        three_terms = pseudo.mean() + (human - pseudo[shown]).mean()
        assert objective(made, z) == pytest.approx(three_terms, rel=1e-12)


def test_compact_target_of_a_quarter_labelled_at_half_power():
    human = np.array([1.0, np.nan, np.nan, np.nan])
    made = dedpo(Labels(human, np.full(4, 0.2), np.full(4, 0.25)), power=0.5)
    assert made.target[0] == pytest.approx(1.48, rel=1e-12)
    assert made.weight[0] / 4 == pytest.approx(0.625, rel=1e-12)


def test_every_pair_labelled_is_human_only_for_any_judge():
    labels, z = random_pool(np.random.default_rng(1), n=30, n_l=30)
    for power in (0.0, 0.4, 1.0):
        np.testing.assert_allclose(dedpo(labels, power).target, human_only(labels).target, atol=1e-12)


def test_a_judge_that_agrees_on_labelled_pairs_makes_dedpo_the_mix():
    labels, _ = random_pool(np.random.default_rng(2))
    judge = np.where(labels.labelled, labels.human, labels.judge)
    labels = Labels(labels.human, judge, labels.propensity)
    np.testing.assert_allclose(dedpo(labels).target, mix(labels).target, atol=1e-12)


def test_power_zero_is_the_human_votes_alone():
    labels, z = random_pool(np.random.default_rng(3))
    made, alone = dedpo(labels, 0.0), human_only(labels)
    assert np.sum(alone.weight) == 10
    assert objective(made, z) == pytest.approx(cross_entropy(z, alone.target)[alone.weight > 0].mean(), rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(probabilities, probabilities, st.booleans(), st.floats(0.05, 1)), min_size=2, max_size=8),
    st.floats(0, 1),
)
def test_swapping_the_images_mirrors_every_target(rows, power):
    human, judge, shown, propensity = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    shown[0], shown[1] = 1, 0
    human = np.where(shown == 1, human, np.nan)
    labels, swapped = Labels(human, judge, propensity), Labels(1 - human, 1 - judge, propensity)
    for make in (human_only, judge_only, mix, lambda given: dedpo(given, power)):
        here, there = make(labels), make(swapped)
        np.testing.assert_allclose(there.target, 1 - here.target, atol=1e-9)
        np.testing.assert_allclose(there.weight, here.weight, rtol=1e-12)


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("per_pair", [False, True])
def test_unbiased_over_random_labelled_subsets_with_a_biased_judge(power, per_pair):
    rng = np.random.default_rng(4)
    n, repeats = 60, 4000
    z = rng.normal(size=n)
    truth = (rng.random(n) < 0.5 + 0.3 * np.tanh(z)).astype(float)
    judge = np.clip(0.9 - 0.3 * truth, 0, 1)  # against the humans, and leaning to image 0
    propensity = rng.uniform(0.2, 0.9, n) if per_pair else np.full(n, 0.25)
    full = np.mean(cross_entropy(z, truth))
    seen = []
    for _ in range(repeats):
        shown = rng.random(n) < propensity if per_pair else np.isin(np.arange(n), rng.permutation(n)[: n // 4])
        seen.append(objective(dedpo(Labels(np.where(shown, truth, np.nan), judge, propensity), power), z))
    mixed = objective(mix(Labels(np.where(np.arange(n) < n // 4, truth, np.nan), judge, propensity)), z)
    error = np.std(seen) / np.sqrt(repeats)
    assert abs(np.mean(seen) - full) < 4 * error
    assert abs(mixed - full) > 8 * error  # the uncorrected mix would be caught by this test


def test_unlabelled_pairs_without_the_judge_are_represented_by_the_others():
    rng = np.random.default_rng(5)
    n, repeats = 40, 4000
    z, truth, judge = rng.normal(size=n), rng.integers(0, 2, n).astype(float), rng.random(n)
    full, seen = np.mean(cross_entropy(z, truth)), []
    for _ in range(repeats):
        order = rng.permutation(n)
        human = np.where(np.isin(np.arange(n), order[:10]), truth, np.nan)
        heard = np.where(np.isin(np.arange(n), order[:25]), judge, np.nan)  # 15 of the 30 unlabelled pairs
        seen.append(objective(dedpo(Labels(human, heard, np.full(n, 0.25))), z))
    assert abs(np.mean(seen) - full) < 4 * np.std(seen) / np.sqrt(repeats)


def test_variance_of_the_gradient_at_fixed_weights_is_the_exact_formula():
    rng = np.random.default_rng(6)
    n, n_l, repeats, power = 80, 20, 6000, 0.7
    z, s = rng.normal(size=n), rng.normal(size=n)
    truth, judge = rng.integers(0, 2, n).astype(float), rng.random(n)
    gradients = []
    for _ in range(repeats):
        human = np.full(n, np.nan)
        shown = rng.permutation(n)[:n_l]
        human[shown] = truth[shown]
        made = dedpo(Labels(human, judge, np.full(n, n_l / n)), power)
        gradients.append(np.mean(made.weight * (1 / (1 + np.exp(-z)) - made.target) * s))
    sigma = 1 / (1 + np.exp(-z))
    residual = ((sigma - truth) - power * (sigma - judge)) * s
    assert np.var(gradients) == pytest.approx((1 / n_l - 1 / n) * residual.var(ddof=1), rel=0.08)


def simulated_labels(rng, n, propensity, sharpness):
    """Human votes with probability eta, and a judge that says eta distorted by `sharpness` (1 is calibrated)."""
    utility = 1.5 * rng.normal(size=n)
    truth = (rng.random(n) < 1 / (1 + np.exp(-utility))).astype(float)
    human = np.where(rng.random(n) < propensity, truth, np.nan)
    return Labels(human, 1 / (1 + np.exp(-sharpness * utility)), np.broadcast_to(propensity, n).copy())


@pytest.mark.parametrize(("sharpness", "power"), [(1.0, 1.0), (-2.0, 1.0), (6.0, 0.6)])
@pytest.mark.parametrize("per_pair", [False, True])
def test_variance_ratio_is_the_measured_one(sharpness, power, per_pair):
    rng = np.random.default_rng(7)
    n, repeats = 200, 3000
    propensity = rng.uniform(0.1, 0.6, n) if per_pair else np.full(n, 0.25)
    with_judge, alone, predicted = [], [], []
    for _ in range(repeats):
        labels, s = simulated_labels(rng, n, propensity, sharpness), rng.normal(size=n)
        for power_used, out in ((power, with_judge), (0.0, alone)):
            made = dedpo(labels, power_used)
            out.append(np.mean(made.weight * (0.5 - made.target) * s))
        predicted.append(variance_ratio(labels, power))
    assert np.mean(predicted) == pytest.approx(np.var(with_judge) / np.var(alone), rel=0.1)


def test_variance_ratio_says_when_the_judge_helps():
    good, bad = (
        simulated_labels(np.random.default_rng(8), 4000, 0.25, 1),
        simulated_labels(np.random.default_rng(8), 4000, 0.25, -3),
    )
    assert variance_ratio(good) < 1 < variance_ratio(bad)
    assert variance_ratio(bad, power=0.0) == pytest.approx(1, rel=1e-12)


def test_tuned_power_of_known_judges():
    rng = np.random.default_rng(9)
    calibrated = simulated_labels(rng, 40_000, 1.0, 1.0)
    assert tuned_power(calibrated.human, calibrated.judge) == pytest.approx(1, abs=0.03)
    human = rng.integers(0, 2, 1000).astype(float)
    right = np.arange(1000) < 800
    assert tuned_power(human, np.where(right, human, 1 - human)) == pytest.approx(0.6, rel=1e-12)  # 2A - 1
    assert tuned_power(human, 1 - human) == 0
    assert tuned_power(human, np.full(1000, 0.5)) == 0
    assert tuned_power(np.append(human, np.nan), np.append(human, 0.3)) == 1


def test_tuned_power_has_the_least_variance():
    labels = simulated_labels(np.random.default_rng(10), 3000, 0.2, 5.0)
    best = tuned_power(labels.human, labels.judge)
    assert 0.05 < best < 0.95
    assert all(variance_ratio(labels, best) < variance_ratio(labels, best + step) for step in (-0.05, 0.05))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: human_only(Labels([np.nan], [0.5], [1.0])), ["no pair has a human vote", "or use method judge"]),
        (
            lambda: human_only(Labels([np.nan], [np.nan], [1.0])),
            ["no pair has a human vote", "no judge voted on them either"],
        ),
        (lambda: mix(Labels([np.nan], [0.5], [1.0])), ["no pair has a human vote"]),
        (lambda: judge_only(Labels([1.0], [np.nan], [1.0])), ["judge voted on no pair"]),
        (
            lambda: dedpo(Labels([1.0, 0.0], [0.5, np.nan], [1.0, 1.0])),
            ["1 of 2 labelled", "number 1", "Add its votes"],
        ),
        (lambda: dedpo(Labels([1.0, np.nan], [0.5, np.nan], [0.5, 0.5])), ["unlabelled", "Add its votes"]),
        (lambda: dedpo(Labels([1.0, np.nan], [0.5, 0.5], [0.0, 0.5])), ["propensity", "number 0", "(0, 1]"]),
        (lambda: dedpo(Labels([1.0, np.nan], [0.5, 0.5], [0.5, 1.5])), ["propensity", "number 1"]),
        (lambda: dedpo(Labels([1.0], [0.5], [1.0]), power=1.5), ["power", "1.5"]),
        (lambda: tuned_power(np.array([1.0, np.nan]), np.array([np.nan, 0.5])), ["Add its votes"]),
    ],
)
def test_labels_that_give_no_target_get_one_clear_line(call, words):
    told = refusal(call)
    for word in words:
        assert word in told


def test_pairs_that_are_not_used_have_weight_zero_and_a_finite_target():
    labels = Labels([1.0, np.nan, np.nan], [0.3, 0.4, np.nan], [0.5, 0.5, np.nan])
    for made, used in (
        (human_only(labels), [1, 0, 0]),
        (mix(labels), [1, 1, 0]),
        (judge_only(labels), [1, 1, 0]),
        (dedpo(labels), [1, 1, 0]),
        (dedpo(labels, 0.0), [1, 0, 0]),
    ):
        np.testing.assert_array_equal(made.weight > 0, np.array(used, bool))
        assert np.isfinite(made.target).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1), st.booleans())
def test_three_terms_prediction_powered_and_compact_form_are_one_for_any_power_and_propensity(seed, power, per_pair):
    """With a propensity per pair, means over labelled pairs become sums of 1/propensity over all pairs."""
    rng = np.random.default_rng(seed)
    labels, z = random_pool(rng, n=30, n_l=rng.integers(1, 30))
    y, g, shown, n = labels.human, labels.judge, labels.labelled, 30
    pi = rng.uniform(0.1, 1, n) if per_pair else labels.propensity
    made = dedpo(Labels(y, g, pi), power)

    def shown_mean(value):
        return np.sum(value[shown] / pi[shown]) / n

    human, pseudo = cross_entropy(z, np.nan_to_num(y)), cross_entropy(z, g)
    three_terms = power * pseudo.mean() + shown_mean(human - power * pseudo)
    prediction_powered = shown_mean(human) + power * (pseudo.mean() - shown_mean(pseudo))
    w = 1 - power * (1 - pi)
    short = g + (np.nan_to_num(y) - g) / w
    compact = shown_mean(w * cross_entropy(z, short)) + power * np.sum(pseudo[~shown]) / n
    np.testing.assert_allclose([prediction_powered, compact, objective(made, z)], three_terms, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(made.target[shown], short[shown], rtol=1e-9, atol=1e-12)
    if not per_pair:
        n_u = np.sum(~shown)
        weighed = human[shown].mean() + power * n_u / n * (pseudo[~shown].mean() - pseudo[shown].mean())
        assert objective(made, z) == pytest.approx(weighed, rel=1e-9, abs=1e-9)

    slope = np.where(shown, (1 / (1 + np.exp(-z)) - np.nan_to_num(y)) / pi, 0)  # of the three terms, pair by pair
    slope += power * (1 / (1 + np.exp(-z)) - g) * (1 - shown / pi)
    np.testing.assert_allclose(made.weight * (1 / (1 + np.exp(-z)) - made.target), slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("labelled_per_batch", "power"), [(None, 1.0), (None, 0.4), (1, 1.0), (3, 0.4)])
def test_batches_of_either_kind_estimate_the_human_loss_without_bias_under_a_bad_judge(labelled_per_batch, power):
    rng = np.random.default_rng(11)
    n, n_l, repeats = 64, 16, 1500
    z = rng.normal(size=n)
    truth = (rng.random(n) < 0.5 + 0.3 * np.tanh(z)).astype(float)
    judge = np.clip(0.9 - 0.3 * truth, 0, 1)  # against the humans, and leaning to image 0
    human, pseudo = cross_entropy(z, truth), cross_entropy(z, judge)
    seen, own_ratio = [], []
    for repeat in range(repeats):
        shown = np.isin(np.arange(n), rng.permutation(n)[:n_l])
        made = dedpo(Labels(np.where(shown, truth, np.nan), judge, np.full(n, n_l / n)), power)
        batch = Batches(shown, size=4, labelled_per_batch=labelled_per_batch, seed=repeat).at(repeat % 3)
        row = batch.row
        seen.append(np.mean(batch.scale * made.weight[row] * cross_entropy(z[row], made.target[row])))
        correction = (human - pseudo)[row][shown[row]]
        own_ratio.append(pseudo[row].mean() + (correction.mean() if len(correction) else 0))
    assert abs(np.mean(seen) - human.mean()) < 4 * np.std(seen) / np.sqrt(repeats)
    if labelled_per_batch is None:  # the batch's own ratio drops corrections where nothing is labelled: noticed here
        assert abs(np.mean(own_ratio) - human.mean()) > 4 * np.std(own_ratio) / np.sqrt(repeats)


def test_conservative_is_the_mean_loss_over_flips_and_stops_at_its_log_odds():
    p, epsilon, z = np.array([1.0, 0.0, 0.3, 3.4, 0.5]), 0.2, np.linspace(-2, 2, 5)
    flipped = (1 - epsilon) * cross_entropy(z, p) + epsilon * cross_entropy(z, 1 - p)
    np.testing.assert_allclose(cross_entropy(z, conservative(p, epsilon)), flipped, rtol=1e-12)
    assert conservative(p, epsilon)[:2].tolist() == pytest.approx([0.8, 0.2])
    best = np.log(0.8 / 0.2)
    assert 1 / (1 + np.exp(-best)) == pytest.approx(conservative(1.0, epsilon))


def test_robust_is_the_published_loss_and_unbiased_under_flips():
    epsilon, z = 0.3, np.linspace(-3, 3, 7)
    made = robust(np.array([1.0, 0.0]), epsilon)
    assert made.tolist() == pytest.approx([0.7 / 0.4, -0.3 / 0.4])
    published = ((1 - epsilon) * cross_entropy(z, 1) - epsilon * cross_entropy(z, 0)) / (1 - 2 * epsilon)
    np.testing.assert_allclose(cross_entropy(z, made[0]), published, rtol=1e-12)
    expected = (1 - epsilon) * cross_entropy(z, made[0]) + epsilon * cross_entropy(z, made[1])
    np.testing.assert_allclose(expected, cross_entropy(z, 1), rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.floats(-4, 5), st.floats(0, 0.49))
def test_robust_undoes_conservative_and_both_mirror_when_images_are_swapped(p, epsilon):
    assert robust(conservative(p, epsilon), epsilon) == pytest.approx(p, rel=1e-9, abs=1e-9)
    for make in (conservative, robust):
        assert make(p, 0.0) == p and make(0.5, epsilon) == pytest.approx(0.5, abs=1e-12)
        assert make(1 - p, epsilon) == pytest.approx(1 - make(p, epsilon), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("epsilon", [-0.1, 0.5, 0.7, float("nan")])
def test_a_flip_rate_of_one_half_or_more_is_refused(epsilon):
    for make in (conservative, robust):
        with pytest.raises(PalateError, match=f"{make.__name__}: the flip rate"):
            make(np.ones(2), epsilon)


def test_the_ramp_leads_from_the_judge_to_the_debiased_target_and_is_biased_on_the_way():
    labels, z = random_pool(np.random.default_rng(12))
    debiased = dedpo(labels).target
    np.testing.assert_array_equal(ramped(debiased, labels.judge, 0), labels.judge)
    np.testing.assert_allclose(ramped(debiased, labels.judge, 1), debiased, rtol=1e-12)
    y, g, shown = labels.human, labels.judge, labels.labelled
    for alpha in (0.25, 1.325):  # the published loss
        correction = cross_entropy(z[shown], y[shown]).mean() - cross_entropy(z[shown], g[shown]).mean()
        published = cross_entropy(z, g).mean() + alpha * correction
        made = ramped(debiased, g, alpha)
        assert np.mean(cross_entropy(z, made)) == pytest.approx(published, rel=1e-12)
        assert np.array_equal(made[~shown], g[~shown]) and not np.allclose(made[shown], debiased[shown])
    wrong = np.full(1000, 0.9)  # a judge against humans who all say 0; a quarter is labelled
    debiased = np.where(np.arange(1000) < 250, 0.9 + 4 * (0 - 0.9), 0.9)
    means = [ramped(debiased, wrong, alpha).mean() for alpha in (0, 0.5, 1)]
    assert means == pytest.approx([0.9, 0.45, 0], abs=1e-12)
    with pytest.raises(PalateError, match="alpha"):
        ramped(debiased, wrong, -0.1)


def test_the_ramp_acts_elementwise_with_an_axis_of_classes_too():
    rng = np.random.default_rng(13)
    target, pseudo = rng.normal(size=(5, 3)), rng.random((5, 3))
    made = ramped(target, pseudo, 0.3)
    assert made.shape == (5, 3)
    for k in range(3):
        np.testing.assert_array_equal(made[:, k], ramped(target[:, k], pseudo[:, k], 0.3))


def test_the_ramp_rises_evenly_to_one_at_the_last_step_and_stays():
    assert [ramp(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    with pytest.raises(PalateError, match="0 steps"):
        ramp(0, 0)


def test_the_number_of_labelled_pairs_in_a_batch_gives_the_least_noisy_gradient():
    rng = np.random.default_rng(0)
    labelled = np.arange(1000) < 100
    target = np.where(labelled, 0.5 + rng.choice([-0.8, 0.8], 1000), 0.5 + rng.choice([-0.2, 0.2], 1000))
    chosen = steadiest_number(target, np.ones(1000), labelled, 16)
    parts = {
        n: (0.1 * 0.8) ** 2 / n + (0.9 * 0.2) ** 2 / (16 - n) for n in range(1, 16)
    }  # the variance of the mean pull, by strata
    assert chosen == min(parts, key=parts.get) == 5
    assert steadiest_number(np.full(1000, 0.5), np.ones(1000), labelled, 16) == 8  # nothing pulls: half
    assert steadiest_number(np.where(labelled, 0.5, 1.0), np.ones(1000), labelled, 16) == 1  # and never none
    assert steadiest_number(np.where(labelled, 9.0, 0.6), np.ones(1000), np.arange(1000) < 3, 16) <= 3
    published = np.where(labelled, 0.5 + rng.choice([-5.0, 5.0], 1000), 0.5 + rng.choice([-0.5, 0.5], 1000))
    assert steadiest_number(published, np.ones(1000), labelled, 16) in (8, 9)  # DeDPO's 1/pi at a tenth: about half
