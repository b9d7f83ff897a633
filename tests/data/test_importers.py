import json
import random
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from shared import SHARED

from palate.data.dataset import open_dataset
from palate.data.importing import import_pairs, summary_lines
from palate.errors import PalateError

IMAGEREWARD = SHARED / "data/imagereward"


@pytest.fixture
def prefs(tmp_path):
    return tmp_path / "prefs"


@pytest.fixture
def pick(picture):
    """Make one Pick-a-Pic row; images are JPEG bytes of mixed sizes."""

    def row(name: int, label_0: float = 1.0, label_1: float = 0.0, **more) -> dict:
        return {
            "caption": f"prompt {name}",
            "jpg_0": picture(2 * name, (8 + name, 8)),
            "jpg_1": picture(2 * name + 1, (8, 8 + name)),
            "label_0": label_0,
            "label_1": label_1,
            "has_label": True,
            "are_different": label_0 != label_1,
            "user_id": 5,
            "ranking_id": name,
            "image_0_uid": f"uid-{2 * name}",
            "image_1_uid": f"uid-{2 * name + 1}",
            "model_0": "xl",
            "model_1": "turbo",
            "created_at": datetime(2023, 1, 1, 12),
        } | more

    return row


def save(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def choices(prefs):
    """pair -> (prompt, choice) of every vote."""
    dataset = open_dataset(prefs)
    prompts = dict(zip(*(dataset.pairs()[name].to_pylist() for name in ("pair_id", "prompt")), strict=True))
    return sorted((prompts[v["pair_id"]], v["annotator_id"], v["choice"]) for v in dataset.votes().to_pylist())


def test_pickapic_labels_become_votes_and_a_tie_is_a_tie(tmp_path, prefs, pick):
    rows = [pick(0), pick(1, 0.0, 1.0), pick(2, 0.5, 0.5), pick(3, 0.5, 0.5, has_label=False)]
    report = import_pairs("pickapic", [save(tmp_path / "a.parquet", rows)], prefs)
    assert (report.read, report.pairs_added, report.votes_added, report.ties, report.without_vote) == (4, 4, 3, 1, 1)
    who = "user-5"
    assert choices(prefs) == [("prompt 0", who, "0"), ("prompt 1", who, "1"), ("prompt 2", who, "tie")]
    stored = [row for batch in open_dataset(prefs).iter_pairs() for row in batch.to_pylist()]
    assert [row["image_1"]["bytes"] for row in stored] == [row["jpg_1"] for row in rows]  # as they are
    assert json.loads(stored[0]["generator_1"]) == {"model": "turbo"}
    assert open_dataset(prefs).votes()["created_at"][0].as_py() == datetime(2023, 1, 1, 12, tzinfo=UTC)


def test_several_people_on_one_pair_in_either_order_vote_on_that_pair(tmp_path, prefs, pick):
    first = pick(0)
    swapped = first | {"user_id": 6, "jpg_0": first["jpg_1"], "jpg_1": first["jpg_0"]}
    swapped |= {"image_0_uid": first["image_1_uid"], "image_1_uid": first["image_0_uid"]}
    rows = [first, first | {"user_id": 7, "label_0": 0.0, "label_1": 1.0}, swapped]
    report = import_pairs("pickapic", [save(tmp_path / "a.parquet", rows)], prefs)
    assert (report.pairs_added, report.pairs_known, report.votes_added) == (1, 2, 3)
    # the third person preferred the image that the first row calls image 1
    assert [choice for _, _, choice in choices(prefs)] == ["0", "1", "1"]
    again = import_pairs("pickapic", [save(tmp_path / "b.parquet", rows[::-1])], prefs)
    assert (again.pairs_added, again.votes_added, again.votes_known) == (0, 0, 3)


def test_every_bad_row_is_named_and_the_others_come_in(tmp_path, prefs, pick):
    bad = [
        (pick(1, 0.7, 0.3), "row 1: labels 0.7 and 0.3 are not both in {0, 0.5, 1}."),
        (pick(2, 1.0, 1.0), "row 2: label_0 + label_1 is 2, not 1."),
        (pick(3, caption=None), "row 3: no prompt (caption is missing or blank)."),
        (pick(4, jpg_1=b"<html>gone</html>"), "row 4: image_1 is not a picture (starts with '<html')."),
        (pick(5, jpg_0=None), "row 5: jpg_0 is missing."),
        (pick(6, None, None), "row 6: labels None and None are not both in {0, 0.5, 1}."),
    ]
    source = save(tmp_path / "a.parquet", [pick(0), *(row for row, _ in bad), pick(7)])
    report = import_pairs("pickapic", [source], prefs)
    assert report.read == 8 and report.pairs_added == 2 and report.skipped.total() == 6
    assert report.skipped["label outside {0, 0.5, 1}"] == 2
    for message in report.messages:  # images are checked after the rows of a chunk, hence in another order
        assert message in [f"{source} {line}" for _, line in bad]
    lines = "\n".join(summary_lines(report))
    assert "The other 2 pairs were imported; rerun with the file repaired to add the rest." in lines
    assert "… and 1 more like these." in lines
    repaired = import_pairs("pickapic", [save(source, [pick(i) for i in range(8)])], prefs)
    assert (repaired.pairs_added, repaired.pairs_known, repaired.votes_known) == (6, 2, 2)
    assert open_dataset(prefs).problems() == []


def test_a_truncated_source_is_named_after_the_others_are_in(tmp_path, prefs, pick):
    good, broken = save(tmp_path / "a.parquet", [pick(0)]), save(tmp_path / "b.parquet", [pick(1)])
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-30])
    line = r"b.parquet: not a complete parquet file.*The other 1 pairs were imported; rerun with the file repaired"
    with pytest.raises(PalateError, match=line):
        import_pairs("pickapic", [broken, good], prefs)
    assert len(open_dataset(prefs)) == 1
    with pytest.raises(
        PalateError, match=r"gone.parquet: no such file.*1 pairs were imported; rerun with the right name"
    ):
        import_pairs("pickapic", [tmp_path / "gone.parquet", good], prefs)
    with pytest.raises(PalateError, match=r"gone.parquet: no such file or folder.$"):
        import_pairs("pickapic", [tmp_path / "gone.parquet"], tmp_path / "new")
    broken.write_bytes(whole)
    assert import_pairs("pickapic", [broken, good], prefs).pairs_added == 1


