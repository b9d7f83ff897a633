"""No row, line or file ends an import: each is tried on its own, and what is refused is counted and named."""

import datetime
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from palate.cli import import_ as verb
from palate.data.dataset import open_dataset
from palate.data.importers import common
from palate.data.importing import import_pairs, summary_lines
from palate.data.summary import summarise
from palate.errors import PalateError


@pytest.fixture
def folder(tmp_path, picture) -> Path:
    for i in range(6):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "same.jpg").write_bytes(picture(0))
    return tmp_path


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


BOTH = '"image_0": "0.jpg", "image_1": "1.jpg"'
BAD_LINES = {
    '{"prompt": "a", "image_0": "empty.jpg", "image_1": "1.jpg", "choice": 0}': "image is empty",
    f'{{"prompt": 5, {BOTH}}}': "no prompt",
    '{"prompt": "a", "image_0": {"path": 5}, "image_1": "1.jpg"}': "image of the wrong type",
    '{"prompt": "a", "image_0": {"bytes": "text"}, "image_1": "1.jpg"}': "image of the wrong type",
    '{"prompt": "a", "image_0": 7, "image_1": "1.jpg"}': "image missing",
    f'{{"prompt": "half \\ud800", {BOTH}, "choice": 0}}': "half a character",
    f'{{"prompt": "b", {BOTH}, "choice": 0, "annotator_id": "\\udfff"}}': "field of the wrong form",
    f'{{"prompt": "b", {BOTH}, "choice": 0, "seconds": {"9" * 400}}}': "field of the wrong form",
    f'{{"prompt": "b", {BOTH}, "choice": {"9" * 400}}}': "choice outside the set",
    f'{{"prompt": "b", {BOTH}, "choice": {"9" * 5000}}}': "not JSON",
    f'{{"prompt": "b", {BOTH}, "choice": 0, "created_at": "0000-00-00T99:99"}}': "field of the wrong form",
    f'{{"prompt": "b", {BOTH}, "choice": 0, "created_at": "0001-01-01T00:00:00+14:00"}}': "field of the wrong form",
    f'{{"prompt": "b", {BOTH}, "choice": 0, "created_at": 17}}': "field of the wrong form",
    f'{{"prompt": "b", {BOTH}, "choice": 0, "probability": "much"}}': "field of the wrong form",
    f'{{"prompt": "b", {BOTH}, "choice": 0, "probability": NaN}}': "field of the wrong form",
    f'{{"prompt": "b", {BOTH}, "group_id": 5}}': "field of the wrong form",
    f'{{"prompt": "b", {BOTH}, "vote_id": ["x"], "choice": 0}}': "field of the wrong form",
    f'{{"prompt": "b", {BOTH}, "generator_0": {deep(500)}}}': "field of the wrong form",
    deep(100_000): "not JSON",
    f'{{"prompt": "b", {BOTH}, "choice": {deep(20)}}}': "choice outside the set",
    f'{{"prompt": "b", {BOTH}, "choice": true}}': "choice outside the set",
    f'{{"prompt": "b", {BOTH}, "pair_id": {{"a": 1}}}}': "name of the wrong type",
    '{"prompt": "b", "image_0": "../0.jpg", "image_1": "1.jpg"}': "path leaves the folder",
    '{"prompt": "b", "image_0": "/etc/hostname", "image_1": "1.jpg"}': "path leaves the folder",
    '{"prompt": "b", "image_0": "fifo", "image_1": "1.jpg"}': "image missing",
    '{"prompt": "b", "image_0": "a\\u0000b", "image_1": "1.jpg"}': "path leaves the folder",
    '{"prompt": "b", "image_0": "0.jpg", "image_1": "same.jpg", "choice": 0}': "both images are the same",
    f'{{"prompt": "b", {BOTH}, "choice": 0, "label": 1}}': "contradicting choices",
    f'{{"prompt": "b", {BOTH}, "choice": 0, "label_0": 0, "label_1": 1}}': "contradicting choices",
    "\x00\x00": "not text in UTF-8 or UTF-16",
    "5": "not a JSON object",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line[:60])
