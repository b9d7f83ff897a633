"""Flipped bytes on the disk are noticed: a page of parquet is read as it was written, or the file is named."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palate.data.dataset import PreferenceDataset, open_dataset
from palate.data.shards import open_parquet, read_table, write_table
from palate.errors import PalateError
from palate.evaluation.scores import SCORES, read_scores


def flips(file: Path, read, times: int) -> int:
    """Flip one bit in so many places of the file, one after another; returns how many were noticed. Asserts that
    what is read in spite of one is what was written."""
    whole, right, noticed = file.read_bytes(), read(), 0
    chance = random.Random(0)
    for _ in range(times):
        at = chance.randrange(4, len(whole))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        try:
            assert read() == right, f"byte {at} of {len(whole)}"
        except PalateError as error:
            assert "\n" not in str(error)
            noticed += 1
    file.write_bytes(whole)
    return noticed


def test_flipped_bits_of_pairs_and_votes_are_noticed(tmp_path, pair):
    dataset = PreferenceDataset.create(tmp_path / "prefs", "x")
    dataset.add_pairs([pair(f"p{i}") for i in range(6)])
    dataset.append_votes(
        [{"pair_id": f"p{i}", "annotator_id": f"ana {i}", "source": "human", "choice": "01"[i % 2]} for i in range(6)]
    )
    (pairs,), (votes,) = (list((dataset.path / name).glob("*.parquet")) for name in ("pairs", "votes"))

    def read_pairs() -> list:
        return [row for batch in open_dataset(dataset.path).iter_pairs() for row in batch.to_pylist()]

    assert flips(pairs, read_pairs, 150) > 100
    assert flips(votes, lambda: open_dataset(dataset.path).votes().to_pylist(), 150) > 30


def test_flipped_bits_of_scores_are_noticed(tmp_path):
    rows = [{name: _value(SCORES.field(name).type, i) for name in SCORES.names} for i in range(200)]
    table = pa.Table.from_pylist(rows, schema=SCORES)
    write_table(tmp_path / "scores.parquet", table)
    assert flips(tmp_path / "scores.parquet", lambda: read_scores(tmp_path).to_pylist(), 100) > 20


def _value(kind, i: int):
    if pa.types.is_floating(kind):
        return i / 7
    return i if pa.types.is_integer(kind) else f"text {i}"


def test_every_table_is_written_with_checksums(tmp_path, pair):
    """Without them the flips above would pass unnoticed: they are in the header of each page."""
    dataset = PreferenceDataset.create(tmp_path / "prefs", "x")
    dataset.add_pairs([pair("a")])
    (shard,) = (dataset.path / "pairs").glob("*.parquet")
    data = bytearray(shard.read_bytes())
    at = data.index(b"prompt a")
    data[at] ^= 1
    shard.write_bytes(data)
    assert pq.read_table(shard, columns=["prompt"])["prompt"].to_pylist() != ["prompt a"]  # as parquet is by itself
    with pytest.raises(PalateError, match="truncated or damaged"):
        read_table(shard, columns=["prompt"])


def test_a_reader_that_ends_early_is_noticed(tmp_path, monkeypatch):
    """pyarrow 18 ends quietly at a damaged page header: here the reader itself is made to end early."""
    table = pa.table({"x": list(range(10))})
    write_table(tmp_path / "ten.parquet", table, row_group_size=4)
    with open_parquet(tmp_path / "ten.parquet") as file:
        assert len(file.read()) == 10 and sum(map(len, file.iter_batches(row_groups=[0, 2]))) == 6
    whole, batches = pq.ParquetFile.read, pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *given, **options: whole(*given, **options)[:9])
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *given, **options: list(batches(*given, **options))[:-1])
    with pytest.raises(PalateError, match=r"ten.parquet: not a complete parquet file"):
        read_table(tmp_path / "ten.parquet")
    with (
        pytest.raises(PalateError, match=r"ten.parquet: not a complete parquet file"),
        open_parquet(tmp_path / "ten.parquet") as file,
    ):
        list(file.iter_batches(batch_size=3))
