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

    def prepare(votes: dict[str, str], same: bool = False, source: str = "human", **settings):
        dataset = PreferenceDataset.create(tmp_path / "prefs", name="x")
        images = [picture_bytes(np.random.default_rng(k), 8, 8, "PNG") for k in range(2 * len(votes))]
        dataset.add_pairs(
            {"pair_id": name, "prompt": f"prompt {name}", "image_0": images[2 * k], "image_1": images[2 * k + 1 - same]}
            for k, name in enumerate(votes)
        )
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
