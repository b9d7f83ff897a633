"""Agreement against textbook numbers, another implementation, and what follows from its definition."""

import numpy as np
import pandas as pd
import pytest

from palate.audits.agreement import (
    a_person,
    agreement_with_others,
    alpha_estimate,
    ceiling,
    credit,
    first_share,
    krippendorff_alpha,
    order_flips,
    self_agreement,
)
from palate.data.annotators import Votes

# K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011): four observers, twelve units, gaps.
OBSERVERS = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]


def table(observers: list[str], values: str) -> np.ndarray:
    return np.array(
        [[sum(row[unit] == value for row in observers) for value in values] for unit in range(len(observers[0]))]
    )


def test_alpha_of_the_textbook_tables():
    counts = table(OBSERVERS, "12345")
    assert krippendorff_alpha(counts) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(counts, np.arange(1.0, 6)) == pytest.approx(0.849, abs=5e-4)
    assert krippendorff_alpha(table(["0100000010", "1110010000"], "01")) == pytest.approx(0.095, abs=5e-4)


def test_alpha_equals_that_of_crowd_kit():
    alpha = pytest.importorskip("crowdkit.metrics.data").alpha_krippendorff
    rng = np.random.default_rng(0)
    rows = [
        (u, w, int(rng.integers(0, 2) if rng.random() < 0.4 else u % 2))
        for u in range(40)
        for w in range(5)
        if rng.random() < 0.7
    ]
    frame = pd.DataFrame(rows, columns=["task", "worker", "label"])
    counts = frame.groupby(["task", "label"]).size().unstack(fill_value=0).to_numpy()
    assert krippendorff_alpha(counts) == pytest.approx(alpha(frame), abs=1e-12)


def test_alpha_at_its_ends():
    assert krippendorff_alpha(np.array([[3, 0], [0, 3]])) == 1
    assert krippendorff_alpha(np.array([[1, 1], [1, 1]])) < 0
    assert np.isnan(krippendorff_alpha(np.array([[2, 0], [3, 0]])))  # nothing varies
    assert np.isnan(krippendorff_alpha(np.array([[1, 0], [0, 1]])))  # nobody shares a unit
    shared = np.array([[2, 1], [0, 3], [3, 0]])
    assert krippendorff_alpha(np.vstack([shared, [[1, 0]]])) == krippendorff_alpha(shared)


def people(pair, person, value, side=None) -> Votes:
    names = tuple(f"p{k}" for k in range(max(person) + 1))
    return Votes(
        np.array(pair),
        np.array(person),
        np.array(value, float),
        np.zeros(len(pair)) if side is None else np.array(side, float),
        names,
    )


def random_votes(rng, pairs=60, persons=4, noise=0.2) -> Votes:
    truth = rng.integers(0, 2, pairs)
    pair, person = np.repeat(np.arange(pairs), persons), np.tile(np.arange(persons), pairs)
    return people(pair, person, np.where(rng.random(len(pair)) < noise, 1 - truth[pair], truth[pair]))


def test_the_interval_of_alpha_holds_the_alpha_of_the_population():
    rng = np.random.default_rng(1)
    truth = 1 - 2 * (2 * 0.2 * 0.8) / 1  # binary, balanced, each flipped with 0.2: 1 - P(two differ) / (1/2)
    held = []
    for _ in range(80):
        found = alpha_estimate(random_votes(rng), np.arange(60))
        held.append(found.low <= truth <= found.high)
    assert found.n == 60
    assert np.mean(held) > 0.88


def test_alpha_counts_a_person_once_a_pair_and_knows_who_shares():
    votes = people([0, 0, 0, 1, 1, 2], [0, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 1])
    assert alpha_estimate(votes, np.arange(3)).value == 1 and alpha_estimate(votes, np.arange(3)).n == 2
    assert alpha_estimate(people([0, 1], [0, 1], [1, 0]), np.arange(2)) is None


def test_agreement_with_the_others_of_a_small_table():
    votes = people([0, 0, 0, 1, 1, 2], [0, 1, 2, 0, 1, 0], [1, 1, 0, 1, 0.5, 1])
    found = agreement_with_others(votes, np.arange(3))
    assert found["p0"].value == pytest.approx((0.5 + 0.5) / 2) and found["p0"].n == 2
    assert found["p1"].value == pytest.approx((0.5 + 0.5) / 2)
    assert found["p2"].value == 0 and found["p2"].n == 1
    ties = agreement_with_others(people([0, 0], [0, 1], [0.5, 0.5]), np.arange(1))
    assert ties["p0"].value == 0.5  # two ties are two coins: they name the same image half of the time


