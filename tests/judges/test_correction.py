import numpy as np
import pytest
from scipy.special import expit, logit

from palate.data.labels import Labels
from palate.errors import PalateError
from palate.judges.correction import agreement, calibrate_judge, combine, correct_judge, majority
from palate.labels.targets import dedpo

NAMES = ["brightness", "contrast", "warmth"]


def simulate(seed=0, n=1536, labelled=192, bias=1.0, taste=-1.2, sharpness=3.0):
    """Humans like fidelity and dark pictures; the judge likes fidelity, too surely, and bright pictures (`bias`)."""
    rng = np.random.default_rng(seed)
    fidelity, noise = rng.normal(size=n), rng.normal(size=n)
    differences = np.column_stack([0.2 * rng.normal(size=n), rng.normal(size=n), 5 * rng.normal(size=n)])
    brightness = differences[:, 0] / 0.2
    truth = (rng.random(n) < expit(1.6 * fidelity + taste * brightness)).astype(float)
    judge = expit(sharpness * (1.4 * fidelity + bias * brightness + 0.3 * noise))
    human = np.full(n, np.nan)
    human[rng.permutation(n)[:labelled]] = 1
    return judge, differences, np.where(human == 1, truth, np.nan), truth


def brier(probability, truth):
    return np.mean((probability - truth) ** 2)


@pytest.mark.parametrize("seed", range(4))
def test_a_sixty_percent_judge_with_a_wrong_sign_is_recovered_from_192_labels(seed):
    judge, differences, human, truth = simulate(seed, bias=0.75)
    assert 0.5 < np.mean((judge > 0.5) == truth) < 0.65
    correction = correct_judge(judge, differences, human, names=NAMES, seed=seed)
    unlabelled = np.isnan(human)
    after = brier(correction.probability[unlabelled], truth[unlabelled])
    assert after < 0.2 and after < brier(judge, truth) - 0.1
    assert np.mean((correction.probability > 0.5) == truth) > 0.7
    assert correction.after.brier == pytest.approx(brier(correction.probability[~unlabelled], truth[~unlabelled]))
    assert correction.before.brier == pytest.approx(brier(judge[~unlabelled], truth[~unlabelled]))
    assert correction.after.brier == pytest.approx(after, abs=4 * correction.after.brier_error)  # an honest estimate
    assert correction.weights["brightness"] < -2 * correction.errors["brightness"]
    assert correction.sentence().startswith("People prefer darker") and "192 pairs" in correction.sentence()


def test_the_sentence_follows_the_direction_and_names_only_what_is_clear():
    judge, differences, human, _ = simulate(1, labelled=1000, bias=-1.0, taste=1.2)
    correction = correct_judge(judge, differences, human, names=["brightness", "contrast", "grain"])
    assert "brighter pictures than the judge does" in correction.sentence()
    mirrored = correct_judge(judge, -differences, human, names=["brightness", "contrast", "grain"])
    assert "darker pictures than the judge does" in mirrored.sentence()
    custom = correct_judge(judge, differences[:, ::-1], human, names=["contrast", "warmth", "grain"])
    assert "more-grain pictures" in custom.sentence()


def test_without_a_bias_none_is_reported():
    rng = np.random.default_rng(5)
    utility = 2 * rng.normal(size=1000)
    truth = (rng.random(1000) < expit(utility)).astype(float)
    correction = correct_judge(expit(utility), rng.normal(size=(1000, 1)), truth, names=["brightness"])
    assert correction.sentence().startswith("No bias")
    assert brier(correction.probability, expit(utility)) < 0.002  # a calibrated judge is left as it is


