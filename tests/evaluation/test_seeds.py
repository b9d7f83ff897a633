"""Several training seeds: the interval holds for the next seed, which one over the seeds alone does not."""

from dataclasses import replace

import numpy as np
import pytest
from evaluation.drawn import draw_samples, judge_all
from scipy import stats
from scipy.special import expit

from palate.evaluation.compare import compare
from palate.evaluation.seeds import families, group_name, group_names, outcomes_of, seeds_mean, seeds_win
from palate.evaluation.winrate import mean_interval
from palate.run.load import load_config, save_config


def simulated(rng, seeds: int, prompts: int, seed_effect: float, repetitions: int = 4) -> np.ndarray:
    """Win rates [S, P] by seed and prompt: log-odds of 0.5 plus an effect of the seed and one of the prompt (1)."""
    logit = 0.5 + seed_effect * rng.normal(size=(seeds, 1)) + rng.normal(size=(1, prompts))
    return rng.binomial(repetitions, expit(logit)) / repetitions


def truth(seed_effect: float) -> float:
    """The expected rate over all seeds and prompts, by quadrature."""
    x, weight = np.polynomial.hermite_e.hermegauss(60)
    return float(weight @ expit(0.5 + np.hypot(seed_effect, 1) * x) / weight.sum())


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("seed_effect", [0.2, 0.5])
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds, seed_effect):
    rng, held, repeats, expected = np.random.default_rng([seeds, int(10 * seed_effect)]), 0, 1500, truth(seed_effect)
    for _ in range(repeats):
        _, low, high = seeds_mean(simulated(rng, seeds, 40, seed_effect))
        held += low <= expected <= high
    assert 0.93 <= held / repeats <= 0.97


def of_both(rng, seeds: int, others: int, prompts: int, middle: float, seed_effect: float, repetitions: int = 4):
    """Outcomes [S, T, N] of the seeds of one method against those of another, and prompt ids [N]."""
    logit = middle + rng.normal(size=prompts)
    for shape in ((seeds, 1), (1, others)):
        logit = logit + seed_effect * rng.normal(size=(*shape, 1)) + 0.3 * rng.normal(size=(*shape, prompts))
    logit = np.tile(logit, repetitions)
    return (rng.random(logit.shape) < expit(logit)).astype(float), np.tile(np.arange(prompts), repetitions)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(("middle", "seed_effect"), [(0.5, 0.2), (0.5, 0.5), (2.8, 0.2), (2.8, 0.5)])
def test_wins_over_a_fixed_base_hold_the_truth_for_other_seeds_of_good_models_too(seeds, middle, seed_effect):
    rng, repeats, held = np.random.default_rng([seeds, int(10 * middle), int(10 * seed_effect)]), 500, 0
    x, weight = np.polynomial.hermite_e.hermegauss(60)
    expected = weight @ expit(middle + np.sqrt(1 + seed_effect**2 + 0.3**2) * x) / weight.sum()
    for _ in range(repeats):
        logit = middle + rng.normal(size=40) + seed_effect * rng.normal(size=(seeds, 1)) + 0.3 * rng.normal(size=(seeds, 40))  # fmt: skip
        outcomes = (rng.random((seeds, 160)) < expit(np.tile(logit, 4))).astype(float)
        win = seeds_win(outcomes, np.tile(np.arange(40), 4))
        held += win.low <= expected <= win.high
    assert 0.93 <= held / repeats <= 0.985


@pytest.mark.parametrize(("seeds", "others"), [(3, 3), (5, 3), (8, 8)])
@pytest.mark.parametrize(("middle", "seed_effect"), [(0.5, 0.1), (0.5, 0.5), (2.8, 0.3)])
def test_group_against_group_holds_the_truth_for_other_seeds_of_both(seeds, others, middle, seed_effect):
    rng, repeats, held = np.random.default_rng([seeds, others, int(10 * middle)]), 500, 0
    x, weight = np.polynomial.hermite_e.hermegauss(60)
    expected = weight @ expit(middle + np.sqrt(1 + 2 * (seed_effect**2 + 0.3**2)) * x) / weight.sum()
    for _ in range(repeats):
        win = seeds_win(*of_both(rng, seeds, others, 40, middle, seed_effect))
        held += win.low <= expected <= win.high
    assert 0.94 <= held / repeats <= 0.99


