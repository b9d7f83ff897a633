"""People who copy are found without knowing the truth, and counted as one they no longer pass for it."""

import numpy as np
import pytest

from palate.audits.couples import Couple, counted_as_one, couples_of, voices
from palate.audits.intervals import Estimate
from palate.audits.people import Person, alike_in_words
from palate.audits.reliability import dawid_skene_estimates
from palate.data.annotators import Votes, dawid_skene

NAMES = tuple("abcde")


def five_raters(rng, pairs, copied, right=None, ties=0.15) -> Votes:
    """Five people on every pair, pairs hard and easy (or all alike), and b copies a's answer on a share of them."""
    accuracy = np.where(rng.random(pairs) < 0.4, 0.6, 0.95) if right is None else np.full(pairs, right)
    truth = rng.integers(0, 2, pairs)[:, None]
    answer = np.where(rng.random((pairs, 5)) < accuracy[:, None], truth, 1 - truth).astype(float)
    answer[rng.random((pairs, 5)) < ties] = 0.5
    copies = rng.random(pairs) < copied
    answer[copies, 1] = answer[copies, 0]
    pair, person = np.indices(answer.shape).reshape(2, -1)
    votes = Votes(pair, person, answer.ravel(), np.zeros(pair.size), NAMES)
    object.__setattr__(votes, "truth", truth.ravel())
    return votes


def flagged(couples) -> set[tuple[str, str]]:
    return {(couple.first, couple.second) for couple in couples if couple.flagged}


def test_a_copying_couple_is_found_and_independent_people_are_left_alone():
    found, nobody = [], []
    for seed in range(20):
        rng = np.random.default_rng([1, seed])
        found.append(flagged(couples_of(five_raters(rng, 200, 0.8), np.arange(200), seed)))
        nobody.append(flagged(couples_of(five_raters(rng, 200, 0.0), np.arange(200), seed)))
    assert np.mean([("a", "b") in f for f in found]) >= 0.9 and np.mean([len(f) > 1 for f in found]) <= 0.15
    assert np.mean([not f for f in nobody]) >= 0.9


@pytest.mark.slow
def test_the_size_and_the_power_of_the_warning():
    def share(pairs, copied, draws=100):
        told = [
            flagged(couples_of(five_raters(np.random.default_rng([2, s, pairs]), pairs, copied), np.arange(pairs), s))
            for s in range(draws)
        ]
        return np.mean([("a", "b") in f for f in told]), np.mean([bool(f - {("a", "b")}) for f in told])

    for pairs, copied, power in (
        (96, 0.6, 0.38),
        (200, 0.6, 0.67),
        (400, 0.6, 0.92),
        (96, 0.9, 0.62),
        (200, 0.9, 0.88),
    ):
        hit, wrong = share(pairs, copied)
        assert hit >= power and wrong <= 0.14
    for pairs in (96, 400):
        assert sum(share(pairs, 0.0)) <= 0.07


def test_the_interval_of_the_excess_holds_zero_and_what_copying_adds():
    held, added = [], []
    for seed in range(30):
        rng = np.random.default_rng([3, seed])
        couples = couples_of(five_raters(rng, 150, 0.0, ties=0.3), np.arange(150), seed)
        held += [c.excess.low <= 0 <= c.excess.high for c in couples]
        couples = couples_of(five_raters(rng, 150, 0.5, ties=0.3), np.arange(150), seed)
        added += [c.excess.value for c in couples if (c.first, c.second) == ("a", "b")]
    assert 0.9 < np.mean(held) < 0.99
    accuracy = 0.4 * (0.2**2) + 0.6 * 0.9**2  # mean squared signal; a copied answer agrees wherever it is no tie
    assert np.mean(added) == pytest.approx(0.5 * (0.7 - 0.7**2 * accuracy), abs=0.05)


def test_counted_as_one_a_copying_couple_reads_as_reliable_as_it_is_and_the_truth_is_found():
    """Five people right on 85 %; as if independent the copiers are taken for the truth and the others fall to 78 %."""
    votes = five_raters(np.random.default_rng(4), 4000, 0.8, right=0.85, ties=0.0)
    alone = dawid_skene(votes, 4000)
    assert alone.reliability[:2].min() > 0.95 and alone.reliability[2:].max() < 0.80
    couples = couples_of(votes, np.arange(4000))
    as_one = counted_as_one(couples)
    assert as_one == (("a", "b"),)
    one = dawid_skene(votes, 4000, voice=voices(votes, as_one))
    assert one.reliability == pytest.approx(np.full(5, 0.85), abs=0.03)
    right = [np.mean((fit.posterior[:, 1] > 0.5) == votes.truth) for fit in (alone, one)]
    assert right[0] < 0.9 and right[1] == pytest.approx(0.94, abs=0.01)
    told = dawid_skene_estimates(votes, np.arange(4000), resamples=50, sets=as_one)
    assert told["a"].low < 0.87 and told["c"].value == pytest.approx(one.reliability[2])


def test_voices_of_a_set_weigh_as_one_where_they_meet_and_fully_where_they_do_not():
    votes = Votes(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 2]), np.ones(5), np.zeros(5), ("a", "b", "c"))
    assert voices(votes, (("a", "b"),)).tolist() == [0.5, 0.5, 1, 1, 1]
    assert voices(votes, ()).tolist() == [1] * 5


def couple(first, second, value, mark):
    return Couple(first, second, 90, Estimate(value, value, value, 90), Estimate(0.2, 0.1, 0.3, 90), mark)


def test_couples_that_share_a_person_become_one_set_and_the_warning_is_in_words():
    couples = [couple("a", "b", 0.96, True), couple("b", "c", 0.95, True), couple("a", "d", 0.86, False)]
    sets = counted_as_one([*couples, couple("d", "e", 0.9, True)])
    assert sorted(sets) == [("a", "b", "c"), ("d", "e")]
    before, now = Estimate(0.98, 0.9, 1, 9), Estimate(0.88, 0.8, 0.9, 9)
    persons = {n: Person(n, 9, 0, 9, None, None, now, None, None, None, before) for n in "abcd"}
    told = alike_in_words(couples, (("a", "b", "c"),), persons)
    assert "a, b and c choose the same image on 95 to 96 % (other couples on 86 to 86 %)" in told
    assert "88 %, 88 % and 88 %; as if independent, it would be 98 %, 98 % and 98 %" in told
    assert alike_in_words(couples, (), persons) == ""


def test_three_people_or_few_shared_pairs_say_nothing():
    votes = five_raters(np.random.default_rng(5), 60, 0.9)
    assert couples_of(votes.take(votes.annotator < 3), np.arange(60)) == []
    assert couples_of(votes.take(votes.pair < 15), np.arange(60)) == []
