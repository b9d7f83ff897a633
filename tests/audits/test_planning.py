"""What a judge is worth: the predicted variance is the one that simulation gives, and the advice follows from it."""

import numpy as np
import pytest
from scipy.special import expit

from palate.audits.advice import Recommendation, recommend
from palate.audits.planning import gain_of, leading, plan
from palate.data.labels import Labels
from palate.judges.choice import Choice, Way
from palate.labels.targets import dedpo, tuned_power, variance_ratio
from palate.run.load import load_config

REQUIRED = {"pretrained_model_name_or_path": "world", "dataset": "prefs", "output_dir": "runs/one"}


def population(rng, n, sharpness=1.0, noise=0.5):
    """Human votes y and judge's probabilities g of n pairs; `sharpness` 1 is about calibrated."""
    utility = 1.5 * rng.normal(size=n)
    return (rng.random(n) < expit(utility)).astype(float), expit(sharpness * (utility + noise * rng.normal(size=n)))


def labels_of(rng, n=600, labelled=150, **judge) -> Labels:
    y, g = population(rng, n, **judge)
    seen = np.zeros(n, bool)
    seen[rng.choice(n, labelled, replace=False)] = True
    return Labels(np.where(seen, y, np.nan), g, np.full(n, labelled / n))


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 6.0, -2.0])
def test_the_numbers_are_those_of_targets(sharpness):
    labels = labels_of(np.random.default_rng(0), sharpness=sharpness)
    gain = gain_of(labels, np.arange(600))
    assert gain.power.value == pytest.approx(tuned_power(labels.human, labels.judge))
    assert gain.variance.value == pytest.approx(variance_ratio(labels, gain.power.value))
    assert gain.variance_full.value == pytest.approx(variance_ratio(labels, 1.0))
    assert gain.worth.value == pytest.approx(min(150 / gain.variance.value, 600))
    assert gain.spread(150) / (gain.alone / 150) == pytest.approx(gain.variance.value)


def test_unequal_propensities_are_those_of_targets_too():
    rng = np.random.default_rng(1)
    y, g = population(rng, 800)
    propensity = np.where(rng.random(800) < 0.5, 0.4, 0.1)
    labels = Labels(np.where(rng.random(800) < propensity, y, np.nan), g, propensity)
    gain = gain_of(labels, np.arange(800))
    assert gain.variance.value == pytest.approx(variance_ratio(labels, gain.power.value))


@pytest.mark.parametrize("power", [0.0, 0.6, 1.0])
def test_the_predicted_variance_is_that_of_dedpos_gradient(power):
    """Gradient at z = 0 of weight * CE(z, target): weight * (1/2 - target) * s, over pairs, votes, s and who is labelled."""
    rng = np.random.default_rng(2)
    n, m, total = 120, 30, np.zeros(1500)
    for i in range(1500):
        labels = labels_of(rng, n, m, sharpness=3.0)
        targets = dedpo(labels, power)
        total[i] = np.mean(targets.weight * (0.5 - targets.target) * rng.choice([-1, 1], n))
    y, g = population(rng, 200_000, sharpness=3.0)
    a, b = y - 0.5, g - 0.5
    predicted = np.mean(a * a) / n + (1 / m - 1 / n) * np.mean((a - power * b) ** 2)
    assert total.var() == pytest.approx(predicted, rel=0.15)


def test_the_interval_of_the_variance_ratio_holds_its_value_for_all_pairs():
    rng = np.random.default_rng(3)
    y, g = population(rng, 100_000, sharpness=3.0)
    a, b = y - 0.5, g - 0.5
    power = (a @ b) / (b @ b)
    truth = 0.25 + 0.75 * np.mean((a - power * b) ** 2) / np.mean(a * a)
    gains = [gain_of(labels_of(rng, 400, 100, sharpness=3.0), np.arange(400), seed=i) for i in range(60)]
    assert np.mean([gain.variance.low <= truth <= gain.variance.high for gain in gains]) > 0.85
    assert np.mean([gain.power.low <= power <= gain.power.high for gain in gains]) > 0.85


def test_a_useless_judge_is_worth_nothing_and_a_perfect_one_everything():
    rng = np.random.default_rng(4)
    labels = labels_of(rng)
    half = gain_of(Labels(labels.human, np.full(600, 0.5), labels.propensity), np.arange(600))
    assert (half.power.value, half.variance.value, half.worth.value) == (0, pytest.approx(1), pytest.approx(150))
    oracle = np.where(np.isnan(labels.human), 1.0, labels.human)
    perfect = gain_of(Labels(labels.human, oracle, labels.propensity), np.arange(600))
    assert (perfect.power.value, perfect.worth.value) == (1, pytest.approx(600))
    everything = Labels(np.ones(50), np.full(50, 0.9), np.ones(50))
    assert gain_of(everything, np.arange(50)).variance.value == pytest.approx(1)  # nothing is left to the judge
    assert gain_of(Labels(np.full(20, 0.5), np.full(20, 0.9), np.full(20, 0.5)), np.arange(20)) is None  # ties only


