import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.special import expit
from tiny import make_labelled_dataset, picture_bytes, refusal

from palate.cli.annotate import main
from palate.data.dataset import PreferenceDataset, open_dataset
from palate.judges import load
from palate.judges.annotate import annotate
from palate.judges.ask import ask
from palate.judges.base import Answer, Pair


@pytest.fixture
def plug_in(monkeypatch):
    """Make a class the only installed plug-in, under the name "mine"."""

    class Found(dict):
        names = {"mine"}

    def install(kind):
        entry = types.SimpleNamespace(load=lambda: kind)
        monkeypatch.setattr(load, "entry_points", lambda group: Found(mine=entry) if group == "palate.judges" else {})

    return install


def brightness(image: Image.Image) -> float:
    return float(np.asarray(image.convert("L")).mean() / 255)


class Bright:
    """Scores by brightness, and counts the pairs that it was shown."""

    shown = 0

    def vote(self, pairs):
        Bright.shown += len(pairs)
        return np.array([[brightness(p.image_0), brightness(p.image_1)] for p in pairs])


@pytest.fixture(autouse=True)
def _nobody_was_shown_anything():
    Bright.shown = 0


def votes_of(dataset: PreferenceDataset, annotator: str) -> dict[str, dict]:
    rows = dataset.votes().to_pylist()
    own = [row for row in rows if row["annotator_id"] == annotator and row["source"] == "judge"]
    assert len({row["pair_id"] for row in own}) == len(own)
    return {row["pair_id"]: row for row in own}


def test_scores_are_stored_raw_and_their_difference_makes_the_probability(dataset, plug_in):
    plug_in(Bright)
    report = annotate(dataset, "mine", temperature=0.5, batch_size=7)
    votes = votes_of(open_dataset(dataset.path), "mine")
    assert report.pairs == report.judged == report.votes == len(votes) == 24
    for vote in votes.values():
        difference = vote["score_0"] - vote["score_1"]
        assert vote["probability"] == pytest.approx(expit(difference / 0.5))
        assert vote["choice"] == ("0" if difference > 0 else "1")
        assert 0 < vote["score_0"] < 1
    sides = {choice: sum(v["choice"] == choice for v in votes.values()) for choice in ("0", "1", "tie")}
    assert report.choices == sides and min(sides["0"], sides["1"]) > 0
    (entry,) = (e for e in open_dataset(dataset.path).provenance if e["annotator"] == "mine")
    assert entry["judge"] == "mine" and entry["temperature"] == 0.5 and entry["answers"] == "scores"
    assert all(vote["instruction_version"] == entry["version"] for vote in votes.values())


def test_a_second_run_asks_nothing_and_new_pairs_are_asked_alone(dataset, plug_in):
    plug_in(Bright)
    annotate(dataset, "mine")
    before = votes_of(dataset, "mine")
    report = annotate(open_dataset(dataset.path), "mine")
    assert (report.already_voted, report.judged, report.votes, Bright.shown) == (24, 0, 0, 24)
    rng = np.random.default_rng(9)
    images = {f"image_{k}": {"bytes": picture_bytes(rng), "path": None} for k in (0, 1)}
    dataset.add_pairs([{"pair_id": "new", "prompt": "a red circle", **images}])
    report = annotate(dataset, "mine")
    assert (report.already_voted, report.judged, Bright.shown) == (24, 1, 25)
    assert {k: v for k, v in votes_of(dataset, "mine").items() if k != "new"} == before


def test_the_same_pictures_under_another_id_or_in_another_folder_cost_nothing(dataset, plug_in, tmp_path):
    plug_in(Bright)
    annotate(dataset, "mine")
    other = PreferenceDataset.create(tmp_path / "other", name="other")
    rows = [{**row, "pair_id": f"x-{row['pair_id']}"} for batch in dataset.iter_pairs() for row in batch.to_pylist()]
    other.add_pairs(rows)
    (other.path / "judges").mkdir()
    (other.path / "judges" / "answers.sqlite").write_bytes((dataset.path / "judges" / "answers.sqlite").read_bytes())
    report = annotate(other, "mine")
    assert (report.from_answers, report.judged, report.votes, Bright.shown) == (24, 0, 24, 24)
    for pair_id, vote in votes_of(other, "mine").items():
        assert vote["score_0"] == votes_of(dataset, "mine")[pair_id.removeprefix("x-")]["score_0"]


