"""On a world whose truth is known the audit finds the biased judge, the person of the opposite taste and the wrong votes."""

from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audits.drawn_world import LABELLED, PAIRS, VOTED_AGAIN, with_votes, world_votes
from rich.console import Console
from scipy.stats import rankdata

from palate.audits.choices import choices_of
from palate.audits.evidence import read_evidence
from palate.audits.findings import audit
from palate.audits.judges import audit_judges, calibration_curve, favours
from palate.audits.minority import flip_probabilities, predicted_votes, read_metric
from palate.audits.page import render
from palate.audits.reliability import dawid_skene_estimates
from palate.audits.terminal import print_findings
from palate.data.known import write_known_votes
from palate.errors import PalateError
from palate.judges.correction import agreement
from palate.judges.embeddings import FILE, EmbeddingStore
from palate.labels.votes import prepare_rows
from palate.run.checks import judges_of
from palate.run.load import load_config
from palate.world.voters import VOTERS

REQUIRED = {"pretrained_model_name_or_path": "world", "dataset": "prefs", "output_dir": "runs/one"}


def judge(findings, name, correction="none"):
    return next(j for j in findings.judges if (j.name, j.correction) == (name, correction))


def test_the_biased_judge_is_found_and_in_words_on_what(findings, shown):
    raw, corrected = judge(findings, "biased-judge"), judge(findings, "biased-judge", "covariates")
    assert raw.favours["brightness"].beyond(0) == 1 and raw.favours["brightness"].value > 0.1
    assert corrected.favours["brightness"].beyond(0) == 0
    assert corrected.finding.startswith("People prefer darker") and "pictures than the judge does" in corrected.finding
    assert raw.confidence.high < 1 < corrected.confidence.high  # too sure of itself; corrected it is not
    assert corrected.brier.high < raw.brier.low and corrected.accuracy.value > raw.accuracy.value + 0.08


def test_the_numbers_of_a_judge_are_those_of_a_run(world, findings):
    raw, labels = judge(findings, "poor-judge"), read_evidence(world, findings.people.agreeing).labels("poor-judge")
    seen = agreement(labels.judge[labels.labelled], labels.human[labels.labelled])
    assert (raw.accuracy.value, raw.brier.value) == (pytest.approx(seen.accuracy), pytest.approx(seen.brier))
    assert raw.accuracy.n == seen.n == LABELLED and raw.votes == PAIRS


def test_a_pair_that_was_seldom_shown_stands_for_more_pairs(world):
    seldom = np.random.default_rng(0).random(PAIRS) < 0.5
    evidence = replace(read_evidence(world), propensity=np.where(seldom, 0.05, 0.5))
    (raw, *_), _ = audit_judges(evidence)
    labels = evidence.labels(raw.name)
    seen = labels.labelled
    square = (labels.human - labels.judge)[seen] ** 2
    assert raw.brier.value == pytest.approx(np.average(square, weights=np.where(seldom, 20, 2)[seen]))
    assert abs(raw.brier.value - square.mean()) > 0.001


def test_the_corrected_biased_judge_is_recommended_with_keys_that_a_run_takes(findings):
    told = findings.recommendation
    assert told.configuration["method"] == "auto" and "biased-judge" in judges_of(
        load_config(REQUIRED | told.configuration)
    )
    gain = judge(findings, "biased-judge", "covariates").gain
    assert gain.variance.high < judge(findings, "biased-judge").gain.variance.value < 1
    assert gain.worth.low > LABELLED


@pytest.mark.parametrize("votes", [None, 24, 6])
@pytest.mark.parametrize("who", [("biased-judge",), ("poor-judge",), ("biased-judge", "poor-judge")], ids="+".join)
def test_what_the_audit_says_of_auto_is_what_a_run_does(world, who, votes):
    """From the same votes: the same way, and the same words for why."""
    evidence = read_evidence(world, ("majority",), votes)
    told = choices_of(evidence)[who[0] if len(who) == 1 else "all judges"]
    keys = {"method": "auto", "judge": list(who), "human_annotators": ["majority"], "human_votes": votes}
    account = prepare_rows(world, load_config(REQUIRED | {"dataset": str(world.path)} | keys)).account
    assert account["choice"]["way"] == told.chosen.in_words() and account["choice"]["why"] == told.sentence()
    assert told.chosen.configuration.items() <= account["choice"].items()


