"""The propensity of pairs that people picked: what the estimate repairs, what it cannot, and what it says of itself."""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.special import expit, logit

from palate.data.labels import Labels
from palate.errors import PalateError
from palate.judges.correction import correct_judge
from palate.judges.propensity import FLOOR, Seen, Selection, estimate_propensity, seen_of_pairs, votes_related
from palate.labels.targets import dedpo

STATISTICS = ("brightness", "contrast", "warmth")


@dataclass
class World:
    """Pairs of two pictures, three pairs of each prompt; people like the first statistic and dislike the second, of
    which the judge likes more. What is asked: how often people choose the picture with more of the second one."""

    x: np.ndarray  # [N, 3] differences of statistics
    truth: np.ndarray  # [N] what people say on the mean
    votes: np.ndarray  # [N] of a person, on every pair
    judge: np.ndarray  # [N]
    prompt: np.ndarray
    rng: np.random.Generator

    @classmethod
    def draw(cls, seed: int, pairs: int) -> "World":
        rng = np.random.default_rng(seed)
        prompt = np.arange(pairs) // 3
        x = 0.9 * rng.normal(size=(pairs, 3)) + 0.4 * rng.normal(size=(prompt[-1] + 1, 3))[prompt]
        truth = expit(1.2 * x[:, 0] - 0.8 * x[:, 1])
        votes = (rng.random(pairs) < truth).astype(float)
        return cls(x, truth, votes, expit(x[:, 0] + x[:, 1]), prompt, rng)

    def shown(self, by: str) -> np.ndarray:
        """[N] bool: picked by how much the second statistic differs, by the vote itself, or at random."""
        how = {
            "what is seen": 1.2 * np.abs(self.x[:, 1]) - 3.2,
            "the vote": 3 * (self.votes - 0.5) * np.sign(self.x[:, 1]) - 2.5,
            "chance": np.full(len(self.x), -2.0),
        }[by]
        return self.rng.random(len(self.x)) < expit(how)

    def estimate(self, shown: np.ndarray, seed: int = 0) -> Selection:
        seen = seen_of_pairs(
            self.x, STATISTICS, self.judge[:, None], ("j",), ["a prompt"] * len(self.x), labelled=shown
        )
        return estimate_propensity(seen, shown, self.prompt, seed)

    def error(self, shown: np.ndarray, judge: np.ndarray, propensity: np.ndarray) -> tuple[float, float]:
        """Of the debiased targets in the share that is asked for, and its standard error as of a mean over prompts."""
        targets = dedpo(Labels(np.where(shown, self.votes, np.nan), judge, propensity))
        side = np.sign(self.x[:, 1])
        own = side * (targets.target - 0.5)
        sums = np.bincount(self.prompt, weights=own - own.mean())
        return float(own.mean() - np.mean(side * (self.truth - 0.5))), float(np.sqrt((sums**2).sum()) / len(own))


def mean_and_error(errors) -> tuple[float, float]:
    return float(np.mean(errors)), float(np.std(errors, ddof=1) / np.sqrt(len(errors)))


def doubly_robust(seed: int, pairs: int, right: str, fitted: bool = False) -> tuple[float, float]:
    """The error where the named ones of propensity and judge are right. A wrong propensity sees all but what people
    picked by; a right judge is the truth or, `fitted`, was corrected on the picked pairs."""
    world = World.draw(seed, pairs)
    shown = world.shown("what is seen")
    names = ("the difference in contrast", "the difference in warmth")
    columns = np.abs(world.x[:, 1:] if "propensity" in right else world.x[:, [0, 2]])
    selection = estimate_propensity(Seen(columns, names), shown, world.prompt, seed)
    judge = world.judge
    if "judge" in right and fitted:
        human = np.where(shown, world.votes, np.nan)
        judge = correct_judge(judge, world.x, human, names=STATISTICS, groups=world.prompt, seed=seed).probability
    elif "judge" in right:
        judge = world.truth
    return world.error(shown, judge, selection.propensity)


