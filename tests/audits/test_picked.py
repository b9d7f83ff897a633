"""Labelled pairs that were picked: the audit finds it, says what it changes, and can count them by the estimate."""

import json

import numpy as np
import pytest
from audits.drawn_world import PAIRS, with_votes, world_votes

from palate.audits.findings import audit
from palate.audits.page import render
from palate.audits.terminal import print_findings
from palate.errors import PalateError
from palate.judges.statistics import statistics_of_pairs


def by_difference(dataset, statistic: str) -> np.ndarray:
    """Pairs [N], those that differ most in a statistic first."""
    known, names = statistics_of_pairs(dataset)
    k = names.index(statistic)
    return np.argsort([-abs(known[f"p{i:04}"][k]) for i in range(PAIRS)])


def judged(shown, labelled: np.ndarray) -> list[dict]:
    votes = world_votes("majority", shown, np.sort(labelled))
    return votes + world_votes("biased-judge", shown, np.arange(PAIRS))


@pytest.fixture(scope="module")
def hand_picked(tmp_path_factory, unvoted, shown):
    """Nine in ten of the 100 pairs that differ most in brightness, and one in ten of the others: there the judge, which
    likes bright pictures, is wrong most often."""
    order, rng = by_difference(unvoted, "brightness"), np.random.default_rng(3)
    labelled = np.concatenate([order[:100][rng.random(100) < 0.9], order[100:][rng.random(PAIRS - 100) < 0.1]])
    return with_votes(unvoted, tmp_path_factory.mktemp("picked") / "data", judged(shown, labelled))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, unvoted, shown):
    """What the audit should come to: people voted on every pair."""
    return audit(with_votes(unvoted, tmp_path_factory.mktemp("whole") / "data", judged(shown, np.arange(PAIRS))))


def raw(findings):
    return next(judge for judge in findings.judges if judge.correction == "none")


def test_picked_pairs_are_found_told_and_counted_by_the_estimate(hand_picked, whole, capsys):
    from rich.console import Console

    given, estimated = audit(hand_picked), audit(hand_picked, propensity="estimated")
    truth = raw(whole).accuracy.value
    assert abs(raw(given).accuracy.value - truth) > 0.1 > 0.07 > abs(raw(estimated).accuracy.value - truth)
    found = given.picked
    assert found.chance < 0.001 and found.auc > 0.8 and found.related < 0.05 and not found.used
    assert found.balance[0].name == "the difference in brightness" and found.balance[0].before > 0.6
    assert abs(found.balance[0].after) < found.balance[0].before / 2
    alike, all_pairs = found.agreement["biased-judge"]
    assert alike.value == pytest.approx(raw(given).accuracy.value) == pytest.approx(alike.value)
    assert all_pairs.value == pytest.approx(raw(estimated).accuracy.value)
    print_findings(given, Console(width=120))
    text = " ".join(capsys.readouterr().out.split())
    assert "labelled pairs were not drawn at random (p < 0.001" in text and "Train with propensity: estimated" in text
    assert "biased-judge agrees with people on" in text and "of all pairs as estimated." in text
    page, record = render(given), json.loads(json.dumps(given.record()))
    assert "How the labelled pairs were chosen" in page and "the difference in brightness: +" in page
    assert record["picked"]["effective"] == pytest.approx(found.effective) and "used" in record["picked"]
    assert "All numbers of this audit are weighted by it." in estimated.picked.sentences


def test_a_recommendation_from_estimated_propensities_trains_with_them(tmp_path, unvoted, shown):
    order, rng = by_difference(unvoted, "brightness"), np.random.default_rng(4)
    mild = np.concatenate([order[:150][rng.random(150) < 0.6], order[150:][rng.random(PAIRS - 150) < 0.2]])
    dataset = with_votes(unvoted, tmp_path / "data", judged(shown, mild))
    advised = audit(dataset, propensity="estimated").recommendation.configuration
    assert advised["method"] == "auto" and advised["propensity"] == "estimated"
    assert "propensity" not in audit(dataset).recommendation.configuration


def test_pairs_at_random_are_called_so_in_one_line_and_stored_propensities_end_the_question(findings, world, tmp_path):
    found = findings.picked
    assert (
        found.chance > 0.05 and len(found.sentences) == 1 and "may well have been drawn at random" in found.sentences[0]
    )
    stored = with_votes(world, tmp_path / "data", [])
    stored.set_propensities({f"p{i:04}": 0.4 for i in range(PAIRS)})
    known = audit(stored, propensity="estimated")
    assert known.picked is None and "There is no propensity to estimate" in " ".join(known.notes)
    assert raw(known) == raw(findings)


def test_too_few_are_no_finding_and_an_error_where_they_are_asked_for(tmp_path, unvoted, shown):
    few = with_votes(unvoted, tmp_path / "data", judged(shown, np.arange(15)))
    assert audit(few).picked is None
    with pytest.raises(PalateError, match="15 pairs have a human vote and 385 have none"):
        audit(few, propensity="estimated")
