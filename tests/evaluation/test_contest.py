"""Models compared by votes: the rate of all pairs from votes on some, whatever the judge, as sure as it says."""

import json

import numpy as np
import pytest
from evaluation.drawn import draw_samples
from parity.powered_mean import powered_mean
from scipy import optimize
from scipy.special import expit

from palate.cli import annotate as annotate_verb
from palate.cli import compare as compare_verb
from palate.cli import import_ as import_verb
from palate.data.dataset import PreferenceDataset
from palate.errors import PalateError
from palate.evaluation.contest import contest, vote_rate


def votes(rng, prompts: int, repetitions: int, n: int, by_score: bool = False):
    """Human votes on about n of all pairs, a judge that leans by 0.8 and is sure of itself on all; ids, propensities."""
    u = 0.4 + 0.8 * rng.normal(size=(prompts, 1)) + 0.6 * rng.normal(size=(prompts, repetitions))
    u, ids = u.ravel(), np.repeat(np.arange(prompts), repetitions)
    y, g = (rng.random(u.size) < expit(u)).astype(float), expit(2 * u + 0.8 + 0.5 * rng.normal(size=u.size))
    if by_score:
        pi = np.clip(2 * n / u.size * (1 - abs(2 * g - 1)) + 0.25 * n / u.size, 0, 1)
        voted = rng.random(u.size) < pi
    else:
        pi, voted = np.full(u.size, n / u.size), np.isin(np.arange(u.size), rng.choice(u.size, n, replace=False))
    return np.where(voted, y, np.nan), g, ids, pi


def expected() -> float:
    x, weight = np.polynomial.hermite_e.hermegauss(60)
    return float(weight @ expit(0.4 + x) / weight.sum())


@pytest.mark.parametrize(("n", "by_score"), [(50, False), (200, False), (100, True)])
def test_the_powered_interval_holds_the_rate_as_often_as_it_says_and_the_judge_alone_does_not(n, by_score):
    rng, repeats, truth, held, widths = np.random.default_rng([n, by_score]), 800, expected(), np.zeros(3), np.zeros(2)
    for _ in range(repeats):
        y, g, ids, pi = votes(rng, 150, 4, n, by_score)
        rates = [vote_rate(y, ids, pi), vote_rate(y, ids, pi, judge=g), vote_rate((g > 0.5).astype(float), ids)]
        held += [rate.low <= truth <= rate.high for rate in rates]
        widths += [rate.high - rate.low for rate in rates[:2]]
    assert ((0.925 <= held[:2] / repeats) & (held[:2] / repeats <= 0.975)).all()
    assert held[2] / repeats < 0.05 and widths[1] < 0.96 * widths[0]


def one_pair_per_prompt(rng, rate: float, n: int, pairs: int = 600):
    """As `votes`, every prompt once; a rate of the rates near 1 that good models have."""
    x, weight = np.polynomial.hermite_e.hermegauss(60)
    middle = optimize.brentq(lambda at: weight @ expit(at + x) / weight.sum() - rate, -9, 9)
    u = middle + rng.normal(size=pairs)
    voted = np.isin(np.arange(pairs), rng.choice(pairs, n, replace=False))
    g = expit(2 * u + 0.8 + 0.5 * rng.normal(size=pairs))
    return np.where(voted, rng.random(pairs) < expit(u), np.nan), g, np.arange(pairs), np.full(pairs, n / pairs)


@pytest.mark.parametrize("n", [15, 30, 50, 200])
@pytest.mark.parametrize("rate", [0.6, 0.78, 0.9, 0.95])
def test_intervals_of_few_votes_and_good_models_hold_the_rate_as_often_as_they_say(rate, n):
    rng, repeats, held = np.random.default_rng([int(100 * rate), n]), 600, np.zeros(2)
    for _ in range(repeats):
        y, g, ids, pi = one_pair_per_prompt(rng, rate, n)
        held += [found.low <= rate <= found.high for found in (vote_rate(y, ids, pi), vote_rate(y, ids, pi, judge=g))]
    assert (0.93 <= held / repeats).all() and (held / repeats <= (0.98 if n >= 50 else 0.995)).all()


def test_the_published_normal_interval_is_too_short_for_a_good_model():
    rng, repeats, held = np.random.default_rng(3), 400, 0
    for _ in range(repeats):
        y, g, _, _ = one_pair_per_prompt(rng, 0.78, 15)
        voted = ~np.isnan(y)
        published = powered_mean(y[voted], g[voted], g[~voted])
        held += published.low <= 0.78 <= published.high
    assert held / repeats < 0.9  # which is why it is not the one that is shown


