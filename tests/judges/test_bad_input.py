"""What can be wrong with a judge or where it writes: one line, exit code 1, nothing that was judged is lost."""

import json
import os
import sqlite3
import subprocess
import sys

import pytest
from tiny import make_labelled_dataset

from palate.data.dataset import PreferenceDataset, open_dataset

PLUG_IN = """
import os, pathlib, shutil
import numpy as np


def scores(pairs):
    with open(os.environ["SHOWN"], "a") as file:
        file.write("".join(f"{pair.pair_id}\\n" for pair in pairs))
    return np.array([[float(pair.pair_id[1:]), 0.0] for pair in pairs])


class NotANumber:
    def vote(self, pairs):
        return scores(pairs) * [1, np.nan if pairs[0].pair_id == "p008" else 1]


class Alike:
    def vote(self, pairs):
        return scores(pairs) * 0


class Silent:
    def vote(self, pairs):
        return None


class Raises:
    def vote(self, pairs):
        if "MENDED" not in os.environ:
            [10 / (int(pair.pair_id[1:]) - 9) for pair in pairs]
        return scores(pairs)


class Crowded:
    def vote(self, pairs):
        if len(pairs) > 1:
            raise MemoryError("too many\\nat once")
        return scores(pairs)


class Picky:
    def __init__(self, needed):
        pass

    vote = scores


class Vandal:
    def vote(self, pairs):
        if pairs[0].pair_id == "p008":
            shutil.rmtree(os.environ["GONE"])
        return scores(pairs)
"""


@pytest.fixture
def plug_ins(tmp_path):
    """A package with judges of its own, as pip would have installed it."""
    folder = tmp_path / "site"
    about = folder / "plug_in-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "plug_in.py").write_text(PLUG_IN.replace("\\\\n", "\\n"))
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-in\nVersion: 1.0\n")
    kinds = ("NotANumber", "Alike", "Silent", "Raises", "Crowded", "Picky", "Vandal", "Missing")
    entries = "".join(f"{kind.lower()} = plug_in:{kind}\n" for kind in kinds)
    (about / "entry_points.txt").write_text(f"[palate.judges]\n{entries}")
    return folder


@pytest.fixture
def annotate(plug_ins, tmp_path):
    def run(dataset, judge, *options, **environment) -> subprocess.CompletedProcess:
        path = os.pathsep.join([str(plug_ins), *sys.path])
        environment = os.environ | {"PYTHONPATH": path, "SHOWN": str(tmp_path / "shown"), **environment}
        command = [
            sys.executable,
            "-c",
            "from palate.cli import main; main()",
            "annotate",
            str(dataset.path),
            "--judge",
            judge,
        ]
        return subprocess.run(
            [*command, "--batch-size", "4", *options], capture_output=True, text=True, env=environment
        )

    return run


def line_of(result: subprocess.CompletedProcess) -> str:
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and result.stderr.endswith("\n"), result.stderr
    assert result.stderr.startswith("palate: ") and "Traceback" not in result.stdout + result.stderr
    return result.stderr


def kept(dataset) -> int:
    with sqlite3.connect(dataset.path / "judges" / "answers.sqlite") as database:
        return database.execute("SELECT count(*) FROM answers").fetchone()[0]


def votes_of(dataset, annotator: str) -> int:
    return open_dataset(dataset.path).votes()["annotator_id"].to_pylist().count(annotator)


@pytest.mark.parametrize(
    ("judge", "told", "answers"),
    [("notanumber", "a value that is not a finite number for pair p008", 8), ("silent", "None for 4 pairs", 0),
     ("alike", "all 24 pairs the same probability (0.5)", 0), ("picky", "TypeError", None), ("missing", "AttributeError", None)],
)  # fmt: skip
def test_a_judge_that_says_nothing_of_use_is_one_line(judge, told, answers, annotate, dataset):
    line = line_of(annotate(dataset, judge))
    assert told in line and f"'{judge}'" in line and votes_of(dataset, judge) == 0
    assert answers is None or kept(dataset) == answers


