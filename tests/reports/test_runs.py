"""The page of run folders: what the evaluation knows is on it, and what is no evidence is marked."""

import json
from dataclasses import replace

import numpy as np
import pytest
from evaluation.drawn import draw_samples, judge_all
from reports.test_page import Reader
from rich.console import Console
from tiny import make_labelled_dataset

from palate.cli import compare as compare_verb
from palate.cli import import_ as import_verb
from palate.cli import report as report_verb
from palate.cli import score as score_verb
from palate.data.dataset import PreferenceDataset
from palate.data.samples import open_samples
from palate.errors import PalateError
from palate.evaluation.compare import compare
from palate.evaluation.scorers import Scorer
from palate.evaluation.scores import score_samples
from palate.reports.labels import count_labels
from palate.reports.page import render
from palate.reports.parts import Votes, verdict
from palate.reports.runs import page_of, report
from palate.reports.terminal import results_table
from palate.reports.training import BY_DRIFT, curves_of
from palate.reports.words import shortened, summary
from palate.run.drift import drift_of
from palate.run.load import load_config, save_config


def make_run(folder, greys, base=None, repetitions=2, **changes):
    """A run that nobody trained, with samples of these greys; `base` are those of its base model."""
    given = {"pretrained_model_name_or_path": "world", "dataset": "none", "output_dir": str(folder), **changes}
    save_config(load_config(given), folder / "config.yaml")
    draw_samples(folder / "samples", greys, repetitions=repetitions, model=str(folder))
    if base is not None:
        draw_samples(folder / "base-samples", base, repetitions=repetitions, model="world")
    return folder


def text_of(path) -> str:
    return Reader(path.read_text(encoding="utf-8")).text


def test_a_scorer_used_in_training_is_marked_and_never_the_headline(tmp_path):
    run = make_run(tmp_path / "run", [200, 210, 190, 220] * 5, [100] * 20, method="spo", reward="brightness")
    text = text_of(report(run, scorer=["brightness", "contrast"]))
    answer = text[: text.index("Results")]
    assert "Judged by contrast" in answer and "brightness" not in answer
    assert "By brightness: used in training run, no evidence" in text and "used in training: no evidence" in text
    assert "run learned from brightness: its verdict is shown, and is no evidence." in text
    alone = text_of(report(run, scorer="brightness"))
    assert "No verdict: run learned from brightness" in alone and "Judged by" not in alone
    assert "better than base" not in alone and "wins 100 %" not in alone and "1.00" in alone  # shown all the same


def test_the_wall_shows_prompts_from_all_of_a_suite_and_the_same_on_every_page(tmp_path):
    run = make_run(tmp_path / "run", [200] * 200, [100] * 200)
    page = page_of(compare(str(run), scorer="brightness"), "title", "command", pictures=20)
    places = [int(prompt.removeprefix("prompt ")) for prompt in page.prompts]
    assert len(set(places)) == 20 and places == sorted(places) and places[0] < 30 and places[-1] > 70
    fewer = page_of(compare(str(run), scorer="brightness"), "title", "command", pictures=10)
    assert set(fewer.prompts) < set(page.prompts)
    assert len(page_of(compare(str(run), scorer="brightness"), "title", "command", pictures=500).prompts) == 200


@pytest.mark.parametrize("verb", [compare_verb, report_verb, score_verb])
def test_no_model_and_one_model_twice_get_one_line(verb, tmp_path, monkeypatch):
    make_run(tmp_path / "run", [200] * 4, [100] * 4)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PalateError, match="no model is named. For example: palate"):
        verb.main(["--scorer", "brightness"])
    with pytest.raises(PalateError, match="run and run/? are the same model"):
        verb.main(["run", "run/", "--scorer", "brightness"])


def test_training_seeds_are_one_row_and_one_answer(tmp_path):
    rng = np.random.default_rng(0)
    greys = 112 + rng.integers(-30, 60, (3, 40))
    runs = [make_run(tmp_path / f"dedpo-seed{k}", greys[k], [100] * 40, seed=k) for k in range(3)]
    page = page_of(compare([*map(str, runs)], scorer="brightness"), "title", "command")
    combined, *single = page.rows
    assert combined.members == tuple(run.name for run in runs) and combined.win.seeds == 3 and not combined.pictures
    assert page.sentence.startswith("dedpo · 3 seeds") and "with 3 training seeds" in page.sentence
    assert page.table is None  # the method and its base: three seeds are not three models
    assert all(row.pictures and row.winner is None for row in single) and single[0].win.winner == "a"
    text = Reader(render(page)).text
    assert "dedpo-seed0, dedpo-seed1 and dedpo-seed2 together" in text and "All models together" not in text
    assert "one of dedpo · 3 seeds" in text and "over training seeds where several stand together" in text


