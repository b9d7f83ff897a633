"""Corrections by context: a judge that is wrong about some kinds of prompts alone."""

import numpy as np
import pytest
from scipy.special import expit

from palate.judges.contexts import find_contexts, given_contexts
from palate.judges.correction import correct_judge

NAMES = np.array(["food", "animals", "tools", "places"])


def voted(seed: int, n: int, wrong: tuple[int, ...] = (), own: float = 0.0):
    """Judge, human votes, prompts and kinds of 600 pairs of which n are labelled; the judge's taste is turned around in
    the kinds `wrong`."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(4, size=600)
    prompt = kind * 15 + rng.integers(15, size=600)
    utility = 2 * rng.normal(size=600)
    human = (rng.random(600) < expit(utility)).astype(float)
    believed = np.where(np.isin(kind, wrong), -1, 1) * utility + own * rng.normal(size=600)
    truth = expit(utility)
    human[rng.permutation(600)[n:]] = np.nan
    return expit(2 * believed), human, prompt, kind, truth


def corrected(judge, human, prompt, kind, **options):
    nothing = np.empty((len(judge), 0))
    contexts = None if kind is None else given_contexts(NAMES[kind])
    return correct_judge(judge, nothing, human, names=(), contexts=contexts, groups=prompt, **options)


def error(probability, truth):
    return np.mean((probability - truth) ** 2)


def test_a_judge_that_is_wrong_about_some_groups_is_set_right_by_context():
    gains = []
    for seed in range(6):
        judge, human, prompt, kind, truth = voted(seed, 60, wrong=(2,))
        by_kind, common = (corrected(judge, human, prompt, kinds) for kinds in (kind, None))
        gains.append(error(common.probability, truth) - error(by_kind.probability, truth))
    assert min(gains) > 0 and np.mean(gains) > 0.02
    told = corrected(*voted(1, 200, wrong=(2,))[:4])
    assert "For tools people prefer what the judge does not." in told.sentence()


def test_context_costs_little_where_the_error_does_not_follow_it():
    costs = []
    for seed in range(8):
        judge, human, prompt, kind, truth = voted(seed, 80, own=2.0)
        by_kind, common = (corrected(judge, human, prompt, kinds) for kinds in (kind, None))
        costs.append(error(by_kind.probability, truth) - error(common.probability, truth))
    assert np.mean(costs) < 0.004


def test_a_bias_on_a_picture_statistic_in_one_kind_is_found_and_said():
    rng = np.random.default_rng(3)
    kind = rng.integers(4, size=800)
    gloss, rest = rng.normal(size=800), rng.normal(size=800)
    human = (rng.random(800) < expit(2 * rest - np.where(kind == 0, 2.0, 0) * gloss)).astype(float)
    found = correct_judge(
        expit(2 * rest), gloss[:, None], human, names=("gloss",), contexts=given_contexts(NAMES[kind]),
        groups=kind * 20 + rng.integers(20, size=800),
    )  # fmt: skip
    assert "For food people prefer less-gloss pictures than the judge does." in found.sentence()
    assert "For places" not in found.sentence()


def test_a_context_without_votes_has_the_common_correction_and_no_vote_sees_itself():
    judge, human, prompt, kind, _ = voted(0, 120, wrong=(2,))
    human = np.where(kind == 3, np.nan, human)
    found = corrected(judge, human, prompt, kind)
    there = kind == 3
    z = np.log(found.probability / (1 - found.probability))[there]
    assert np.corrcoef(z, np.log(judge / (1 - judge))[there])[0, 1] > 0.6  # each fold has a slope of its own
    labelled = np.flatnonzero(~np.isnan(human))[:5]
    for row in labelled:
        turned = human.copy()
        turned[row] = 1 - turned[row]
        after = corrected(judge, turned, prompt, kind).probability
        assert after[row] == pytest.approx(found.probability[row])


def test_swapping_the_images_mirrors_a_correction_by_context():
    judge, human, prompt, kind, _ = voted(5, 100, wrong=(1,))
    here, there = (corrected(j, h, prompt, kind).probability for j, h in ((judge, human), (1 - judge, 1 - human)))
    np.testing.assert_allclose(here, 1 - there, atol=1e-9)


def test_contexts_are_found_from_the_words_and_named_by_them():
    things = {"food": ["apple pie", "cherry pie", "plum pie", "pear pie", "lemon pie"],
              "beast": ["grey wolf", "white wolf", "old wolf", "young wolf", "sad wolf"]}  # fmt: skip
    prompts = [prompt for own in things.values() for prompt in own] * 3
    found = find_contexts(prompts)
    assert len(found.names) == 2 and not found.given
    assert len({found.place[i] for i in range(5)}) == 1 and found.place[0] != found.place[5]
    assert any("pie" in name for name in found.names) and any("wolf" in name for name in found.names)
    np.testing.assert_array_equal(found.place, find_contexts(prompts).place)
    assert find_contexts(["a cat"] * 50).names == ("all prompts",)
    assert given_contexts(["tools", None, "food"]).names == ("food", "other", "tools")


def test_the_names_of_the_emoji_world_have_its_groups():
    found = find_contexts(["red apple", "penguin", "banana", "hammer"])
    assert found.names == ("animals", "food", "tools") and found.given
    assert found.place.tolist() == [1, 0, 1, 2]
    assert not find_contexts(["red apple", "penguin", "a red wolf"]).given
