"""Bradley-Terry strengths against an independent optimiser, their intervals and claims by simulation."""

import json

import numpy as np
import pytest
from evaluation.drawn import draw_samples, judge_all
from scipy import optimize, stats
from scipy.special import expit, logit

from palate.cli import compare as compare_verb
from palate.evaluation.strengths import bradley_terry, holm, strengths


def test_strengths_are_the_maximum_of_the_likelihood():
    wins = np.array([[0, 7, 9.5, 4], [5, 0, 8, 6], [2.5, 4, 0, 1], [8, 6, 11, 0]])

    def loss(free):
        value = np.append(free, -free.sum())
        tied = wins + 0.5 * (1 - np.eye(4))
        return -(tied * np.log(expit(value[:, None] - value))).sum()

    best = optimize.minimize(loss, np.zeros(3), tol=1e-12).x
    np.testing.assert_allclose(bradley_terry(wins[None])[0], np.append(best, -best.sum()), atol=1e-5)
    many = bradley_terry(np.stack([wins, wins.T]))
    np.testing.assert_allclose(many[0], -many[1], atol=1e-9)


def test_two_models_are_the_log_odds_and_total_victory_is_finite():
    assert bradley_terry(np.array([[[0, 30.0], [10, 0]]]))[0] @ [1, -1] == pytest.approx(np.log(30.5 / 10.5))
    always = bradley_terry(np.array([[[0, 5000.0, 5000], [0, 0, 5000], [0, 0, 0]]]))[0]
    assert np.isfinite(always).all() and always[0] > always[1] > always[2]


def scores(rng, prompts: int, means, spread: float = 0.7, repetitions: int = 2):
    """Scores [K, N] of models whose difference varies with the prompt."""
    own = np.asarray(means)[:, None] + spread * rng.normal(size=(len(means), prompts))
    return np.repeat(own, repetitions, axis=1) + rng.normal(size=(len(means), prompts * repetitions)), np.repeat(np.arange(prompts), repetitions)  # fmt: skip


def limit(means, own):
    """The strengths of infinitely many samples, where scores are normal with variances `own`."""
    rates = stats.norm.cdf(np.subtract.outer(means, means) / np.sqrt(np.add.outer(own, own))) * (1 - np.eye(len(means)))
    return bradley_terry(1e7 * rates[None])[0]


@pytest.mark.parametrize(("means", "prompts", "repetitions"), [((0.6, 0.2, 0.0), 40, 2), ((1.8, 0.0), 25, 1), ((2.5, 0.0, -2.5), 30, 2)])  # fmt: skip
def test_intervals_hold_the_strengths_as_often_as_they_say(means, prompts, repetitions):
    rng, held, repeats = np.random.default_rng([prompts, 1]), np.zeros(len(means)), 800
    expected = limit(means, [0.7**2 + 1] * len(means))
    for seed in range(repeats):
        few, ids = scores(rng, prompts, means, repetitions=repetitions)
        for one in strengths("abc"[: len(means)], few, ids, resamples=200, seed=seed).strengths:
            held["abc".index(one.name)] += one.low <= expected["abc".index(one.name)] <= one.high
    assert (0.92 <= held / repeats).all() and (held / repeats <= 0.985).all()


def test_all_won_is_no_certainty():
    """Of two models the interval is that of Jeffreys' prior for the rate, and of three it is wide for the one that always wins."""
    two = strengths("ab", [np.ones(20), np.zeros(20)], np.arange(20), resamples=20_000).strengths
    reach = np.sqrt(20 / 19) * stats.t.ppf(0.975, 19)
    low = logit(stats.beta.ppf(stats.norm.sf(reach), 20.5, 0.5)) / 2  # half of the log-odds to each
    assert two[0].name == "a" and two[0].low == pytest.approx(low, abs=0.05) and two[0].low > 0
    assert two[0].low < two[0].strength < two[0].high < 10 and two[1].high == pytest.approx(-two[0].low)
    rng = np.random.default_rng(2)
    level = rng.normal(size=(2, 60))
    three = strengths("abc", [level[0] + 20, *level], np.repeat(np.arange(20), 3)).strengths
    assert (
        three[0].name == "a" and three[0].high - three[0].low > 1 and three[0].low < three[0].strength < three[0].high
    )
    assert strengths("ab", [np.ones(9), np.ones(9)], np.arange(9)).strengths[0].low < -0.2  # nothing but ties


def seeds_of(rng, seeds: int, prompts: int, own: float, spread: float = 0.5):
    """Scores [S, 2 P] of the seeds of a method: its own mean, what a seed adds, noise."""
    return own + spread * rng.normal(size=(seeds, 1)) + rng.normal(size=(seeds, 2 * prompts))