def test_the_other_methods_seed_taken_as_fixed_claims_too_much():
    rng, repeats, fooled = np.random.default_rng(5), 300, np.zeros(2)
    for _ in range(repeats):
        outcomes, ids = of_both(rng, 4, 4, 60, 0.0, 0.6)  # equal methods
        fooled += [seeds_win(outcomes[:, 0], ids).winner is not None, seeds_win(outcomes, ids).winner is not None]
    assert fooled[0] / repeats > 0.08 and fooled[1] / repeats < 0.05


def test_group_against_group_is_the_same_seen_from_the_other_side():
    a, b = np.random.default_rng(6).normal(size=(2, 3, 60))
    a, ids = a[:2] + 0.5, np.repeat(np.arange(20), 3)
    forth, back = seeds_win(outcomes_of(a, b), ids), seeds_win(outcomes_of(b, a), ids)
    assert (forth.n, forth.seeds, forth.seeds_b, back.seeds) == (2 * 3 * 60, 2, 3, 3)
    assert (forth.rate, forth.low) == pytest.approx((1 - back.rate, 1 - back.high))
    assert forth.p_value == pytest.approx(back.p_value) and "with 2 and 3 training seeds" in forth.sentence("a", "b")
    alone = seeds_win(outcomes_of(a, b[0]), ids)  # a single model is taken as it is
    assert alone == seeds_win(np.where(a == b[0], 0.5, a > b[0]), ids) and alone.seeds_b == 1


def test_seeds_alone_or_prompts_alone_claim_too_much():
    rng, repeats, fooled = np.random.default_rng(0), 400, [0, 0]
    for _ in range(repeats):
        values = simulated(rng, 5, 40, 0.5)
        means, expected = values.mean(axis=1), truth(0.5)
        fooled[0] += abs(means.mean() - expected) > stats.t.ppf(0.975, 4) * means.std(ddof=1) / np.sqrt(5)
        _, low, high = mean_interval(values.ravel(), np.tile(np.arange(40), 5), resamples=400)
        fooled[1] += not low <= expected <= high
    assert fooled[0] / repeats > 0.07 and fooled[1] / repeats > 0.15  # each should be 0.05


def test_the_half_width_by_hand():
    values = np.array([[0.2, 0.6, 0.7], [0.5, 0.6, 1.0]])  # seeds 0.5 and 0.7; prompts 0.35, 0.6, 0.85
    rest = np.array([[-0.05, 0.1, -0.05], [0.05, -0.1, 0.05]])
    of_seeds = 0.02 / 2 - (rest**2).sum() / 2 / 6
    of_prompts = 0.0625 / 3
    half = np.sqrt(stats.t.ppf(0.975, 1) ** 2 * of_seeds + stats.t.ppf(0.975, 2) ** 2 * of_prompts)
    assert seeds_mean(values) == pytest.approx((0.6, 0.6 - half, 0.6 + half))


def test_the_p_value_is_where_the_interval_touches_one_half():
    rng = np.random.default_rng(1)
    outcomes = (rng.random((4, 120)) < 0.62).astype(float)
    prompts = np.repeat(np.arange(30), 4)
    win = seeds_win(outcomes, prompts)
    assert (win.n, win.seeds, win.prompts, win.winner) == (480, 4, 30, "a") and 0 < win.p_value < 0.05
    touching = seeds_win(outcomes, prompts, confidence=1 - win.p_value)
    assert touching.low == pytest.approx(0.5, abs=1e-6)
    assert "with 4 training seeds" in win.sentence("dedpo", "base")
    certain = seeds_win(np.ones((3, 30)), np.arange(30))
    assert certain.low == pytest.approx(0.025 ** (1 / 30)) and certain.high == 1.0  # all won: exact, not certain
    assert (
        np.isnan(seeds_win(np.ones((1, 4)), [0, 0, 1, 1]).low)
        or seeds_win(np.ones((1, 4)), [0, 0, 1, 1]).winner is None
    )