def test_an_interrupted_run_goes_on_with_what_it_had(dataset, plug_in):
    class Tired(Bright):
        def vote(self, pairs):
            if Bright.shown >= 15:
                raise KeyboardInterrupt
            return super().vote(pairs)

    plug_in(Tired)
    with pytest.raises(KeyboardInterrupt):
        annotate(dataset, "mine", batch_size=5)
    assert not votes_of(dataset, "mine")
    plug_in(Bright)
    report = annotate(dataset, "mine", batch_size=5)
    assert (report.from_answers, report.judged, report.votes, Bright.shown) == (15, 9, 24, 24)


def test_a_limit_leaves_the_others_for_later(dataset, plug_in):
    plug_in(Bright)
    report = annotate(dataset, "mine", limit=11, batch_size=4)
    assert (report.judged, report.left_for_later, report.votes) == (11, 13, 11)
    report = annotate(dataset, "mine")
    assert (report.already_voted, report.judged, report.votes) == (11, 13, 13)


def test_a_judge_that_gives_probabilities_is_asked_in_both_orders(dataset, plug_in):
    class Hasty:
        def vote(self, pairs):
            return [0.7 + 0.2 * (brightness(p.image_0) > brightness(p.image_1)) for p in pairs]

    plug_in(Hasty)
    report = annotate(dataset, "mine")
    for vote in votes_of(dataset, "mine").values():
        assert vote["probability"] == pytest.approx(0.6 if vote["choice"] == "0" else 0.4)  # its bias of 0.3 is gone
    assert report.first_shown == pytest.approx(0.8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), min_size=1, max_size=5), st.floats(1e-3, 1e3))
def test_swapping_always_mirrors_whatever_the_scores(scores, temperature):
    image = Image.new("RGB", (2, 2))

    class Fixed:
        def __init__(self, table):
            self.table = np.array(table)

        def vote(self, pairs):
            return self.table

    pairs = [Pair(str(i), "", image, image) for i in range(len(scores))]
    straight = ask("fixed", Fixed(scores), pairs, temperature)
    mirrored = ask("fixed", Fixed([(b, a) for a, b in scores]), pairs, temperature)
    for one, other in zip(straight, mirrored, strict=True):
        assert one.probability == pytest.approx(1 - other.probability, abs=1e-12)
        assert 0 <= one.probability <= 1


def says(answer):
    class Judge:
        def vote(self, pairs):
            return answer(len(pairs))

    return Judge


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (lambda n: np.full((n, 2), np.nan), "not a finite number for pair p000"),
        (lambda n: [0.5] * (n - 1) + [float("inf")], "not a finite number for pair p023"),
        (lambda n: [], "an array of shape (0,) for 24 pairs"),
        (lambda n: None, "None for 24 pairs"),
        (lambda n: [0.4] * (n - 1), "shape (23,)"),
        (lambda n: np.zeros((n, 3)), "shape (24, 3)"),
        (lambda n: ["A"] * n, "no table of numbers"),
        (lambda n: [1.5] * n, "the probability 1.5 for pair p000"),
        (lambda n: [Answer(0.5)] * (n + 1), "25 answers for 24"),
        (lambda n: [Answer(float("nan"))] * n, "not a finite number"),
        (lambda n: [Answer()] * n, "neither a probability nor a failure for pair p000"),
        (lambda n: [Answer(-0.1)] * n, "the probability -0.1"),
        (lambda n: np.ones((n, 2)), "the same probability (0.5)"),
        (lambda n: [0.9] * n, "the same probability"),
    ],
)
def test_a_judge_that_says_nothing_of_use_is_refused_in_one_line_and_no_vote_is_written(answer, what, dataset, plug_in):
    plug_in(says(answer))
    shards = sorted((dataset.path / "votes").iterdir())
    line = refusal(lambda: annotate(dataset, "mine", batch_size=64))
    assert what in line and "'mine'" in line
    assert sorted((dataset.path / "votes").iterdir()) == shards