def test_swapping_the_images_mirrors_the_probability():
    judge, differences, human, _ = simulate(2)
    here = correct_judge(judge, differences, human, names=NAMES).probability
    there = correct_judge(1 - judge, -differences, 1 - human, names=NAMES).probability
    np.testing.assert_allclose(there, 1 - here, atol=1e-6)
    swap = np.random.default_rng(0).random(len(judge)) < 0.5  # only some of the pairs
    mixed = correct_judge(
        np.where(swap, 1 - judge, judge),
        np.where(swap[:, None], -differences, differences),
        np.where(swap, 1 - human, human),
        names=NAMES,
    ).probability
    np.testing.assert_allclose(mixed, np.where(swap, 1 - here, here), atol=1e-6)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_probability_of_a_labelled_pair_does_not_know_its_own_vote(grouped):
    judge, differences, human, _ = simulate(3, n=120, labelled=60)
    groups = np.arange(120) // 3 if grouped else None
    before = correct_judge(judge, differences, human, names=NAMES, groups=groups)
    for pair in np.flatnonzero(~np.isnan(human))[:6]:
        flipped = human.copy()
        mates = np.flatnonzero(np.arange(120) // 3 == pair // 3) if grouped else np.array([pair])
        flipped[mates] = 1 - flipped[mates]
        after = correct_judge(judge, differences, flipped, names=NAMES, groups=groups)
        np.testing.assert_array_equal(
            after.probability[mates][~np.isnan(human[mates])], before.probability[mates][~np.isnan(human[mates])]
        )
        assert np.any(after.probability != before.probability)


def test_cross_fitting_gives_no_credit_for_noise():
    """Votes are coins and there are many statistics: in-sample the fit would look good, held out it must not."""
    rng = np.random.default_rng(6)
    n, k = 60, 20
    human, judge = rng.integers(0, 2, n).astype(float), rng.random(n)
    correction = correct_judge(judge, rng.normal(size=(n, k)), human, names=[f"s{i}" for i in range(k)])
    assert correction.after.brier > 0.24
    assert correction.before.brier > 0.3


def test_every_pair_is_judged_by_the_model_of_its_fold():
    judge, differences, human, _ = simulate(4, n=300, labelled=100)
    group = np.arange(300) // 3  # labelled and unlabelled pairs share groups
    human = human[np.random.default_rng(0).permutation(300)]
    correction = correct_judge(judge, differences, human, names=NAMES, groups=group)
    changed = human.copy()
    voted = np.flatnonzero(~np.isnan(human))[0]
    changed[voted] = 1 - changed[voted]
    again = correct_judge(judge, differences, changed, names=NAMES, groups=group)
    same = np.isclose(again.probability, correction.probability, atol=1e-9)
    assert same[group == group[voted]].all()  # also the unlabelled ones
    assert 0.15 < same.mean() < 0.25  # one fold of five; all others are judged by models that saw the vote


def test_hard_votes_are_calibrated_to_their_accuracy():
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 2, 4000).astype(float)
    judge = np.where(rng.random(4000) < 0.8, truth, 1 - truth)
    correction = calibrate_judge(judge, np.where(np.arange(4000) < 2000, truth, np.nan))
    assert np.abs(correction.probability - np.where(judge == 1, 0.8, 0.2)).max() < 0.04
    assert set(correction.weights) == {"judge"}
    assert "calibrated" in correction.sentence()


@pytest.mark.parametrize("judge", [np.full(80, 0.5), np.full(80, 0.9), np.ones(80)])
def test_a_constant_judge_and_constant_statistics_say_nothing(judge):
    human = np.tile([1.0, 0.0], 40)
    human[60:] = np.nan
    for differences, names in ((np.zeros((80, 0)), ()), (np.zeros((80, 2)), ("brightness", "contrast"))):
        correction = correct_judge(judge, differences, human, names=names)
        np.testing.assert_allclose(correction.probability, 0.5, atol=0.1)
        assert np.isfinite(list(correction.errors.values())).all()


def test_fractional_votes_and_ties_are_used():
    judge, differences, human, truth = simulate(8, n=400, labelled=400)
    softened = correct_judge(judge, differences, 0.5 + 0.2 * (human - 0.5), names=NAMES)
    plain = correct_judge(judge, differences, human, names=NAMES)
    spread, full = np.std(logit(softened.probability)), np.std(logit(plain.probability))
    assert 0.02 < spread < full / 3


def test_pairs_without_the_judge_stay_without():
    judge, differences, human, _ = simulate(9, n=200, labelled=100)
    judge[:20] = np.nan
    correction = correct_judge(judge, differences, human, names=NAMES)
    assert np.isnan(correction.probability[:20]).all() and np.isfinite(correction.probability[20:]).all()
    assert correction.before.n == np.sum(~np.isnan(human[20:]))


def test_agreement_of_a_known_table():
    seen = agreement(np.array([0.9, 0.2, 0.5, 0.6]), np.array([1.0, 1.0, 1.0, 0.5]))
    assert (seen.n, seen.accuracy) == (4, pytest.approx((1 + 0 + 0.5 + 0.5) / 4))
    assert seen.brier == pytest.approx((0.01 + 0.64 + 0.25 + 0.01) / 4)
    assert seen.accuracy_error == pytest.approx(np.std([1, 0, 0.5, 0.5], ddof=1) / 2)