def test_a_bad_line_is_a_refused_row_and_the_good_ones_come_in(line, folder):
    os.mkfifo(folder / "fifo")
    good = '{"prompt": "good", "image_0": "2.jpg", "image_1": "3.jpg", "choice": 1}'
    (folder / "a.jsonl").write_text("\n".join([line, good, line.replace("a", "a", 1)]))
    report = import_pairs("jsonl", [folder / "a.jsonl"], folder / "prefs")
    assert report.pairs_added == report.votes_added == 1 and report.read == 3
    assert dict(report.skipped) == {BAD_LINES[line]: 2}
    assert report.messages[0].startswith(f"{folder / 'a.jsonl'} line 1")
    for message in summary_lines(report):
        assert "\n" not in message and "\0" not in message and len(message) < 1400
    assert all(len(m) < len(str(folder)) + 300 for m in report.messages)
    assert open_dataset(folder / "prefs").problems() == []


def test_choices_that_agree_are_one_vote(folder):
    (folder / "a.jsonl").write_text(
        f'{{"prompt": "b", {BOTH}, "choice": "1", "label": 1.0, "label_0": 0, "label_1": "1"}}'
    )
    import_pairs("jsonl", [folder / "a.jsonl"], folder / "prefs")
    assert open_dataset(folder / "prefs").votes()["choice"].to_pylist() == ["1"]


def test_an_own_name_stands_for_one_pair_in_later_imports_too(folder):
    line = '{"prompt": "b", "image_0": "%s.jpg", "image_1": "%s.jpg", "choice": 0, "pair_id": "mine"}'
    (folder / "a.jsonl").write_text(line % (0, 1))
    (folder / "b.jsonl").write_text(line % (2, 3))
    import_pairs("jsonl", [folder / "a.jsonl"], folder / "prefs")
    with pytest.raises(PalateError, match="stands for another prompt or other pictures already"):
        import_pairs("jsonl", [folder / "b.jsonl"], folder / "prefs")
    assert import_pairs("jsonl", [folder / "a.jsonl"], folder / "prefs").pairs_known == 1
    assert len(open_dataset(folder / "prefs").votes()) == 1


# --- Pick-a-Pic ---


def pickapic(picture, **columns) -> dict:
    """One good row, with other values in some columns."""
    row = {"caption": "a", "jpg_0": picture(1), "jpg_1": picture(2), "label_0": 1.0, "label_1": 0.0}
    return {name: [value] for name, value in (row | columns).items()}


def import_rows(folder, *tables: dict):
    files = []
    for number, table in enumerate(tables):
        files.append(folder / f"{number}.parquet")
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), files[-1])
    return import_pairs("pickapic", files, folder / "prefs")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"has_label": "perhaps"}, "has_label of the wrong type"),
        ({"has_label": 0.5}, "has_label of the wrong type"),
        ({"has_label": float("nan")}, "has_label of the wrong type"),
        ({"label_0": float("nan"), "label_1": float("nan")}, "label outside {0, 0.5, 1}"),
        ({"label_0": "good", "label_1": "bad"}, "label outside {0, 0.5, 1}"),
        ({"image_0_uid": "x", "image_1_uid": "x"}, "one uid for two pictures"),
        ({"user_id": 1.5}, "name of the wrong type"),
        ({"created_at": "tomorrow"}, "field of the wrong form"),
        ({"caption": 5}, "no prompt"),
        ({"jpg_0": b""}, "image missing"),
        ({"jpg_0": "text"}, "image missing"),
    ],
)
def test_a_bad_row_of_pickapic_is_refused_by_reason(columns, reason, tmp_path, picture):
    report = import_rows(tmp_path, pickapic(picture, **columns), pickapic(picture, caption="good"))
    assert report.pairs_added == 1 and dict(report.skipped) == {reason: 1}
    assert "0.parquet row 0" in report.messages[0]