def test_two_methods_with_seeds_are_compared_as_methods(tmp_path):
    rng = np.random.default_rng(1)
    base = 100 + rng.integers(-30, 30, 40)
    runs = [make_run(tmp_path / f"{name}-seed{k}", base + shift + rng.integers(-8, 8, 40), base, seed=k, beta=beta)
            for name, shift, beta in (("up", 30, 1.0), ("same", 0, 2.0)) for k in range(3)]  # fmt: skip
    judge_all(tmp_path)
    page = page_of(compare([*map(str, runs)], scorer="taste"), "title", "command")
    assert {one.name for one in page.table.strengths} == {"up · 3 seeds", "same · 3 seeds", "base"}
    assert len(page.table.claims) == 3 and page.rows[0].corrected is not None
    assert page.sentence.startswith("up · 3 seeds wins") and "It beats every other model here." in page.sentence
    text = Reader(render(page)).text
    assert "Every pair of models (3)" in text and "up · 3 seeds and same · 3 seeds" in text
    against = page_of(compare([*map(str, [*runs[:3], *runs[4:]])], str(runs[3]), scorer="taste"), "title", "command")
    (row, *_) = against.rows
    assert (row.name, row.against, row.win.seeds, row.win.seeds_b) == ("up · 3 seeds", "same · 3 seeds", 3, 3)
    assert (
        against.sentence.startswith("up · 3 seeds beats same · 3 seeds")
        and "3 and 3 training seeds" in against.sentence
    )
    assert "together, against same · 3 seeds" in Reader(render(against)).text


def test_holm_takes_back_a_winner_that_an_interval_alone_would_name(page):
    sure, unsure = replace(page.rows[0], corrected=0.01), replace(page.rows[0], corrected=0.2)
    assert (sure.winner, verdict(sure, "base")) == ("a", "better than base")
    assert unsure.win.winner == "a" and unsure.winner is None
    assert verdict(unsure, "base") == "no winner: not sure among all pairs of models (Holm p 0.2)"
    assert summary(page.base, [unsure]).startswith("No winner between DPO · every human vote and base")
    assert "None of the 2" in summary(page.base, [unsure, page.rows[2]]) and "beats base" in summary(page.base, [sure])
    blind = replace(sure, no_evidence="used in training")
    assert blind.winner is None and verdict(blind, "base") == "used in training: no evidence"
    console = Console(width=160)
    with console.capture() as said:
        console.print(results_table(replace(page, rows=[unsure])))
    assert "← no winner" in said.get()


def test_three_models_get_strengths_and_the_answer_says_what_the_claims_allow(tmp_path):
    rng = np.random.default_rng(1)
    base = rng.integers(80, 120, 60)
    best = make_run(tmp_path / "best", base + 60, base)
    near = make_run(tmp_path / "near", base + 60 + np.where(np.arange(60) % 2, 1, -1), base, beta=1.0)
    judge_all(tmp_path)
    page = page_of(compare([best, near], scorer="taste"), "title", "command")
    assert "It is not shown to be better than" in page.sentence
    assert [one.name for one in page.table.strengths][-1] == "base"
    assert [claim.winner for claim in page.table.claims if {claim.a, claim.b} == {"best", "near"}] == [None]
    renamed = page_of(compare([best, near], scorer="taste"), "t", "c", names={"best": "the best", "base": "before"})
    assert {one.name for one in renamed.table.strengths} == {"the best", "near", "before"}
    assert (
        "the best and before" in Reader(render(renamed)).text or "before and the best" in Reader(render(renamed)).text
    )