def test_an_id_that_voted_with_other_settings_or_is_a_person_is_refused(dataset, plug_in):
    class Two(Bright):
        def __init__(self, power=1):
            self.settings = {"power": power}

    plug_in(Two)
    annotate(dataset, "mine", settings={"power": 1})
    assert "--name" in refusal(lambda: annotate(dataset, "mine", settings={"power": 2}))
    assert "--name" in refusal(lambda: annotate(dataset, "mine", temperature=3.0))
    assert "a person" in refusal(lambda: annotate(dataset, "mine", annotator="ana"))
    assert annotate(dataset, "mine", settings={"power": 2}, annotator="mine-2").votes == 24
    assert "takes no setting 'powr'" in refusal(lambda: annotate(dataset, "mine", settings={"powr": 2}))
    plug_in(type("Mute", (), {}))
    assert "no method vote" in refusal(lambda: annotate(dataset, "mine", annotator="x"))
    plug_in(3)
    assert "no class" in refusal(lambda: annotate(dataset, "mine", annotator="x"))


def failures_kept(dataset) -> list[str]:
    with sqlite3.connect(dataset.path / "judges" / "answers.sqlite") as database:
        answers = [json.loads(text) for (text,) in database.execute("SELECT answer FROM answers")]
    return [answer["failure"] for answer in answers if answer["failure"]]


def test_failures_are_recorded_and_tried_again(dataset, plug_in):
    class Moody(Bright):
        fails = True

        def vote(self, pairs):
            scores = super().vote(pairs)
            failed = [Moody.fails and p.pair_id.endswith("7") for p in pairs]
            return [Answer(failure="busy", usage={"requests": 2}) if f else Answer(float(expit(a - b)), usage={"requests": 1})
                    for f, (a, b) in zip(failed, scores, strict=True)]  # fmt: skip

    plug_in(Moody)
    report = annotate(dataset, "mine")
    assert (report.judged, report.failed, report.votes) == (22, 2, 22)
    assert report.first_failure == "p007: busy" and report.usage == {"requests": 22 + 4}
    assert failures_kept(dataset) == ["busy", "busy"]
    Moody.fails = False
    report = annotate(dataset, "mine")
    assert (report.already_voted, report.judged, report.failed, report.votes) == (22, 2, 0, 2)
    assert not failures_kept(dataset)


def test_a_judge_that_answers_nothing_is_given_up_soon(dataset, plug_in):
    plug_in(says(lambda n: [Answer(failure="no answer")] * n))
    assert "answers no more: no answer" in refusal(lambda: annotate(dataset, "mine", batch_size=4))


def test_pictures_that_cannot_be_read_are_counted_and_the_others_judged(dataset, plug_in):
    good = {"bytes": picture_bytes(np.random.default_rng(0)), "path": None}
    dataset.add_pairs(
        [
            {"pair_id": "gone", "prompt": "x", "image_0": good, "image_1": {"bytes": None, "path": "nowhere.png"}},
            {"pair_id": "html", "prompt": "x", "image_0": good, "image_1": {"bytes": b"<html>", "path": None}},
            {"pair_id": "single", "prompt": "x", "image_0": good},
        ]
    )
    plug_in(Bright)
    report = annotate(dataset, "mine", batch_size=5)
    assert (report.pairs, report.judged, report.unreadable, report.single_images, report.votes) == (26, 24, 2, 1, 24)
    assert report.left_for_later == 0 and "gone" in report.first_failure


def test_a_dataset_without_pictures_is_one_clear_line(tmp_path, plug_in):
    plug_in(Bright)
    empty = PreferenceDataset.create(tmp_path / "empty", name="empty")
    assert "no pairs to judge" in refusal(lambda: annotate(empty, "mine"))
    bare = PreferenceDataset.create(tmp_path / "bare", name="bare")
    bare.add_pairs([{"pair_id": "a", "prompt": "x", "image_0": {"path": "a.png"}, "image_1": {"path": "b.png"}}])
    assert "voted on none of 1 pairs" in refusal(lambda: annotate(bare, "mine"))