@pytest.mark.parametrize(
    ("columns", "choice"),
    [
        ({"label_0": "1", "label_1": "0"}, "0"),
        ({"label_0": "0.0", "label_1": "1.0"}, "1"),
        ({"label_0": "True", "label_1": "false"}, "0"),
        ({"label_0": "0.5", "label_1": "0.5"}, "tie"),
        ({"has_label": "true"}, "0"),
        ({"has_label": 1}, "0"),
        ({"image_0_uid": b"\xff\x00", "image_1_uid": b"b", "user_id": 17.0}, "0"),
        ({"image_0_uid": 5, "image_1_uid": 6, "user_id": b"ana"}, "0"),
    ],
)
def test_labels_that_are_text_and_names_that_are_none_are_taken(columns, choice, tmp_path, picture):
    report = import_rows(tmp_path, pickapic(picture, **columns))
    assert report.votes_added == 1
    votes = open_dataset(tmp_path / "prefs").votes()
    assert votes["choice"].to_pylist() == [choice]
    if "user_id" in columns:
        assert votes["annotator_id"].to_pylist() == ["user-17" if columns["user_id"] == 17.0 else "user-ana"]


def test_text_labels_that_are_no_labels_are_named_as_text(tmp_path, picture):
    with pytest.raises(PalateError, match="labels text 'good' and 'bad' are not both in"):
        import_rows(tmp_path, pickapic(picture, label_0="good", label_1="bad"))


def test_no_label_is_no_vote_and_identical_pictures_are_none(tmp_path, picture):
    report = import_rows(tmp_path, pickapic(picture, has_label=False), pickapic(picture, caption="b", jpg_1=picture(1)))
    assert report.without_vote == 1 and dict(report.skipped) == {"both images are the same": 1}


def test_uids_that_meet_with_other_pictures_are_refused_in_one_import_and_in_the_next(tmp_path, picture):
    uids = {"image_0_uid": "x", "image_1_uid": "y"}
    first = pickapic(picture, **uids, user_id="ana")
    mirrored = pickapic(
        picture, image_0_uid="y", image_1_uid="x", user_id="bo", jpg_0=picture(2), jpg_1=picture(1), label_0=0.0,
        label_1=1.0,
    )  # fmt: skip
    others = pickapic(picture, **uids, user_id="cy", jpg_0=picture(3))
    report = import_rows(tmp_path, first, others, mirrored)
    assert report.pairs_added == 1 and report.pairs_known == 1 and report.votes_added == 2
    assert dict(report.skipped) == {"name of another pair": 1}
    with pytest.raises(PalateError, match="stands for another prompt or other pictures already"):
        import_rows(tmp_path, others)
    assert import_rows(tmp_path, first).pairs_known == 1
    assert open_dataset(tmp_path / "prefs").votes()["choice"].to_pylist() == ["0", "0"]


def test_a_time_beyond_python_ends_only_its_row(tmp_path, picture):
    moment = pa.array([2**62, 0], pa.timestamp("us"))
    table = pa.table({**{k: v * 2 for k, v in pickapic(picture).items()}, "created_at": moment})
    table = table.set_column(0, "caption", pa.array(["a", "b"]))
    report = import_rows(tmp_path, table)
    assert report.pairs_added == 1 and report.skipped.total() == 1
    found = open_dataset(tmp_path / "prefs").votes()["created_at"].to_pylist()
    assert found == [datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)]


# --- ranked lists, folders, TRL ---


