import io
import math

import pyarrow as pa
import pytest
from rich.console import Console

from palate.data.dataset import PreferenceDataset
from palate.data.summary import human_agreement, print_summary, summarise


def votes(*rows):
    columns = ("pair_id", "annotator_id", "source", "choice")
    return pa.table({name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(columns)})


def test_agreement_is_the_mean_over_pairs_of_couples_that_agree():
    rows = [("a", who, "human", choice) for who, choice in zip("xyz", ("0", "0", "1"), strict=True)]  # 1 couple of 3
    rows += [("b", "x", "human", "tie"), ("b", "y", "human", "0")]  # a tie is a coin
    rows += [("c", "x", "human", "0"), ("c", "y", "human", "skip"), ("c", "j", "judge", "1")]  # one human answer
    rows += [("d", "x", "human", "0"), ("d", "x", "human", "0")]  # one person twice
    found = human_agreement(votes(*rows))
    assert found["pairs"] == 2 and math.isclose(found["mean"], (1 / 3 + 1 / 2) / 2)
    assert found["low"] < found["mean"] < found["high"]
    assert human_agreement(votes(("a", "x", "human", "0")))["mean"] is None
    assert human_agreement(votes(*rows[:3]))["low"] is None


def test_the_interval_narrows_with_pairs_and_is_never_a_point():
    def of(n):
        found = human_agreement(votes(*((f"{i}", who, "human", "0") for i in range(n) for who in "xy")))
        return found["high"] - found["low"]

    assert 0 < of(200) < of(20) / 5


@pytest.fixture
def summary(tmp_path, pair, picture):
    dataset = PreferenceDataset.create(tmp_path / "prefs", "my [prefs]")
    (tmp_path / "prefs" / "there.jpg").write_bytes(picture(1, (30, 20)))
    dataset.add_pairs(
        [
            pair("a", group_id="g", propensity=0.25),
            pair("b", group_id="g", propensity=0.5),
            pair("c", prompt="prompt b", image_1={"path": "there.jpg"}),
            pair("d", image_0={"path": "nowhere.jpg"}, image_1={"path": "there.jpg"}),
        ],
        rows_per_shard=2,
    )
    human = [
        {"pair_id": p, "annotator_id": "ana", "source": "human", "choice": c} for p, c in (("a", "tie"), ("b", "skip"))
    ]
    judge = [{"pair_id": p, "annotator_id": "clip", "source": "judge", "choice": "1"} for p in "abc"]
    dataset.append_votes(human + judge)
    return summarise(dataset)


def test_counts_of_a_dataset(summary):
    expected = {
        "pairs": 4,
        "prompts": 3,
        "groups": 1,
        "pairs_without_votes": 1,
        "pairs_with_human_votes": 2,
        "pairs_lacking_images": 1,
        "votes": 5,
        "propensity": {"given": 2, "mean": 0.375, "min": 0.25, "max": 0.5},
        "choices": {"human": {"0": 0, "1": 0, "tie": 1, "skip": 1}, "judge": {"0": 0, "1": 3, "tie": 0, "skip": 0}},
        "image_sizes": [{"width": 12, "height": 8, "images": 5}, {"width": 30, "height": 20, "images": 2}],
    }
    assert {name: summary[name] for name in expected} == expected
    assert [(e["annotator_id"], e["votes"], e["tie"]) for e in summary["annotators"]] == [("ana", 2, 1), ("clip", 3, 0)]


def test_the_tables_show_the_counts(summary):
    out = io.StringIO()
    print_summary(summary, Console(file=out, width=100))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines[0][:2] == ["my", "[prefs]"]  # a name is never taken for markup
    assert ["judge", "clip", "3", "0", "3", "0", "0"] in lines and ["12", "×", "8", "5"] in lines
    assert ["lacking", "images", "1", "pairs"] in lines


def test_an_empty_dataset_has_a_summary(tmp_path):
    summary = summarise(PreferenceDataset.create(tmp_path / "prefs", "prefs"))
    assert summary["pairs"] == 0 and summary["propensity"]["mean"] is None
    print_summary(summary, Console(file=io.StringIO()))
