"""One judge or several, corrected on statistics and embeddings: what a run makes of their votes."""

import json

import numpy as np
import pytest
import yaml
from scipy.special import expit, logit
from tiny import make_labelled_dataset, picture_bytes
from training.test_train import settings

import palate
from palate.data.dataset import PreferenceDataset
from palate.errors import PalateError
from palate.judges.annotate import annotate
from palate.judges.calibration import calibrated_votes, recalibrate
from palate.judges.embeddings import FILE, EmbeddingStore
from palate.labels.votes import prepare_rows
from palate.run.load import load_config

PAIRS, LABELLED, WIDTH = 600, 300, 8


def human_votes(choices) -> list[dict]:
    return [
        {"vote_id": f"ana-{i}", "pair_id": f"p{i:03}", "annotator_id": "ana", "source": "human", "choice": choice}
        for i, choice in choices.items()
    ]


def make_dataset(folder, choices, judges) -> PreferenceDataset:
    rng = np.random.default_rng(0)
    images = [{"bytes": picture_bytes(rng, 16, 16, "PNG"), "path": None} for _ in range(8)]
    dataset = PreferenceDataset.create(folder, name="tests")
    dataset.add_pairs(
        {"pair_id": f"p{i:03}", "prompt": f"prompt {i % 40}", "image_0": images[i % 7], "image_1": images[7]}
        for i in range(PAIRS)
    )
    dataset.append_votes(
        human_votes(choices)
        + [
            {"vote_id": f"{name}-{i}", "pair_id": f"p{i:03}", "annotator_id": name, "source": "judge",
             "choice": "0" if p > 0.5 else "1", "probability": p}
            for name, probabilities in judges.items() for i, p in enumerate(probabilities.tolist()) if not np.isnan(p)
        ]
    )  # fmt: skip
    return dataset


@pytest.fixture(scope="module")
def drawn():
    """People's choices, two judges that each miss some pairs, and embeddings along which people's taste goes."""
    rng = np.random.default_rng(1)
    fidelity, embeddings = rng.normal(size=PAIRS), rng.normal(size=(PAIRS, WIDTH)) * np.arange(1, WIDTH + 1) ** -0.7
    likes = rng.random(PAIRS) < expit(3 * fidelity + 1.5 * embeddings[:, 0])
    judges = {name: expit(2 * (fidelity + 0.7 * rng.normal(size=PAIRS))) for name in ("one", "two")}
    judges["one"][295:470] = judges["two"][460:480] = np.nan
    return {i: "0" if likes[i] else "1" for i in range(LABELLED)}, judges, embeddings


@pytest.fixture(scope="module")
def voted(tmp_path_factory, drawn) -> PreferenceDataset:
    return make_dataset(tmp_path_factory.mktemp("judged") / "data", *drawn[:2])


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, drawn) -> PreferenceDataset:
    dataset = make_dataset(tmp_path_factory.mktemp("embedded") / "data", *drawn[:2])
    with EmbeddingStore(dataset.path / "judges" / "clip" / FILE, "clip-1") as store:
        vectors = {f"v{i}": vector for i, vector in enumerate(drawn[2])} | {"none": np.zeros(WIDTH)}
        store.put(vectors, {f"p{i:03}": (f"v{i}", "none") for i in range(PAIRS)})
    return dataset


def rows_of(dataset, **changes):
    base = {
        "pretrained_model_name_or_path": "world",
        "dataset": str(dataset.path),
        "output_dir": "o",
        "method": "dedpo",
    }
    return prepare_rows(dataset, load_config({**base, "judge": ["one", "two"], **changes}))


def test_the_account_of_several_judges_names_each_and_a_pair_counts_where_any_voted(voted, capsys):
    together = rows_of(voted).account
    text = capsys.readouterr().out
    singles = {name: rows_of(voted, judge=name, target="judge").account for name in ("one", "two")}
    assert together["judge"]["name"] == "one+two" and together["judge"]["votes"] == PAIRS - 10
    assert together["judges"] == [singles[name]["judge"] for name in ("one", "two")]
    assert together["corrected judge"]["brier"] < min(a["corrected judge"]["brier"] for a in singles.values()) - 0.003
    for line in ("one agrees with people on", "two agrees", "the judges together agree", "the corrected judges agree"):
        assert f"labels: {line}" in text
    assert together["corrected judge"]["covariates"] == "6 picture statistics"
    json.dumps(together)


def test_without_correction_several_judges_are_the_mean_of_the_logits_of_those_that_voted(voted, drawn):
    one, two = (logit(drawn[1][name].clip(0.02, 0.98)) for name in ("one", "two"))
    expected = np.where(np.isnan(one), two, np.where(np.isnan(two), one, (one + two) / 2))
    rows = rows_of(voted, correction="none", target="judge")
    place = {f"p{i:03}": z for i, z in enumerate(expected)}
    assert len(rows) == PAIRS - 10
    np.testing.assert_allclose(logit(rows.target), [place[i] for i in rows.id], atol=1e-9)
    assert rows_of(voted, judge=["one"], correction="none", target="judge").account["judge"]["name"] == "one"


@pytest.mark.parametrize("which", ["voted", "embedded"])
def test_no_human_vote_reaches_the_probability_of_its_own_pair(which, drawn, request, tmp_path):
    dataset = request.getfixturevalue(which)
    choices, judges, vectors = drawn
    turned = make_dataset(tmp_path / "data", choices | {5: "1" if choices[5] == "0" else "0"}, judges)
    if which == "embedded":
        (turned.path / "judges" / "clip").mkdir(parents=True)
        (turned.path / "judges" / "clip" / FILE).write_bytes((dataset.path / "judges" / "clip" / FILE).read_bytes())
    before, after = ({i: p for i, p in zip(r.id, r.pseudo, strict=True)} for r in map(rows_of, (dataset, turned)))
    assert after["p005"] == before["p005"]
    assert max(abs(after[i] - before[i]) for i in before) > 1e-4


