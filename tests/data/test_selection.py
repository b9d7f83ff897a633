import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from palate.addresses import number
from palate.data.labels import Labels
from palate.data.selection import by_score, judge_scores, propensities, uniform
from palate.errors import PalateError
from palate.labels.targets import dedpo

NUMBER = 0.15423903133605454  # of ("draw", 0, "p0"): were it another one, a plan made elsewhere would differ
IDS = [f"p{i}" for i in range(400)]
scores = st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1e6)), min_size=2, max_size=60).map(np.array)


def test_a_uniform_draw_has_exactly_its_size_and_propensity():
    result = uniform(IDS, 100, seed=3)
    assert result.drawn.sum() == 100
    assert (result.propensity == 100 / 400).all()


def test_every_pair_is_as_likely_in_a_uniform_draw():
    counts = sum(uniform(IDS[:40], 10, seed).drawn.astype(float) for seed in range(2000))
    error = np.sqrt(2000 * 0.25 * 0.75)
    assert np.abs(counts - 500).max() < 4.5 * error
    assert 0.6 < counts.std() / error < 1.4  # spread as chance has it: not the same pairs for every seed


def test_a_budget_above_the_number_of_pairs_draws_all():
    for result in (uniform(IDS, 1000, 0), by_score(IDS, np.ones(400), 1000, 0)):
        assert result.drawn.all() and (result.propensity == 1).all()


def test_a_draw_depends_on_the_pair_and_not_on_its_place():
    score = np.linspace(0, 1, 400)
    there, back = by_score(IDS, score, 50, 7), by_score(IDS[::-1], score[::-1], 50, 7)
    assert (there.drawn == back.drawn[::-1]).all()
    assert (uniform(IDS, 50, 7).drawn == uniform(IDS[::-1], 50, 7).drawn[::-1]).all()
    assert (uniform(IDS, 50, 7).drawn != uniform(IDS, 50, 8).drawn).any()


@given(scores, st.integers(1, 80), st.floats(0.01, 1.0))
@example(np.array([0, 0, 0, 0, 0, 858325.75, 1.0000000000000002e-12]), 3, 0.25)  # fills one pair to just below 1
def test_propensities_sum_to_the_budget_and_keep_their_floor(score, budget, floor):
    propensity = propensities(score, budget, floor)
    count = len(score)
    assert np.isclose(propensity.sum(), min(budget, count), rtol=1e-9)
    assert (propensity <= 1).all()
    assert (propensity >= min(1.0, floor * budget / count) * (1 - 1e-9)).all()
    order = np.argsort(score)
    assert (np.diff(propensity[order]) >= -1e-12).all()  # a higher score is never drawn less


@given(scores, st.integers(1, 40), st.integers(0, 40))
def test_a_larger_budget_draws_all_that_a_smaller_one_drew(score, budget, more):
    ids = IDS[: len(score)]
    small, large = by_score(ids, score, budget, 1), by_score(ids, score, budget + more, 1)
    assert (large.propensity >= small.propensity - 1e-12).all()
    assert not (small.drawn & ~large.drawn).any()
    assert not (uniform(ids, budget, 1).drawn & ~uniform(ids, budget + more, 1).drawn).any()


def test_propensities_are_floor_plus_a_multiple_of_the_score():
    score = np.array([0.0, 1.0, 2.0, 4.0])
    c = (2 - 4 * 0.125) / 7
    assert np.allclose(propensities(score, 2, floor=0.25), 0.125 + c * score)
    high = np.array([1.0, 1.0, 1.0, 100.0])  # the last is certain; the rest of the budget is for the others
    assert np.allclose(propensities(high, 2, floor=0.25), [1 / 3, 1 / 3, 1 / 3, 1])


def test_the_number_of_pairs_drawn_by_score_is_the_budget_on_average():
    score = np.linspace(0, 1, 400)
    sizes = [by_score(IDS, score, 60, seed).drawn.sum() for seed in range(300)]
    assert abs(np.mean(sizes) - 60) < 4 * np.sqrt(60 / 300)
    assert np.std(sizes) <= np.sqrt(60) * 1.15


def test_the_order_of_showing_says_nothing_about_the_score():
    ids = [f"p{i}" for i in range(4000)]
    score = np.linspace(0, 1, 4000)
    result = by_score(ids, score, 1500, 0)
    assert abs(np.corrcoef(result.rank[result.drawn], score[result.drawn])[0, 1]) < 4 / np.sqrt(1500)


