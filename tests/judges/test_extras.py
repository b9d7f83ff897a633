"""Which model made a picture, and answers to a rubric, in the corrected judge: found where they tell, 0 where not."""

import csv
import json

import numpy as np
import pytest
from real_votes import TIFA160, needs_tifa160, tifa160_lines
from scipy.special import expit

import palate
from palate.data.dataset import open_dataset
from palate.data.importing import import_pairs
from palate.data.labels import Labels, collect_labels
from palate.errors import PalateError
from palate.judges.contexts import given_contexts
from palate.judges.correction import calibrate_judge, correct_judge
from palate.judges.extra import Extra
from palate.judges.extras import extras_of, models_of, rubric_of
from palate.labels.targets import dedpo
from palate.labels.votes import prepare_rows
from palate.run.load import load_config

NOTHING = {"names": (), "differences": np.zeros((400, 0))}


def drawn(rng, n=400, offset=1.2):
    """People's votes, and a judge that does not know that they like pictures of "new" more; half of the pairs compare."""
    better = rng.normal(0, 1, n)
    side = rng.choice([-1, 0, 1], n, p=[0.35, 0.3, 0.35])  # which of the two "new" made; 0: both are of one model
    truth = expit(better + offset * side)
    judge = expit(better + rng.normal(0, 0.5, n))
    made = Extra("models", ("new", "old"), np.column_stack([side, -side]).astype(float))
    return truth, judge, made


def corrected(judge, human, extras=(), **more):
    return correct_judge(judge, np.zeros((len(judge), 0)), human, names=(), extras=extras, **more)


def test_a_judge_with_an_offset_for_one_model_is_found_and_named_and_predicts_hidden_votes_better():
    rng = np.random.default_rng(0)
    truth, judge, made = drawn(rng)
    votes = (rng.random(400) < truth).astype(float)
    human = np.where(np.arange(400) < 200, votes, np.nan)
    plain, better = corrected(judge, human), corrected(judge, human, [made])
    (found,) = better.extras
    assert found.weights["new"] > 2 * found.errors["new"] and found.weights["old"] == pytest.approx(
        -found.weights["new"]
    )
    assert "People prefer pictures of new more and those of old less than the judge does." in better.finding()
    hidden = slice(200, None)
    losses = [np.mean((found.probability - truth)[hidden] ** 2) for found in (plain, better)]
    assert losses[1] < 0.6 * losses[0]
    context = corrected(judge, human, [made], contexts=given_contexts(["a", "b"] * 200))
    assert (
        context.extras[0].weights["new"] > 0 and np.mean((context.probability - truth)[hidden] ** 2) < 0.7 * losses[0]
    )


def test_where_both_pictures_are_of_one_model_no_bit_changes():
    rng = np.random.default_rng(1)
    truth, judge, _ = drawn(rng)
    human = np.where(rng.random(400) < 0.5, (rng.random(400) < truth).astype(float), np.nan)
    plain = calibrate_judge(judge, human)
    same = corrected(judge, human, [Extra("models", ("a", "b"), np.zeros((400, 2)))])
    assert (same.probability == plain.probability).all() and same.weights == plain.weights and not same.extras


def test_exchanging_the_images_of_all_pairs_mirrors_the_probabilities():
    rng = np.random.default_rng(2)
    truth, judge, made = drawn(rng)
    human = np.where(rng.random(400) < 0.4, (rng.random(400) < truth).astype(float), np.nan)
    there = corrected(judge, human, [made])
    turned = corrected(1 - judge, 1 - human, [Extra("models", made.names, -made.values)])
    np.testing.assert_allclose(turned.probability, 1 - there.probability, atol=1e-10)


def test_forty_questions_of_noise_cost_next_to_nothing_and_three_true_ones_among_them_help():
    lost, won = [], []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        better, answers = rng.normal(0, 1, 600), rng.choice([-1.0, 0.0, 1.0], (600, 40))
        judge = expit(better + rng.normal(0, 0.5, 600))
        noise = Extra("rubric", tuple(f"q{k}" for k in range(40)), answers)
        for told, truth in ((lost, expit(better)), (won, expit(better + answers[:, :3] @ [1.0, 1.0, -1.0]))):
            human = np.where(np.arange(600) < 200, (rng.random(600) < truth).astype(float), np.nan)
            briers = [np.mean((corrected(judge, human, e).probability - truth)[200:] ** 2) for e in ([], [noise])]
            told.append(briers[1] - briers[0])
    assert np.mean(lost) < 0.003 and np.mean(won) < -0.01


@pytest.mark.slow
def test_dedpo_stays_unbiased_with_models_as_covariates():
    rng = np.random.default_rng(4)
    truth, judge, made = drawn(rng, 120)
    total, repeats = np.zeros(120), 120
    for _ in range(repeats):
        human = np.where(rng.random(120) < 0.5, (rng.random(120) < truth).astype(float), np.nan)
        g = corrected(judge, human, [made]).probability
        total += dedpo(Labels(human, g, np.full(120, 0.5))).target
    error = total / repeats - truth
    spread = np.sqrt((truth * (1 - truth) * 1.2 + 0.02) / repeats)
    assert abs(error.mean()) < 4 * spread.mean() / np.sqrt(120) + 0.004  # no bias over pairs …
    assert abs((error * made.values[:, 0]).mean()) < 4 * spread.mean() / np.sqrt(120) + 0.004  # … nor along the models