def test_embeddings_are_covariates_where_they_are_there_and_a_key_leaves_them_out(voted, embedded, capsys):
    briers = {
        which: rows_of(embedded, covariates=which).account["corrected judge"]
        for which in ("all", "embeddings", "statistics")
    }
    assert "labels: corrected on 6 picture statistics and 8 directions of embeddings of clip" in capsys.readouterr().out
    assert briers["all"]["covariates"] == "6 picture statistics and 8 directions of embeddings of clip"
    assert briers["embeddings"]["covariates"] == "8 directions of embeddings of clip"
    assert max(briers["all"]["brier"], briers["embeddings"]["brier"]) < briers["statistics"]["brier"] - 0.02
    assert "Beyond what has a name, people differ from the judges" in briers["all"]["finding"]
    assert briers["statistics"]["brier"] == rows_of(voted).account["corrected judge"]["brier"]
    with pytest.raises(PalateError, match="covariates: embeddings, but .* has none"):
        rows_of(voted, covariates="embeddings")


def test_training_calibrates_as_the_view_does_even_where_a_temperature_pushed_all_to_0_or_1(tmp_path, capsys):
    dataset = make_labelled_dataset(tmp_path / "data", pairs=60, labelled=40)  # "ana" prefers the darker picture
    annotate(dataset, "brightness", temperature=0.001)
    recalibrate(dataset, "brightness")
    view = calibrated_votes(dataset, "brightness")
    rows = rows_of(dataset, judge="brightness", correction="calibrate", target="judge")
    assert (
        rows.target.tolist() == pytest.approx([view[i] for i in rows.id], abs=1e-9) and len(np.unique(rows.target)) > 50
    )
    assert rows.account["judge"]["brier"] > 0.9 and "the Brier score from 0.9" in capsys.readouterr().out  # as it voted
    hard = rows_of(dataset, judge="brightness", correction="calibrate", target="judge", hard_votes=True)
    assert len(np.unique(np.abs(hard.target - 0.5).round(6))) < 10


def test_a_run_with_a_list_of_judges_trains_goes_on_and_is_another_than_with_one(pipeline_folder, tmp_path, drawn):
    choices, judges, _ = drawn
    dataset = make_dataset(tmp_path / "data", choices, judges)
    options = settings(
        pipeline_folder,
        dataset,
        tmp_path / "run",
        method="dedpo",
        judge=["one", "two"],
        correction="calibrate",
        beta=50.0,
    )
    palate.train({**options, "max_train_steps": 2})
    run = palate.train({**options, "max_train_steps": 4})
    assert yaml.safe_load((run.path / "config.yaml").read_text())["judge"] == ["one", "two"]
    assert [line["step"] for line in run.metrics] == [0, 1, 2, 3]
    assert any("by_source/one+two/rewards/margins" in line for line in run.metrics)
    with pytest.raises(PalateError, match="another configuration .*judge"):
        palate.train({**options, "judge": "one"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"judge": ["one", "one"]}, "names one judge twice"),
        ({"judge": ["one", "self"], "correction": "none"}, "give it alone"),
        ({"judge": ["one", 3]}, "is not text or a list of texts"),
        ({"judge": {"one": 1}}, "is not text or a list of texts"),
        ({"judge": []}, "needs a judge"),
        ({"correction": "calibrate", "covariates": "statistics"}, "belong to correction: covariates"),
        ({"judge": ["one", "nobody"]}, "'nobody' voted on none"),
    ],
)
def test_lists_that_cannot_work_are_refused_with_the_reason(voted, changes, words):
    with pytest.raises(PalateError, match=words):
        rows_of(voted, **changes)


def test_auto_trains_what_it_says_and_leaves_a_judge_of_noise_out(tmp_path, capsys):
    rng = np.random.default_rng(4)
    fidelity = rng.normal(size=PAIRS)
    votes = rng.random(PAIRS) < expit(3 * fidelity)
    judges = {"good": expit(2 * fidelity + 0.5 * rng.normal(size=PAIRS)), "noise": rng.random(PAIRS)}
    dataset = make_dataset(tmp_path / "data", {i: "0" if votes[i] else "1" for i in range(60)}, judges)
    common = {"pretrained_model_name_or_path": "world", "dataset": str(dataset.path), "output_dir": "out"}
    rows = prepare_rows(dataset, load_config({**common, "method": "auto", "judge": "good"}))
    choice = rows.account["choice"]
    assert choice["target"] == "dedpo" and choice["residual"] < 1 and choice["why"] in capsys.readouterr().out
    keys = {key: value for key, value in choice.items() if key in ("correction", "residual", "power")}
    same = prepare_rows(dataset, load_config({**common, "method": "dedpo", "judge": "good", **keys}))
    np.testing.assert_array_equal(rows.target, same.target)
    np.testing.assert_array_equal(rows.weight, same.weight)
    alone = prepare_rows(dataset, load_config({**common, "method": "auto", "judge": "noise"}))
    assert alone.account["choice"]["target"] == "human" and len(alone) == 60 and set(alone.target) == {0.0, 1.0}


def test_madpo_weighs_by_the_corrected_judge_with_targets_of_human_votes_alone(voted):
    corrected_judge = rows_of(voted, target="human", madpo=1.0)
    as_it_is = rows_of(voted, target="human", madpo=1.0, correction="none")
    assert "corrected judge" in corrected_judge.account and "corrected judge" not in as_it_is.account
    assert not np.allclose(corrected_judge.judge_margin, as_it_is.judge_margin)
