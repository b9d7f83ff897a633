from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from palate.errors import PalateError
from palate.evaluation.winrate import mean_interval, mean_intervals, score_interval, win_rate


def test_counts_rate_and_sign_test_by_hand():
    # 8 comparisons on 3 prompts: 5 wins, 1 tie, 2 losses
    a = [1, 2, 3, 4, 5, 6, 0, 0]
    b = [0, 1, 2, 3, 4, 6, 1, 2]
    result = win_rate(a, b, ["x", "x", "x", "y", "y", "y", "z", "z"])
    assert (result.n, result.wins, result.ties, result.losses, result.prompts) == (8, 5, 1, 2, 3)
    assert result.rate == 5.5 / 8
    assert result.p_value == 1.0  # two prompts mostly won, one lost: no less likely than any other of three fair coins
    each = win_rate(a, b, range(8))  # P(5 or more of 7 fair coins), both sides: 2 * (21 + 7 + 1) / 128
    assert each.p_value == pytest.approx(58 / 128)
    twice = win_rate(a * 2, b * 2, [*range(8)] * 2)
    assert twice.p_value == each.p_value  # the same pictures again tell nothing new
    assert result.low <= result.rate <= result.high


def test_ties_count_half_and_the_tolerance_makes_them():
    a, b = np.array([1.0, 1.0, 1.0, 1.0]), np.array([1.0, 1.04, 0.7, 1.3])
    prompts = [0, 1, 2, 3]
    assert win_rate(a, b, prompts).ties == 1
    wide = win_rate(a, b, prompts, tie_tolerance=0.05)
    assert (wide.wins, wide.ties, wide.losses, wide.rate) == (1, 2, 1, 0.5)


def test_swapping_the_models_mirrors_everything():
    rng = np.random.default_rng(3)
    prompts = rng.integers(0, 25, 300)
    a, b = rng.integers(0, 4, 300) + 1.0 * (prompts < 12), rng.integers(0, 4, 300)
    forth, back = win_rate(a, b, prompts), win_rate(b, a, prompts)
    assert (forth.wins, forth.ties, forth.losses) == (back.losses, back.ties, back.wins)
    assert forth.ties > 0 and forth.rate != 0.5
    assert [back.rate, back.low, back.high] == pytest.approx([1 - forth.rate, 1 - forth.high, 1 - forth.low])
    assert forth.p_value == pytest.approx(back.p_value)
    assert (forth.winner, back.winner) == ("a", "b")


def test_order_of_samples_and_names_of_prompts_do_not_matter():
    rng = np.random.default_rng(4)
    prompts = rng.integers(0, 20, 200)
    a, b = rng.normal(size=200), rng.normal(size=200)
    order = rng.permutation(200)
    result = win_rate(a, b, prompts)
    assert win_rate(a[order], b[order], prompts[order]) == result
    assert win_rate(a, b, [f"prompt {p:02d}" for p in prompts]) == result


def _clustered_rates(rng, prompts=30, samples=8, truth=0.6):
    """Outcomes in which samples of one prompt go together: the rate of each prompt is drawn around the truth."""
    rates = rng.beta(2 * truth, 2 * (1 - truth), prompts)
    return (rng.random((prompts, samples)) < rates[:, None]).astype(float), np.repeat(np.arange(prompts), samples)


def test_interval_covers_the_truth_on_clustered_data_where_an_unclustered_one_does_not():
    rng = np.random.default_rng(0)
    clustered = unclustered = 0
    for _ in range(300):
        won, prompts = _clustered_rates(rng)
        result = win_rate(won.ravel(), 0.5 * np.ones(won.size), prompts)
        clustered += result.low <= 0.6 <= result.high
        result = win_rate(won.ravel(), 0.5 * np.ones(won.size), np.arange(won.size))
        unclustered += result.low <= 0.6 <= result.high
    assert 0.92 <= clustered / 300 <= 0.98
    assert unclustered / 300 < 0.85


@pytest.mark.parametrize("repetitions", [1, 4])
@pytest.mark.parametrize("prompts", [15, 30, 50, 150])
@pytest.mark.parametrize("truth", [0.6, 0.78, 0.9])
def test_intervals_of_good_models_hold_the_rate_as_often_as_they_say(truth, prompts, repetitions):
    rng, repeats, held = np.random.default_rng([int(100 * truth), prompts, repetitions]), 800, 0
    for _ in range(repeats):
        won, ids = _clustered_rates(rng, prompts, repetitions, truth)
        result = win_rate(won.ravel(), 0.5 * np.ones(won.size), ids)
        held += result.low <= truth <= result.high
    assert 0.93 <= held / repeats <= (0.98 if prompts >= 50 else 0.995)


def test_one_loss_is_not_more_certain_than_none_by_much_and_the_score_interval_is_wilsons():
    won = np.ones(40)
    won[7] = 0
    result = win_rate(won, 0.5 * np.ones(40), np.arange(40))
    z, n = stats.t.ppf(0.975, 39), 39  # Student's quantile, and the variance has the divisor n - 1
    middle, half = (0.975 + z**2 / (2 * n)) / (1 + z**2 / n), z * np.sqrt(0.975 * 0.025 / n + z**2 / (4 * n**2)) / (1 + z**2 / n)  # fmt: skip
    assert (result.low, result.high) == pytest.approx((middle - half, middle + half))
    assert 0 < result.low < result.rate < result.high < 1