def test_what_a_plug_in_raises_is_one_line_with_the_pair_and_the_same_command_goes_on(annotate, dataset, tmp_path):
    line = line_of(annotate(dataset, "raises"))
    assert "judge 'raises' raised ZeroDivisionError: division by zero on pair p009" in line and "PALATE_TRACE=1" in line
    assert kept(dataset) == 8
    trace = annotate(dataset, "raises", PALATE_TRACE="1")
    assert trace.returncode == 1 and "plug_in.py" in trace.stderr and "ZeroDivisionError" in trace.stderr
    assert trace.stderr.splitlines()[-1] == line.strip()
    (tmp_path / "shown").unlink()
    report = json.loads(annotate(dataset, "raises", "--json", MENDED="1").stdout)
    assert (report["from_answers"], report["judged"], report["votes"]) == (8, 16, 24)
    assert (tmp_path / "shown").read_text().split() == [f"p{i:03}" for i in range(8, 24)]


def test_what_fails_together_alone_is_said_so(annotate, dataset):
    line = line_of(annotate(dataset, "crowded"))
    assert "MemoryError: too many at once on pairs p000 to p003 together" in line and "--batch-size 1" in line
    assert annotate(dataset, "crowded", "--batch-size", "1").returncode == 0 and votes_of(dataset, "crowded") == 24


def test_a_folder_of_other_weights_is_one_line(annotate, dataset, tmp_path):
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer.json").write_text("{}")
    assert "'bert', but pickscore is a CLIP model" in line_of(annotate(dataset, "pickscore", "--model", str(folder)))


def test_a_dataset_without_pictures_is_one_line(annotate, tmp_path):
    empty = PreferenceDataset.create(tmp_path / "empty", name="empty")
    assert "no pairs to judge" in line_of(annotate(empty, "brightness"))
    rows = [
        {"pair_id": f"p{i}", "prompt": "x", "image_0": {"path": "a.png"}, "image_1": {"path": "b.png"}} for i in (0, 1)
    ]
    empty.add_pairs(rows)
    line = line_of(annotate(empty, "brightness"))
    assert "voted on none of 2 pairs (2 with images that cannot be read" in line and "a.png" in line


def test_a_database_that_is_read_only_is_one_line_before_any_judge_is_asked(annotate, dataset, tmp_path):
    assert annotate(dataset, "brightness", "--limit", "3").returncode == 0
    path = dataset.path / "judges" / "answers.sqlite"
    data = bytearray(path.read_bytes())
    data[18] = 3  # SQLite's own mark of a file that this version may not write, which root must obey too
    path.write_bytes(data)
    assert "answers.sqlite: the answers of judges cannot be kept" in line_of(annotate(dataset, "alike"))
    assert not (tmp_path / "shown").exists()


def test_a_database_that_disappears_is_one_line_and_what_was_judged_becomes_votes(annotate, dataset):
    gone = {"GONE": str(dataset.path / "judges")}
    assert "cannot be kept (no such file or directory)" in line_of(annotate(dataset, "vandal", **gone))
    assert votes_of(dataset, "vandal") == 12  # the batch in which it happened is paid for too
    dataset.path.joinpath("judges").mkdir(exist_ok=True)
    report = json.loads(annotate(dataset, "vandal", "--json", **gone).stdout)
    assert (report["already_voted"], report["votes"]) == (12, 12)
    assert open_dataset(dataset.path).problems() == []


def test_a_template_without_its_marks_is_one_line(annotate, dataset, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Which picture is better, {first} or {second}?")
    assert "{prompt} stands there 0 times" in line_of(annotate(dataset, "vlm", "--template", str(path)))


def test_a_judge_that_learned_from_human_votes_is_not_asked_about_them(tmp_path):
    from palate.judges.annotate import annotate as judge_all

    class Learned:
        trained_on = frozenset({"p001", "p002", "elsewhere"})

        def vote(self, pairs):
            assert not {pair.pair_id for pair in pairs} & self.trained_on
            return [[len(pair.pair_id), int(pair.pair_id[1:])] for pair in pairs]

    report = judge_all(make_labelled_dataset(tmp_path / "data"), "learned", limit=20, load=lambda *_: Learned())
    assert (report.in_sample, report.votes, report.left_for_later) == (2, 20, 2)