def world(seed: int, count: int = 600):
    """A judge that is unsure exactly where people prefer image 0, so that what it is asked about is not typical."""
    rng = np.random.default_rng(seed)
    judge = rng.uniform(0.02, 0.98, count)
    unsure = 1 - np.abs(2 * judge - 1)
    human = (rng.random(count) < 0.15 + 0.7 * unsure).astype(float)
    return judge, unsure, human


def test_dedpo_is_unbiased_under_active_selection_and_not_with_a_constant_propensity():
    judge, unsure, human = world(0)
    ids = [f"p{i}" for i in range(len(judge))]
    z = np.random.default_rng(1).normal(size=len(ids)) + 4 * unsure  # any logits, related to where it asks
    truth = np.mean(np.logaddexp(0, z) - human * z)
    for power in (1.0, 0.4):
        found, naive = [], []
        for seed in range(400):
            draw = by_score(ids, unsure, 90, seed)
            voted = np.where(draw.drawn, human, np.nan)
            for values, propensity in ((found, draw.propensity), (naive, np.full(len(ids), draw.drawn.mean()))):
                targets = dedpo(Labels(voted, judge, propensity), power)
                values.append(np.mean(targets.weight * (np.logaddexp(0, z) - targets.target * z)))
        error = np.std(found) / np.sqrt(len(found))
        assert abs(np.mean(found) - truth) < 3.5 * error
        assert abs(np.mean(naive) - truth) > 10 * np.std(naive) / np.sqrt(len(naive))


def votes(*rows: tuple[str, str, float]) -> pa.Table:
    return pa.table(
        {
            "pair_id": [r[0] for r in rows],
            "annotator_id": [r[1] for r in rows],
            "source": ["judge"] * len(rows),
            "choice": ["0" if r[2] > 0.5 else "1" for r in rows],
            "probability": [r[2] for r in rows],
        }
    )


def test_uncertainty_and_disagreement_are_what_they_say():
    told = votes(("a", "x", 0.5), ("a", "y", 0.5), ("b", "x", 1.0), ("b", "y", 0.0), ("c", "x", 0.9), ("c", "y", 0.9))
    assert np.allclose(judge_scores(["a", "b", "c"], told, "uncertainty"), [1, 1, 0.2])
    assert np.allclose(judge_scores(["a", "b", "c"], told, "disagreement"), [0, np.sqrt(0.5), 0])
    assert np.allclose(judge_scores(["a", "b", "c"], told, "uncertainty", ["x"]), [1, 0, 0.2])


def test_a_score_does_not_depend_on_the_order_of_the_two_images():
    told = votes(("a", "x", 0.3), ("a", "y", 0.8), ("b", "x", 0.9), ("b", "y", 0.6))
    swapped = votes(("a", "x", 0.7), ("a", "y", 0.2), ("b", "x", 0.1), ("b", "y", 0.4))
    for selection in ("uncertainty", "disagreement"):
        assert np.allclose(judge_scores(["a", "b"], told, selection), judge_scores(["a", "b"], swapped, selection))


def test_a_pair_that_no_judge_saw_gets_the_mean_score():
    told = votes(("a", "x", 0.5), ("b", "x", 0.9))
    assert np.allclose(judge_scores(["a", "b", "new"], told, "uncertainty"), [1, 0.2, 0.6])


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: uniform(IDS, 0, 0), "--budget 0"),
        (lambda: propensities(np.ones(3), 2, 0.0), "floor"),
        (lambda: propensities(np.array([1.0, -1.0]), 1), "negative or not finite"),
        (lambda: propensities(np.array([1.0, np.nan]), 1), "negative or not finite"),
        (lambda: judge_scores(["a"], votes(("a", "x", 0.5)), "disagreement"), "2 judges"),
        (lambda: judge_scores(["a"], votes(), "uncertainty"), "1 judge,"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(call, said):
    with pytest.raises(PalateError, match=said):
        call()


def test_numbers_are_the_same_on_every_machine():
    assert number("draw", 0, "p0") == NUMBER == uniform(["p0"], 1, 0).rank[0]
    assert number("ab", "c") != number("a", "bc")