def test_few_prompts_that_agree_by_chance_are_no_certainty():
    won = np.tile(
        [1.0, 1.0, 1.0, 0.0], 4
    )  # four prompts, three of four won in each but one: they hardly show how they vary
    won[3] = 1.0
    result = win_rate(won, 0.5 * np.ones(16), np.repeat(np.arange(4), 4))
    scatter = np.var([1, 0.75, 0.75, 0.75], ddof=1) / 4
    low, _ = score_interval(13 / 16, stats.t.ppf(0.975, 3) ** 2 * scatter / (13 / 16 * 3 / 16))
    assert low > 0.55 and result.low < 0.5 and result.winner is None


def test_means_together_are_those_of_each_alone():
    rng = np.random.default_rng(7)
    columns, prompts = rng.normal(size=(3, 60)), np.repeat(np.arange(20), 3)
    together = mean_intervals(columns, prompts)
    for one, alone in zip(together, columns, strict=True):
        assert one == pytest.approx(mean_interval(alone, prompts), rel=1e-12)
    assert mean_intervals([], prompts) == []


def test_mean_interval_covers_with_few_prompts_of_unequal_size():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(300):
        prompts = np.repeat(np.arange(12), rng.integers(2, 7, 12))
        values = 2.0 + rng.normal(size=12)[prompts] + rng.normal(size=len(prompts))
        _, low, high = mean_interval(values, prompts, resamples=600, seed=seed)
        covered += low <= 2.0 <= high
    assert 0.92 <= covered / 300 <= 0.98


def test_unclustered_interval_agrees_with_scipy():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.3, 1, 500), rng.normal(0, 1, 500)
    ours = win_rate(a, b, np.arange(500))
    theirs = stats.bootstrap(((a > b).astype(float),), np.mean, n_resamples=9999, method="percentile", rng=5)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.004)
    ours = mean_interval(a, np.arange(500), resamples=9999, confidence=0.8)
    theirs = stats.bootstrap((a,), np.mean, n_resamples=9999, method="percentile", confidence_level=0.8, rng=5)
    assert ours == pytest.approx((a.mean(), *theirs.confidence_interval), abs=0.006)


def test_all_wins_do_not_claim_certainty():
    result = win_rate(np.ones(40), np.zeros(40), np.repeat(np.arange(10), 4))
    assert (result.rate, result.high) == (1.0, 1.0)
    assert result.low == pytest.approx(0.025 ** (1 / 10))  # ten prompts, ten wins, exact binomial
    assert result.winner == "a"
    assert win_rate(np.ones(40), np.zeros(40), np.repeat(np.arange(4), 10)).winner is None  # 0.025 ** (1/4) < 1/2


def test_all_ties_name_no_winner_and_leave_room_on_both_sides():
    result = win_rate(np.ones(12), np.ones(12), np.arange(12))
    assert (result.rate, result.ties, result.p_value, result.winner) == (0.5, 12, 1.0, None)
    assert result.low < 0.3 and result.high > 0.7


def test_one_prompt_has_no_interval_and_no_winner():
    result = win_rate(np.ones(50), np.zeros(50), ["a red circle"] * 50)
    assert np.isnan(result.low) and np.isnan(result.high) and result.winner is None
    assert "single prompt gives no interval" in result.sentence("aligned", "base")
    mean, low, high = mean_interval([1.0, 3.0], ["a", "a"])
    assert mean == 2.0 and np.isnan(low) and np.isnan(high)


def test_sentence_names_a_winner_only_where_there_is_one():
    prompts = np.repeat(np.arange(30), 4)
    wins = (np.arange(120) % 5 > 0).astype(float)  # 4 of 5
    better = win_rate(wins, 0.5 * np.ones(120), prompts).sentence("DeDPO", "base")
    assert better.startswith("DeDPO beats base in 80 % of 120 comparisons on 30 prompts (95 % interval ")
    worse = win_rate(1 - wins, 0.5 * np.ones(120), prompts).sentence("DPO", "base")
    assert worse.startswith("DPO loses to base: it wins 20 % of 120 comparisons")
    level = win_rate(np.arange(120) % 2, 0.5 * np.ones(120), prompts // 3).sentence("DPO", "base")
    assert level.startswith("No winner between DPO and base") and "one half" in level and "beats" not in level


def test_winner_needs_the_interval_clear_of_one_half():
    result = win_rate([1.0, 2.0, 0.0], [0.0, 0.0, 1.0], [0, 1, 2])
    assert replace(result, low=0.5, high=0.9).winner is None  # touches
    assert replace(result, low=0.1, high=0.5).winner is None
    assert replace(result, low=0.501, high=0.9).winner == "a"
    assert "50.1 %" in replace(result, low=0.501, high=0.9).sentence("a", "b")
    assert replace(result, low=0.1, high=0.499).winner == "b"


def test_memory_is_bounded_without_changing_the_answer(monkeypatch):
    rng = np.random.default_rng(6)
    prompts, a = np.repeat(np.arange(50), 3), rng.normal(size=150)
    whole = mean_interval(a, prompts)
    monkeypatch.setattr("palate.evaluation.winrate.CELLS", 50 * 7)  # seven resamples at a time
    assert mean_interval(a, prompts) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "prompts", "message"),
    [
        ([], [], [], "nothing to compare"),
        ([1.0, 2.0], [1.0], [0, 1], "score_a has 2, score_b has 1, prompt_ids has 2 rows"),
        ([1.0, 2.0], [1.0, 2.0], [0], "prompt_ids has 1"),
        ([1.0, np.nan, np.nan], [1.0, 2.0, 3.0], [0, 1, 2], "score_a: 2 of 3 are NaN or infinite (first at row 1)"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, -np.inf], [0, 1, 2], "score_b: 1 of 3"),
    ],
)
def test_bad_input_gets_one_line(a, b, prompts, message):
    with pytest.raises(PalateError) as raised:
        win_rate(a, b, prompts)
    assert message in str(raised.value) and "\n" not in str(raised.value)