def test_an_import_of_nothing_says_why_and_leaves_nothing(tmp_path, prefs, pick):
    with pytest.raises(PalateError, match="nothing.parquet: no such file"):
        import_pairs("pickapic", [tmp_path / "nothing.parquet"], prefs)
    with pytest.raises(PalateError, match="nothing was imported: .*row 0: label_0 . label_1 is 2, not 1"):
        import_pairs("pickapic", [save(tmp_path / "a.parquet", [pick(0, 1.0, 1.0)])], prefs)
    source = save(tmp_path / "c.parquet", [{"caption": "x"}])
    with pytest.raises(PalateError, match="c.parquet: no column jpg_0, jpg_1, label_0, label_1"):
        import_pairs("pickapic", [source], prefs)
    assert not prefs.exists()


@pytest.mark.parametrize("names", [("win", "lose"), ("w", "l")])
def test_folders(tmp_path, prefs, picture, names):
    win, lose = (tmp_path / "set" / name for name in names)
    win.mkdir(parents=True)
    lose.mkdir()
    for i in range(40):
        (win / f"{i}.jpg").write_bytes(picture(2 * i))
        (lose / f"{i}.png").write_bytes(picture(2 * i + 1, format="PNG"))
        (win / f"{i}.txt").write_text(f"prompt {i}\n")
    (win / "1.txt").unlink()
    (tmp_path / "set" / "captions.jsonl").write_text('{"file": "1.jpg", "caption": "from the list"}\n')
    (win / "2.txt").unlink()
    (lose / "3.png").unlink()
    (lose / "alone.png").write_bytes(picture(99, format="PNG"))
    report = import_pairs("folders", [tmp_path / "set"], prefs, annotator="ana")
    assert report.pairs_added == 38 and dict(report.skipped) == {"no partner": 2, "no prompt": 1}
    pairs = {row["pair_id"]: row for batch in open_dataset(prefs).iter_pairs() for row in batch.to_pylist()}
    winners = {path.read_bytes() for path in win.glob("*.jpg")}
    for vote in open_dataset(prefs).votes().to_pylist():
        assert pairs[vote["pair_id"]][f"image_{vote['choice']}"]["bytes"] in winners
        assert vote["annotator_id"] == "ana"
    assert "from the list" in {row["prompt"] for row in pairs.values()}
    with pytest.raises(PalateError, match="no folders win/ and lose/"):
        import_pairs("folders", [win], prefs)


