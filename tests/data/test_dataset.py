import errno
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palate.data.dataset import Appended, PreferenceDataset, decode_image, open_dataset
from palate.data.schema import PAIRS, VOTES
from palate.errors import PalateError


@pytest.fixture
def dataset(tmp_path):
    return PreferenceDataset.create(tmp_path / "prefs", "prefs", provenance={"made": "by a test"})


def vote(pair_id, choice="0", annotator="ana", **more):
    return {"pair_id": pair_id, "annotator_id": annotator, "source": "human", "choice": choice} | more


def shards(dataset, table):
    return sorted((dataset.path / table).glob("*.parquet"))


def test_what_is_written_is_read_again_as_it_was(dataset, pair):
    rows = [pair(f"p{i}", group_id="g", generator_0={"seed": 3, "model": "m"}, propensity=0.25) for i in range(7)]
    assert dataset.add_pairs(iter(rows), rows_per_shard=3) == 7
    again = open_dataset(dataset.path)
    assert len(again) == 7 and again.name == "prefs" and again.provenance == [{"made": "by a test"}]
    read = [row for batch in again.iter_pairs(batch_size=2) for row in batch.to_pylist()]
    assert [row["pair_id"] for row in read] == [f"p{i}" for i in range(7)]
    assert read[4]["image_1"] == {"bytes": rows[4]["image_1"], "path": None}  # never encoded again
    assert json.loads(read[0]["generator_0"]) == {"model": "m", "seed": 3}
    assert decode_image(read[0]["image_0"], again.path).size == (12, 8)
    assert "image_0" not in again.pairs().column_names
    assert json.loads((dataset.path / "dataset.json").read_text())["counts"] == {"pairs": 7, "votes": 0}


def test_the_datasets_library_decodes_the_shards(dataset, pair, tmp_path):
    datasets = pytest.importorskip("datasets")
    dataset.add_pairs([pair("a")])
    files = [str(path) for path in shards(dataset, "pairs")]
    loaded = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image_0"].size == (12, 8)


def test_batches_have_the_columns_asked_for_in_their_order(dataset, pair):
    dataset.add_pairs([pair("a")])
    assert next(dataset.iter_pairs(["prompt", "pair_id"])).schema.names == ["prompt", "pair_id"]
    with pytest.raises(PalateError, match="no column 'promt'"):
        dataset.pairs(["promt"])


def test_a_duplicate_pair_is_named_with_its_place_and_the_rows_before_it_are_kept(dataset, pair):
    dataset.add_pairs([pair("a")])
    with pytest.raises(PalateError, match=r"row 1: pair_id 'a' is already in pairs/pairs-00000-\w+\.parquet"):
        dataset.add_pairs([pair("b"), pair("a"), pair("c")])
    with pytest.raises(PalateError, match="row 1: pair_id 'c' is already in this call"):
        dataset.add_pairs([pair("c"), pair("c")])
    assert dataset.pairs()["pair_id"].to_pylist() == ["a", "b", "c"]
    assert dataset.add_pairs([pair("a"), pair("d")], skip_known=True) == 1


def test_votes_are_appended_once(dataset, pair):
    dataset.add_pairs([pair("a"), pair("b")])
    votes = [vote("a"), vote("b", "tie"), vote("a", "1", "bo")]
    assert dataset.append_votes(votes) == Appended(3, 0)
    assert open_dataset(dataset.path).append_votes([*votes, vote("b", "skip", "bo")]) == Appended(1, 3)
    assert dataset.append_votes([vote("b", "1", "bo"), vote("b", "1", "bo")]) == Appended(0, 2)
    assert dataset.votes()["choice"].to_pylist() == ["0", "tie", "1", "skip"]
    assert dataset.votes().column("created_at").null_count == 0
    assert len(shards(dataset, "votes")) == 2


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        (vote("nowhere"), "votes row 1: pair 'nowhere' is not in"),
        (vote("a", "left"), "votes row 1: choice 'left'"),
        (vote("a", probability=2.0), "votes row 1: probability 2.0"),
    ],
)
def test_one_bad_vote_and_none_is_written(dataset, pair, bad, line):
    dataset.add_pairs([pair("a")])
    with pytest.raises(PalateError, match=line):
        dataset.append_votes([vote("a"), bad])
    assert len(dataset.votes()) == 0 and not shards(dataset, "votes")


def test_two_open_datasets_see_each_others_writes(dataset, pair):
    other = open_dataset(dataset.path)
    other.add_pairs([pair("a")])
    assert dataset.append_votes([vote("a")]).added == 1
    with pytest.raises(PalateError, match="'a' is already in"):
        dataset.add_pairs([pair("a")])