@pytest.mark.parametrize("votes", [None, 24])
def test_the_headline_is_what_auto_does_with_the_keys_that_it_gives(world, votes):
    found = audit(world, human_annotators=("majority", "second", "hesitant"), human_votes=votes)
    keys = found.recommendation.configuration | {"human_votes": votes}
    keys["human_annotators"] = ["majority", "second", "hesitant"]
    if keys["method"] == "dpo":  # the same as auto with any of the judges
        keys |= {"method": "auto", "judge": ["biased-judge", "poor-judge"]}
    account = prepare_rows(world, load_config(REQUIRED | {"dataset": str(world.path)} | keys)).account
    if found.recommendation.configuration["method"] == "dpo":
        assert account["choice"]["target"] == "human"
    else:
        assert account["choice"]["way"] in found.recommendation.sentence
        assert account["choice"]["why"].removeprefix("Train on ") in found.recommendation.sentence


def test_the_person_of_the_opposite_taste_is_found_among_the_majority(findings):
    people = findings.people
    assert people.opposed == ("minority",) and set(people.agreeing) == {"hesitant", "majority", "second"}
    assert "minority votes against" in findings.recommendation.reason
    assert findings.recommendation.configuration["human_annotators"] == list(people.agreeing)
    by_name = {person.name: person for person in people.persons}
    assert by_name["minority"].agrees.high < 0.5 < by_name["majority"].agrees.low
    assert people.alpha.low > 0 and people.alpha.high < 0.7 and people.alpha.n == 120


def test_numbers_are_without_the_people_who_are_to_be_left_out(world, findings):
    alone = audit(world, human_annotators=findings.people.agreeing)
    assert findings.left_out == ("minority",) and alone.left_out == ()
    assert findings.judges == alone.judges and findings.plan == alone.plan
    keys = dict(findings.recommendation.configuration)
    assert keys.pop("human_annotators") == list(findings.people.agreeing) and keys == alone.recommendation.configuration
    assert findings.recommendation.sentence == alone.recommendation.sentence
    assert "minority" in {person.name for person in findings.people.persons}


def test_all_judges_together_are_a_row_of_their_own(findings):
    names = [(j.name, j.correction) for j in findings.judges]
    assert names.count(("all judges", "covariates")) == 1 and ("all judges", "none") not in names
    together, singles = judge(findings, "all judges", "covariates"), findings.judges[:-1]
    assert together.votes == PAIRS and together.gain.variance.high < 0.95
    assert together.brier.value < min(single.brier.value for single in singles) + 0.01
    assert "all judges/covariates" in findings.plan[0].judges


def test_self_agreement_is_that_of_the_repeats(findings, shown):
    again = {person.name: person.again for person in findings.people.persons}
    assert again["hesitant"].n == VOTED_AGAIN and again["majority"] is None
    assert findings.people.again == again["hesitant"] and 0.6 < again["hesitant"].value < 1


def test_right_answers_on_control_pairs_are_counted_and_change_nothing_else(tmp_path, unvoted, shown):
    dataset = with_votes(unvoted, tmp_path / "controls", world_votes("majority", shown, np.arange(60)))
    before = audit(dataset)
    told = ["0"] * 8 + ["1", "tie", "skip"]
    write_known_votes(dataset.path, [
        {"vote_id": f"k{i}", "pair_id": f"control {i}", "annotator_id": "majority", "choice": choice, "answer": "0", "order_shown": "01",
         "seconds": 1.0, "instruction_version": "1", "created_at": datetime.now(UTC)} for i, choice in enumerate(told)
    ])  # fmt: skip
    (person,) = audit(dataset).people.persons
    assert (
        person.known.value == pytest.approx(0.8)
        and person.known.n == 10
        and person.known.low < 0.8 < person.known.high < 1
    )
    assert replace(person, known=None) == before.people.persons[0]
    printed = Console(width=100, file=StringIO())
    print_findings(audit(dataset), printed)
    assert "right of 10 pairs with a known answer" in printed.file.getvalue()
    assert "known answers" in render(audit(dataset))


