"""Several processes that write one dataset at once lose nothing of one another; interrupted writers can be repeated."""

import json
import multiprocessing
import sys
from collections import Counter

import pytest
from filelock import FileLock

from palate.data import importing, locks
from palate.data.dataset import PreferenceDataset, open_dataset
from palate.data.importing import import_pairs
from palate.data.known import read_known_votes, write_known_votes
from palate.data.locks import locked
from palate.data.schema import vote_row
from palate.errors import PalateError

AT_ONCE = 4


def import_some(start, folder, number: int) -> None:
    """Twelve pairs of its own, and the same four that every process imports."""
    start.wait()
    import_pairs("jsonl", [folder / f"lines-{number}.jsonl"], folder / "prefs", annotator=f"person-{number}")


def annotate_some(start, folder, number: int) -> None:
    from palate.judges import annotate as verb

    start.wait()
    dataset = open_dataset(folder / "prefs")
    answers = {pair_id: verb.Answer(0.7, 1.0, 0.0, from_scores=True) for pair_id in list(dataset.pair_ids())[:4]}
    who = {"judge": f"judge-{number}", "annotator": f"judge-{number}", "version": "1", "settings": {}, "temperature": 1}
    verb._write(dataset, verb.Report(f"judge-{number}", f"judge-{number}"), answers, who)


def export_some(start, folder, number: int) -> None:
    """What `votes export` writes: votes of people, votes on known pairs, propensities."""
    start.wait()
    dataset = open_dataset(folder / "prefs")
    rows = dataset.pairs(["pair_id", "prompt"]).to_pylist()
    first = sorted(row["pair_id"] for row in rows if row["prompt"] == "own 0")
    mine = first[0]
    dataset.append_votes([{"pair_id": mine, "annotator_id": f"p{number}", "source": "human", "choice": "0"}])
    vote = vote_row({"pair_id": mine, "annotator_id": f"p{number}", "source": "human", "choice": "1"}, "test")
    write_known_votes(dataset.path, [vote | {"answer": "1"}])
    dataset.set_propensities({first[number]: 0.25})


def embed_some(start, folder, number: int) -> None:
    import numpy as np

    from palate.judges.embeddings import EmbeddingStore

    start.wait()
    with EmbeddingStore(folder / "prefs" / "judges" / "embeddings.sqlite", "clip") as store:
        store.put({f"picture-{number}": np.ones(3)}, {f"pair-{number}": (f"picture-{number}", "other")})


def run_all(*works) -> None:
    """Each (function, folder, number) in a process of its own, let go at one moment."""
    import os

    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    context = multiprocessing.get_context("fork")
    start = context.Event()
    processes = [context.Process(target=work, args=(start, folder, number)) for work, folder, number in works]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def lines(folder, number: int, picture) -> None:
    """Twelve pairs of its own and four that are everyone's, with votes."""
    for i in range(18):
        (folder / f"{number}-{i}.jpg").write_bytes(picture(1000 * number + i))
    for i in range(5):
        (folder / f"all-{i}.jpg").write_bytes(picture(90_000 + i))
    rows = [(f"own {number}", f"{number}-{i}.jpg", f"{number}-{i + 1}.jpg") for i in range(12)]
    rows += [("all", f"all-{i}.jpg", f"all-{i + 1}.jpg") for i in range(4)]
    text = "\n".join(json.dumps({"prompt": p, "image_0": a, "image_1": b, "choice": 0}) for p, a, b in rows)
    (folder / f"lines-{number}.jsonl").write_text(text)


def test_imports_of_one_new_dataset_at_once_lose_no_pair_no_vote_and_no_provenance(tmp_path, picture):
    for number in range(AT_ONCE):
        lines(tmp_path, number, picture)
    run_all(*[(import_some, tmp_path, number) for number in range(AT_ONCE)])
    dataset = open_dataset(tmp_path / "prefs")
    assert dataset.problems() == [] and len(dataset) == 12 * AT_ONCE + 4
    assert Counter(dataset.votes()["annotator_id"].to_pylist()) == {f"person-{n}": 16 for n in range(AT_ONCE)}
    told = [entry["sources"] for entry in dataset.provenance]
    assert sorted(told) == [[str(tmp_path / f"lines-{n}.jsonl")] for n in range(AT_ONCE)]
    assert json.loads((dataset.path / "dataset.json").read_text())["counts"] == {
        "pairs": 12 * AT_ONCE + 4, "votes": 16 * AT_ONCE,
    }  # fmt: skip