def test_votes_of_people_on_the_pictures_are_found_again_and_told(tmp_path, capsys):
    rng = np.random.default_rng(2)
    base = rng.integers(80, 120, 60)
    run = make_run(tmp_path / "run", base - 30, base)
    import_verb.main(["samples", str(run), str(run / "base-samples"), "--to", str(tmp_path / "contest")])
    dataset = PreferenceDataset.open(tmp_path / "contest")
    darker = {}
    for pair in dataset.pairs(["pair_id", "generator_0"]).to_pylist():
        darker[pair["pair_id"]] = "0" if json.loads(pair["generator_0"])["model"] == str(run) else "1"
    ids = sorted(darker)
    dataset.append_votes({"pair_id": i, "annotator_id": "ana", "source": "human", "choice": darker[i]} for i in ids[:24])  # fmt: skip
    dataset.append_votes({"pair_id": i, "annotator_id": "dark", "source": "judge", "choice": darker[i]} for i in ids)
    page = report(run, scorer="brightness")
    assert "By votes of people" not in text_of(page) and "No person judged these pictures" in text_of(page)
    compare_verb.main([str(run), "--votes", str(dataset.path)])
    told = text_of(report(run, scorer="brightness"))
    assert "run wins 100 % against base by people's votes on 24 pairs" in told[: told.index("Results")]
    assert "24 of 60 pairs on 30 prompts have votes of people. No propensities are stored" in told
    assert "the judge dark alone" in told and "both together, power" in told and "No person judged" not in told
    (tmp_path / "contest").rename(tmp_path / "moved")
    assert f"left out: the dataset {dataset.path} is not there any more." in text_of(report(run, scorer="brightness"))
    named = report(run, scorer="brightness", votes=tmp_path / "moved")
    assert "votes on 24 pairs" in text_of(named)
    (run / "compare-votes.json").write_text("[]")
    with pytest.raises(PalateError, match="compare-votes.json: not what `palate compare --votes` writes"):
        report(run, scorer="brightness")
    other = make_run(tmp_path / "other", base + 1, base)
    with pytest.raises(PalateError, match="no pair of pictures of"):
        report(other, scorer="brightness", votes=tmp_path / "moved")


def test_labels_are_counted_by_annotator_and_none_is_left_out(tmp_path):
    dataset = make_labelled_dataset(tmp_path / "prefs", pairs=24, labelled=8)
    dataset.append_votes(
        [
            {"pair_id": "p000", "annotator_id": "bo", "source": "human", "choice": "skip"},
            {"pair_id": "p001", "annotator_id": "bo", "source": "human", "choice": "tie"},
            {"pair_id": "p009", "annotator_id": "bo", "source": "human", "choice": "0"},
        ]
    )
    found = count_labels(dataset)
    assert (found.pairs, found.with_human_votes, found.with_judge_votes) == (24, 9, 24)
    assert found.annotators == (
        Votes("human", "ana", 8, 8), Votes("human", "bo", 2, 2), Votes("judge", "bright", 24, 24),
    )  # fmt: skip
    many = tuple(Votes("human", f"p{k}", 30 - k, 30 - k) for k in range(20))
    assert sum(one.votes for one in shortened(many)) == sum(one.votes for one in many)
    assert len(shortened(many)) == 12 and shortened(many)[-1].annotator == "9 more"


def test_diversity_of_embeddings_stands_beside_the_drift_where_all_models_were_scored(tmp_path):
    base = list(range(60, 100))
    run = make_run(tmp_path / "run", [grey + 5 for grey in base], base)
    spread = Scorer("diversity:clip", "1", ("diversity:clip",), lambda images, _: np.array([[np.asarray(i).mean() / 100] for i in images]))  # fmt: skip
    score_samples(open_samples(run / "samples"), spread)
    assert "diversity:clip" not in text_of(report(run, scorer="contrast"))  # the base has none yet
    score_samples(open_samples(run / "base-samples"), spread)
    row = page_of(compare(run, scorer="contrast"), "title", "command").rows[0]
    change, low, high = row.change["diversity:clip"]
    assert change == pytest.approx(0.05, abs=0.002) and low <= change <= high and high - low < 1e-3
    assert row.drift["diversity:clip"] == pytest.approx(0.84, abs=0.02)
    assert "diversity:clip" in text_of(report(run, scorer="contrast"))


def test_the_page_says_what_was_trained_on_what_and_how_to_do_it_again(tmp_path):
    dataset = make_labelled_dataset(tmp_path / "prefs")
    base = list(range(60, 100))
    run = make_run(tmp_path / "run", [grey + 5 for grey in base], base, method="dedpo", judge="bright", power="auto",
                   safeguard=0.6, dataset=str(dataset.path), lora={"rank": 4})  # fmt: skip
    (run / "labels.json").write_text(json.dumps({"power": 0.37, "used": "24 pairs, 8 of them with a human vote"}))
    (run / "command.txt").write_text("palate train dedpo.yaml --seed 0\n")
    report_verb.main([str(run), "--scorer", "contrast", "--pictures", "3", "--out", str(tmp_path / "page.html")])
    text = text_of(tmp_path / "page.html")
    suite = json.loads((run / "samples" / "samples.json").read_text())["settings"]["prompts"]
    for told in [
        "debiased by human votes (DeDPO), power 0.37", "covariates", "μ 0.6, pair", "LoRA of rank 4", str(dataset.path),
        "palate train dedpo.yaml --seed 0", f"20 prompts, sha256 {suite}", "contrast (version 1)",
        f"palate report {run} --scorer contrast --pictures 3", "24 pairs, 8 with votes of people, 24 with votes of judges",
        "One training seed per model", "diversity",
    ]:  # fmt: skip
        assert told in text, told
    missing = report(make_run(tmp_path / "gone", [grey + 5 for grey in base], base), scorer="contrast")
    assert "The dataset none is not there any more" in text_of(missing)