@pytest.mark.parametrize("right", ["propensity", "judge", "propensity and judge", "none"])
def test_targets_are_unbiased_if_either_the_propensity_or_the_judge_is_right(right):
    mean, error = mean_and_error([doubly_robust(seed, 1800, right)[0] for seed in range(20)])
    if right == "none":
        assert abs(mean) > 0.04 and abs(mean) > 5 * error  # neither: the promise ends, and the test can fail
    else:
        assert abs(mean) < max(0.012, 3.5 * error)


@pytest.mark.slow
@pytest.mark.parametrize("right", ["propensity", "judge", "propensity and judge", "none"])
def test_either_is_enough_with_a_judge_that_was_corrected_on_the_picked_pairs(right):
    found = np.array([doubly_robust(seed, 3000, right, fitted=True) for seed in range(200)])
    mean, error = mean_and_error(found[:, 0])
    covered = np.mean(np.abs(found[:, 0]) < 1.96 * found[:, 1])
    print(f"{right}: bias {mean:+.4f} ± {error:.4f}, coverage {covered:.3f}")
    if right == "none":
        assert abs(mean) > 0.04 and covered < 0.6
    else:
        assert abs(mean) < 0.006 and covered > 0.92


def compared(by: str, repeats: int, pairs: int) -> dict[str, np.ndarray]:
    """Errors by the way in which votes are weighted, and what the selection says of itself."""
    kept: dict[str, list[float]] = {name: [] for name in ("votes", "share", "estimated", "random", "related", "error")}
    for seed in range(repeats):
        world = World.draw(1000 + seed, pairs)
        shown = world.shown(by)
        selection = world.estimate(shown, seed)
        side = np.sign(world.x[:, 1])
        kept["votes"].append(np.mean((side * (world.votes - 0.5))[shown]) - np.mean(side * (world.truth - 0.5)))
        kept["share"].append(world.error(shown, world.judge, np.full(pairs, shown.mean()))[0])
        found = world.error(shown, world.judge, selection.propensity)
        kept["estimated"].append(found[0])
        kept["error"].append(found[1])
        kept["random"].append(selection.chance)
        sides = np.column_stack([logit(world.judge), world.x])
        kept["related"].append(votes_related(selection, shown, world.votes - 0.5, sides, world.prompt)[0])
    return {name: np.array(values) for name, values in kept.items()}


def test_what_can_be_seen_is_repaired_and_found():
    found = compared("what is seen", 15, 1800)
    assert abs(found["share"].mean()) > 0.06 and abs(found["votes"].mean()) > 0.04
    assert abs(found["estimated"].mean()) < 0.02
    assert (found["random"] < 0.01).all() and np.mean(found["related"] < 0.05) > 0.6


def test_people_who_label_what_they_like_are_not_repaired():
    found = compared("the vote", 6, 1800)
    assert abs(found["estimated"].mean()) > 0.15  # nothing that is seen tells it
    assert np.abs(found["estimated"]).min() > 3 * found["error"].max()  # and no standard error gives a hint


def test_votes_on_a_random_part_of_the_rest_repair_what_no_estimate_can():
    """What `palate label` stores: pairs with earlier votes stand for themselves, drawn ones for all others."""
    errors = []
    for seed in range(40):
        world = World.draw(seed, 1800)
        earlier = world.shown("the vote")
        drawn = ~earlier & (world.rng.random(1800) < 0.1)
        found = world.error(earlier | drawn, world.judge, np.where(earlier, 1.0, 0.1))
        errors.append(found[0])
    mean, error = mean_and_error(errors)
    assert abs(mean) < 3.5 * error and error < 0.008


def test_random_labels_are_called_random_and_nothing_is_lost():
    found = compared("chance", 15, 1800)
    assert np.mean(found["random"] < 0.05) <= 0.2 and np.mean(found["related"] < 0.05) <= 0.2
    assert found["estimated"].std() < 1.15 * found["share"].std()


