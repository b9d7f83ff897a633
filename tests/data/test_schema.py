from datetime import UTC, datetime

import pytest

from palate.data.schema import content_id, pair_row, vote_row
from palate.errors import PalateError

VOTE = {"pair_id": "a", "annotator_id": "ana", "source": "human", "choice": "tie"}


def test_content_id_depends_on_where_the_parts_end():
    assert content_id("ab", "c") != content_id("a", "bc")
    assert content_id("a") == content_id(b"a")
    assert len(content_id("a")) == 32


def test_an_unknown_field_names_the_nearest(pair):
    with pytest.raises(PalateError, match="row 3: unknown field 'promt'; did you mean 'prompt'"):
        pair_row(pair("a") | {"promt": "x"}, "row 3")


@pytest.mark.parametrize("prompt", [None, "", "  \n"])
def test_a_pair_needs_a_prompt(pair, prompt):
    with pytest.raises(PalateError, match="pair 'a' has no prompt"):
        pair_row(pair("a", prompt=prompt), "row 0")


@pytest.mark.parametrize("propensity", [0, -0.1, 1.5, float("nan")])
def test_propensity_is_a_probability_above_zero(pair, propensity):
    with pytest.raises(PalateError, match="propensity"):
        pair_row(pair("a", propensity=propensity), "row 0")
    assert pair_row(pair("a", propensity=1), "row 0")["propensity"] == 1.0


def test_an_image_is_bytes_or_a_path_never_both(pair):
    row = pair_row(pair("a", image_0={"bytes": b"x", "path": "x.png"}, image_1={"path": "y.png"}), "row 0")
    assert row["image_0"] == {"bytes": b"x", "path": None}
    assert row["image_1"] == {"bytes": None, "path": "y.png"}
    with pytest.raises(PalateError, match="image_1 is missing"):
        pair_row(pair("a", image_1={"bytes": None, "path": None}), "row 0")


def test_vote_ids_are_the_same_for_the_same_vote_and_differ_otherwise():
    first = vote_row(VOTE, "row 0")["vote_id"]
    assert vote_row(VOTE, "row 7")["vote_id"] == first
    for change in ({"annotator_id": "bo"}, {"source": "judge"}, {"order_shown": "10"}, {"instruction_version": "2"}):
        assert vote_row(VOTE | change, "row 0")["vote_id"] != first


def test_times_are_kept_in_utc():
    given = vote_row(VOTE | {"created_at": "2026-01-31T12:00:00+02:00"}, "row 0")["created_at"]
    assert given == datetime(2026, 1, 31, 10, tzinfo=UTC)
    with pytest.raises(PalateError, match="created_at 'yesterday' is not a time"):
        vote_row(VOTE | {"created_at": "yesterday"}, "row 0")


@pytest.mark.parametrize(
    "change",
    [
        {"choice": "2"},
        {"choice": 0},
        {"source": "robot"},
        {"order_shown": "left"},
        {"probability": 1.01},
        {"score_0": "x"},
    ],
)
def test_a_vote_out_of_the_set_is_refused(change):
    with pytest.raises(PalateError, match=f"row 5: {next(iter(change))}"):
        vote_row(VOTE | change, "row 5")