def test_create_refuses_a_place_that_is_taken_and_open_one_that_is_empty(dataset, tmp_path):
    with pytest.raises(PalateError, match="already holds a dataset"):
        PreferenceDataset.create(dataset.path, "again")
    with pytest.raises(PalateError, match="no dataset here"):
        open_dataset(tmp_path / "nothing")


def test_another_schema_version_is_refused(dataset):
    file = dataset.path / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 99}))
    with pytest.raises(PalateError, match="schema version 99, but this palate reads version 1"):
        open_dataset(dataset.path)
    assert "schema version 99" in dataset.problems()[0]
    file.write_text("{")
    with pytest.raises(PalateError, match="not the description of a dataset"):
        open_dataset(dataset.path)


def test_a_truncated_shard_is_named_wherever_it_is_read(dataset, pair):
    dataset.add_pairs([pair("a"), pair("b")], rows_per_shard=1)
    second = shards(dataset, "pairs")[1]
    second.write_bytes(second.read_bytes()[:-20])
    again = open_dataset(dataset.path)
    for read in (lambda: len(again), again.pairs, lambda: list(again.iter_pairs()), again.validate):
        with pytest.raises(PalateError, match=f"{second.name}: not a complete parquet file"):
            read()


def test_a_shard_damaged_in_the_middle_is_named(dataset, pair):
    dataset.add_pairs([pair(f"p{i}") for i in range(40)])
    (path,) = shards(dataset, "pairs")
    data = bytearray(path.read_bytes())
    data[100:-4000] = os.urandom(len(data) - 4100)
    path.write_bytes(data)
    with pytest.raises(PalateError, match=f"{path.name}: not a complete parquet file"):
        list(open_dataset(dataset.path).iter_pairs())


def write(dataset, table, rows, schema):
    path = dataset.path / table / f"{table}-90000-foreign.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def test_problems_on_disk_are_found_with_file_and_row(dataset, pair):
    dataset.add_pairs([pair("a"), pair("b")])
    dataset.append_votes([vote("a")])
    assert dataset.problems() == []
    good = dataset.votes().to_pylist()[0]
    image = {"bytes": b"x", "path": None}
    foreign = [
        {"pair_id": "c", "prompt": "c", "image_0": image, "image_1": image},
        {"pair_id": "a", "prompt": " ", "image_0": image, "image_1": image, "propensity": 0.0},
    ]
    write(dataset, "pairs", foreign, PAIRS)
    votes = [
        good,
        good | {"vote_id": "1", "pair_id": "z"},
        good | {"vote_id": "2", "choice": "3", "source": "dog"},
        good | {"vote_id": "3", "probability": 1.5},
    ]
    write(dataset, "votes", votes, VOTES)
    found = dataset.problems()
    for line in (
        "pairs-90000-foreign.parquet row 1: pair_id 'a' is also in",
        "pairs-90000-foreign.parquet row 1: no prompt",
        "pairs-90000-foreign.parquet row 1: propensity outside (0, 1]",
        f"votes-90000-foreign.parquet row 0: vote_id '{good['vote_id']}' is also in",
        "votes-90000-foreign.parquet row 1: vote on a pair that is not here",
        "votes-90000-foreign.parquet row 2: choice is none of",
        "votes-90000-foreign.parquet row 2: source is none of",
        "votes-90000-foreign.parquet row 3: probability outside [0, 1]",
    ):
        assert sum(line in problem for problem in found) == 1, line
    assert len(found) == 8
    with pytest.raises(PalateError, match=r"\(7 more problems"):
        dataset.validate()


def test_a_shard_of_other_columns_is_named(dataset):
    (dataset.path / "pairs").mkdir()
    pq.write_table(pa.table({"pair_id": ["a"]}), dataset.path / "pairs" / "pairs-00000-x.parquet")
    with pytest.raises(PalateError, match="pairs-00000-x.parquet: column prompt, image_0"):
        dataset.pairs()


def test_a_full_disk_is_one_line_and_loses_nothing(dataset, pair, monkeypatch):
    dataset.add_pairs([pair("a")])
    sync = os.fsync
    calls = []

    def full_after_one_shard(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:  # a shard and dataset.json sync twice each
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full_after_one_shard)
    with pytest.raises(PalateError, match=r"pairs-00002-\w+\.parquet: the disk is full"):
        dataset.add_pairs([pair("b"), pair("c"), pair("d")], rows_per_shard=1)
    monkeypatch.undo()
    again = open_dataset(dataset.path)
    assert again.pairs()["pair_id"].to_pylist() == ["a", "b"] and again.problems() == []
    assert not [name for name in os.listdir(dataset.path / "pairs") if name.endswith(".tmp")]
    assert again.add_pairs([pair("b"), pair("c"), pair("d")], skip_known=True) == 2