def few(votes):
    human = np.full(40, np.nan)
    human[:votes] = 1
    return human


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.full(40, 0.5), np.zeros((40, 1)), few(9), None), ["only 9 pairs", "Add human votes", "correction: none"]),
        ((np.full(40, 0.5), np.zeros((40, 1)), few(20), np.zeros(40)), ["one group"]),
        ((np.full(40, 1.5), np.zeros((40, 1)), few(20), None), ["judge", "1.5", "[0, 1]"]),
        ((np.full(40, 0.5), np.zeros((40, 1)), few(20) + 1, None), ["human", "number 0"]),
        ((np.full(40, 0.5), np.full((40, 1), np.nan), few(20), None), ["brightness of pair number 0"]),
        ((np.full(40, 0.5), np.zeros((40, 2)), few(20), None), ["1 names"]),
    ],
)
def test_bad_input_gets_one_clear_line(arguments, words):
    judge, differences, human, groups = arguments
    with pytest.raises(PalateError) as failure:
        correct_judge(judge, differences, human, names=["brightness"], groups=groups)
    assert "\n" not in str(failure.value)
    for word in words:
        assert word in str(failure.value)


# --- several judges --------------------------------------------------------------------------------------------------


def several(seed=0, n=2000, labelled=300, noises=(0.9, 0.9), biases=(0.8, -0.8)):
    """Judges [n, J] that see the same fidelity with errors of their own, each with its own taste for brightness."""
    rng = np.random.default_rng(seed)
    fidelity, brightness = rng.normal(size=n), rng.normal(size=n)
    truth = (rng.random(n) < expit(2.0 * fidelity - 0.5 * brightness)).astype(float)
    columns = [
        expit(2 * (fidelity + b * brightness + s * rng.normal(size=n))) for s, b in zip(noises, biases, strict=True)
    ]
    return np.column_stack(columns), brightness[:, None], np.where(rng.permutation(n) < labelled, truth, np.nan), truth


def held_out_brier(judges, differences, human, truth, **options):
    names = [f"j{k}" for k in range(judges.shape[1])]
    found = correct_judge(judges, differences, human, names=["brightness"], judges=names, **options)
    unlabelled = np.isnan(human)
    return brier(found.probability[unlabelled], truth[unlabelled])


def test_two_judges_with_errors_of_their_own_predict_better_than_either():
    worlds = [several(seed) for seed in range(4)]
    together = np.array([held_out_brier(*world) for world in worlds])
    alone = [[held_out_brier(w[0][:, [j]], *w[1:]) for w in worlds] for j in (0, 1)]
    assert (together < np.min(alone, axis=0) - 0.005).all()
    assert together.mean() < np.mean(alone, axis=1).min() - 0.012


def test_a_worthless_third_judge_hardly_hurts_and_is_named():
    harm = []
    for seed in range(4):
        judges, differences, human, truth = several(seed)
        noise = expit(3 * np.random.default_rng(100 + seed).normal(size=len(judges)))
        three = np.column_stack([judges, noise])
        harm.append(
            held_out_brier(three, differences, human, truth) - held_out_brier(judges, differences, human, truth)
        )
    assert max(harm) < 0.004 and np.mean(harm) < 0.002
    found = correct_judge(three, differences, human, names=["brightness"], judges=["one", "two", "noise"])
    assert "noise adds nothing clear to the rest." in found.sentence() and "the judges do" in found.sentence()
    assert abs(found.weights["judge noise"]) < found.weights["judge one"] / 3


def test_several_judges_mirror_and_none_knows_a_pairs_own_vote():
    judges, differences, human, _ = several(5, n=200, labelled=60)
    judges[:30, 0], judges[20:40, 1] = np.nan, np.nan
    options = {
        "names": ["brightness"],
        "judges": ["one", "two"],
        "directions": np.random.default_rng(1).normal(size=(200, 5)),
    }
    here = correct_judge(judges, differences, human, **options)
    swap = np.random.default_rng(0).random(200) < 0.5
    sign = np.where(swap[:, None], -1, 1)
    there = correct_judge(
        np.where(swap[:, None], 1 - judges, judges), sign * differences, np.where(swap, 1 - human, human),
        **options | {"directions": sign * options["directions"]},
    )  # fmt: skip
    np.testing.assert_allclose(there.probability, np.where(swap, 1 - here.probability, here.probability), atol=1e-6)
    for pair in np.flatnonzero(~np.isnan(human))[:4]:
        flipped = human.copy()
        flipped[pair] = 1 - flipped[pair]
        after = correct_judge(judges, differences, flipped, **options)
        assert np.isnan(here.probability[pair]) or after.probability[pair] == here.probability[pair]
        assert np.nanmax(np.abs(after.probability - here.probability)) > 1e-6


