"""Several questions as one target: a mean with weights keeps what is unbiased unbiased, a majority does not."""

import numpy as np
import pytest

from palate.data.dataset import PreferenceDataset
from palate.data.labels import Labels
from palate.errors import PalateError
from palate.labels.questions import majority, mean_votes, pareto, questions_in, weighted_targets
from palate.labels.targets import dedpo, human_only
from palate.labels.votes import prepare_rows
from palate.run.config import TrainConfig
from palate.run.load import load_config

NAN = np.nan


def drawn(rng, truth, judge, pi):
    """Human votes on a random part of the pairs, each with propensity pi."""
    shown = rng.random(len(truth)) < pi
    votes = (rng.random(len(truth)) < truth).astype(float)
    return Labels(np.where(shown, votes, NAN), judge, np.full(len(truth), pi))


def test_the_weighted_target_has_the_weighted_mean_of_people_as_its_expectation_whatever_the_judges_say():
    rng, n = np.random.default_rng(0), 24
    truth = rng.random((2, n))
    judges = np.clip(truth + rng.normal(0.3, 0.3, (2, n)), 0, 1)  # both are wrong, each in its own way
    weights, total, biased, repeats = (0.3, 0.7), np.zeros(n), np.zeros(n), 6000
    for _ in range(repeats):
        asked = [drawn(rng, truth[0], judges[0], 0.5), drawn(rng, truth[1], judges[1], 0.3)]  # other pairs of each
        if all(labels.labelled.any() for labels in asked):
            parts = [dedpo(labels) for labels in asked]
            total += weighted_targets(parts, weights).target
            biased += majority([part.target for part in parts], weights)
    wanted = weights[0] * truth[0] + weights[1] * truth[1]
    assert np.abs(total / repeats - wanted).max() < 0.06  # four standard errors of the widest target
    settled = np.abs(wanted - 0.5) > 0.1
    right = (wanted > 0.5).astype(float)
    assert np.abs(biased / repeats - right)[settled].mean() > 0.15  # the side of a noisy number is another side


def test_weights_1_and_0_are_the_single_question_bit_for_bit():
    labels = Labels([1.0, NAN, 0.0, 0.5], [0.9, 0.2, 0.4, 0.6], np.full(4, 0.75))
    alone = dedpo(labels, 0.7)
    both = weighted_targets([alone], [1.0])
    assert (both.target == alone.target).all() and (both.weight == alone.weight).all()
    config = TrainConfig("world", "d", "r", question={"alignment": 1.0, "aesthetics": 0.0})
    assert questions_in(config) == {"alignment": 1.0}


def test_questions_on_different_pairs_count_by_their_weights_not_by_their_votes():
    one = human_only(Labels([1.0, 0.0, 1.0, NAN, NAN], np.full(5, NAN), np.full(5, 0.6)))
    two = human_only(Labels([NAN, NAN, NAN, 1.0, NAN], np.full(5, NAN), np.full(5, 0.2)))
    both = weighted_targets([one, two], [0.5, 0.5])
    assert both.weight.sum() == pytest.approx(5) and both.weight[:3].sum() == pytest.approx(both.weight[3])
    assert both.target.tolist() == [1.0, 0.0, 1.0, 1.0, 0.5] and both.labelled.tolist() == [True] * 4 + [False]


def test_mean_majority_and_pareto_of_peoples_votes():
    humans = [np.array([1.0, 1.0, 0.0, 0.5, NAN, NAN]), np.array([0.8, 0.0, NAN, 0.2, 0.5, NAN])]
    np.testing.assert_allclose(mean_votes(humans, [0.75, 0.25]), [0.95, 0.75, 0.0, 0.425, 0.5, NAN])
    np.testing.assert_array_equal(majority(humans, [0.75, 0.25]), [1, 1, 0, 0, 0.5, NAN])
    np.testing.assert_array_equal(majority(humans, [0.5, 0.5]), [1, 0.5, 0, 0, 0.5, NAN])
    np.testing.assert_array_equal(pareto(humans), [1, NAN, 0, 0, NAN, NAN])


