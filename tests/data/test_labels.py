"""Votes aggregated to one row per pair."""

import numpy as np
import pyarrow as pa
import pytest
from tiny import refusal

from palate.data.labels import Labels, collect_labels

VOTE = {"annotator_id": "ana", "source": "human", "probability": None}


def vote(pair, choice, **more):
    return VOTE | {"pair_id": pair, "choice": choice} | more


def test_votes_are_averaged_and_skips_left_out():
    votes = [
        vote("a", "0"),
        vote("a", "1"),
        vote("a", "tie"),
        vote("a", "0"),
        vote("b", "skip"),
        vote("c", "1"),
        vote("elsewhere", "0"),
        vote("b", "0", source="judge", annotator_id="clip", probability=0.8),
        vote("b", "1", source="judge", annotator_id="clip", probability=0.4),
        vote("c", "tie", source="judge", annotator_id="clip"),
        vote("a", "skip", source="judge", annotator_id="clip", probability=0.1),
        vote("a", "0", source="judge", annotator_id="other", probability=0.7),
    ]
    labels = collect_labels(["c", "b", "a"], votes, judge="clip")
    np.testing.assert_allclose(labels.human, [0, np.nan, 0.625])
    np.testing.assert_allclose(labels.judge, [0.5, 0.6, np.nan])
    np.testing.assert_allclose(labels.propensity, [2 / 3] * 3)
    np.testing.assert_array_equal(labels.labelled, [True, False, True])
    hard = collect_labels(["c", "b", "a"], votes, judge="clip", hard=True)
    np.testing.assert_allclose(hard.judge, [0.5, 0.5, np.nan])
    table = pa.Table.from_pylist(votes)
    dictionary = table.set_column(0, "annotator_id", table["annotator_id"].dictionary_encode())
    chunks = pa.chunked_array([["c"], ["b", "a"]])
    again = collect_labels(chunks, pa.concat_tables([dictionary, dictionary]), judge="clip")
    np.testing.assert_allclose(again.judge, labels.judge)
    assert np.isnan(collect_labels(["a"], votes).judge[0])


def test_propensity_is_taken_where_given_and_counted_elsewhere():
    votes = [vote("a", "0"), vote("c", "0")]
    labels = collect_labels(list("abcde"), votes, propensity=[0.5, 0.5, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(labels.propensity, [0.5, 0.5, 1 / 3, 1 / 3, 1 / 3])


def test_a_fraction_of_the_human_votes_is_nested_and_independent_of_order():
    ids = [f"pair-{i}" for i in range(400)]
    votes = [vote(name, "0") for name in ids]
    eighth = collect_labels(ids, votes, human_fraction=0.125, propensity=np.full(400, 0.5))
    quarter = collect_labels(ids, votes, human_fraction=0.25)
    assert eighth.labelled.sum() == 50 and quarter.labelled.sum() == 100
    assert not np.any(eighth.labelled & ~quarter.labelled)
    assert eighth.propensity[0] == pytest.approx(0.0625) and quarter.propensity[0] == pytest.approx(0.25)
    backwards = collect_labels(ids[::-1], votes, human_fraction=0.125)
    np.testing.assert_array_equal(backwards.labelled[::-1], eighth.labelled)
    other = collect_labels(ids, votes, human_fraction=0.125, seed=1)
    assert np.any(other.labelled != eighth.labelled)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: collect_labels(["a"], [vote("a", "left")]), ["ana", "pair a", "'left'", "tie"]),
        (lambda: collect_labels(["a", "b", "a"], []), ["pair_id a", "more than once"]),
        (
            lambda: collect_labels(["a"], [vote("a", "0", source="judge", annotator_id="clip")], judge="hps"),
            ["hps", "clip", "add its votes"],
        ),
        (
            lambda: collect_labels(
                ["a"], [vote("a", "0", source="judge", annotator_id="clip", probability=1.5)], judge="clip"
            ),
            ["clip", "pair a", "1.5"],
        ),
        (lambda: collect_labels(["a"], [vote("a", "0")], human_fraction=0.0), ["human_fraction"]),
        (lambda: Labels([1.0], [1.2], [1.0]), ["judge", "1.2", "[0, 1]"]),
        (lambda: Labels([-0.1], [1.0], [1.0]), ["human", "-0.1"]),
        (lambda: Labels([1.0, 0.0], [1.0], [1.0]), ["one value per pair"]),
    ],
)
def test_bad_labels_get_one_clear_line(call, words):
    told = refusal(call)
    for word in words:
        assert word in told
