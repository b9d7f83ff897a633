"""Calibration of a judge on human votes: a view beside its votes, cross-fitted."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from judges.test_annotate import votes_of
from tiny import make_labelled_dataset, refusal

from palate.cli.annotate import main
from palate.data.dataset import PreferenceDataset, open_dataset
from palate.judges.annotate import annotate
from palate.judges.calibration import calibrated_votes, recalibrate, view_folder


def test_calibration_turns_a_judge_who_is_always_wrong_and_leaves_its_votes_alone(tmp_path):
    dataset = make_labelled_dataset(tmp_path / "data", pairs=60, labelled=40)  # "ana" prefers the darker picture
    annotate(dataset, "brightness", temperature=0.001)  # far too sure of itself
    before = votes_of(dataset, "brightness")
    correction = recalibrate(dataset, "brightness")
    assert correction.before.accuracy < 0.2 and correction.before.brier > 0.7
    assert correction.after.accuracy > 0.8 and correction.after.brier < 0.25
    assert votes_of(open_dataset(dataset.path), "brightness") == before
    view = calibrated_votes(dataset, "brightness")
    assert len(view) == 60
    for pair_id, probability in view.items():
        vote = before[pair_id]
        assert (probability < 0.5) == (vote["score_0"] > vote["score_1"])
    assert np.std(list(view.values())) > 0.05  # the order of the scores survived the temperature


def test_a_recalibration_uses_new_human_votes(tmp_path):
    dataset = make_labelled_dataset(tmp_path / "data", pairs=60, labelled=20)
    annotate(dataset, "brightness", temperature=0.1)
    assert recalibrate(dataset, "brightness").after.n == 20
    dataset.append_votes(
        {"pair_id": f"p{i:03}", "annotator_id": "ana", "source": "human", "choice": "0"} for i in range(20, 50)
    )
    assert recalibrate(dataset, "brightness").after.n == 50
    account = json.loads((view_folder(dataset, "brightness") / "calibration.json").read_text())
    assert account["after"]["n"] == 50 and account["weight_error"] > 0


def test_a_labelled_pairs_own_vote_has_no_way_into_its_calibrated_probability(tmp_path):
    dataset = make_labelled_dataset(tmp_path / "data", pairs=40, labelled=30)
    annotate(dataset, "brightness", temperature=0.1)
    recalibrate(dataset, "brightness")
    first = calibrated_votes(dataset, "brightness")
    votes = pq.ParquetDataset(dataset.path / "votes").read().to_pylist()
    for vote in votes:
        if vote["vote_id"] == "ana-5":
            vote["choice"] = {"0": "1", "1": "0"}[vote["choice"]]
    other = PreferenceDataset.create(tmp_path / "other", name="other")
    other.add_pairs(row for batch in dataset.iter_pairs() for row in batch.to_pylist())
    other.append_votes(votes)
    for entry in dataset.provenance:
        other.add_provenance(entry)
    recalibrate(other, "brightness")
    second = calibrated_votes(other, "brightness")
    assert first["p005"] == pytest.approx(second["p005"], abs=1e-9)
    assert max(abs(first[pair] - second[pair]) for pair in first) > 1e-3


def test_too_few_human_votes_or_none_of_the_judge_are_said_so(dataset, capsys):
    main([str(dataset.path), "--judge", "brightness"])
    assert "10 are needed" in capsys.readouterr().out
    assert "needs 10" in refusal(lambda: recalibrate(dataset, "brightness"))
    assert "nobody" in refusal(lambda: recalibrate(dataset, "nobody"))
    assert "--recalibrate" in refusal(lambda: calibrated_votes(dataset, "brightness"))