def test_jsonl(tmp_path, prefs, picture):
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
    both = {"image_0": "0.jpg", "image_1": "1.jpg"}
    lines = [
        {"prompt": "a", "choice": 1, "annotator_id": "ana", "seconds": 2.5, "probability": 0.2, **both},
        {"prompt": "a", "label": "tie", "annotator_id": "bo", **both},
        {"prompt": "a", "choice": 0, "annotator_id": "cy", "image_0": "1.jpg", "image_1": "0.jpg", "order_shown": "01"},
        {"prompt": "b", "label_0": 1, "label_1": 0, **both, "propensity": 0.25},
        {"prompt": "c", **both},
        {"prompt": "d", "choice": "left", **both},
        {"prompt": "e", "choice": 0, "image_0": "0.jpg", "image_1": "nowhere.jpg"},
        {"prompt": "f", "choice": 0, "pair_id": "mine", **both},
        {"prompt": "g", "choice": 0, "pair_id": "mine", "image_0": "2.jpg", "image_1": "3.jpg"},
        {"prompt": "h", "choice": 0, "propensity": 7, **both},
    ]
    source = tmp_path / "pairs.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)) + "\n\n{broken\n")
    report = import_pairs("jsonl", [source], prefs)
    assert (report.read, report.pairs_added, report.pairs_known, report.votes_added) == (11, 4, 2, 5)
    assert dict(report.skipped) == {
        "choice outside the set": 1,
        "image missing": 1,
        "duplicate pair_id": 1,
        "not JSON": 1,
        "field of the wrong form": 1,
    }
    assert any(message.startswith(f"{source} line 12: not JSON") for message in report.messages)
    expected = [("a", "ana", "1"), ("a", "bo", "tie"), ("a", "cy", "1"), ("b", "unknown", "0"), ("f", "unknown", "0")]
    assert choices(prefs) == expected
    votes = {vote["annotator_id"]: vote for vote in open_dataset(prefs).votes().to_pylist()}
    assert votes["ana"]["seconds"] == 2.5 and votes["cy"]["order_shown"] == "10"


def test_trl_hides_which_image_was_chosen(tmp_path, prefs, picture):
    rows = [
        {"prompt": f"{i}", "chosen": {"bytes": picture(2 * i)}, "rejected": {"bytes": picture(2 * i + 1)}}
        for i in range(200)
    ]
    source = save(tmp_path / "a.parquet", rows)
    import_pairs("trl", [source], prefs)
    dataset = open_dataset(prefs)
    chosen = {row["chosen"]["bytes"] for row in rows}
    pairs = {row["pair_id"]: row for batch in dataset.iter_pairs() for row in batch.to_pylist()}
    votes = dataset.votes().to_pylist()
    assert all(pairs[vote["pair_id"]][f"image_{vote['choice']}"]["bytes"] in chosen for vote in votes)
    assert 70 <= sum(vote["choice"] == "0" for vote in votes) <= 130  # four standard deviations around a half
    other = tmp_path / "other"
    random.Random(0).shuffle(rows)
    import_pairs("trl", [save(tmp_path / "b.parquet", rows)], other)
    assert choices(other) == choices(prefs)  # the order of a pair does not depend on the order of the rows


def test_trl_lines_and_people_who_disagree(tmp_path, prefs, picture):
    for i in range(2):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
    prompt = [{"role": "user", "content": "a cat"}]
    lines = [
        {"prompt": prompt, "chosen": "0.jpg", "rejected": "1.jpg"},
        {"prompt": "a cat", "chosen": ["1.jpg"], "rejected": "0.jpg"},
    ]
    source = tmp_path / "a.jsonl"
    source.write_text(
        "\n".join(map(json.dumps, [*lines, lines[0], {"prompt": "a cat", "chosen": "good", "rejected": "bad"}]))
    )
    report = import_pairs("trl", [source], prefs)
    assert (report.pairs_added, report.votes_added, report.votes_known, report.skipped["image missing"]) == (1, 2, 1, 1)
    assert sorted(choice for _, _, choice in choices(prefs)) == ["0", "1"]


def hpdv2(tmp_path, annotators):
    entry = {"prompt": "a", "image_path": ["x.jpg", "y.jpg", "z.jpg"], "rank": [2, 1, 3]}
    entry["raw_annotations"] = [{"rank": ranks, "user_hash": who} for who, ranks in annotators]
    path = tmp_path / "test.json"
    path.write_text(json.dumps([entry]))
    return path


def better(prefs):
    """(annotator, preferred file, other file), a tie sorted and marked by '='."""
    dataset, found = open_dataset(prefs), []
    batches = dataset.iter_pairs(["pair_id", "image_0", "image_1"])
    pairs = {row["pair_id"]: row for batch in batches for row in batch.to_pylist()}
    for vote in dataset.votes().to_pylist():
        names = [Path(pairs[vote["pair_id"]][f"image_{i}"]["path"]).name[0] for i in "01"]
        order = {"0": names, "1": names[::-1], "tie": [*sorted(names), "="]}[vote["choice"]]
        found.append((vote["annotator_id"], "".join(order)))
    return sorted(found)


def test_hpdv2_annotators_each_vote_on_every_pair(tmp_path, prefs):
    source = hpdv2(tmp_path, [("ana", [1, 2, 3]), ("bo", [2, 1, 2]), ("cy", [1, 2])])
    report = import_pairs("rankings", [source], prefs)
    assert (report.read, report.pairs_added, report.votes_added, report.ties, report.without_images) == (1, 3, 6, 1, 3)
    assert report.skipped["ranking of an annotator does not fit"] == 1 and not report.notes
    ana, bo = "user-ana", "user-bo"
    assert better(prefs) == [(ana, "xy"), (ana, "xz"), (ana, "yz"), (bo, "xz="), (bo, "yx"), (bo, "yz")]
    assert len(set(open_dataset(prefs).pairs()["group_id"].to_pylist())) == 1


def test_annotators_whose_ranks_run_the_other_way_are_noticed(tmp_path, prefs):
    report = import_pairs("rankings", [hpdv2(tmp_path, [("ana", [2, 3, 1]), ("bo", [2, 3, 1])])], prefs)
    assert "annotators contradict `rank` on 6 of 6 pairs" in report.notes[0]


def test_hpdv2_training_entries_prefer_the_one_marked(tmp_path, prefs):
    path = tmp_path / "train.json"
    path.write_text(
        json.dumps([{"prompt": "a", "file_path": ["x.jpg", "y.jpg"], "human_preference": [0, 1]}, {"prompt": "b"}])
    )
    report = import_pairs("rankings", [path], prefs)
    assert better(prefs) == [("unknown", "yx")] and dict(report.skipped) == {"no images": 1}
    path.write_text(path.read_text()[:-9])
    with pytest.raises(PalateError, match="train.json: not a complete JSON file"):
        import_pairs("rankings", [path], prefs)


@pytest.mark.shared("data/imagereward")
def test_imagerewarddb_as_it_is_published(tmp_path, prefs):
    entries = json.loads((IMAGEREWARD / "test.json").read_text())
    expected = sum(len(e["ranking"]) * (len(e["ranking"]) - 1) // 2 for e in entries)
    ties = sum(r[:i].count(rank) for r in (e["ranking"] for e in entries) for i, rank in enumerate(r))
    source = tmp_path / "test.json"
    shutil.copy(IMAGEREWARD / "test.json", source)
    for i, name in enumerate(entries[0]["generations"][:4]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(IMAGEREWARD / f"{i + 1}.webp", tmp_path / name)
    broken = tmp_path / entries[1]["generations"][0]
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_bytes(b"<html>")
    report = import_pairs("rankings", [source], prefs)
    refused = len(entries[1]["ranking"]) - 1
    assert report.read == 466 and report.skipped["image does not decode"] == refused
    assert report.pairs_added == report.votes_added == expected - refused
    assert report.without_images == expected - refused - 6
    tied_there = entries[1]["ranking"][1:].count(entries[1]["ranking"][0])
    assert report.ties == ties - tied_there > 100
    first = open_dataset(prefs).votes().slice(0, 6).to_pylist()
    batch = next(open_dataset(prefs).iter_pairs(batch_size=6)).to_pylist()
    rank = {str(tmp_path / p): r for p, r in zip(entries[0]["generations"], entries[0]["ranking"], strict=True)}
    for pair, vote in zip(batch, first, strict=True):
        ranks = [rank[pair[f"image_{i}"]["path"]] for i in "01"]
        assert vote["choice"] == str(ranks.index(min(ranks)))  # the first list has no ties


def test_folders_are_found_by_a_relative_path(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for side in ("win", "lose"):
        (tmp_path / "mine" / side).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "mine" / side / "cat.png")
    (tmp_path / "mine" / "win" / "cat.txt").write_text("a cat")
    monkeypatch.chdir(tmp_path)
    assert import_pairs("folders", ["mine"], "prefs").pairs_added == 1