@pytest.mark.parametrize("target", ["dedpo", "mix", "judge", "auto"])
@pytest.mark.parametrize("rule", ["majority", "pareto"])
def test_a_majority_of_debiased_targets_is_refused_with_the_reason(rule, target):
    told = {"pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "r", "judge": "clip"}
    told |= {"target": target, "question": {"alignment": 1, "aesthetics": 1}, "question_rule": rule, "method": "dedpo"}
    with pytest.raises(PalateError, match="biased.*pulled toward one half.*selects by the outcome"):
        load_config(told)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"question": {"alignment": 0.0}}, "a weight above 0"),
        ({"question": {"alignment": -1.0}}, "at least 0"),
        ({"question": 5}, "question"),
        ({"question": "alignment", "question_rule": "majority"}, "puts several questions together"),
        ({"question": {"a": 1, "b": 1}, "method": "self-training"}, "cannot answer several questions"),
        ({"question": "alignment", "method": "self-npo"}, "takes none"),
    ],
)
def test_questions_that_cannot_be_are_one_line(keys, reason):
    told = {"pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "r"}
    with pytest.raises(PalateError, match=reason):
        load_config(told | keys)


@pytest.fixture
def prefs(tmp_path):
    """Forty pairs; alignment is told by the judge's overall votes, aesthetics the other way round."""
    rng = np.random.default_rng(1)
    dataset = PreferenceDataset.create(tmp_path / "prefs", "prefs")
    names = [f"p{k:02}" for k in range(60)]
    picture = {"bytes": b"x"}
    dataset.add_pairs(
        [{"pair_id": p, "prompt": f"about {p}", "image_0": picture, "image_1": {"bytes": p.encode()}} for p in names]
    )
    rows = []
    for p in names:
        good = rng.random() < 0.5
        said = good if rng.random() < 0.85 else not good
        rows.append({"pair_id": p, "annotator_id": "clip", "source": "judge", "choice": "01"[not said]})
        for who in ("ana", "bo"):
            seen = good if rng.random() < 0.9 else not good
            rows.append(
                {
                    "pair_id": p,
                    "annotator_id": who,
                    "source": "human",
                    "choice": "01"[not seen],
                    "question": "alignment",
                }
            )
        if rng.random() < 0.5:
            rows.append(
                {"pair_id": p, "annotator_id": "ana", "source": "human", "choice": "01"[good], "question": "aesthetics"}
            )
    dataset.append_votes(rows)
    return dataset


def config(dataset, **keys):
    told = {"pretrained_model_name_or_path": "world", "dataset": str(dataset.path), "output_dir": "r"}
    return load_config(told | keys)


def test_a_run_names_one_question_and_a_judge_without_votes_on_it_stands_in(prefs, capsys):
    rows = prepare_rows(
        prefs, config(prefs, method="dedpo", judge="clip", question="alignment", correction="calibrate")
    )
    assert len(rows) == 60 and rows.labelled.all() and rows.account["question"] == "alignment"
    told = capsys.readouterr().out
    assert "clip did not vote on alignment: overall votes stand in" in told
    with pytest.raises(PalateError, match="no pair has a human vote"):
        prepare_rows(prefs, config(prefs))
    with pytest.raises(PalateError, match="no vote of .* answers 'alignement'.*alignment"):
        prepare_rows(prefs, config(prefs, question="alignement"))


def test_each_question_is_debiased_on_its_own_and_then_weighted(prefs, capsys):
    keys = {"method": "dedpo", "judge": "clip", "correction": "calibrate", "seed": 3}
    single = {q: prepare_rows(prefs, config(prefs, question=q, **keys)) for q in ("alignment", "aesthetics")}
    capsys.readouterr()
    both = prepare_rows(prefs, config(prefs, question={"alignment": 3, "aesthetics": 1}, **keys))
    np.testing.assert_allclose(both.target, 0.75 * single["alignment"].target + 0.25 * single["aesthetics"].target)
    assert both.account["questions"]["aesthetics"]["weight"] == 0.25
    assert both.account["questions"]["aesthetics"]["corrected judge"]["brier"] < 0.25  # turned round by its correction
    told = capsys.readouterr().out
    assert "labels: question aesthetics: weight 0.25" in told and "labels: question alignment: weight 0.75" in told
    one = prepare_rows(prefs, config(prefs, question={"alignment": 1, "aesthetics": 0}, **keys))
    assert (one.target == single["alignment"].target).all() and one.fingerprint() == single["alignment"].fingerprint()


def test_majority_and_pareto_train_on_peoples_votes(prefs, capsys):
    both = {"alignment": 1, "aesthetics": 1}
    kept = prepare_rows(prefs, config(prefs, question=both, question_rule="pareto"))
    most = prepare_rows(prefs, config(prefs, question=both, question_rule="majority"))
    assert 0 < len(kept) < len(most) == 60 and set(kept.target) <= {0.0, 1.0}
    assert "pairs are left out, on which no image wins without losing" in capsys.readouterr().out


def test_held_out_votes_are_the_same_prompts_for_every_question(prefs):
    rows = prepare_rows(prefs, config(prefs, question={"alignment": 1, "aesthetics": 1}, held_out_votes=0.25))
    assert rows.held_out is not None and len(rows.held_out) == 15
    assert not set(rows.held_out.id) & set(rows.id)


def test_a_run_on_overall_votes_is_as_ever_whatever_other_questions_there_are(prefs):
    plain = [{"pair_id": f"p{k:02}", "annotator_id": "cy", "source": "human", "choice": "01"[k % 2]} for k in range(20)]
    prefs.append_votes(plain)
    rows = prepare_rows(prefs, config(prefs))
    assert len(rows) == 20 and "question" not in rows.account and "questions" not in rows.account
    assert rows.target.tolist() == [1.0, 0.0] * 10
