"""Votes on pairs whose pictures are elsewhere or nowhere: imported, counted, audited, compared; never trained on."""

import json

import numpy as np
import pytest
from real_votes import needs_tifa160, tifa160_lines

import palate
from palate.data.dataset import open_dataset
from palate.data.generators import model_of, models_of_pairs
from palate.data.identity import single_images, without_pictures
from palate.data.importing import import_pairs
from palate.data.schema import pair_row
from palate.errors import PalateError
from palate.judges.statistics import statistics_of_pairs
from palate.labels.votes import prepare_rows
from palate.run.config import TrainConfig


@pytest.fixture
def prefs(tmp_path):
    return tmp_path / "prefs"


def lines(tmp_path, rows, name="votes.jsonl"):
    (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / name


def votes_of(prefs):
    return sorted((v["pair_id"], v["annotator_id"], v["choice"]) for v in open_dataset(prefs).votes().to_pylist())


def test_a_pair_may_lack_both_pictures_and_not_one(pair):
    assert pair_row(pair("a", image_0=None, image_1=None), "row 0")["image_0"] is None
    with pytest.raises(PalateError, match="image_0 is missing"):
        pair_row(pair("a", image_0=None), "row 0")


def test_pairs_of_two_generators_need_no_picture(tmp_path, prefs):
    one, two = {"model": "m", "seed": 1}, {"model": "n"}
    rows = [
        {"prompt": "a", "generator_0": one, "generator_1": two, "annotator_id": "ana", "choice": 0},
        {
            "prompt": "a",
            "generator_0": two,
            "generator_1": one,
            "annotator_id": "bo",
            "choice": 0,
        },  # the same pair, turned
        {"prompt": "a", "generator_0": {"model": "m", "seed": 2}, "generator_1": two, "choice": "tie"},
        {"prompt": "b", "generator_0": "m", "generator_1": "m", "choice": 0},
        {"prompt": "c", "choice": 0},
        {"prompt": "d", "pair_id": "mine", "choice": 1, "annotator_id": "ana"},
        {"prompt": "e", "pair_id": "mine", "choice": 1, "annotator_id": "bo"},
    ]
    source = lines(tmp_path, rows)
    report = import_pairs("jsonl", [source], prefs)
    assert (report.pairs_added, report.pairs_known, report.without_images, report.single_images) == (3, 1, 3, 0)
    assert dict(report.skipped) == {"image missing": 2, "name of another pair": 1}
    dataset = open_dataset(prefs)
    dataset.validate()
    assert len(without_pictures(dataset)) == 3 and not single_images(dataset)
    assert sorted(choice for _, who, choice in votes_of(prefs) if who == "bo") == ["1"]
    again = import_pairs("jsonl", [source], prefs)
    assert (again.pairs_added, again.votes_added) == (0, 0)


def test_a_vote_without_pictures_goes_to_the_pair_of_its_name(tmp_path, prefs, picture):
    for k in range(2):
        (tmp_path / f"{k}.jpg").write_bytes(picture(k))
    shown = {"prompt": "a", "pair_id": "mine", "image_0": "0.jpg", "image_1": "1.jpg"}
    import_pairs("jsonl", [lines(tmp_path, [shown])], prefs)
    vote = {"prompt": "a", "pair_id": "mine", "annotator_id": "ana", "choice": 1}
    report = import_pairs("jsonl", [lines(tmp_path, [vote, vote | {"prompt": "another"}], "more.jsonl")], prefs)
    assert (report.pairs_added, report.pairs_known, report.votes_added) == (0, 1, 1)
    assert dict(report.skipped) == {"name of another pair": 1}
    assert not without_pictures(open_dataset(prefs))


def test_pictures_that_are_elsewhere_may_be_put_there_later(tmp_path, prefs, picture):
    rows = [
        {"prompt": "a", "image_0": "x/0.jpg", "image_1": "x/1.jpg", "annotator_id": "ana", "choice": 0},
        {"prompt": "a", "image_0": "x/1.jpg", "image_1": "x/0.jpg", "annotator_id": "bo", "choice": 0},
        {"prompt": "b", "image_0": "https://example.org/0.jpg", "image_1": "https://example.org/1.jpg", "choice": 1},
        {"prompt": "c", "image_0": "../0.jpg", "image_1": "../1.jpg", "choice": 1},
    ]
    source = lines(tmp_path, rows)
    report = import_pairs("jsonl", [source], prefs)
    assert (report.pairs_added, report.pairs_known, report.without_images) == (2, 1, 2)
    assert dict(report.skipped) == {"path leaves the folder": 1}
    before = votes_of(prefs)
    assert {choice for _, who, choice in before if who == "bo"} == {"1"}
    assert palate.info(prefs)["pairs_lacking_images"] == 2 and palate.info(prefs)["pairs_without_pictures"] == 0
    (tmp_path / "x").mkdir()
    for k in range(2):
        (tmp_path / "x" / f"{k}.jpg").write_bytes(picture(k))
    assert palate.info(prefs)["pairs_lacking_images"] == 1
    import_pairs("jsonl", [source], prefs)  # the files are read now, and the pair is still the one of their names
    assert votes_of(prefs) == before and len(open_dataset(prefs)) == 2


def test_one_picture_of_two_that_is_missing_is_a_mistake(tmp_path, prefs, picture):
    (tmp_path / "0.jpg").write_bytes(picture(0))
    with pytest.raises(PalateError, match="nothing could be imported|image_1 is missing"):
        import_pairs("jsonl", [lines(tmp_path, [{"prompt": "a", "image_0": "0.jpg", "image_1": "1.jpg"}])], prefs)


def test_the_library_datasets_reads_a_pair_without_pictures(tmp_path, prefs, pair):
    datasets = pytest.importorskip("datasets")
    dataset = palate.PreferenceDataset.create(prefs, "prefs")
    dataset.add_pairs([pair("a"), pair("b", image_0=None, image_1=None)])
    files = [str(path) for path in (prefs / "pairs").glob("*.parquet")]
    loaded = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image_0"].size == (12, 8) and loaded[1]["image_0"] is None and loaded[1]["image_1"] is None


def test_training_says_what_is_missing(tmp_path, prefs, pair, capsys):
    dataset = palate.PreferenceDataset.create(prefs, "prefs")
    dataset.add_pairs([pair(name, image_0=None, image_1=None) for name in "abcd"])
    dataset.append_votes([{"pair_id": p, "annotator_id": "ana", "source": "human", "choice": "0"} for p in "abcd"])
    told = TrainConfig("world", str(prefs), str(tmp_path / "run"))
    with pytest.raises(PalateError, match="all its 4 pairs were imported without pictures.*Import them again"):
        prepare_rows(dataset, told)
    dataset.add_pairs([pair("e")])
    assert len(prepare_rows(dataset, told)) == 4  # encoding leaves them out
    assert "4 pairs were imported without pictures" in capsys.readouterr().out
    assert not without_pictures(dataset) & {"e"}
    dataset = palate.PreferenceDataset.create(tmp_path / "none", "none")
    dataset.add_pairs([pair("a", image_0=None, image_1=None)])
    with pytest.raises(PalateError, match="without pictures"):
        palate.label(tmp_path / "none", browser=False, port=0)


def test_the_model_in_a_generator():
    assert model_of(None) is None and model_of('{"model": "sd1.5", "seed": 3}') == "sd1.5"
    assert model_of("sd1.5") == "sd1.5" and model_of('{"seed": 3}') is None and model_of("7") == "7"


def test_two_models_compared_by_votes_without_a_folder_of_either(tmp_path, prefs):
    rng = np.random.default_rng(0)
    rows = [
        {
            "prompt": f"p{k}", "generator_0": {"model": made[0]}, "generator_1": {"model": made[1]},
            "choice": int(made[int(rng.random() < 0.2)] == made[1]) if "good" in made and made[0] == "good" else
            int(rng.random() < 0.8),
        }
        for k, made in enumerate([("good", "bad"), ("bad", "good")] * 60)
    ]  # fmt: skip
    import_pairs(
        "jsonl", [lines(tmp_path, [*rows, {"prompt": "x", "generator_0": "good", "generator_1": "other"}])], prefs
    )
    found = palate.compare("good", against="bad", votes=prefs)
    turned = palate.compare("bad", against="good", votes=prefs)
    assert found.pairs == 120 and found.other_pairs == 1 and found.human.low > 0.5 and found.headline.winner == "a"
    assert turned.human.rate == pytest.approx(1 - found.human.rate) and turned.human.winner == "b"
    with pytest.raises(PalateError, match="no model 'godo'.*good"):
        palate.compare("godo", against="bad", votes=prefs)
    with pytest.raises(PalateError, match="none of its pairs shows one beside the other"):
        palate.compare("other", against="bad", votes=prefs)


@needs_tifa160
def test_real_votes_without_pictures_are_imported_audited_and_compared(tmp_path, prefs):
    report = import_pairs("jsonl", [tifa160_lines(tmp_path / "t.jsonl", ("tifa_mplug-large",))], prefs)
    assert (report.pairs_added, report.without_images, report.votes_added) == (1600, 1600, 9580)
    told = palate.info(prefs)
    assert told["pairs_lacking_images"] == told["pairs_without_pictures"] == told["pairs_with_human_votes"] == 1600
    dataset = open_dataset(prefs)
    assert statistics_of_pairs(dataset) == ({}, ())  # nothing stands in for pictures that nobody has
    assert len(models_of_pairs(dataset)) == 1600
    found = palate.compare("sd2dot1", against="mini-dalle", votes=prefs)
    assert found.human.n == 160 and found.human.low > 0.5