@pytest.mark.parametrize("ranks", ["[1, NaN, 2]", "[1, null, 2]", "[1, Infinity, 2]", "[1, 2]", "5", '"12"'])
def test_missing_and_endless_ranks_are_refused(ranks, tmp_path):
    paths = '["a.png", "b.png", "c.png"]'
    entries = f'[{{"prompt": "x", "generations": {paths}, "ranking": {ranks}}}, '
    entries += f'{{"prompt": "y", "generations": {paths}, "ranking": [1, 2, 3]}}, 5, {{"prompt": "z"}}]'
    (tmp_path / "a.json").write_text(entries)
    report = import_pairs("rankings", [tmp_path / "a.json"], tmp_path / "prefs")
    assert report.pairs_added == 3 and report.skipped.total() == 3


def test_ranked_lists_name_files_of_their_folder(tmp_path):
    entry = '{"prompt": "y", "generations": ["../a.png", "b.png"], "ranking": [1, 2]}'
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text(f"[{entry}]")
    with pytest.raises(PalateError, match="leaves the folder .*--allow-outside"):
        import_pairs("rankings", [tmp_path / "in" / "a.json"], tmp_path / "prefs")
    report = import_pairs("rankings", [tmp_path / "in" / "a.json"], tmp_path / "prefs", allow_outside=True)
    assert report.pairs_added == 1 and report.without_images == 1


def test_a_folder_with_odd_files_brings_in_the_others(tmp_path, picture, capsys):
    for side, first in (("win", 0), ("lose", 10)):
        (tmp_path / "my" / side).mkdir(parents=True)
        for i, name in enumerate(("a", "b", "c", "d", "e")):
            (tmp_path / "my" / side / f"{name}.png").write_bytes(picture(first + i, format="PNG"))
            (tmp_path / "my" / side / f"{name}.txt").write_text("a cat")
    win = tmp_path / "my" / "win"
    (win / "b.png").write_bytes(b"")
    (win / "c.png").unlink()
    os.mkfifo(win / "c.png")
    (win / "d.png").unlink()
    (win / "d.png").symlink_to(win / "d.png")
    (tmp_path / "secret.png").write_bytes(picture(50, format="PNG"))
    (win / "e.png").unlink()
    (win / "e.png").symlink_to(tmp_path / "secret.png")
    verb.main(["folders", str(tmp_path / "my"), "--to", str(tmp_path / "prefs")])
    said = capsys.readouterr().out
    assert "1 added" in said and "win/b.png: " in said and "0 bytes" in said
    assert "1 × image is empty" in said and "1 × image missing" in said and "2 × path leaves the folder" in said
    verb.main(["folders", str(tmp_path / "my"), "--to", str(tmp_path / "prefs"), "--allow-outside"])
    assert "1 added" in capsys.readouterr().out
    assert len(open_dataset(tmp_path / "prefs")) == 2


def test_animations_are_said_once_and_sizes_are_counted_after_the_turn(tmp_path, capsys):
    (tmp_path / "my" / "win").mkdir(parents=True)
    (tmp_path / "my" / "lose").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = [Image.effect_noise((96, 64), 50 + i).convert("RGB") for i in range(4)]
    for name in "ab":
        (tmp_path / "my" / "win" / f"{name}.txt").write_text(f"prompt {name}")
    noise[0].save(tmp_path / "my" / "win" / "a.jpg", exif=exif)
    noise[1].save(tmp_path / "my" / "lose" / "a.jpg")
    noise[2].save(tmp_path / "my" / "win" / "b.webp", save_all=True, append_images=[noise[0]], lossless=True)
    noise[3].save(tmp_path / "my" / "lose" / "b.png")
    verb.main(["folders", str(tmp_path / "my"), "--to", str(tmp_path / "prefs")])
    assert capsys.readouterr().out.count("pictures with several frames or pages the first counts") == 1
    sizes = summarise(open_dataset(tmp_path / "prefs"))["image_sizes"]
    assert {(s["width"], s["height"]): s["images"] for s in sizes} == {(96, 64): 3, (64, 96): 1}