def make_run(folder, greys, seed: int, **changes):
    given = {
        "pretrained_model_name_or_path": "world",
        "dataset": "none",
        "output_dir": str(folder),
        "seed": seed,
        **changes,
    }
    save_config(load_config(given), folder / "config.yaml")
    draw_samples(folder / "samples", greys, repetitions=2, model=str(folder))
    return folder


def test_runs_that_differ_in_their_seed_alone_are_one_group(tmp_path, capsys):
    rng = np.random.default_rng(2)
    greys = 100 + rng.integers(-40, 60, (4, 40))
    seeds = [make_run(tmp_path / f"dedpo-seed{k}", greys[k], seed=k) for k in range(3)]
    other = make_run(tmp_path / "hot", greys[3], seed=3, beta=100.0)
    again = make_run(tmp_path / "again", greys[0], seed=0)
    draw_samples(seeds[0] / "base-samples", [100] * 40, repetitions=2, model="world")
    assert families([*seeds, other, None, again]) == [[0, 1, 2]]  # another beta, no run, a seed twice
    result = compare([*map(str, seeds), str(other)], scorer="brightness")
    (group,) = result.groups
    assert group.name == group_name(group.members) == "dedpo · 3 seeds"
    by_seed = [row.win.rate for row in result.rows[:3]]
    assert group.win.rate == pytest.approx(np.mean(by_seed)) and group.win.n == 120
    single = max(row.win.high - row.win.low for row in result.rows[:3])
    assert group.win.high - group.win.low > 0.5 * single  # three seeds are not three times the prompts
    result.show()
    told = capsys.readouterr().out
    assert "120 comparisons on 20 prompts with 3 training seeds" in told
    assert result.as_dict()["scorers"][0]["groups"][0]["win"]["seeds"] == 3
    forced = compare([*map(str, seeds), str(other)], scorer="brightness", group=True)
    assert len(forced.groups[0].members) == 4 and replace(forced.groups[0].win, seeds=1).n == 160


def test_a_table_has_the_methods_and_not_their_seeds(tmp_path, capsys):
    """Two methods with three seeds each; Holm's correction is over the three claims that there are."""
    rng = np.random.default_rng(3)
    base = 100 + rng.integers(-30, 30, 40)
    methods = (("up", 40, 1.0), ("same", 0, 2.0))
    runs = {name: [make_run(tmp_path / f"{name}{k}", base + shift + rng.integers(-20, 20, 40), seed=k, beta=beta) for k in range(3)]
            for name, shift, beta in methods}  # fmt: skip
    draw_samples(runs["up"][0] / "base-samples", base, repetitions=2, model="world")
    judge_all(tmp_path)
    result = compare([*map(str, [*runs["up"], *runs["same"]])], scorer="taste")
    assert {one.name for one in result.table.strengths} == {"base", "up · 3 seeds", "same · 3 seeds"}
    assert [(claim.a, claim.b, claim.win.seeds, claim.win.seeds_b) for claim in result.table.claims] == [
        ("base", "up · 3 seeds", 1, 3), ("base", "same · 3 seeds", 1, 3), ("up · 3 seeds", "same · 3 seeds", 3, 3)]  # fmt: skip
    smallest = min(claim.p_value for claim in result.table.claims)
    assert min(claim.p_corrected for claim in result.table.claims) == pytest.approx(3 * smallest)
    result.show()
    told = capsys.readouterr().out
    assert "up · 3 seeds beats same · 3 seeds (p" in told and "same2" not in told[told.index("Sure of 3 pairs") :]
    against = compare([*map(str, [*runs["up"], *runs["same"][1:]])], str(runs["same"][0]), scorer="taste")
    assert [group.against for group in against.groups] == ["same · 3 seeds"] * 2 and against.table is None
    assert [group.win is None for group in against.groups] == [True, False]  # the base's own first
    against.show()
    assert "up · 3 seeds beats same · 3 seeds in" in capsys.readouterr().out
    alone = compare([*map(str, runs["up"][1:])], str(runs["up"][0]), scorer="taste")  # nothing but one method
    assert [group.members for group in alone.groups] == [("up1", "up2")] and alone.groups[0].against == "up0"


def test_names_of_groups_are_told_apart():
    assert group_names([["run1", "run2"], ["run3", "run4"]]) == ["run1 to run2 · 2 seeds", "run3 to run4 · 2 seeds"]
