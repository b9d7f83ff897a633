import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palate.data import identity
from palate.data.dataset import PreferenceDataset, open_dataset
from palate.data.identity import image_ids, single_images
from palate.data.schema import PAIRS
from palate.errors import PalateError


@pytest.fixture
def dataset(tmp_path):
    return PreferenceDataset.create(tmp_path / "prefs", "prefs")


def destroy_images(dataset):
    """Overwrite the bytes of every picture in the shards, and nothing else."""
    for path in (dataset.path / "pairs").glob("*.parquet"):
        data = bytearray(path.read_bytes())
        about = pq.ParquetFile(path).metadata
        for group in range(about.num_row_groups):
            for column in (about.row_group(group).column(i) for i in range(about.num_columns)):
                if column.path_in_schema.endswith(".bytes"):
                    start, size = column.data_page_offset, column.total_compressed_size
                    data[start : start + size] = os.urandom(size)
        path.write_bytes(data)


def test_single_images_are_found_without_reading_a_picture(dataset, pair):
    dataset.add_pairs([pair("a"), pair("b", image_1=None)])
    dataset.add_pairs([pair("c", image_1=None), pair("d", image_1={"path": "x.png"})])
    destroy_images(dataset)
    with pytest.raises(PalateError, match="not a complete parquet file"):
        list(dataset.iter_pairs())
    assert single_images(dataset) == {"b", "c"}


def test_equal_contents_have_equal_ids_and_others_different_ones(dataset, pair, picture):
    dataset.add_pairs([
        pair("a", image_0=picture(1), image_1=picture(2)),
        pair("b", image_0=picture(2), image_1=None),
        pair("c", image_0=picture(3), image_1=picture(3)),
    ])  # fmt: skip
    ids = image_ids(dataset)
    assert ids.keys() == {("a", 0), ("a", 1), ("b", 0), ("c", 0), ("c", 1)}
    assert ids["a", 1] == ids["b", 0] and ids["c", 0] == ids["c", 1]
    assert len({ids["a", 0], ids["a", 1], ids["c", 0]}) == 3


def test_images_by_path_are_named_by_where_it_leads_whether_or_not_they_are_there(dataset, pair, picture):
    here = dataset.path / "x.png"
    dataset.add_pairs([
        pair("a", image_0={"path": "x.png"}, image_1={"path": "y.png"}),
        pair("b", image_0={"path": str(here)}, image_1={"path": "sub/../x.png"}),
    ])  # fmt: skip
    before = image_ids(dataset)
    here.write_bytes(picture(0))
    assert image_ids(open_dataset(dataset.path)) == before
    assert before["a", 0] == before["b", 0] == before["b", 1] != before["a", 1]


def test_a_folder_that_is_moved_keeps_every_name(dataset, pair, tmp_path):
    inside, outside = str(dataset.path / "x.png"), str(tmp_path / "else" / "x.png")
    dataset.add_pairs([
        pair("a", image_0={"path": inside}, image_1={"path": "pictures/../x.png"}),
        pair("b", image_0={"path": "../beside/x.png"}, image_1={"path": outside}),
    ])  # fmt: skip
    before = image_ids(dataset)
    assert before["a", 0] == before["a", 1] and len(set(before.values())) == 3
    moved = tmp_path / "other" / "name"
    moved.parent.mkdir()
    dataset.path.rename(moved)
    after = image_ids(open_dataset(moved))
    assert after == before | {("a", 0): after["a", 0]}  # what was stored with the old folder's name now leads elsewhere
    link = tmp_path / "link"
    link.symlink_to(moved)
    assert image_ids(open_dataset(link)) == after


def test_two_spellings_of_one_file_outside_are_one_name(dataset, pair, tmp_path):
    spelt = {"path": "../x.png"}, {"path": str(tmp_path / "x.png")}
    dataset.add_pairs([pair("a", image_0=spelt[0], image_1=spelt[1]), pair("b", image_0=spelt[0], image_1=spelt[0])])
    assert len(set(image_ids(dataset).values())) == 1


def test_hashes_are_computed_once_and_new_pairs_are_added(dataset, pair, picture, monkeypatch):
    dataset.add_pairs([pair("a"), pair("b", image_1=None)], rows_per_shard=1)
    first = image_ids(dataset)
    destroy_images(dataset)  # so that nothing can be hashed again
    dataset.add_pairs([pair("c"), pair("d", image_0=picture(5), image_1={"path": "x.png"})])
    hashed = []
    monkeypatch.setattr(identity, "content_id", lambda *parts: hashed.append(parts) or f"id-{len(hashed)}")
    second = image_ids(open_dataset(dataset.path))
    assert {image: second[image] for image in first} == first
    assert len(hashed) == 4 and second.keys() - first.keys() == {("c", 0), ("c", 1), ("d", 0), ("d", 1)}


def test_a_kill_while_hashing_keeps_the_shards_that_were_done(dataset, pair, monkeypatch):
    dataset.add_pairs([pair("a"), pair("b"), pair("c")], rows_per_shard=1)
    real, calls = identity.content_id, []

    def dying(*parts):
        calls.append(parts)
        if len(calls) == 4:  # in the middle of the second shard
            raise KeyboardInterrupt
        return real(*parts)

    monkeypatch.setattr(identity, "content_id", dying)
    with pytest.raises(KeyboardInterrupt):
        image_ids(dataset)
    assert len(os.listdir(dataset.path / "cache" / "images")) == 1
    calls.clear()
    monkeypatch.setattr(identity, "content_id", lambda *parts: calls.append(parts) or real(*parts))
    assert len(image_ids(dataset)) == 6 and len(calls) == 4


def test_bytes_come_before_a_path_and_an_image_without_either_has_no_id(dataset, pair, tmp_path):
    dataset.add_pairs([pair("a")])
    (path,) = (dataset.path / "pairs").glob("*.parquet")
    (row,) = pq.read_table(path).to_pylist()
    row["image_0"]["path"] = "x.png"  # as other writers keep it beside the bytes
    before = image_ids(dataset)["a", 0]
    (dataset.path / "cache" / "images" / path.name).unlink()
    row["image_1"] = {"bytes": None, "path": None}
    pq.write_table(pa.Table.from_pylist([row], schema=PAIRS), path)
    assert image_ids(dataset) == {("a", 0): before} and single_images(dataset) == set()
