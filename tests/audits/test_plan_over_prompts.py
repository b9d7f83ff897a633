"""The plan knows that pairs of one prompt go together, and that new prompts buy more."""

import numpy as np
import pytest

from palate.audits.planning import plan, prompts_in_words
from palate.audits.prompts import Prompts, prompts_of


def votes_of(rng, prompts, each, between):
    """Votes for the image that a judge takes, [prompts * each]; a prompt moves their probability by +- `between`."""
    share = 0.5 + between * rng.choice([-1, 1], prompts)
    along = rng.choice([-1.0, 1.0], prompts * each)  # which image the judge takes: the sides mean nothing
    right = rng.random(prompts * each) < np.repeat(share, each)
    return np.repeat(np.arange(prompts), each), 0.5 + along * (right - 0.5), along


def test_how_alike_pairs_of_a_prompt_are_is_found_without_bias():
    found = []
    for seed in range(60):
        group, human, along = votes_of(np.random.default_rng([1, seed]), 40, 8, 0.3)
        found.append(prompts_of(group, human, along[:, None]).alike)
    assert np.mean(found) == pytest.approx(4 * 0.3**2, abs=0.03)  # variance between prompts .09, of all 1/4
    group, human, along = votes_of(np.random.default_rng(2), 400, 8, 0.0)
    alone = prompts_of(group, human, along[:, None])
    assert alone.alike < 0.03 and (alone.count, alone.concentration) == (400, pytest.approx(1 / 400))


def test_it_does_not_depend_on_which_image_is_called_0_nor_on_unlabelled_pairs():
    rng = np.random.default_rng(3)
    group, human, along = votes_of(rng, 30, 6, 0.3)
    flip = rng.random(180) < 0.5
    swapped = prompts_of(group, np.where(flip, 1 - human, human), np.where(flip, -along, along)[:, None])
    assert swapped == prompts_of(group, human, along[:, None])
    more = np.concatenate([human, np.full(20, np.nan)])
    wider = prompts_of(np.concatenate([group, np.arange(30, 50)]), more, np.concatenate([along, np.ones(20)])[:, None])
    assert wider.alike == swapped.alike and wider.count == 50
    assert prompts_of(np.arange(9), np.ones(9), np.ones((9, 1))).alike is None
    assert prompts_of(group, human, np.empty((180, 0))).alike is None


@pytest.mark.parametrize(("labelled", "between"), [(60, 0.3), (240, 0.3), (240, 0.0)])
def test_the_half_width_is_that_of_a_share_over_draws_of_prompts(labelled, between):
    """What the share of a judge's choices that people agree with really varies by: new prompts, pairs and votes."""
    rng = np.random.default_rng(4)
    shares = []
    for _ in range(1500):
        group, human, along = votes_of(rng, 30, 8, between)
        seen = rng.permutation(240)[:labelled]
        shares.append(np.mean(along[seen] * (human[seen] - 0.5)))
    truth = Prompts(30, 1 / 30, 4 * between**2, 240)
    (now,) = (step for step in plan({}, labelled, 240, 0.25, truth) if step.now)
    assert now.alone == pytest.approx(100 * 1.96 * np.std(shares), rel=0.06)
    assert now.new_prompts == pytest.approx(100 * 1.96 * 0.5 / np.sqrt(labelled))


def test_no_number_of_pairs_of_the_same_prompts_goes_below_the_floor_and_it_is_said():
    prompts = Prompts(40, 1 / 40, 0.3, 400)
    steps = plan({}, 50, 400, 0.25, prompts)
    floor = 100 * 1.96 * np.sqrt(0.25 * 0.3 / 40)
    assert steps[-1].votes == 400 and floor < steps[-1].alone < steps[0].alone
    assert all(step.new_prompts < step.alone for step in steps)
    told = prompts_in_words(steps, prompts, 0.25)
    assert f"less than ± {floor:.1f}" in told and "new prompts buy more" in told and "40 prompts" in told
    assert prompts_in_words(steps, Prompts(40, 1 / 40, 0.0, 400), 0.25) == ""
    assert prompts_in_words([], prompts, 0.25) == ""
