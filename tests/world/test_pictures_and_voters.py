"""The world's truth: what is drawn is what is measured, and each voter votes as its taste says."""

import numpy as np
import pytest

from palate.errors import PalateError
from palate.world.measure import Measurement, measure
from palate.world.pictures import COLOURS, SHAPES, SIZE, Scene, draw, random_scene
from palate.world.voters import VOTERS, true_utility


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(count)]


def test_what_is_drawn_is_what_is_measured():
    drawn = scenes(200)
    shown = measure(np.stack([draw(scene) for scene in drawn]), [scene.caption for scene in drawn])
    assert shown.colour_right.all() and (shown.colour == [scene.colour for scene in drawn]).all()
    assert shown.iou.min() > 0.94
    assert np.abs(shown.size * SIZE / 2 - [scene.radius for scene in drawn]).max() < 0.2
    assert np.abs(shown.brightness - [scene.brightness for scene in drawn]).max() < 0.005
    distance = [np.hypot(scene.x - SIZE / 2, scene.y - SIZE / 2) / (SIZE / 2) for scene in drawn]
    assert np.abs(shown.centring - np.clip(1 - np.array(distance), 0, 1)).max() < 0.02


@pytest.mark.parametrize("shape", SHAPES)
def test_another_shape_overlaps_less(shape):
    scene = Scene(shape, "red", 32, 32, 16, 0.3, 0.5)
    others = [other for other in SHAPES if other != shape]
    own = measure(draw(scene)[None], [scene.caption]).iou[0]
    for other in others:
        assert measure(draw(scene)[None], [f"a red {other}"]).iou[0] < own - 0.08


def test_wrong_colour_and_empty_picture_have_no_fidelity():
    scene = Scene("circle", "red", 32, 32, 16, 0, 0.5)
    wrong = measure(draw(scene)[None], ["a blue circle"])
    assert wrong.colour[0] == "red" and not wrong.colour_right[0] and wrong.fidelity[0] == 0
    empty = measure(np.full((1, SIZE, SIZE, 3), 0.4), ["a red circle"])
    assert (
        empty.colour[0] == "" and empty.fidelity[0] == empty.size[0] == 0 and empty.brightness[0] == pytest.approx(0.4)
    )


def test_foreign_prompts_and_sizes_are_refused_in_one_line():
    with pytest.raises(PalateError, match="'a horse' is not of the world"):
        measure(np.zeros((1, SIZE, SIZE, 3)), ["a horse"])
    with pytest.raises(PalateError, match="64x64"):
        measure(np.zeros((1, 32, 32, 3)), ["a red circle"])


def shown_by(count: int, seed: int) -> Measurement:
    rng = np.random.default_rng(seed)
    right = rng.random(count) < 0.95
    return Measurement(
        np.array(list(COLOURS))[rng.integers(0, 6, count)],
        right,
        rng.uniform(0.6, 1, count),
        rng.uniform(0, 1, count),
        rng.uniform(0.3, 0.6, count),
        rng.uniform(0.05, 0.95, count),
    )


def test_voters_differ_as_their_tastes_say():
    a, b = shown_by(4000, 1), shown_by(4000, 2)
    by_utility = true_utility(a) > true_utility(b)
    votes = {name: voter.vote(a, b, seed=0)[0] for name, voter in VOTERS.items()}
    agreement = {name: np.mean(vote == votes["majority"]) for name, vote in votes.items()}
    assert np.mean(votes["majority"] == by_utility) > 0.85
    assert np.mean(votes["hesitant"] == by_utility) < np.mean(votes["majority"] == by_utility)
    assert agreement["minority"] < 0.4 < agreement["poor-judge"] < agreement["biased-judge"] < 0.85


def test_votes_are_seeded_and_mirror_when_the_images_are_exchanged():
    a, b = shown_by(500, 1), shown_by(500, 2)
    judge = VOTERS["biased-judge"]
    assert (judge.vote(a, b, 0)[0] == judge.vote(a, b, 0)[0]).all()
    assert np.allclose(judge.vote(a, b, 0)[1], 1 - judge.vote(b, a, 0)[1])
    person = VOTERS["hesitant"]
    assert (person.vote(a, b, 0)[0] == person.vote(a, b, 0)[0]).all() and (
        person.vote(a, b, 0)[0] != person.vote(a, b, 1)[0]
    ).any()