def test_the_sign_test_is_of_these_votes():
    rate = vote_rate([1, 1, 1, 1, 1, 0, 0, 0.5, np.nan], np.arange(9))
    assert rate.p_value == pytest.approx(58 / 128)  # 5 or more of 7 fair coins, both sides


def test_pictures_of_one_prompt_go_together():
    rng, repeats, truth, held = np.random.default_rng(1), 300, expected(), np.zeros(2)
    for _ in range(repeats):
        y, g, ids, pi = votes(rng, 20, 30, 500)
        for k, clusters in enumerate((ids, np.arange(len(ids)))):
            rate = vote_rate(y, clusters, pi, judge=g)
            held[k] += rate.low <= truth <= rate.high
    assert held[0] / repeats > 0.91 and held[1] / repeats < 0.8


def test_it_is_the_published_estimate_where_that_one_applies():
    y, g, _, pi = votes(np.random.default_rng(2), 400, 1, 80)
    voted = ~np.isnan(y)
    for power in (0.0, 0.6, 1.0):
        ours = vote_rate(y, np.arange(400), pi, judge=g, power=power)
        theirs = powered_mean(y[voted], g[voted], g[~voted], power=power * 320 / 400)
        assert ours.rate == pytest.approx(theirs.estimate, rel=1e-12)
        assert ours.error == pytest.approx(theirs.error, rel=0.02)  # n - 1; the interval from it is another
    tuned, best = vote_rate(y, np.arange(400), pi, judge=g), powered_mean(y[voted], g[voted], g[~voted])
    assert tuned.power * 320 / 400 == pytest.approx(best.power, abs=0.1) and 0 < tuned.power < 1


def test_by_hand_with_propensities():
    rate = vote_rate([1, 0, np.nan, 0.5], ["a", "b", "b", "c"], np.array([0.5, 0.25, 0.5, 0.25]), judge=np.array([0.9, 0.3, 0.6, np.nan]), power=1.0)  # fmt: skip
    weights = np.array([2, 4, 4]) / 10
    assert rate.rate == pytest.approx((0.9 + 0.3 + 0.6 + 0.5) / 4 + weights @ [0.1, -0.3, 0.0])
    assert (rate.n, rate.wins, rate.ties, rate.losses, rate.prompts) == (3, 1, 1, 1, 3)


def test_unanimous_votes_are_not_certainty_and_a_single_prompt_has_no_interval():
    sure = vote_rate(np.ones(12), np.arange(12))
    assert (sure.rate, sure.high) == (1.0, 1.0) and sure.low == pytest.approx(0.025 ** (1 / 12)) and sure.winner == "a"
    alone = vote_rate(np.ones(5), ["x"] * 5)
    assert np.isnan(alone.low) and alone.winner is None
    with pytest.raises(PalateError, match="at least one vote"):
        vote_rate(np.full(3, np.nan), [0, 1, 2])
    with pytest.raises(PalateError, match="propensity of a voted pair"):
        vote_rate(np.ones(2), [0, 1], np.array([0.5, 0.0]))


