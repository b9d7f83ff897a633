"""How far a judge's votes can be trusted: a cross-fitted logistic calibration on the human votes, as a view.

The judge's votes (raw scores and uncalibrated probability) are never changed. Make the view again after adding human
votes. Training with `correction: calibrate` fits the same model to the same votes itself.
"""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.special import expit

from palate.data.dataset import PreferenceDataset
from palate.data.labels import collect_labels
from palate.data.schema import OVERALL
from palate.errors import PalateError
from palate.files import atomic_path, write_text
from palate.judges.correction import FEWEST_VOTES, Correction, agreement, calibrate_judge


def recalibrate(
    dataset: PreferenceDataset, annotator: str, *, folds: int = 5, seed: int = 0, question: str = OVERALL
) -> Correction:
    """Calibrate the votes of `annotator` on the human votes on the same question and write
    judges/NAME/calibrated.parquet (pair_id, probability) and calibration.json, or judges/NAME/QUESTION/ for another
    question than the overall one. The probability of a labelled pair comes from folds that did not see its prompt.

    Raises PalateError where that annotator never voted, and for too few human votes.
    """
    pairs = dataset.pairs(columns=["pair_id", "prompt"])
    pair_ids = pairs["pair_id"].to_pylist()
    labels = collect_labels(pair_ids, dataset.votes(question=question), judge=annotator)
    judge = unsaturated(dataset, annotator, pair_ids, labels.judge, question)
    result = calibrate_judge(judge, labels.human, folds=folds, seed=seed, groups=pairs["prompt"].to_pylist())
    both = ~np.isnan(labels.judge) & labels.labelled
    result = replace(result, before=agreement(labels.judge[both], labels.human[both]))  # as it voted, not rescaled
    folder = _calibration_folder(dataset, annotator, question)
    voted = ~np.isnan(result.probability)
    table = pa.table({"pair_id": np.array(pair_ids, object)[voted], "probability": result.probability[voted]})
    with atomic_path(folder / "calibrated.parquet") as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
    account = {"annotator": annotator, "folds": folds, "seed": seed, "weight": result.weights["judge"],
               "weight_error": result.errors["judge"], "ridge": result.ridge, "before": asdict(result.before),
               "after": asdict(result.after)}  # fmt: skip
    write_text(folder / "calibration.json", json.dumps(account, indent=1))
    return result


def _calibration_folder(dataset: PreferenceDataset, annotator: str, question: str) -> Path:
    own = view_folder(dataset, annotator)
    return own if question == OVERALL else own / re.sub(r"[^\w.+-]+", "_", question)


def calibrated_votes(dataset: PreferenceDataset, annotator: str, question: str = OVERALL) -> dict[str, float]:
    """The calibrated probability that image 0 is preferred, by pair_id, as `recalibrate` stored it.

    Raises PalateError where this annotator was never calibrated.
    """
    path = _calibration_folder(dataset, annotator, question) / "calibrated.parquet"
    try:
        table = pq.read_table(path, columns=["pair_id", "probability"], page_checksum_verification=True)
    except (OSError, ValueError) as error:
        raise PalateError(
            f"{path}: no calibrated votes of {annotator!r} ({type(error).__name__}). Make them again: palate annotate "
            f"{dataset.path} --judge {annotator} --recalibrate."
        ) from error
    return dict(zip(table["pair_id"].to_pylist(), table["probability"].to_pylist(), strict=True))


def can_calibrate(dataset: PreferenceDataset, annotator: str, question: str = OVERALL) -> bool:
    """Whether there are enough pairs with both a human vote and a vote of the judge on this question."""
    ids, votes = dataset.pairs(columns=["pair_id"])["pair_id"], dataset.votes(question=question)
    labels = collect_labels(ids, votes, judge=annotator)
    return int((labels.labelled & ~np.isnan(labels.judge)).sum()) >= FEWEST_VOTES


def view_folder(dataset: PreferenceDataset, annotator: str) -> Path:
    """The folder of an annotator's view; its name is written in characters that every file system allows."""
    return dataset.path / "judges" / re.sub(r"[^\w.+-]+", "_", annotator)


def imported_scores(dataset: PreferenceDataset, annotator: str, question: str = OVERALL) -> bool:
    """Whether all votes of a judge on a question came with scores of both pictures from elsewhere, so that they are
    used as scores."""
    if _answers(dataset, annotator):
        return False
    votes = dataset.votes(columns=["annotator_id", "source", "choice", "score_0", "score_1"], question=question)
    own = pc.and_(pc.equal(votes["source"], "judge"), pc.equal(votes["annotator_id"], annotator))
    votes = votes.filter(pc.and_(own, pc.not_equal(votes["choice"], "skip")))
    return bool(len(votes)) and not votes["score_0"].null_count and not votes["score_1"].null_count


def _answers(dataset: PreferenceDataset, annotator: str) -> list[dict[str, Any]]:
    """What `palate annotate` recorded of a judge; nothing of one whose votes were imported."""
    return [entry for entry in dataset.provenance if isinstance(entry, dict) and entry.get("annotator") == annotator]


def unsaturated(
    dataset: PreferenceDataset, annotator: str, pair_ids: list[str], judge: np.ndarray, question: str = OVERALL
) -> np.ndarray:
    """The judge's probabilities [N] on a question, for a fit that finds their scale itself. For a judge that scores
    pictures they are recomputed from the score differences, in units of their own spread: a bad temperature pushes
    probabilities to 0 or 1, where the order of the scores is lost. So it is for votes that were imported with the
    scores of both pictures, also without a probability: a fit on people's votes finds what a score is worth. NaN stays
    NaN."""
    if any(entry.get("answers") != "scores" for entry in _answers(dataset, annotator)):
        return judge
    votes = dataset.votes(columns=["pair_id", "annotator_id", "source", "score_0", "score_1"], question=question)
    own = pc.and_(pc.equal(votes["source"], "judge"), pc.equal(votes["annotator_id"], annotator))
    votes = votes.filter(own)
    difference = pc.subtract(votes["score_0"], votes["score_1"]).to_pylist()
    known = dict(zip(votes["pair_id"].to_pylist(), difference, strict=True))
    values = np.array([known.get(pair_id) for pair_id in pair_ids], dtype=np.float64)
    scored = ~np.isnan(judge) & ~np.isnan(values)
    if not scored.any() or (~np.isnan(judge) & ~scored).any():
        return judge
    spread = float(np.sqrt(np.mean(np.square(values[scored])))) or 1.0
    return np.where(scored, expit(values / spread), np.nan)
