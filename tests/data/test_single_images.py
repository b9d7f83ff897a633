"""Single images, rows of the pairs without a second picture: stored, checked, imported and counted."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from palate.data.dataset import PreferenceDataset, decode_image, open_dataset
from palate.data.importing import import_pairs, summary_lines
from palate.data.labels import collect_labels
from palate.data.schema import PAIRS, pair_row
from palate.data.summary import print_summary, summarise
from palate.data.views import single_images
from palate.errors import PalateError


@pytest.fixture
def prefs(tmp_path):
    return tmp_path / "prefs"


def rows(prefs):
    return [row for batch in open_dataset(prefs).iter_pairs() for row in batch.to_pylist()]


def likes(prefs):
    """(prompt, bytes of the picture, choice) of every vote on a single image."""
    by_id = {row["pair_id"]: row for row in rows(prefs) if row["image_1"] is None}
    votes = [vote for vote in open_dataset(prefs).votes().to_pylist() if vote["pair_id"] in by_id]
    return {(by_id[v["pair_id"]]["prompt"], by_id[v["pair_id"]]["image_0"]["bytes"], v["choice"]) for v in votes}


def test_image_1_may_be_missing_and_image_0_may_not(pair):
    assert pair_row(pair("a", image_1=None), "row 0")["image_1"] is None
    without = {name: value for name, value in pair("a").items() if name != "image_1"}
    assert pair_row(without, "row 0")["image_1"] is None
    with pytest.raises(PalateError, match="image_0 is missing"):
        pair_row(pair("a", image_0=None), "row 0")
    with pytest.raises(PalateError, match="generator_1 and no image_1"):
        pair_row(pair("a", image_1=None, generator_1={"model": "m"}), "row 0")


def test_a_single_image_is_read_again_as_it_was_beside_pairs(prefs, pair):
    dataset = PreferenceDataset.create(prefs, "prefs")
    given = [pair("a"), pair("b", image_1=None), pair("c", image_0={"path": "c.png"}, image_1=None)]
    dataset.add_pairs(given)
    dataset.append_votes([{"pair_id": "b", "annotator_id": "ana", "source": "human", "choice": "0"}])
    assert [row["image_1"] is None for row in rows(prefs)] == [False, True, True]
    assert rows(prefs)[1]["image_0"] == {"bytes": given[1]["image_0"], "path": None}
    assert single_images(dataset) == {"b", "c"} and len(dataset) == 3
    dataset.validate()
    with pytest.raises(PalateError, match="no second picture"):
        decode_image(rows(prefs)[1]["image_1"], prefs)


def test_the_datasets_library_shows_a_single_image_as_one_without_image_1(prefs, pair, tmp_path):
    datasets = pytest.importorskip("datasets")
    PreferenceDataset.create(prefs, "prefs").add_pairs([pair("a"), pair("b", image_1=None)])
    files = [str(path) for path in (prefs / "pairs").glob("*.parquet")]
    loaded = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image_1"].size == loaded[1]["image_0"].size == (12, 8)
    assert loaded[1]["image_1"] is None


def test_a_row_on_disk_without_image_0_is_a_problem(prefs, pair):
    dataset = PreferenceDataset.create(prefs, "prefs")
    dataset.add_pairs([pair("a", image_1=None)])
    foreign = [{"pair_id": "b", "prompt": "b", "image_0": None, "image_1": {"bytes": b"x", "path": None}}]
    pq.write_table(pa.Table.from_pylist(foreign, schema=PAIRS), prefs / "pairs" / "pairs-90000-x.parquet")
    (line,) = dataset.problems()
    assert "pairs-90000-x.parquet row 0: no image_0" in line


def test_labels_of_single_images_are_the_share_that_likes_them(prefs, pair):
    dataset = PreferenceDataset.create(prefs, "prefs")
    dataset.add_pairs([pair("a", image_1=None), pair("b", image_1=None)])
    votes = [("a", "ana", "0"), ("a", "bo", "1"), ("a", "cy", "0"), ("b", "ana", "1"), ("b", "bo", "skip")]
    dataset.append_votes({"pair_id": p, "annotator_id": a, "source": "human", "choice": c} for p, a, c in votes)
    labels = collect_labels(dataset.pairs(["pair_id"])["pair_id"], dataset.votes())
    np.testing.assert_allclose(labels.human, [2 / 3, 0])


def folder_of_likes(folder, picture):
    for side in ("liked", "disliked"):
        (folder / side / "deep").mkdir(parents=True)
    for i in range(4):
        side = folder / ("liked" if i % 2 else "disliked")
        (side / f"{i}.jpg").write_bytes(picture(i))
        (side / f"{i}.txt").write_text(f"prompt {i}\n")
    return folder


def test_folders_of_liked_and_disliked_images(tmp_path, prefs, picture):
    source = folder_of_likes(tmp_path / "set", picture)
    (source / "liked" / "deep" / "x.png").write_bytes(picture(10, format="PNG"))
    (source / "disliked" / "y.jpg").write_bytes(picture(11))
    (source / "disliked" / "z.jpg").write_bytes(b"<html>")
    (source / "disliked" / "z.txt").write_text("broken")
    (source / "captions.jsonl").write_text('{"file": "liked/deep/x.png", "caption": "from the list"}\n')
    report = import_pairs("folders", [source], prefs, annotator="ana")
    assert (report.read, report.pairs_added, report.single_images, report.votes_added) == (7, 5, 5, 5)
    assert dict(report.skipped) == {"no prompt": 1, "image does not decode": 1}
    expected = {(f"prompt {i}", picture(i), "0" if i % 2 else "1") for i in range(4)}
    assert likes(prefs) == expected | {("from the list", picture(10, format="PNG"), "0")}
    assert "5 of those added are single images" in "\n".join(summary_lines(report))
    again = import_pairs("folders", [source], prefs, annotator="ana")
    assert (again.pairs_added, again.pairs_known, again.votes_known, again.single_images) == (0, 5, 5, 0)


def test_one_folder_may_hold_pairs_and_liked_images_and_nothing_of_either_is_lost(tmp_path, prefs, picture):
    source = folder_of_likes(tmp_path / "set", picture)
    for side, number in (("win", 20), ("lose", 21)):
        (source / side).mkdir()
        (source / side / "1.jpg").write_bytes(picture(number))
    (source / "win" / "1.txt").write_text("a pair")
    report = import_pairs("folders", [source], prefs)
    assert (report.pairs_added, report.single_images, report.votes_added) == (5, 4, 5)
    assert [row["prompt"] for row in rows(prefs) if row["image_1"] is not None] == ["a pair"]


def test_only_liked_images_are_enough_and_neither_folder_is_an_error(tmp_path, prefs, picture):
    source = tmp_path / "set"
    (source / "liked").mkdir(parents=True)
    (source / "liked" / "a.jpg").write_bytes(picture(0))
    (source / "liked" / "a.txt").write_text("a")
    assert import_pairs("folders", [source], prefs).single_images == 1
    with pytest.raises(PalateError, match="liked/ or disliked/"):
        import_pairs("folders", [source / "liked"], prefs)


def test_jsonl_lines_of_one_image_say_whether_it_was_liked(tmp_path, prefs, picture):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
    lines = [
        {"prompt": "a", "image": "0.jpg", "label": True},
        {"prompt": "b", "image": "0.jpg", "label": 1},
        {"prompt": "c", "image": "0.jpg", "label": False, "annotator_id": "ana", "seconds": 2.0},
        {"prompt": "c", "image": "0.jpg", "label": 0, "annotator_id": "bo"},
        {"prompt": "d", "image": "1.jpg", "label": 0.5},
        {"prompt": "e", "image": "1.jpg", "label": "skip"},
        {"prompt": "f", "image": "1.jpg"},
        {"prompt": "g", "image": "2.jpg", "label": 0, "source": "judge", "probability": 0.1, "pair_id": "mine"},
        {"prompt": "h", "image": "1.jpg", "choice": 1},
        {"prompt": "i", "image": "1.jpg", "label": "good"},
        {"prompt": "j", "image": "nowhere.jpg", "label": True},
        {"prompt": "k", "image": "1.jpg", "image_1": "2.jpg", "label": 1},
        {"prompt": "l", "image_0": "1.jpg", "image_1": "2.jpg", "label": 1},
        {"prompt": "m", "image_0": "1.jpg", "label": 1},
    ]
    source = tmp_path / "all.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    report = import_pairs("jsonl", [source], prefs)
    assert dict(report.skipped) == {"field of a pair": 2, "label outside the set": 1, "image missing": 2}
    assert any("choice does not belong to a single image" in message for message in report.messages)
    assert (report.pairs_added, report.pairs_known, report.single_images) == (8, 1, 7)
    assert (report.ties, report.skips, report.without_vote) == (1, 1, 1)
    found = {(prompt, choice) for prompt, _, choice in likes(prefs)}
    assert found == {("a", "0"), ("b", "0"), ("c", "1"), ("d", "tie"), ("e", "skip"), ("g", "1")}
    (judged,) = [vote for vote in open_dataset(prefs).votes().to_pylist() if vote["pair_id"] == "mine"]
    assert judged["probability"] == 0.1 and judged["source"] == "judge"


def test_one_image_liked_and_disliked_by_nobody_knows_whom_is_two_votes_on_one_row(tmp_path, prefs, picture):
    (tmp_path / "0.jpg").write_bytes(picture(0))
    lines = [{"prompt": "a", "image": "0.jpg", "label": label} for label in (True, False, True)]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = import_pairs("jsonl", [tmp_path / "all.jsonl"], prefs)
    assert (report.pairs_added, report.pairs_known, report.votes_added, report.votes_known) == (1, 2, 2, 1)


@pytest.mark.parametrize("name", ["completion", "image"])
def test_trl_unpaired_rows_in_parquet(tmp_path, prefs, picture, name):
    given = [{"prompt": f"{i}", name: {"bytes": picture(i)}, "label": i % 3 == 0} for i in range(5)]
    pq.write_table(pa.Table.from_pylist(given), tmp_path / "a.parquet")
    report = import_pairs("trl", [tmp_path / "a.parquet"], prefs)
    assert (report.pairs_added, report.single_images, report.votes_added) == (5, 5, 5)
    assert likes(prefs) == {(f"{i}", picture(i), "1" if i % 3 else "0") for i in range(5)}


def test_trl_unpaired_lines_may_be_conversations_and_stand_beside_pairs(tmp_path, prefs, picture):
    for i in range(2):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
    prompt = [{"role": "user", "content": "a cat"}]
    shown = [{"role": "assistant", "content": [{"type": "image", "image": "0.jpg"}]}]
    lines = [
        {"prompt": prompt, "completion": shown, "label": True},
        {"prompt": "a dog", "completion": "1.jpg", "label": False},
        {"prompt": "a pair", "chosen": "0.jpg", "rejected": "1.jpg"},
        {"prompt": "a poem", "completion": " blue.", "label": True},
        {"prompt": "no image", "label": True},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = import_pairs("trl", [tmp_path / "a.jsonl"], prefs)
    assert (report.pairs_added, report.single_images, report.skipped["image missing"]) == (3, 2, 2)
    assert likes(prefs) == {("a cat", picture(0), "0"), ("a dog", picture(1), "1")}


def test_trl_files_of_neither_form_are_named_with_the_missing_column(tmp_path, prefs):
    for columns, missing in (
        ("prompt", "chosen, rejected"),
        ("prompt completion", "label"),
        ("label", "prompt, comple"),
    ):
        pq.write_table(pa.Table.from_pylist([dict.fromkeys(columns.split(), "x")]), tmp_path / "a.parquet")
        with pytest.raises(PalateError, match=f"no column {missing}"):
            import_pairs("trl", [tmp_path / "a.parquet"], prefs)


def test_single_images_are_counted_apart(prefs, pair):
    dataset = PreferenceDataset.create(prefs, "prefs")
    singles = [pair(name, image_1=None) for name in "bcd"] + [pair("e", image_0={"path": "no.png"}, image_1=None)]
    dataset.add_pairs([pair("a"), *singles])
    votes = [("a", "1"), ("b", "0"), ("c", "1"), ("d", "0")]
    dataset.append_votes({"pair_id": p, "annotator_id": "ana", "source": "human", "choice": c} for p, c in votes)
    summary = summarise(dataset)
    assert (summary["pairs"], summary["votes"], summary["pairs_without_votes"], summary["prompts"]) == (1, 1, 0, 5)
    assert summary["choices"] == {"human": {"0": 0, "1": 1, "tie": 0, "skip": 0}}
    assert summary["pairs_lacking_images"] == 0
    found = summary["single_images"]
    assert {name: found[name] for name in ("images", "without_votes", "lacking", "votes")} == {
        "images": 4, "without_votes": 1, "lacking": 1, "votes": 3,
    }  # fmt: skip
    assert found["choices"] == {"human": {"0": 2, "1": 1, "tie": 0, "skip": 0}}
    assert summary["image_sizes"] == [{"width": 12, "height": 8, "images": 5}]
    out = io.StringIO()
    print_summary(summary, Console(file=out, width=100))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["human", "ana", "3", "2", "1", "0", "0"] in lines and ["human", "ana", "1", "0", "1", "0", "0"] in lines
    assert any(line[:3] == ["single", "images", "4"] for line in lines)
