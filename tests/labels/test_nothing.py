"""Data that teach nothing are named before anything is trained."""

import pytest
from tiny import picture_bytes

from palate.data.dataset import PreferenceDataset
from palate.labels.votes import prepare_rows
from palate.run.load import load_config


@pytest.fixture
def prepared(tmp_path, capsys):
    """Rows and printed lines of votes {pair: choices}; pictures by their seeds."""
    import numpy as np

    def prepare(votes: dict[str, str], same: bool = False, source: str = "human", shown: str = "", **settings):
        dataset = PreferenceDataset.create(tmp_path / "prefs", name="x")
        images = [picture_bytes(np.random.default_rng(k), 8, 8, "PNG") for k in range(2 * len(votes))]
        if shown:  # pairs of one prompt, each of two of these pictures
            images = [images["abcdef".index(name)] for two in shown.split() for name in two]
        dataset.add_pairs(
            {"pair_id": name, "prompt": "x" if shown else f"prompt {name}", "image_0": images[2 * k],
             "image_1": images[2 * k + 1 - same]}
            for k, name in enumerate(votes)
        )  # fmt: skip
        words = {"=": "tie", "0": "0", "1": "1"}
        dataset.append_votes(
            {"pair_id": name, "annotator_id": f"{source}-{k}" if source == "human" else "j", "source": source,
             "choice": words[choice]}
            for name, choices in votes.items()
            for k, choice in enumerate(choices)
        )  # fmt: skip
        config = load_config({
            "pretrained_model_name_or_path": "m", "dataset": str(dataset.path), "output_dir": str(tmp_path / "run"),
        } | settings)  # fmt: skip
        rows = prepare_rows(dataset, config)
        return rows, capsys.readouterr().out

    return prepare


@pytest.mark.parametrize(
    ("votes", "told"),
    [
        ({"a": "=", "b": "==", "c": "="}, "NOTHING TO LEARN: all 3 pairs are ties"),
        ({"a": "01", "b": "10", "c": "0=1"}, "NOTHING TO LEARN: the votes on each of the 3 pairs cancel out"),
        ({"a": "0"}, "NOTHING TO LEARN: there is one row alone"),
    ],
)
def test_ties_votes_that_cancel_and_one_pair(votes, told, prepared):
    rows, said = prepared(votes)
    assert told in said and rows.account["nothing to learn"] in said


def test_pairs_of_one_picture(prepared):
    rows, said = prepared({"a": "0", "b": "1"}, same=True)
    assert "NOTHING TO LEARN: both pictures of all 2 pairs are the same picture" in said


def test_a_judge_that_says_one_half(prepared):
    _, said = prepared({"a": "=", "b": "="}, source="judge", method="judge", judge="j")
    assert "NOTHING TO LEARN: the judge gives each of the 2 pairs one half" in said


@pytest.mark.parametrize("votes", [{"a": "0", "b": "="}, {"a": "001", "b": "01"}, {"a": "0", "b": "1"}])
def test_one_decision_is_enough_to_be_silent(votes, prepared):
    rows, said = prepared(votes)
    assert "NOTHING" not in said and "nothing to learn" not in rows.account


@pytest.mark.parametrize(
    ("votes", "shown"),
    [
        ({"a": "0", "b": "0"}, "ab ba"),  # the same two pictures, sides swapped, the left one each time
        ({"a": "1", "b": "0"}, "ab ab"),
        ({"a": "001", "b": "001", "c": "1", "d": "="}, "ab ba cc ef"),
        ({"a": "0", "b": "0", "c": "1", "d": "1"}, "ab ba cd dc"),
    ],
)
def test_opposite_votes_on_the_same_pictures_in_several_pairs_cancel(votes, shown, prepared):
    _, said = prepared(votes, shown=shown)
    assert f"NOTHING TO LEARN: the votes in {len(votes)} pairs cancel out" in said


@pytest.mark.parametrize(
    ("votes", "shown"),
    [
        ({"a": "0", "b": "1"}, "ab ba"),  # one picture preferred on both sides
        ({"a": "0", "b": "0", "c": "0"}, "ab ba cd"),
        ({"a": "0", "b": "0"}, "ab bc"),
        ({"a": "0", "b": "0", "c": "0"}, "ab bc ca"),  # a circle is no pair of opposite votes
        ({"a": "001", "b": "0"}, "ab ba"),
    ],
)
def test_other_votes_on_the_same_pictures_do_not(votes, shown, prepared):
    assert "NOTHING" not in prepared(votes, shown=shown)[1]