def test_info_and_judges_do_not_read_what_is_no_plain_file(tmp_path, picture):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a.json").write_text('[{"prompt": "y", "generations": ["1.jpg", "2.jpg"], "ranking": [1, 2]}]')
    import_pairs("rankings", [tmp_path / "a.json"], tmp_path / "prefs")
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).symlink_to(tmp_path / "fifo")
    dataset = open_dataset(tmp_path / "prefs")
    assert summarise(dataset)["image_sizes"] == [] and summarise(dataset)["pairs_lacking_images"] == 1
    from palate.judges.annotate import annotate

    with pytest.raises(PalateError, match="a FIFO, not a file"):
        annotate(dataset, "brightness")
    from palate.web.pictures import Pictures

    (pair_id,) = dataset.pair_ids()
    with pytest.raises(PalateError, match="missing or cannot be read"):
        Pictures(dataset, {pair_id}).picture(pair_id, "0")


@pytest.mark.parametrize("name", ["fifo", "loop", "/dev/zero", "/proc/self/environ"])
@pytest.mark.parametrize("format", ["jsonl", "pickapic", "trl", "rankings", "folders"])
def test_a_source_that_is_no_plain_file_is_one_line(format, name, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(PalateError) as error:
        import_pairs(format, [tmp_path / name], tmp_path / "prefs")
    assert "\n" not in str(error.value) and not (tmp_path / "prefs").exists()


@pytest.mark.parametrize(
    ("label", "choice"),
    [("true", "0"), ("False", "1"), ("1", "0"), ("0", "1"), ("tie", "tie"), (1, "0"), (0.0, "1"), (True, "0")],
)
def test_labels_of_single_images_may_be_text(label, choice):
    assert common.choice_of_label(label) == choice


def test_text_that_is_no_label_is_named_as_text():
    with pytest.raises(common.Refused) as refused:
        common.choice_of_label("good")
    assert "is the text 'good', which is none of" in refused.value.detail
    with pytest.raises(common.Refused):
        common.choice_of_label(-1)


def test_memory_does_not_grow_with_the_rows(tmp_path, picture):
    """Pictures of half a MB in 40 rows, a row per group: beyond a few chunks nothing is held."""
    import tracemalloc

    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (400, 400, 3), np.uint8) for _ in range(4)]
    import io

    def encoded(k: int) -> bytes:
        buffer = io.BytesIO()
        pixels = noise[k % 4].copy()
        pixels[0, 0] = (k % 256, k // 256, 0)
        Image.fromarray(pixels).save(buffer, "BMP")
        return buffer.getvalue()

    table = pa.schema([("caption", pa.string()), ("jpg_0", pa.binary()), ("jpg_1", pa.binary()),
                       ("label_0", pa.float64()), ("label_1", pa.float64())])  # fmt: skip
    with pq.ParquetWriter(tmp_path / "a.parquet", table) as writer:
        for i in range(40):
            row = pickapic(picture, caption=f"p{i}", jpg_0=encoded(2 * i), jpg_1=encoded(2 * i + 1))
            writer.write_table(pa.table(row, schema=table))
    from palate.data import importing

    before = importing.BYTES_PER_SHARD, importing.BYTES_AT_ONCE
    importing.BYTES_PER_SHARD, importing.BYTES_AT_ONCE = 4 * 2**20, 2 * 2**20
    tracemalloc.start()
    try:
        report = import_pairs("pickapic", [tmp_path / "a.parquet"], tmp_path / "prefs")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        importing.BYTES_PER_SHARD, importing.BYTES_AT_ONCE = before
    assert report.pairs_added == 40  # 38 MB
    assert peak < 24 * 2**20


def test_json_reports_the_counts(folder, capsys):
    (folder / "a.jsonl").write_text(f'{{"prompt": "b", {BOTH}, "choice": 0}}\nnothing\n')
    verb.main(["jsonl", str(folder / "a.jsonl"), "--to", str(folder / "prefs"), "--json"])
    assert json.loads(capsys.readouterr().out)["skipped"] == {"not JSON": 1}