def moved_so_far(run, drift: float, error: float, accuracy: float = 0.7) -> None:
    """The metrics of a run whose held-out pairs say this of its end."""
    ends = [(0, 0.0, 0.0, 0.5), (49, drift / 4, error, 0.6), (99, drift, error, accuracy)]
    lines = [
        {"step": step, "validation/drift": far, "validation/drift_error": e, "validation/accuracy": a, "validation/cross_entropy": 0.69 - far}
        for step, far, e, a in ends
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_drift_stands_beside_the_win_rate_and_unequal_ones_are_told(tmp_path, capsys):
    base = list(range(60, 100))
    near = make_run(tmp_path / "near", [grey + 5 for grey in base], base, held_out_votes=0.2)
    far = make_run(tmp_path / "far", [grey + 9 for grey in base], held_out_votes=0.2, beta=100.0)
    silent = make_run(tmp_path / "silent", [grey + 1 for grey in base], beta=50.0)
    moved_so_far(near, 0.002, 0.0001)
    moved_so_far(far, 0.006, 0.0002, 0.8)
    found = compare([str(near), str(far), str(silent), str(near / "samples")], scorer="contrast")
    assert [row.moved and row.moved[0] for row in found.models] == [None, 0.002, 0.006, None, 0.002]
    found.show()
    told = capsys.readouterr().out
    (line,) = [line for line in told.splitlines() if line.startswith("  far") and "wins" in line]
    assert line.endswith(", drift +0.00600 [+0.00561, +0.00639]"), line
    assert "far moved 3.0 times as far from the base as" in told and "(drift +0.006 and +0.002)" in told
    rows = found.as_dict()["scorers"][0]["models"]
    assert rows[1]["denoising_error_rise"][0] == 0.006 and rows[2]["denoising_error_rise"] is None
    assert found.as_dict()["unequal_drift"] == found.unequal

    path = report([near, far], scorer="contrast")
    text, page = text_of(path), path.read_text(encoding="utf-8")
    assert "drift +0.00600" in text and "far moved 3.0 times as far from the base as near" in text
    for panel in ("Drift: denoising error on held-out pairs", "Agreement with held-out human votes, by drift", "Wins over the base, by drift"):  # fmt: skip
        assert panel in text, panel
    assert 'aria-label="Wins over the base, by drift"' in page  # and not "by training step"
    moved_so_far(far, 0.0022, 0.0002)
    assert "moved" not in compare([str(near), str(far)], scorer="contrast").unequal


def test_the_curve_by_drift_begins_at_the_base_and_ends_where_the_run_did(tmp_path):
    run = make_run(tmp_path / "run", [100] * 20, held_out_votes=0.2)
    moved_so_far(run, 0.004, 0.0001, 0.75)
    curve = curves_of(run)[BY_DRIFT]
    assert curve == [(0.0, 0.5), (0.0, 0.5), (0.001, 0.6), (0.004, 0.75)]
    assert curves_of(run)["validation/drift"] == [(1, 0.0), (50, 0.001), (100, 0.004)]
    (run / "metrics.jsonl").write_text('{"step": 0, "loss_per_pair": 0.7}\n')
    assert BY_DRIFT not in curves_of(run) and drift_of(run) is None


def test_the_drift_of_a_run_is_that_of_the_weights_it_saved(tmp_path):
    best = make_run(tmp_path / "best", [100] * 20, held_out_votes=0.2, early_stop=2)
    moved_so_far(best, 0.006, 0.0002)
    lines = [json.loads(line) for line in (best / "metrics.jsonl").read_text().splitlines()]
    lines[1]["validation/cross_entropy"] = 0.1  # better than the last
    (best / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert drift_of(best)[0] == 0.0015
    average = make_run(tmp_path / "average", [100] * 20, held_out_votes=0.2, ema_decay=0.9)
    moved_so_far(average, 0.006, 0.0002)
    assert drift_of(average) is None