def test_more_votes_narrow_every_interval_and_the_judge_matters_less():
    gain = gain_of(labels_of(np.random.default_rng(5)), np.arange(600))
    steps = plan({"clip/none": gain}, 150, 600, 0.25)
    assert [step.votes for step in steps] == [150, 225, 300, 450, 600] and [step.now for step in steps] == [True] + [
        False
    ] * 4
    assert steps[0].alone == pytest.approx(100 * 1.96 * 0.5 / np.sqrt(150))
    assert steps[-1].judges["clip/none"] == pytest.approx(steps[-1].alone)  # every pair labelled
    ratios = [step.judges["clip/none"] / step.alone for step in steps]
    assert (np.diff([step.alone for step in steps]) < 0).all() and (np.diff(ratios) > 0).all() and ratios[0] < 0.97
    assert [step.worth["clip/none"] >= step.votes for step in steps] == [True] * 5


def test_the_plan_has_the_better_form_of_each_judge_and_the_best_judges_first():
    rng = np.random.default_rng(7)
    sure, calm, poor = (
        gain_of(labels_of(rng, sharpness=s, noise=n), np.arange(600)) for s, n in ((9, 0.5), (1, 0.5), (1, 4))
    )
    gains = {"poor/none": poor, "a/b/none": sure, "a/b/covariates": calm}
    assert list(leading(gains)) == ["a/b/covariates", "poor/none"] and list(leading(gains, 1)) == ["a/b/covariates"]


def test_where_every_pair_is_labelled_the_plan_looks_back():
    steps = plan({}, 800, 800, 0.25)
    assert [step.votes for step in steps] == [25, 50, 100, 200, 400, 800] and steps[-1].now


def choice(share: float, alone: float = 0.4, residual: float = 0.25, correction: str = "covariates") -> Choice:
    """One in which a judge promises this share, or human votes alone where that is more."""
    people = Way("", 1.0, 0.0, alone, alone, alone)
    judge = Way(correction, residual, 1.0, share, share - 0.1, share + 0.1)
    return Choice(max((people, judge), key=lambda way: way.share), (judge, people))


def advice(gain, judges=("clip",), labelled=150, pairs=600, chosen=None, **more) -> Recommendation:
    gains = {} if gain is None else {"clip/none": gain}
    choices = {name: chosen or choice(0.0) for name in judges}
    return recommend(gains, choices, judges, labelled, pairs, **more)


def test_the_advice_is_the_choice_of_auto_and_says_why():
    good = gain_of(labels_of(np.random.default_rng(6), sharpness=1.0), np.arange(600))
    told = advice(good, chosen=choice(0.8))
    assert told.configuration == {"method": "auto", "judge": "clip"}
    assert "the corrected judge, 0.25 of the residual: at equal drift about 80 %" in told.sentence
    assert "human votes alone 40 %" in told.sentence and "some bias toward the judge" in told.reason
    assert "count like" in told.reason and f"{good.variance.value:.2f}" in told.reason  # what it is worth without one
    assert "unbiased however wrong" in advice(good, chosen=choice(0.8, residual=1.0)).reason
    told = advice(good, chosen=choice(0.3), labelled=12)
    assert told.configuration == {"method": "dpo"} and "label 36 more pairs" in told.sentence
    given = advice(good, chosen=choice(0.8), keys={"contexts": "group_id"})
    assert load_config(REQUIRED | given.configuration).contexts == "group_id"
    everything = advice(good, chosen=choice(0.9, alone=0.7), labelled=600)  # auto follows a judge there, too
    assert everything.configuration["method"] == "auto" and "count like" not in everything.reason


def test_the_combination_is_recommended_as_the_list_of_its_judges_where_it_is_best():
    choices = {"clip": choice(0.5), "hps": choice(0.45), "all judges": choice(0.8)}
    told = recommend({}, choices, ("clip", "hps"), 150, 600)
    assert told.configuration["judge"] == ["clip", "hps"] and "clip, hps" in told.sentence
    assert "promises 50 %" in told.reason
    assert load_config(REQUIRED | told.configuration).judge == ("clip", "hps")
    nearly = choices | {"hps": choice(0.797)}
    assert recommend({}, nearly, ("clip", "hps"), 150, 600).configuration["judge"] == "hps"  # one is simpler than two


@pytest.mark.parametrize(
    ("arguments", "method", "words"),
    [
        ({"gain": None, "judges": (), "labelled": 0}, None, "no votes"),
        ({"gain": None, "judges": ("clip",), "labelled": 0}, "judge", "Label about 50 pairs"),
        ({"gain": None, "judges": (), "labelled": 40}, "dpo", "add a judge for the other 560"),
        ({"gain": None, "judges": (), "labelled": 600}, "dpo", "Train on the 600 human votes."),
        ({"gain": None, "judges": ("clip",), "labelled": 1}, "dpo", "too few"),
        ({"gain": None, "judges": ("clip",), "labelled": 600}, "dpo", "all 600 pairs"),
    ],
)
def test_every_other_situation_has_its_advice(arguments, method, words):
    told = advice(**arguments)
    assert words in told.sentence and told.reason and told.configuration.get("method") == method
    if method:
        assert load_config(REQUIRED | told.configuration).method == method


def test_people_who_vote_against_the_others_are_named_with_the_key_that_leaves_them_out():
    told = advice(None, labelled=600, opposed=("eve",), agreeing=("ana", "ben"))
    assert told.reason.endswith("are without eve.") and "eve votes against" in told.reason
    assert told.configuration["human_annotators"] == ["ana", "ben"]
    assert load_config(REQUIRED | told.configuration).human_annotators == ("ana", "ben")
