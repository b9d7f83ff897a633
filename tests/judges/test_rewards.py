import types

import numpy as np
import pytest

from palate.errors import PalateError
from palate.judges import rewards
from palate.judges.covariates import picture_statistics
from palate.judges.rewards import STATISTICS, checked, load_reward
from palate.world.measure import measure
from palate.world.pictures import draw, random_scene
from palate.world.voters import VOTERS


@pytest.fixture
def scenes():
    rng = np.random.default_rng(3)
    return [random_scene(rng) for _ in range(6)]


@pytest.fixture
def pictures(scenes):
    return np.stack([(draw(scene) * 255).round().astype(np.uint8) for scene in scenes])


@pytest.fixture
def plug_in(monkeypatch):
    """Make a function the only installed plug-in, under the name "mine"."""

    class Found(dict):
        names = {"mine"}

    def install(function):
        entry = types.SimpleNamespace(load=lambda: function)
        monkeypatch.setattr(
            rewards, "entry_points", lambda group: Found(mine=entry) if group == "palate.scorers" else {}
        )

    return install


def test_the_worlds_reward_is_the_utility_of_the_majority(scenes, pictures):
    prompts = [scene.caption for scene in scenes]
    scores = load_reward("world")(pictures, prompts)
    assert scores.dtype == np.float64 and scores.std() > 0.1
    np.testing.assert_array_equal(scores, VOTERS["majority"].utility(measure(pictures, prompts)))
    assert (load_reward("world")(pictures, ["a red star"] * 6) != scores).any()  # it reads the prompt


@pytest.mark.parametrize("name", STATISTICS)
def test_every_picture_statistic_is_a_reward(name, pictures):
    expected = [picture_statistics(picture)[name] for picture in pictures]
    np.testing.assert_array_equal(load_reward(name)(pictures, [""] * 6), expected)


def test_an_installed_plug_in_is_found_by_its_name(plug_in, pictures):
    plug_in(lambda images, prompts: [len(prompt) for prompt in prompts])
    assert load_reward("mine")(pictures[:3], ["a", "bcd", ""]).tolist() == [1, 3, 0]


def test_an_unknown_name_gets_the_list_of_what_there_is(plug_in):
    plug_in(None)
    with pytest.raises(PalateError) as refused:
        load_reward("beauty")
    line = str(refused.value)
    assert "'beauty' is not known" in line and "\n" not in line
    assert all(name in line for name in ("world", "mine", *STATISTICS))


@pytest.mark.parametrize(
    ("scores", "what"),
    [
        ([0.5, float("nan"), 1], "'mine': 3 scores for 3 pictures, 1 of them NaN"),
        ([0.5, 1], "2 scores for 3"),
        ([[0.5], [1], [2]], "one number for each picture"),
        (0.5, "1 scores for 3"),
    ],
)
def test_a_reward_that_does_not_give_a_number_for_each_picture_is_refused(scores, what, plug_in, pictures):
    plug_in(lambda images, prompts: scores)
    with pytest.raises(PalateError, match=what):
        load_reward("mine")(pictures[:3], [""] * 3)


def test_single_precision_scores_are_widened():
    scores = checked("mine", lambda images, prompts: np.float32([0.1, 0.2]))(np.zeros((2, 4, 4, 3), np.uint8), ["", ""])
    assert scores.dtype == np.float64 and scores.tolist() == [np.float32(0.1), np.float32(0.2)]