WRITER = """
import os, sys, time
from palate.data.dataset import open_dataset
sync, calls = os.fsync, []
def slow_at_the_ninth(descriptor):
    calls.append(descriptor)
    if len(calls) == 9 and sys.argv[2] == "stop":  # the third shard is written, but not yet renamed
        print("writing", flush=True)
        time.sleep(60)
    sync(descriptor)
os.fsync = slow_at_the_ninth
rows = ({"pair_id": f"p{i}", "prompt": "x", "image_0": b"0" * 999, "image_1": b"1" * 999} for i in range(20))
print(open_dataset(sys.argv[1]).add_pairs(rows, rows_per_shard=4, skip_known=True), flush=True)
"""


def test_a_kill_in_the_middle_of_a_write_leaves_whole_shards_and_a_rerun_completes(dataset):
    source = Path(__file__).parents[2] / "src"
    command = [sys.executable, "-c", WRITER, str(dataset.path)]
    environment = os.environ | {"PYTHONPATH": str(source)}
    with subprocess.Popen([*command, "stop"], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    leftovers = [name for name in os.listdir(dataset.path / "pairs") if name.endswith(".tmp")]
    assert len(leftovers) == 1
    again = open_dataset(dataset.path)
    assert again.pairs()["pair_id"].to_pylist() == [f"p{i}" for i in range(8)] and again.problems() == []
    finished = subprocess.run([*command, "go"], capture_output=True, text=True, env=environment, check=True)
    assert finished.stdout == "12\n"
    assert sorted(again.pairs()["pair_id"].to_pylist()) == sorted(f"p{i}" for i in range(20))
    assert again.problems() == []


def test_memory_holds_one_shard_however_many_there_are(dataset):
    rng, image = np.random.default_rng(0), 100_000
    per_shard, count = 4, 15
    shard_bytes = 2 * image * per_shard

    def rows():
        for i in range(per_shard * count):
            yield {"pair_id": f"p{i}", "prompt": "x", "image_0": rng.bytes(image), "image_1": rng.bytes(image)}

    tracemalloc.start()
    before = pa.total_allocated_bytes()
    dataset.add_pairs(rows(), rows_per_shard=per_shard)
    written_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert written_peak < 3 * shard_bytes

    gc.collect()
    peak = seen = 0
    for batch in dataset.iter_pairs(batch_size=2):
        seen += batch.num_rows
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert seen == per_shard * count
    assert shard_bytes / per_shard < peak < 4 * shard_bytes


def test_a_propensity_that_is_set_holds_over_the_column_and_can_be_set_again(dataset, pair):
    dataset.add_pairs([pair("a", propensity=0.5), pair("b"), pair("c", propensity=0.1)])
    assert dataset.set_propensities({"a": 0.25, "b": 0.75, "nobody": 1.0}) == 2
    assert dataset.set_propensities({"b": 0.8, "a": 0.25}) == 1
    assert open_dataset(dataset.path).pairs(["propensity"])["propensity"].to_pylist() == [0.25, 0.8, 0.1]
    dataset.add_pairs([pair("d", propensity=0.9)])
    rows = [row for batch in dataset.iter_pairs(["propensity"], batch_size=2) for row in batch.to_pylist()]
    assert rows == [{"propensity": value} for value in (0.25, 0.8, 0.1, 0.9)]
    with pytest.raises(PalateError, match="outside"):
        dataset.set_propensities({"a": 0.3, "b": 0.0})
    assert dataset.pairs(["propensity"])["propensity"][0].as_py() == 0.25 and dataset.problems() == []
    (dataset.path / "propensity.parquet").write_bytes(b"PAR1 cut off")
    assert "propensity.parquet" in dataset.problems()[0]
    with pytest.raises(PalateError, match="propensity.parquet: not a complete parquet file"):
        dataset.pairs()


def test_who_reads_while_propensities_are_set_sees_all_old_or_all_new_ones(dataset, pair):
    dataset.add_pairs([pair(f"p{i}", propensity=0.5) for i in range(6)], rows_per_shard=2)
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(
                tuple(row["propensity"] for batch in dataset.iter_pairs(["propensity"]) for row in batch.to_pylist())
            )

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(1, 41):
        dataset.set_propensities({f"p{i}": n / 40 for i in range(6)})
    done.set()
    reader.join()
    assert len(seen) > 2 and all(len(set(values)) == 1 for values in seen)
