"""Scores that came with imported votes are used as scores, calibrated on people's votes, and it is said."""

import json

import numpy as np
import pytest
from scipy.special import expit

import palate
from palate.data.dataset import open_dataset
from palate.data.importing import import_pairs
from palate.judges.calibration import imported_scores, unsaturated
from palate.labels.votes import prepare_rows
from palate.run.load import load_config


def lines(tmp_path, scale=100.0, **more):
    """A judge with noisy scores on a scale of its own, on 200 pairs; people vote on 100 of them."""
    rng, made = np.random.default_rng(0), []
    for k in range(200):
        better = rng.normal()
        pair = {"prompt": f"p{k}", "pair_id": f"p{k}"}
        said = {"source": "judge", "annotator_id": "reward", "score_0": 500 + scale * better, "score_1": 500.0} | more
        made.append(pair | said)
        if k % 2:
            made.append(pair | {"annotator_id": "ana", "choice": int(rng.random() > expit(3 * better))})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, made)))
    return tmp_path / "a.jsonl"


@pytest.mark.parametrize("scale", [100.0, -0.001])  # of any unit; and where less is better, which people's votes tell
def test_scores_without_probability_or_choice_are_votes_and_predict_better_than_their_choices(tmp_path, scale, capsys):
    report = import_pairs("jsonl", [lines(tmp_path, scale)], tmp_path / "prefs")
    assert report.votes_added == 300 and not report.skipped
    dataset = open_dataset(tmp_path / "prefs")
    votes = [vote for vote in dataset.votes().to_pylist() if vote["source"] == "judge"]
    assert all(v["probability"] is None and v["choice"] == "01"[v["score_0"] < v["score_1"]] for v in votes)
    assert imported_scores(dataset, "reward")
    ids = dataset.pairs(["pair_id"])["pair_id"].to_pylist()
    choices = np.where([v["choice"] == "0" for v in votes], 1.0, 0.0)
    assert len(set(np.round(unsaturated(dataset, "reward", ids, choices), 6))) > 190
    found = palate.audit(dataset)
    plain, corrected = found.judges[:2]
    assert any("use the scores that came with the votes" in note for note in found.notes)
    right = plain.accuracy.value
    assert corrected.brier.value < 0.95 * right * (1 - right)  # what choices alone are worth, once calibrated
    keys = {"pretrained_model_name_or_path": "world", "dataset": str(dataset.path), "output_dir": "r"}
    with pytest.raises(palate.PalateError, match="without pictures"):
        prepare_rows(dataset, load_config(keys | {"method": "dedpo", "judge": "reward"}))


def test_training_says_that_scores_are_used(tmp_path, capsys, monkeypatch):
    import_pairs("jsonl", [lines(tmp_path)], tmp_path / "prefs")
    monkeypatch.setattr("palate.labels.votes.without_pictures", lambda dataset: set())
    keys = {"pretrained_model_name_or_path": "world", "dataset": str(tmp_path / "prefs"), "output_dir": "r"}
    rows = prepare_rows(
        open_dataset(tmp_path / "prefs"),
        load_config(keys | {"method": "dedpo", "judge": "reward", "correction": "calibrate"}),
    )
    assert "the scores that came with the votes of reward are calibrated on people's votes" in capsys.readouterr().out
    assert len(set(np.round(rows.pseudo, 6))) > 190


def test_votes_that_lack_a_score_count_by_their_probability(tmp_path):
    import_pairs("jsonl", [lines(tmp_path)], tmp_path / "prefs")
    dataset = open_dataset(tmp_path / "prefs")
    dataset.append_votes([{"pair_id": "p0", "annotator_id": "other", "source": "judge", "choice": "0"}])
    assert not imported_scores(dataset, "other") and not imported_scores(dataset, "nobody")


@pytest.mark.parametrize("scores", [{"score_0": "much"}, {"score_1": float("nan")}, {"score_0": float("inf")}])
def test_scores_that_are_no_numbers_are_refused(tmp_path, scores):
    with pytest.raises(palate.PalateError, match="nothing could be imported|field of the wrong form|scores"):
        (tmp_path / "a.jsonl").write_text(
            json.dumps({"prompt": "a", "pair_id": "a", "source": "judge", "score_0": 1, "score_1": 2} | scores)
        )
        import_pairs("jsonl", [tmp_path / "a.jsonl"], tmp_path / "prefs")


def test_peoples_scores_are_no_choice(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "a", "pair_id": "a", "score_0": 1, "score_1": 2}))
    assert import_pairs("jsonl", [tmp_path / "a.jsonl"], tmp_path / "prefs").without_vote == 1
    judged = import_pairs("jsonl", [tmp_path / "a.jsonl"], tmp_path / "judged", annotator="r", source="judge")
    assert judged.votes_added == 1