def test_training_seeds_are_one_entry_and_their_strength_holds_for_other_seeds():
    rng, held, fixed, repeats, ids = np.random.default_rng(8), np.zeros(3), 0, 200, np.repeat(np.arange(40), 2)
    expected = limit((0.6, 0.2, 0.0), [0.5**2 + 1, 0.5**2 + 1, 1.0])
    for seed in range(repeats):
        models = [seeds_of(rng, 4, 40, 0.6), seeds_of(rng, 4, 40, 0.2), rng.normal(size=80)]
        for one in strengths("abc", models, ids, resamples=200, seed=seed).strengths:
            held["abc".index(one.name)] += one.low <= expected["abc".index(one.name)] <= one.high
        first = strengths("abc", [models[0][0], models[1][0], models[2]], ids, resamples=200, seed=seed).strengths
        fixed += all(one.low <= expected["abc".index(one.name)] <= one.high for one in first)
    assert (held / repeats >= 0.93).all() and fixed / repeats < 0.7


def test_claims_are_of_groups_and_equal_methods_are_told_apart_no_more_often_than_five_in_a_hundred():
    rng, repeats, claimed, ids = np.random.default_rng(9), 200, 0, np.repeat(np.arange(30), 2)
    for _ in range(repeats):
        models = [seeds_of(rng, 3, 30, 0.0), seeds_of(rng, 3, 30, 0.0), seeds_of(rng, 3, 30, 0.0)]
        table = strengths(["a · 3 seeds", "b · 3 seeds", "c · 3 seeds"], models, ids, resamples=20)
        claimed += any(claim.winner for claim in table.claims)
    assert claimed / repeats < 0.05 and len(table.claims) == 3
    assert {(claim.win.seeds, claim.win.seeds_b, claim.win.n) for claim in table.claims} == {(3, 3, 9 * 60)}
    assert [claim.p_value for claim in table.claims] == [claim.win.p_value for claim in table.claims]


def test_equal_models_are_claimed_to_differ_no_more_often_than_five_in_a_hundred():
    rng, repeats, claimed, uncorrected = np.random.default_rng(1), 300, 0, 0
    for seed in range(repeats):
        equal, ids = scores(rng, 40, (0, 0, 0, 0))
        claims = strengths("abcd", equal, ids, resamples=300, seed=seed).claims
        claimed += any(claim.winner for claim in claims)
        uncorrected += any(claim.p_value < 0.05 for claim in claims)
    assert claimed / repeats < 0.08 and uncorrected / repeats > 0.12


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0]) and holm([]).size == 0


def test_a_winner_needs_the_corrected_test_and_the_interval(tmp_path):
    rng = np.random.default_rng(3)
    values, ids = scores(rng, 60, (1.5, 0.0, 0.05))
    table = strengths(["good", "one", "two"], values, ids)
    assert table.strengths[0].name == "good" and table.strengths[0].low > 0
    assert [claim.winner for claim in table.claims] == ["good", "good", None]
    assert sum(one.strength for one in table.strengths) == pytest.approx(0)
    alone = strengths(["a", "b"], [np.ones(5), np.zeros(5)], ["x"] * 5)
    assert np.isnan(alone.strengths[0].low) and alone.claims[0].winner is None  # one prompt says nothing of others


def test_the_verb_prints_the_table_and_stores_everything(tmp_path, capsys):
    rng = np.random.default_rng(4)
    base = draw_samples(tmp_path / "base", 100 + rng.integers(-30, 30, 40))
    up, same = (
        draw_samples(tmp_path / name, 100 + shift + rng.integers(-30, 30, 40))
        for name, shift in (("up", 40), ("same", 0))
    )
    judge_all(tmp_path)
    command = [str(up.folder), str(same.folder), "--against", str(base.folder), "--scorer", "taste"]
    compare_verb.main(command)
    told = capsys.readouterr().out
    assert (
        "strength in log-odds, from 3 pairs" in told
        and "up beats base (p" in told
        and "No winner between base and same" in told
    )
    compare_verb.main([*command, "--json", "--out", str(tmp_path / "kept.json")])
    printed, stored = json.loads(capsys.readouterr().out), json.loads((up.folder / "compare.json").read_text())
    section = stored["scorers"][0]
    assert stored["suite"]["hash"] == base.settings["prompts"] and stored["sampling"]["guidance"] == 7.5
    assert (
        section["version"] == "1"
        and section["models"][0]["win"]["winner"] == "a"
        and section["strengths"][0]["name"] == "up"
    )
    of_the_call = {"created_at": 0, "command": ""}
    assert {**printed, **of_the_call} == {**stored, **of_the_call} and (tmp_path / "kept.json").exists()
    assert printed["command"].endswith("kept.json") and stored["command"].endswith("--scorer taste")


def test_one_prompt_is_said_to_give_no_interval_and_the_sign_test_is_shown(tmp_path, capsys):
    a, b, c = (
        draw_samples(tmp_path / name, [grey] * 6, repetitions=6) for name, grey in (("a", 90), ("b", 120), ("c", 150))
    )
    for models in ([a], [a, c]):
        compare_verb.main([*(str(one.folder) for one in models), "--against", str(b.folder), "--scorer", "brightness"])
        told = capsys.readouterr().out
        assert "nan" not in told and told.count("[no interval: one prompt only]") >= 3
        assert "n 6, ties 0, sign test p 1\n" in told