def test_a_pair_is_judged_where_any_judge_voted_and_a_missing_vote_is_neutral():
    judges, differences, human, _ = several(6, n=300, labelled=150)
    judges[:50, 0] = np.nan
    judges[:20, 1] = np.nan
    options = {"names": ["brightness"], "judges": ["one", "two"]}
    found = correct_judge(judges, differences, human, **options)
    assert np.isnan(found.probability[:20]).all() and np.isfinite(found.probability[20:]).all()
    neutral = correct_judge(
        np.where(np.isnan(judges) & (np.arange(300) >= 20)[:, None], 0.5, judges), differences, human, **options
    )
    np.testing.assert_allclose(found.probability[20:], neutral.probability[20:], atol=1e-12)
    plain = combine(judges)
    assert np.isnan(plain[:20]).all() and plain[20:50] == pytest.approx(judges[20:50, 1].clip(0.02, 0.98))
    assert logit(plain[50:]) == pytest.approx(logit(judges[50:].clip(0.02, 0.98)).mean(axis=1))
    with pytest.raises(PalateError, match="one name per judge"):
        correct_judge(judges, differences, human, names=["brightness"])


def test_the_majority_counts_sides_not_sureness_and_mirrors_when_images_are_exchanged():
    none = np.nan
    judges = np.array(
        [[0.99, 0.4, 0.4], [0.6, 0.9, 0.1], [0.9, 0.1, none], [none, 0.2, none], [none] * 3, [0.5, 0.5, 0.7]]
    )
    expected = np.array([0.0, 1.0, 0.5, 0.0, none, 1.0])
    np.testing.assert_array_equal(majority(judges), expected)
    np.testing.assert_array_equal(majority(1 - judges), 1 - expected)
    assert combine(judges)[0] > 0.5  # the mean of logits follows the surest judge


# --- directions of embeddings ----------------------------------------------------------------------------------------


def with_directions(seed, taste, n=1500, labelled=200, count=16):
    """A judge that does not see what people's taste along some of many directions is; leading directions vary most."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(n, count)) * np.arange(1, count + 1) ** -0.7
    liked = directions @ rng.normal(size=count)
    fidelity, brightness = rng.normal(size=n), rng.normal(size=n)
    truth = (rng.random(n) < expit(1.5 * fidelity + taste * liked / liked.std())).astype(float)
    judge = expit(2 * fidelity + 0.8 * rng.normal(size=n))
    return judge, brightness[:, None], np.where(np.arange(n) < labelled, truth, np.nan), truth, directions


def test_directions_take_out_a_bias_that_no_statistic_sees_and_cost_little_where_there_is_none():
    def gain(seed, taste):
        judge, differences, human, truth, directions = with_directions(seed, taste)
        with_them, without = (
            correct_judge(judge, differences, human, names=["brightness"], directions=d) for d in (directions, None)
        )
        rest = np.isnan(human)
        return brier(without.probability[rest], truth[rest]) - brier(
            with_them.probability[rest], truth[rest]
        ), with_them

    helped, useless = ([gain(seed, taste) for seed in range(5)] for taste in (1.5, 0.0))
    assert min(g for g, _ in helped) > 0.02
    assert np.mean([g for g, _ in useless]) > -0.006 and min(g for g, _ in useless) > -0.015
    assert all("Beyond what has a name" in c.sentence() and c.directions == 16 for _, c in helped)
    assert sum("Beyond what has a name" in c.sentence() for _, c in useless) <= 1
    assert "directions" not in correct_judge(*with_directions(0, 1.5)[:3], names=["brightness"]).sentence()


def test_dedpo_on_a_corrected_judge_is_unbiased_where_prompts_teach_their_own_taste():
    """A model that saw votes of a prompt knows it better than one that did not: both must not judge one prompt."""
    rng, prompts, each = np.random.default_rng(0), 12, 12
    group = np.repeat(np.arange(prompts), each)
    size = rng.normal(size=len(group))
    differences = np.zeros((len(group), prompts))
    differences[np.arange(len(group)), group] = size  # every prompt has a statistic of its own
    human = (size > 0).astype(float)
    judge = expit(rng.normal(size=len(group)))
    names = [f"taste {k}" for k in range(prompts)]
    found = []
    for seed in range(150):
        labelled = np.random.default_rng(seed).permutation(len(group)) < 72
        votes = np.where(labelled, human, np.nan)
        corrected = correct_judge(judge, differences, votes, names=names, groups=group, seed=seed).probability
        target = dedpo(Labels(votes, corrected, np.full(len(group), 0.5))).target
        found.append(np.mean((target - human) * size))  # the error of the gradient, seen along the taste
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error and error < 0.01