def test_the_credit_is_the_chance_of_naming_the_same_image():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 50))
    assert credit(a, b) == pytest.approx(a * b + (1 - a) * (1 - b))
    assert (credit(np.full(50, 0.5), b) == 0.5).all() and (credit(np.ones(50), b) == b).all()
    assert credit(a, np.mean([b, 1 - b**2], axis=0)) == pytest.approx((credit(a, b) + credit(a, 1 - b**2)) / 2)


def many_people(rng, pairs, persons):
    """Votes [pairs, persons] of people who differ, with ties, and the share of all people for image 0."""
    share = rng.beta(0.5, 0.5, pairs)
    value = (rng.random((pairs, persons)) < share[:, None]).astype(float)
    value[rng.random(value.shape) < 0.3] = 0.5
    return value, 0.5 + 0.7 * (share - 0.5)


def test_a_person_is_measured_as_a_judge_is_and_no_judge_beats_the_ceiling():
    rng = np.random.default_rng(2)
    value, share = many_people(rng, 4000, 6)
    pair, person = np.indices(value[:, :5].shape).reshape(2, -1)
    told = a_person(people(pair.tolist(), person.tolist(), value[:, :5].ravel()), np.arange(4000))
    as_a_judge = credit(value[:, 5], value[:, :5].mean(axis=1))  # a sixth person in the judges' column
    assert told.value == pytest.approx(as_a_judge.mean(), abs=0.015)
    truth = 0.5 + 2 * np.mean((share - 0.5) ** 2)
    assert told.low < truth < told.high
    oracle = 0.5 + np.mean(np.abs(share - 0.5))
    assert oracle <= ceiling(told) < oracle + 0.04
    assert ceiling(None) is None and ceiling(a_person(people([0, 0], [0, 1], [1, 0]), np.arange(1))) is None


def test_one_rater_of_five_gets_a_persons_number_in_its_interval():
    rng = np.random.default_rng(3)
    held = []
    for _ in range(150):
        value, share = many_people(rng, 120, 4)
        pair, person = np.indices(value.shape).reshape(2, -1)
        told = a_person(people(pair.tolist(), person.tolist(), value.ravel()), np.arange(120))
        held.append(told.low <= 0.5 + 2 * 0.49 * 0.125 <= told.high)  # variance of Beta(1/2, 1/2) is 1/8
    assert 0.9 < np.mean(held) < 0.99


def test_self_agreement_counts_couples_of_the_same_person_only():
    votes = people([0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1, 1], [1, 1, 0, 1, 0, 0, 0])
    overall, each = self_agreement(votes, np.arange(3))
    tied, _ = self_agreement(people([0, 0, 1, 1], [0, 0, 0, 0], [0.5, 0.5, 1, 0.5]), np.arange(2))
    assert tied.value == 0.5  # the formula of judges: a tie is a coin
    assert each["p0"].value == pytest.approx(1 / 3) and each["p0"].n == 1
    assert each["p1"].value == 1 and overall.value == pytest.approx(2 / 3) and overall.n == 2
    assert self_agreement(people([0, 1], [0, 0], [1, 1]), np.arange(2)) == (None, {"p0": None})


def test_the_share_of_the_image_shown_first_sees_a_position_bias_and_not_the_side():
    rng = np.random.default_rng(2)
    side = rng.choice([-1, 1], 400)
    first = rng.random(400) < 0.7
    biased = people(np.arange(400), np.zeros(400, int), np.where(side > 0, first, ~first), side)
    found = first_share(biased, np.arange(400))
    assert found.value == pytest.approx(first.mean()) and found.beyond(0.5) == 1
    always_0 = people(np.arange(400), np.zeros(400, int), np.ones(400), side)
    assert first_share(always_0, np.arange(400)).beyond(0.5) == 0
    assert first_share(people([0], [0], [1]), np.arange(1)) is None


def test_answers_that_change_with_the_order_are_counted_by_annotator_and_pair():
    votes = people([0, 0, 1, 1, 2, 0], [0, 0, 0, 0, 0, 1], [1, 0, 1, 1, 1, 0], [1, -1, 1, -1, 1, -1])
    found = order_flips(votes, np.arange(3))
    assert (found.value, found.n) == (0.5, 2)
    assert order_flips(people([0], [0], [1], [1]), np.arange(1)) is None
