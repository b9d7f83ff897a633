import os
import sys
import time
from pathlib import Path

import pytest

from palate.engine import mapped
from palate.errors import PalateError

BATCHES = [[2 * i, 2 * i + 1] for i in range(40)]


class Squarer:
    """Keeps a note of every batch it worked on, and is slow enough to be killed."""

    def __init__(self, log: str, seconds: float = 0.0, refuses: int | None = None):
        self.log, self.seconds, self.refuses = Path(log), seconds, refuses

    def __call__(self, batch):
        if self.refuses in batch:
            raise PalateError("this batch is of no use")
        time.sleep(self.seconds)
        with open(self.log / f"{os.getpid()}.log", "a") as file:
            file.write(f"{batch[0]}\n")
        return [x * x for x in batch]


class Maker:
    """Builds a Squarer; picklable, as an engine asks."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __call__(self):
        return Squarer(*self.arguments)


def _refuses():
    raise PalateError("no such weights")


def test_in_this_process_one_worker_maps_every_batch_in_order(tmp_path):
    made = []

    def make():
        made.append(1)
        return Squarer(str(tmp_path))

    results = list(mapped(make, BATCHES))
    assert results == [(batch, [x * x for x in batch]) for batch in BATCHES] and len(made) == 1


def test_batches_are_read_only_as_they_are_needed(tmp_path):
    read = []

    def batches():
        for batch in BATCHES:
            read.append(batch)
            yield batch

    results = mapped(Maker(str(tmp_path)), batches())
    next(results)
    assert len(read) == 1


def test_an_engine_that_is_not_there_is_one_clear_line(tmp_path, monkeypatch):
    with pytest.raises(PalateError, match="'spark' is none of local, ray"):
        list(mapped(Maker(str(tmp_path)), BATCHES, engine="spark"))
    with pytest.raises(PalateError, match="at least one"):
        list(mapped(Maker(str(tmp_path)), BATCHES, workers=0))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PalateError, match=r"pip install 'palate\[ray\]'"):
        list(mapped(Maker(str(tmp_path)), BATCHES, engine="ray"))


@pytest.fixture(scope="module")
def cluster():
    """Two machines of two processors each, on this one; the last test takes one of them away."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 2, "object_store_memory": 80 * 2**20}  # as much as Ray needs at least
    cluster = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
    other = cluster.add_node(**small)
    cluster.wait_for_nodes()
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[1]), *sys.path])}
    ray.init(address=cluster.address, log_to_driver=False, runtime_env={"env_vars": paths})
    yield cluster, other
    ray.shutdown()
    cluster.shutdown()


def test_what_a_worker_refuses_reaches_the_caller_as_its_own_line(cluster, tmp_path):
    with pytest.raises(PalateError, match="this batch is of no use"):
        list(mapped(Maker(str(tmp_path), 0.0, 20), BATCHES, engine="ray", workers=2))
    with pytest.raises(PalateError, match="no such weights"):
        list(mapped(_refuses, BATCHES, engine="ray", workers=1))


def test_annotating_on_ray_gives_the_votes_of_annotating_here(cluster, dataset, tmp_path):
    from tiny import make_labelled_dataset

    from palate.judges.annotate import annotate

    other = make_labelled_dataset(tmp_path / "other")
    annotate(other, "brightness", temperature=0.2)
    report = annotate(dataset, "brightness", temperature=0.2, engine="ray", workers=2, batch_size=3)
    assert report.judged == report.votes == 24

    def votes(of):
        rows = of.votes(columns=["pair_id", "annotator_id", "probability", "score_0", "score_1"]).to_pylist()
        return sorted(tuple(row.values()) for row in rows if row["annotator_id"] == "brightness")

    assert votes(dataset) == votes(other)


def test_a_node_of_two_is_killed_in_the_middle_and_nothing_is_lost_or_doubled(cluster, tmp_path):
    nodes, other = cluster
    results, batches, killed = {}, [], False

    def made():
        after = 0
        while after < 30:  # until the loss, and so many more
            after += killed
            batches.append([2 * len(batches), 2 * len(batches) + 1])
            yield batches[-1]

    for batch, result in mapped(Maker(str(tmp_path), 0.1), made(), engine="ray", workers=4):
        assert batch[0] not in results
        results[batch[0]] = result
        if not killed and len(list(tmp_path.glob("*.log"))) == 4:  # two workers fit on a machine: both have worked
            nodes.remove_node(other, allow_graceful=False)
            killed = True
    assert killed and results == {batch[0]: [x * x for x in batch] for batch in batches}
    worked = [int(line) for file in tmp_path.glob("*.log") for line in file.read_text().split()]
    assert set(worked) == set(results) and len(worked) <= len(batches) + 2  # at most what the lost two had in hand


def test_ray_sends_no_statistics_of_use_unless_somebody_wants_it_to(monkeypatch):
    usage = pytest.importorskip("ray._common.usage.usage_lib")
    from palate.engine import _ray

    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    _ray()
    assert not usage.usage_stats_enabled()
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    _ray()
    assert usage.usage_stats_enabled()