def test_import_votes_export_annotate_and_embeddings_at_once_lose_nothing(tmp_path, picture):
    for number in range(3):
        lines(tmp_path, number, picture)
    import_pairs("jsonl", [tmp_path / "lines-0.jsonl"], tmp_path / "prefs")
    works = [(import_some, tmp_path, n) for n in (1, 2)]
    works += [(work, tmp_path, n) for work in (annotate_some, export_some, embed_some) for n in range(3)]
    run_all(*works)
    dataset = open_dataset(tmp_path / "prefs")
    assert dataset.problems() == [] and len(dataset) == 16 + 12 + 12
    by = Counter(dataset.votes()["annotator_id"].to_pylist())
    assert {name: by[name] for name in ("judge-0", "judge-1", "judge-2")} == dict.fromkeys(
        ("judge-0", "judge-1", "judge-2"), 4
    )
    assert all(by[f"p{n}"] == 1 for n in range(3)) and by["person-1"] == by["person-2"] == 16
    judges = {entry["judge"] for entry in dataset.provenance if "judge" in entry}
    assert judges == {"judge-0", "judge-1", "judge-2"}
    assert sum("sources" in entry for entry in dataset.provenance) == 3
    assert len(read_known_votes(dataset.path)) == 3
    assert sum(p == 0.25 for p in dataset.pairs()["propensity"].to_pylist()) == 3
    from palate.judges.embeddings import EmbeddingStore

    with EmbeddingStore(dataset.path / "judges" / "embeddings.sqlite", "clip") as store:
        assert store.pair_ids() == {"pair-0", "pair-1", "pair-2"}


def test_the_same_votes_from_two_objects_are_stored_once_and_the_counts_are_right(tmp_path, pair):
    one = PreferenceDataset.create(tmp_path / "prefs", "x")
    one.add_pairs([pair("a")])
    other = open_dataset(tmp_path / "prefs")
    vote = {"vote_id": "v", "pair_id": "a", "annotator_id": "ana", "source": "human", "choice": "0"}
    assert other.append_votes([vote]).added == 1
    assert one.append_votes([vote]).already_there == 1
    one.add_provenance("first")
    other.add_provenance("second")
    one.add_provenance("first")
    assert open_dataset(one.path).provenance == ["first", "second"]
    with pytest.raises(PalateError, match="already in"):
        other.add_pairs([pair("a")])


def test_a_writer_that_does_not_let_go_is_one_line(tmp_path, pair, monkeypatch):
    dataset = PreferenceDataset.create(tmp_path / "prefs", "x")
    monkeypatch.setattr(locks, "WAIT", 0.05)
    monkeypatch.setattr(locks, "FileLock", lambda *a, **k: FileLock(*a, **{**k, "is_singleton": False}))
    with FileLock(dataset.path / locks.FILE), pytest.raises(PalateError, match="another process has been writing"):
        dataset.add_pairs([pair("a")])


def test_the_lock_may_be_held_twice_by_one_thread(tmp_path):
    with locked(tmp_path), locked(tmp_path):
        pass


def test_an_import_that_was_stopped_before_its_first_shard_can_be_repeated(tmp_path, picture, monkeypatch):
    lines(tmp_path, 0, picture)
    with monkeypatch.context() as patch:
        patch.setattr(PreferenceDataset, "add_pairs", lambda *_, **__: (_ for _ in ()).throw(PalateError("disk full")))
        with pytest.raises(PalateError, match="disk full"):
            import_pairs("jsonl", [tmp_path / "lines-0.jsonl"], tmp_path / "prefs")
    assert len(open_dataset(tmp_path / "prefs")) == 0  # it is there, and empty
    report = import_pairs("jsonl", [tmp_path / "lines-0.jsonl"], tmp_path / "prefs")
    assert report.pairs_added == 16
    assert importing.import_pairs("jsonl", [tmp_path / "lines-0.jsonl"], tmp_path / "prefs").pairs_known == 16


def import_in_small_shards(start, folder, number: int) -> None:
    importing.ROWS_AT_ONCE, importing.ROWS_PER_SHARD = 2, 2
    start.set()
    import_pairs("jsonl", [folder / "lines-0.jsonl"], folder / f"prefs-{number}", annotator="ana")


def test_an_import_that_is_killed_and_repeated_ends_as_one_that_nobody_disturbed(tmp_path, picture):
    """tests/slow kills every verb ten times."""
    lines(tmp_path, 0, picture)
    context = multiprocessing.get_context("fork")

    def run(number: int, kill_after: float | None) -> int:
        begun = context.Event()
        child = context.Process(target=import_in_small_shards, args=(begun, tmp_path, number))
        child.start()
        assert begun.wait(60)
        child.join(kill_after)
        child.kill()
        child.join()
        return child.exitcode

    def found(number: int) -> tuple:
        dataset = open_dataset(tmp_path / f"prefs-{number}")
        votes = dataset.votes(["vote_id", "pair_id", "choice"]).sort_by("vote_id")
        return dataset.provenance, dataset.pairs().sort_by("pair_id").to_pylist(), votes.to_pylist(), dataset.problems()

    assert run(0, None) == 0 and len(found(0)[1]) == 16
    assert run(1, 0.0) == -9
    for wait in (0.02, 0.05, 0.1, 0.2):
        run(1, wait)
    assert run(1, None) == 0
    assert found(1) == found(0)