@pytest.mark.slow
def test_sizes_and_coverage_over_many_draws():
    seen, chance = compared("what is seen", 200, 3000), compared("chance", 300, 3000)
    for name, found in (("what is seen", seen), ("chance", chance)):
        covered = np.mean(np.abs(found["estimated"]) < 1.96 * found["error"])
        print(f"{name}: " + ", ".join(
            f"{way} {found[way].mean():+.4f} ± {found[way].std():.4f}" for way in ("votes", "share", "estimated")
        ) + f"; coverage {covered:.3f}, not random {np.mean(found['random'] < 0.05):.3f}, related "
            f"{np.mean(found['related'] < 0.05):.3f}")  # fmt: skip
        assert 0.93 <= covered <= 1.0
    assert np.mean(chance["random"] < 0.05) < 0.09 and np.mean(chance["related"] < 0.05) < 0.09
    assert abs(seen["estimated"].mean()) < 0.01


def test_the_test_of_related_votes_is_not_moved_by_a_selection_that_votes_do_not_follow():
    """Picked by a statistic that neither people nor the judge look at: clearly not at random, and of no consequence."""
    related = []
    for seed in range(24):
        world = World.draw(seed, 1200)
        shown = world.rng.random(1200) < expit(1.5 * np.abs(world.x[:, 2]) - 3)
        selection = world.estimate(shown, seed)
        related.append(votes_related(selection, shown, world.votes - 0.5, world.x[:, :2], world.prompt)[0])
        assert selection.chance < 0.05
    assert np.mean(np.array(related) < 0.05) <= 0.15


def test_an_estimate_does_not_change_when_images_are_swapped():
    world = World.draw(3, 900)
    shown = world.shown("what is seen")
    turn = world.rng.random(900) < 0.5
    swapped = World(
        np.where(turn[:, None], -world.x, world.x), world.truth, world.votes,
        np.where(turn, 1 - world.judge, world.judge), world.prompt, world.rng,
    )  # fmt: skip
    np.testing.assert_allclose(swapped.estimate(shown).propensity, world.estimate(shown).propensity, rtol=1e-9)


def test_weights_sum_to_all_pairs_and_none_counts_more_than_ten_times_the_mean():
    world = World.draw(4, 1500)
    shown = world.rng.random(1500) < expit(6 * np.abs(world.x[:, 0]) - 8)  # hardly an easy pair
    selection = world.estimate(shown)
    weight = 1 / selection.propensity[shown]
    assert weight.sum() == pytest.approx(1500, rel=1e-6) and selection.ratio[shown].sum() == pytest.approx(
        1500 - shown.sum(), rel=1e-6
    )
    assert selection.propensity.min() == pytest.approx(FLOOR * shown.mean()) and weight.max() <= 10 / shown.mean() + 1
    assert 0.02 < selection.below < 0.9 and "are clipped to it" in " ".join(selection.sentences())
    assert selection.effective < 0.7 * shown.sum() and selection.auc > 0.85


def test_a_pair_has_a_propensity_that_no_label_of_its_prompt_reaches():
    world = World.draw(5, 900)
    shown = world.shown("what is seen")
    other = shown.copy()
    other[world.prompt == 7] = ~other[world.prompt == 7]
    before, after = (logit(world.estimate(one).propensity) for one in (shown, other))
    own = world.prompt == 7
    assert np.ptp((after - before)[own]) < 1e-9  # moved by the common scale alone, which is one number
    assert np.ptp((after - before)[~own]) > 1e-6


def test_a_judge_whose_silence_tells_labelled_pairs_from_others_is_not_looked_at():
    world = World.draw(6, 600)
    shown = world.shown("chance")
    judges = np.column_stack([world.judge, np.where(shown, world.judge, np.nan)])
    seen = seen_of_pairs(world.x, STATISTICS, judges, ("one", "two"), ["p"] * 600, labelled=shown)
    assert seen.left_out == ("two",) and "how sure one is" in seen.names
    assert estimate_propensity(seen, shown, world.prompt).auc < 0.7


def test_too_few_pairs_are_refused_with_the_remedy():
    world = World.draw(7, 300)
    shown = np.arange(300) < 19
    with pytest.raises(PalateError, match="19 pairs have a human vote and 281 have none.*20 of each.*palate label"):
        world.estimate(shown)
    with pytest.raises(PalateError, match="281 pairs have a human vote and 19 have none"):
        world.estimate(~shown)