def test_of_people_left_out_nothing_is_said(world):
    found = audit(world, human_annotators=("majority",), human_votes=80)
    assert [person.name for person in found.people.persons] == ["majority"] and found.labelled == 80
    assert found.people.alpha is None and any("One person voted" in note for note in found.notes)
    assert {suspect.annotator for suspect in found.suspects} == {"majority"}
    with pytest.raises(PalateError, match="nobody never voted"):
        audit(world, human_annotators=("nobody",))
    with pytest.raises(PalateError, match="9999 pairs"):
        audit(world, human_votes=9999)


def quality(score: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    """Precision at the true number of wrong votes, and the area under the ROC curve."""
    rank, n = rankdata(score), wrong.sum()
    area = (rank[wrong].sum() - n * (n + 1) / 2) / (n * (~wrong).sum())
    return wrong[np.argsort(-score)[:n]].mean(), area


def flips_of(dataset):
    """Flip probability of each vote of "crowd", and the pair."""
    evidence = read_evidence(dataset)
    reliability = dawid_skene_estimates(evidence.human, evidence.group, resamples=5)
    flip = flip_probabilities(evidence, predicted_votes(evidence), reliability)
    votes = evidence.human.first_only()
    own = votes.annotator == votes.names.index("crowd")
    return flip[own], votes.pair[own]


def judged(shown) -> list[dict]:
    return [vote for name in ("biased-judge", "poor-judge") for vote in world_votes(name, shown, np.arange(PAIRS))]


@pytest.mark.parametrize("others", [(), ("majority", "hesitant")])
def test_flipped_votes_are_found_with_and_without_other_people(others, tmp_path, unvoted, shown):
    rng = np.random.default_rng(5)
    wrong = np.zeros(PAIRS, bool)
    wrong[rng.choice(PAIRS, PAIRS // 10, replace=False)] = True
    votes = world_votes("majority", shown, np.arange(PAIRS), alias="crowd", flips=wrong) + judged(shown)
    for k, name in enumerate(others):
        votes += world_votes(name, shown, np.arange(PAIRS), alias=f"other-{k}", seed=5 + k)
    flip, pair = flips_of(with_votes(unvoted, tmp_path / "data", votes))
    precision, area = quality(flip, wrong[pair])
    assert precision > 0.5 and area > 0.9  # by chance 0.1 and 0.5


def test_minority_votes_under_the_name_of_the_crowd_are_found(tmp_path, unvoted, shown):
    minority = np.random.default_rng(6).random(PAIRS) < 0.2
    votes = world_votes("majority", shown, np.flatnonzero(~minority), alias="crowd")
    votes += world_votes("minority", shown, np.flatnonzero(minority), alias="crowd") + judged(shown)
    flip, pair = flips_of(with_votes(unvoted, tmp_path / "data", votes))
    utility = [VOTERS["majority"].utility(side) for side in shown]
    said_0 = np.zeros(PAIRS, bool)
    for vote in votes[:PAIRS]:
        said_0[int(vote["pair_id"][1:])] = vote["choice"] == "0"
    against = ((utility[0] > utility[1]) != said_0)[pair]
    precision, area = quality(flip, against)
    assert precision > 0.6 and area > 0.9  # by chance 0.2 and 0.5
    assert quality(flip, minority[pair])[1] > 0.75  # the minority agrees on many pairs, where nothing can tell it


def test_a_votes_own_pair_never_speaks_for_it(tmp_path, unvoted, shown):
    """Turning one vote round turns its own flip probability round, and nothing about its pair's other evidence."""
    votes = world_votes("majority", shown, np.arange(60), alias="crowd")
    turned = [dict(vote) for vote in votes]
    turned[0]["choice"] = "1" if votes[0]["choice"] == "0" else "0"
    (one, _), (other, _) = (
        flips_of(with_votes(unvoted, tmp_path / name, v)) for name, v in (("a", votes), ("b", turned))
    )
    assert other[0] == pytest.approx(1 - one[0], abs=1e-9)
    assert one[0] != pytest.approx(0.5, abs=1e-3)


def test_a_runs_metric_orders_the_votes_and_foreign_runs_are_refused(tmp_path, world):
    ids = read_evidence(world).ids
    metric = np.linspace(0, 0.5, 100)
    pq.write_table(pa.table({"pair_id": ids[:100], "minority": metric}), tmp_path / "minority.parquet")
    found = audit(world, tmp_path)
    values = [suspect.metric for suspect in found.suspects]
    assert (
        found.suspects_by == "run"
        and values == sorted(values, reverse=True)
        and values[0] == pytest.approx(0.5, abs=0.05)
    )
    assert np.isnan(read_metric(tmp_path, ids)[100:]).all()
    pq.write_table(pa.table({"pair_id": ["x"], "minority": [0.1]}), tmp_path / "minority.parquet")
    with pytest.raises(PalateError, match="none of its 1 pairs"):
        audit(world, tmp_path)
    with pytest.raises(PalateError, match="leave out --run"):
        audit(world, tmp_path / "nowhere")


def test_a_calibration_curve_is_the_same_when_images_are_exchanged():
    rng = np.random.default_rng(0)
    g, group, weights = rng.random(300), np.arange(300), np.ones(300)
    y = (rng.random(300) < g).astype(float)
    curve, mirrored = calibration_curve(g, y, group, weights), calibration_curve(1 - g, 1 - y, group, weights)
    assert len(curve) == 6 and sum(point.share.n for point in curve) == 300
    assert [p.confidence for p in curve] == pytest.approx([p.confidence for p in mirrored])
    assert [p.share.value for p in curve] == pytest.approx([p.share.value for p in mirrored])
    assert sum(p.share.low <= p.confidence <= p.share.high for p in curve) >= 5  # it is calibrated
    assert calibration_curve(np.full(9, 0.5), y[:9], group[:9], weights[:9]) == []
    hard = calibration_curve(np.array([1.0, 0, 1, 0]), np.array([1.0, 1, 0, 0]), np.arange(4), np.ones(4))
    assert [(p.confidence, p.share.value) for p in hard] == [(1, 0.5)]


def test_what_a_judge_favours_is_counted_against_people():
    residual = np.array([0.5, -0.5, 0.2, 0.0])
    found = favours(residual, np.array([1.0, -2, -1, 0]), np.arange(4), np.ones(4))
    assert (found.value, found.n) == (pytest.approx((0.5 + 0.5 - 0.2) / 3), 3)
    assert favours(-residual, np.array([-1.0, 2, 1, 0]), np.arange(4), np.ones(4)).value == found.value


def test_embeddings_that_judges_left_are_looked_at(tmp_path, unvoted, shown):
    votes = world_votes("majority", shown, np.arange(200)) + judged(shown)
    plain = with_votes(unvoted, tmp_path / "plain", votes)
    seeing = with_votes(unvoted, tmp_path / "seeing", votes)
    sides = [np.column_stack([VOTERS["majority"].utility(side), side.size]) for side in shown]
    with EmbeddingStore(seeing.path / "judges" / "clip" / FILE, "clip-1") as store:
        vectors = {f"{k}/{i}": vector for k, side in enumerate(sides) for i, vector in enumerate(side)}
        store.put(vectors, {f"p{i:04}": (f"0/{i}", f"1/{i}") for i in range(PAIRS)})
    without, found = (judge(audit(d), "poor-judge", "covariates") for d in (plain, seeing))
    assert "embeddings" in found.finding and "embeddings" not in without.finding
    assert found.brier.value < without.brier.value - 0.01 and found.gain.variance.value < without.gain.variance.value