def test_extras_that_do_not_fit_are_one_line():
    with pytest.raises(PalateError, match="models .* are not finite numbers of 400 pairs"):
        corrected(np.full(400, 0.6), np.full(400, 1.0), [Extra("models", ("a",), np.zeros((3, 1)))])


@pytest.fixture
def prefs(tmp_path):
    """Pairs of two models and of one, a judge's votes, and its answers to a rubric."""
    rng, lines = np.random.default_rng(5), []
    for k in range(120):
        side, better = int(rng.choice([-1, 0, 1])), rng.normal()
        made = {1: ("new", "old"), -1: ("old", "new"), 0: ("old", "old")}[side]
        pair = {
            "prompt": f"p{k}",
            "pair_id": f"p{k}",
            "generator_0": {"model": made[0]},
            "generator_1": {"model": made[1]},
        }
        said = {"source": "judge", "annotator_id": "vlm"}
        lines.append(pair | said | {"choice": int(better < 0), "probability": expit(better)})
        lines.append(pair | said | {"choice": k % 2, "probability": k % 2 * 0.8, "question": "rubric/hands"})
        if k % 2:
            lines.append(pair | {"annotator_id": "ana", "choice": int(better + 1.5 * side + rng.normal() < 0)})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    import_pairs("jsonl", [tmp_path / "a.jsonl"], tmp_path / "prefs")
    return open_dataset(tmp_path / "prefs")


def test_models_and_rubrics_are_read_off_a_dataset(prefs):
    ids = prefs.pairs(["pair_id"])["pair_id"].to_pylist()
    made, rubric = models_of(prefs, ids), rubric_of(prefs, ids)
    assert (
        made.names == ("new", "old") and (made.values.sum(axis=1) == 0).all() and 60 < np.abs(made.values[:, 0]).sum()
    )
    assert models_of(prefs, ids[:9]) is None  # too few to learn anything of a model
    assert rubric.names == ("hands",) and set(np.round(rubric.values[:, 0], 6)) == {-1.0, 0.6}
    assert [extra.kind for extra in extras_of(prefs, ids)] == ["models", "rubric"]
    assert models_of(prefs, [i for i, row in zip(ids, made.values, strict=True) if not row.any()]) is None
    found = palate.audit(prefs)
    assert (
        "People prefer pictures of new more" in found.judges[1].finding and found.judges[1].correction == "covariates"
    )
    assert [judge.name for judge in found.judges] == ["vlm", "vlm"]  # a rubric's answers are no votes of a judge


@pytest.mark.parametrize(
    ("which", "told"),
    [
        ("all", "2 generators and 1 questions of a rubric"),
        ("generators", "2 generators"),
        ("rubric", "1 questions of a rubric"),
    ],
)
def test_a_run_says_what_the_judge_is_corrected_on(prefs, which, told, capsys, monkeypatch):
    monkeypatch.setattr("palate.labels.votes.without_pictures", lambda dataset: set())
    keys = {
        "pretrained_model_name_or_path": "world",
        "dataset": str(prefs.path),
        "output_dir": "r",
        "covariates": which,
    }
    rows = prepare_rows(prefs, load_config(keys | {"method": "dedpo", "judge": "vlm"}))
    assert rows.account["corrected judge"]["covariates"].endswith(told)
    assert f"{told}\n" in capsys.readouterr().out


@needs_tifa160
@pytest.mark.parametrize("splits", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_on_real_votes_models_lower_the_brier_score_on_hidden_votes_by_7_to_10_percent(tmp_path, splits):
    """Without splits a quick look: two judges on one split."""
    names = tuple(
        sorted({row["annotator_id"] for row in csv.DictReader(open(TIFA160 / "votes.csv")) if row["source"] == "judge"})
    )
    import_pairs("jsonl", [tifa160_lines(tmp_path / "t.jsonl", names)], tmp_path / "prefs")
    dataset = open_dataset(tmp_path / "prefs")
    ids, votes = dataset.pairs(["pair_id"])["pair_id"].to_pylist(), dataset.votes()
    prompts = dataset.pairs(["prompt"])["prompt"].to_pylist()
    judges = np.column_stack([collect_labels(ids, votes, judge=name).judge for name in names])
    human, (made,) = collect_labels(ids, votes).human, extras_of(dataset, ids)
    assert made.names == ("mini-dalle", "sd1dot1", "sd1dot5", "sd2dot1", "vq-diffusion")
    lowered, together = [], []
    for seed in range(max(splits, 1)):
        shown = np.random.default_rng(seed).permutation(len(ids)) < len(ids) // 4
        seen = np.where(shown, human, np.nan)
        for columns in [*range(len(names)), slice(None)] if splits else [1, 4]:
            own = judges[:, columns].reshape(len(ids), -1)
            briers = []
            for extras in ([], [made]):
                found = corrected(own, seen, extras, judges=names[: own.shape[1]], groups=prompts, seed=seed)
                hidden = ~shown & ~np.isnan(found.probability)
                briers.append(np.mean((found.probability - human)[hidden] ** 2))
            (together if columns == slice(None) else lowered).append(1 - briers[1] / briers[0])
    assert 0.07 < np.mean(lowered) < 0.10 and min(lowered) > 0.04  # one judge at a time
    if not splits:
        return
    assert 0.05 < np.mean(together) < 0.10  # all eleven, which know more of the models themselves
    told = corrected(judges, human, [made], judges=names, groups=prompts)
    assert "sd2dot1 more" in told.finding().replace("sd1dot5 and ", "").replace(" and sd1dot5", "")