def test_answers_that_cannot_be_kept_are_one_clear_line(dataset, plug_in):
    plug_in(Bright)
    (dataset.path / "judges").mkdir()
    (dataset.path / "judges" / "answers.sqlite").write_bytes(
        b"not a database, but long enough to look like a file" * 40
    )
    assert "cannot be kept" in refusal(lambda: annotate(dataset, "mine"))


def test_pictures_that_are_statistics_need_no_plug_in(dataset):
    report = annotate(dataset, "brightness", temperature=0.1)
    agree = [votes_of(dataset, "brightness")[pair]["choice"] == vote["choice"] for pair, vote in votes_of(dataset, "bright").items()]  # fmt: skip
    assert report.votes == 24 and np.mean(agree) > 0.8


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_counts_and_how_far_the_judge_can_be_trusted(tmp_path, capsys):
    dataset = make_labelled_dataset(tmp_path / "data", pairs=40, labelled=30)
    main([str(dataset.path), "--judge", "brightness", "--temperature", "0.1", "--limit", "35"])
    out = capsys.readouterr().out
    assert "40 pairs: 35 judged now · 5 left for later" in out and "35 votes of brightness" in out
    assert "On 30 pairs agreement with people goes from" in out
    main([str(dataset.path), "--judge", "brightness", "--temperature", "0.1", "--json"])
    assert json.loads(capsys.readouterr().out)["already_voted"] == 35
    main([str(dataset.path), "--judge", "brightness", "--recalibrate"])
    assert "Brier" in capsys.readouterr().out
    assert "key=value" in refusal(lambda: main([str(dataset.path), "--judge", "brightness", "--set", "x"]))


def test_every_setting_of_several_reaches_the_judge(dataset, plug_in, capsys):
    class Two(Bright):
        def __init__(self, power, side=1):
            self.settings = {"power": power, "side": side}

    plug_in(Two)
    main([str(dataset.path), "--judge", "mine", "--set", "power=2.5", "--set", "side=left"])
    (entry,) = (e for e in open_dataset(dataset.path).provenance if e["annotator"] == "mine")
    assert entry["settings"] == {"power": 2.5, "side": "left"}


def test_a_run_that_is_killed_at_any_moment_loses_nothing_and_doubles_nothing(tmp_path):
    dataset = make_labelled_dataset(tmp_path / "data", pairs=40, labelled=0)
    script = tmp_path / "slow.py"
    script.write_text(
        textwrap.dedent("""
        import sys, time, numpy as np
        from palate.data.dataset import open_dataset
        from palate.judges.annotate import annotate
        log = open(sys.argv[2], "a", buffering=1)
        class Slow:
            def vote(self, pairs):
                for pair in pairs: log.write(pair.pair_id + "\\n")
                time.sleep(0.05)
                return np.array([[len(p.pair_id), float(p.pair_id[1:])] for p in pairs])
        load = lambda name, **settings: Slow()
        print(annotate(open_dataset(sys.argv[1]), "slow", batch_size=2, load=load).votes)
        """)
    )
    log = tmp_path / "log"
    log.touch()
    command = [sys.executable, str(script), str(dataset.path), str(log)]
    for shown in (6, 18):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
        while len(log.read_text().split()) < shown and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    votes = votes_of(open_dataset(dataset.path), "slow")
    assert len(votes) == 40 and all(vote["score_1"] == float(pair[1:]) for pair, vote in votes.items())
    assert 40 <= len(log.read_text().split()) <= 40 + 2 * 2  # at most the batch in flight was judged again
    assert open_dataset(dataset.path).problems() == []


def test_the_page_shows_a_plug_in_of_ten_lines_that_works(tmp_path, dataset, plug_in):
    page = (Path(__file__).resolve().parents[2] / "docs" / "annotate.md").read_text()
    (block,) = (b.split("```")[0] for b in page.split("```python\n")[1:] if "def vote" in b)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    names: dict = {}
    exec(block, names)
    (kind,) = (thing for thing in names.values() if isinstance(thing, type) and hasattr(thing, "vote"))
    plug_in(kind)
    assert annotate(dataset, "mine").votes == 24