def test_from_samples_to_a_contest_and_back(tmp_path, capsys):
    """Darker pictures please people and brighter ones the judge; the first model is darker in 30 of 40 pictures."""
    rng = np.random.default_rng(5)
    greys = rng.integers(60, 180, 40)
    shift = np.where(np.arange(40) % 4 == 3, 30, -30)
    a = draw_samples(tmp_path / "dark", greys + shift, repetitions=2, model="m/dark")
    b = draw_samples(tmp_path / "plain", greys, repetitions=2, model="m/plain")
    other = draw_samples(tmp_path / "other", greys + 10, repetitions=2, model="m/other")
    command = ["samples", str(a.folder), str(b.folder), "--to", str(tmp_path / "contest")]
    import_verb.main(command)
    assert "40 added" in capsys.readouterr().out
    import_verb.main(command)
    assert "0 added · 40 already there" in capsys.readouterr().out
    dataset = PreferenceDataset.open(tmp_path / "contest")
    pairs = dataset.pairs(["pair_id", "prompt", "generator_0", "generator_1"]).to_pylist()
    first = [json.loads(pair["generator_0"])["model"] == "m/dark" for pair in pairs]
    assert 8 < sum(first) < 32  # the side says nothing
    assert json.loads(pairs[1]["generator_1"])["repetition"] == 1 and json.loads(pairs[0]["generator_0"])["steps"] == 25
    with pytest.raises(PalateError, match="no person voted on a pair of these two models"):
        contest(a, b, dataset)
    for pair, is_first in zip(pairs, first, strict=True):  # people see every third picture, and prefer the darker one
        picture = 2 * int(pair["prompt"].split()[1]) + json.loads(pair["generator_0"])["repetition"]
        if picture % 3 == 0:
            choice = 0 if is_first == (shift[picture] < 0) else 1
            vote = {"pair_id": pair["pair_id"], "annotator_id": "ana", "source": "human", "choice": str(choice)}
            dataset.append_votes([vote])
    annotate_verb.main([str(dataset.path), "--judge", "brightness"])
    capsys.readouterr()
    compare_verb.main([str(a.folder), "--against", str(b.folder), "--votes", str(dataset.path)])
    told = capsys.readouterr().out
    assert "40 pairs on 20 prompts, 14 with votes of people" in told and "taken as drawn at random" in told
    stored = json.loads((a.folder / "compare-votes.json").read_text())
    assert stored["judge"] == "brightness" and stored["judged"]["rate"] == pytest.approx(
        0.25
    )  # the judge says the opposite
    assert stored["human"]["rate"] == pytest.approx(10 / 14) and stored["human"]["n"] == 14
    assert stored["powered"]["power"] == 0 and stored["powered"]["rate"] == stored["human"]["rate"]  # so it is left out
    found = contest(b, a, dataset, "brightness")
    assert found.human.rate == pytest.approx(4 / 14) and found.judged.rate == pytest.approx(
        0.75
    )  # seen from the other side
    with pytest.raises(
        PalateError, match=f"no pair of pictures of .*other.*palate import samples .* --to {dataset.path}"
    ):
        contest(a, other, dataset)


def test_three_models_make_all_pairs_and_unlike_samples_none(tmp_path, capsys):
    folders = [
        draw_samples(tmp_path / name, [50 + k, 90 + k, 130 + k], model=name).folder for k, name in enumerate("abc")
    ]
    import_verb.main(["samples", *map(str, folders), "--to", str(tmp_path / "contest"), "--json"])
    assert json.loads(capsys.readouterr().out)["pairs_added"] == 9
    dataset = PreferenceDataset.open(tmp_path / "contest")
    assert len(set(dataset.pairs(["group_id"])["group_id"].to_pylist())) == 3
    hot = draw_samples(tmp_path / "hot", [1, 2, 3], guidance=9.0)
    with pytest.raises(PalateError, match="not sampled alike .different: guidance."):
        import_verb.main(["samples", str(folders[0]), str(hot.folder), "--to", str(tmp_path / "x")])
    with pytest.raises(PalateError, match="two models or more"):
        import_verb.main(["samples", str(folders[0]), "--to", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()


def test_the_judge_that_trained_a_model_is_marked(tmp_path):
    from palate.run.load import load_config, save_config

    run = tmp_path / "run"
    save_config(load_config({"pretrained_model_name_or_path": "world", "dataset": "none", "output_dir": str(run), "method": "dedpo", "judge": "brightness"}), run / "config.yaml")  # fmt: skip
    a, b = draw_samples(run / "samples", [10, 20, 30], model=str(run)), draw_samples(tmp_path / "b", [20, 10, 20])
    import_verb.main(["samples", str(run), str(b.folder), "--to", str(tmp_path / "contest")])
    dataset = PreferenceDataset.open(tmp_path / "contest")
    rows = [(pair_id, who) for pair_id in dataset.pair_ids() for who in ("ana", "bright-2")]
    dataset.append_votes(
        {"pair_id": p, "annotator_id": w, "source": "human" if w == "ana" else "judge", "choice": "0"} for p, w in rows
    )
    assert contest(a, b, dataset).judge == "bright-2" and not contest(a, b, dataset).judge_used_in_training
    dataset.add_provenance({"judge": "brightness", "annotator": "bright-2"})
    assert contest(a, b, PreferenceDataset.open(dataset.path)).judge_used_in_training
    dataset.append_votes(
        {"pair_id": p, "annotator_id": "self:run", "source": "judge", "choice": "0"} for p in dataset.pair_ids()
    )
    dataset.add_provenance({"judge": f"self:{run}", "annotator": "self:run"})
    assert contest(a, b, dataset, "self:run").judge_used_in_training  # the model itself
    with pytest.raises(PalateError, match="several judges voted .bright-2, self:run.*--judge bright-2"):
        contest(a, b, dataset)
