"""Scores: made once, kept by content, by one version; what a model was trained on is no evidence about it."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from evaluation.drawn import draw_samples, judge_all
from judges.reward_models import save_clip, save_image_reward, save_open_clip
from PIL import Image

from palate.cli import score as score_verb
from palate.data.dataset import PreferenceDataset
from palate.data.samples import open_samples
from palate.errors import PalateError
from palate.evaluation import scorers
from palate.evaluation.compare import compare
from palate.evaluation.score import score, scorer_settings
from palate.evaluation.scorers import Scorer, load_scorer
from palate.evaluation.scores import read_scores, score_samples, stored_scores
from palate.judges import load
from palate.judges.base import Pair
from palate.judges.load import load_judge
from palate.run.load import load_config, save_config
from palate.sampling.provenance import learned_from


def noise(seed: int, size: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8))


def counting(fail_at: int | None = None):
    """A scorer by mean grey that counts pictures, and breaks at the given one."""
    seen = []

    def by_grey(images, prompts):
        for image in images:
            if len(seen) == fail_at:
                raise RuntimeError("out of\nluck")
            seen.append(image)
        return np.array([[np.asarray(image).mean()] for image in images])

    return Scorer("grey", "1", ("grey",), by_grey, batch_size=2), seen


@pytest.mark.parametrize("kind", ["clip", "hpsv2.1", "imagereward"])
def test_a_judge_scores_a_picture_as_it_scores_it_in_a_pair(kind, tmp_path):
    make = {
        "clip": save_clip,
        "hpsv2.1": lambda f: save_open_clip(f)[0],
        "imagereward": lambda f: save_image_reward(f)[0],
    }
    judge = load_judge(kind, model=str(make[kind](tmp_path / kind)))
    pictures, prompts = [noise(i) for i in range(4)], ["a red circle", "a blue square"] * 2
    pairs = [Pair(str(i), prompts[i], pictures[i], pictures[3 - i]) for i in range(4)]
    scored = load_scorer(kind, model=str(tmp_path / kind)).score(pictures, prompts)
    assert scored.shape == (4, 1) and np.ptp(scored) > 1e-3
    torch.testing.assert_close(scored[:, 0], judge.vote(pairs)[:, 0], rtol=1e-4, atol=1e-4)


def test_an_interrupted_scoring_goes_on_where_it_broke(tmp_path):
    samples = draw_samples(tmp_path / "s", range(0, 200, 20))
    broken, seen = counting(fail_at=5)
    with pytest.raises(
        PalateError, match=r"'grey' failed on pictures 4 to 5 .*RuntimeError: out of luck.*is kept"
    ) as told:
        score_samples(samples, broken)
    assert "\n" not in str(told.value)
    assert pq.read_table(samples.folder / "scores.parquet").num_rows == 4 and stored_scores(samples) == []
    whole, seen = counting()
    (scores,) = score_samples(samples, whole)
    assert len(seen) == 6 and scores.values[9] == pytest.approx(np.asarray(Image.open(samples.paths[9])).mean())
    score_samples(samples, whole)
    assert len(seen) == 6  # a second run costs nothing
    noise(1, size=8).save(samples.paths[3])
    assert stored_scores(open_samples(samples.folder)) == []  # one score is of another picture now
    score_samples(open_samples(samples.folder), whole)
    assert len(seen) == 7
    rows = pq.read_table(samples.folder / "scores.parquet").to_pylist()
    assert [row["picture"] for row in rows] == list(range(10)) and {row["version"] for row in rows} == {"1"}


def test_a_number_that_is_none_is_refused_with_its_picture(tmp_path):
    samples = draw_samples(tmp_path / "s", [1, 2, 3])
    bad = Scorer("bad", "1", ("bad",), lambda images, prompts: np.array([[1.0], [np.inf], [2.0]]))
    with pytest.raises(PalateError, match="'bad' must give one finite number.*picture 1 has none"):
        score_samples(samples, bad)


def test_diversity_is_the_mean_distance_between_the_pictures_of_a_prompt(tmp_path):
    samples = draw_samples(tmp_path / "s", [50, 50, 50, 0, 255, 255], repetitions=3, size=160)
    (diversity,) = score_samples(samples, "diversity", batch_size=2)
    assert diversity.values[:3] == pytest.approx(0, abs=0.01)  # but for one pixel of theirs
    assert diversity.values[3:] == pytest.approx([1, 0.5, 0.5], abs=0.01)  # its mean, 2/3, is that of the three pairs
    samples.paths[0].unlink()
    Image.new("RGB", (160, 160), (255, 255, 255)).save(samples.paths[0])
    (changed,) = score_samples(open_samples(samples.folder), "diversity")
    assert changed.values[1] > 0.3  # all of the prompt is scored again
    with pytest.raises(PalateError, match="diversity needs several pictures of a prompt"):
        score_samples(draw_samples(tmp_path / "one", [1, 2]), "diversity")


def test_score_gives_what_it_can_and_says_what_it_cannot(tmp_path, capsys):
    """A folder without samples, one with a picture missing, a scorer that does not exist, diversity of single
    pictures."""
    a, b = draw_samples(tmp_path / "a", [1, 2]), draw_samples(tmp_path / "b", [3, 4], repetitions=2)
    (tmp_path / "none").mkdir()
    gone = draw_samples(tmp_path / "gone", [5, 6])
    gone.paths[1].unlink()
    told = []
    folders = [a.folder, tmp_path / "none", gone.folder, b.folder]
    found = score(folders, ["contrast", "nobody", "diversity"], tell=told.append)
    assert [(one.samples.folder, list(one.means)) for one in found] == [
        (a.folder, ["contrast"]), (b.folder, ["contrast", "diversity"]),
    ]  # fmt: skip
    reasons = ("none: no samples", "nobody", "gone", "a: diversity needs several pictures")
    assert all(any(reason in line for line in told) for reason in reasons) and all("\n" not in line for line in told)
    assert all(line.startswith("score: not scored: ") for line in told)
    with pytest.raises(SystemExit) as ended:
        score_verb.main([*map(str, folders), "--scorer", "contrast", "--json"])
    assert len(json.loads(capsys.readouterr().out)) == 2 and "none: no samples" in str(ended.value)
    score_verb.main([str(b.folder), "--scorer", "contrast"])  # nothing is wrong, so it just ends
    with pytest.raises(PalateError, match="no samples to score"):
        score([tmp_path / "none"], ["contrast"])
    with pytest.raises(PalateError, match="diversity needs several pictures of a prompt"):
        score([a.folder], ["diversity"])


def test_what_is_missing_is_scored_by_the_command_that_is_told(tmp_path, capsys):
    """With the options of the scores that are there; and a comparison goes on with what has scored all."""
    weights = str(save_clip(tmp_path / "clip"))
    a, b = draw_samples(tmp_path / "a", [10, 200, 30]), draw_samples(tmp_path / "b", [20, 20, 20])
    command = (
        f"palate score {a.folder} --scorer clip --scorer world --set world.x=1 --set clip.model={weights} --dtype fp32"
    )
    score([a.folder], ["clip"], settings=[f"clip.model={weights}"], command=command)
    with pytest.raises(PalateError) as refused:
        compare(a.folder, against=b.folder)
    told = str(refused.value)
    assert f"palate score {b.folder} --scorer clip --set clip.model={weights} --dtype fp32." in told
    score_verb.main(told.split("palate score ")[1].rstrip(".").split())
    assert compare(a.folder, against=b.folder).scorer == "clip"
    other = Scorer("other", "1", ("other",), lambda images, prompts: np.ones((len(images), 1)))
    score_samples(a, other, command="palate score a --scorer other")
    capsys.readouterr()
    both = compare(a.folder, against=b.folder)
    assert both.scorer == "clip" and not both.others
    assert "compare: without other: scorer 'other' is not known" in capsys.readouterr().err


def test_diversity_of_embeddings_is_of_unit_vectors(tmp_path):
    folder = str(save_clip(tmp_path / "clip"))
    samples = draw_samples(tmp_path / "s", [10, 10, 0, 250], repetitions=2)
    (diversity,) = score_samples(samples, load_scorer("diversity:clip", model=folder))
    assert diversity.values[0] == diversity.values[1] < diversity.values[2] == diversity.values[3] <= 2
    others = draw_samples(tmp_path / "others", [10, 10, 0, 250], repetitions=2)
    with pytest.raises(
        PalateError, match="no scores of diversity:clip yet. Make them: palate score"
    ):  # and no network is sought
        compare(samples.folder, against=others.folder, scorer="diversity:clip")


class Brighter:
    """A judge as a package would bring it: `vote` alone, scores or probabilities."""

    def __init__(self, probabilities: bool = False):
        self.settings, self.probabilities = {"probabilities": probabilities}, probabilities

    def vote(self, pairs):
        scores = np.array([[np.asarray(p.image_0).mean(), np.asarray(p.image_1).mean()] for p in pairs])
        return (scores[:, 0] > scores[:, 1]).astype(float) if self.probabilities else scores


def test_a_judge_of_a_package_scores_single_pictures_unless_it_only_compares(tmp_path, monkeypatch):
    class Found(dict):
        names = {"brighter"}

    for module in (scorers, load):
        entry = types.SimpleNamespace(load=lambda: Brighter)
        monkeypatch.setattr(
            module,
            "entry_points",
            lambda group, entry=entry: Found(brighter=entry) if group == "palate.judges" else Found(),
        )
    samples = draw_samples(tmp_path / "s", [10, 200, 30])
    (scores,) = score_samples(samples, "brighter")
    assert scores.values == pytest.approx([np.asarray(Image.open(path)).mean() for path in samples.paths])
    assert load_scorer("brighter").version != load_scorer("brighter", probabilities=True).version
    with pytest.raises(PalateError, match="'brighter' compares two pictures.*palate annotate"):
        score_samples(samples, load_scorer("brighter", probabilities=True))
    for name in ("vlm", "self:runs/dpo"):
        with pytest.raises(PalateError, match="compares two pictures.*palate import samples"):
            load_scorer(name)


def make_run(folder, **changes):
    config = load_config(
        {"pretrained_model_name_or_path": "world", "dataset": "none", "output_dir": str(folder), **changes}
    )
    save_config(config, folder / "config.yaml")
    return folder


def test_what_a_model_learned_from_is_found_through_names_rounds_and_rewards(tmp_path):
    dataset = PreferenceDataset.create(tmp_path / "data", "data")
    dataset.add_provenance({"judge": "pickscore", "annotator": "pick-fp16"})
    first = make_run(tmp_path / "a", method="dedpo", judge="pick-fp16", dataset=str(dataset.path))
    second = make_run(tmp_path / "b", method="dpo", start_from=str(first))
    third = make_run(tmp_path / "c", method="spo", reward="brightness")
    assert learned_from(first).names == {"pick-fp16", "pickscore"} == learned_from(second).names
    assert learned_from(third).names == {"brightness"} and learned_from("world").names == frozenset()
    (second / "labels.json").write_text(json.dumps({"judge": {"name": "aesthetic"}}))
    assert learned_from(second).names == {"pick-fp16", "pickscore", "aesthetic"}


def test_the_headline_is_the_first_scorer_that_nobody_was_trained_on(tmp_path, capsys):
    run = make_run(tmp_path / "run", method="spo", reward="brightness")
    draw_samples(run / "samples", [200, 210, 90, 220], model=str(run))
    draw_samples(run / "base-samples", [100, 100, 100, 100], model="world")
    both = compare(str(run), scorer=["brightness", "contrast"])
    assert (both.scorer, both.trained_on) == ("contrast", ())
    assert [(other.scorer, other.trained_on) for other in both.others] == [("brightness", ("run",))]
    assert both.others[0].rows[0].win.rate == 0.75
    alone = compare(str(run), scorer="brightness")
    alone.show()
    told = capsys.readouterr().out
    assert "used in training run: no evidence" in told and "No headline: run learned from brightness" in told
    assert alone.as_dict()["headline"] is None and "beats" not in told and both.as_dict()["headline"] is None
    both.show()  # contrast is no verdict either
    assert (
        "do not clearly differ in contrast" in (told := capsys.readouterr().out) and "More of it is not better" in told
    )
    judge_all(tmp_path)
    judged = compare(str(run), scorer=["contrast", "brightness", "taste"])
    assert judged.scorer == judged.as_dict()["headline"] == "taste"
    sampled = {"negative": str(run), "guidance": 7.5}
    draw_samples(tmp_path / "guided", [200, 210, 90, 220], model="world", **sampled)  # by what brightness taught
    assert compare(tmp_path / "guided", against=run / "base-samples", scorer="brightness").trained_on == ("guided",)


def test_drift_from_the_base_is_paired(tmp_path):
    after = draw_samples(tmp_path / "after", [50, 110, 170, 230], repetitions=2)
    before = draw_samples(tmp_path / "before", [40, 100, 160, 220], repetitions=2)
    row = compare(after.folder, against=before.folder, scorer="brightness").rows[0]
    change, low, high = row.drift_change["brightness"]
    assert change == pytest.approx(63 / 64 * 10 / 255, rel=1e-3) and high - low < 1e-6  # all by the same, so it is sure
    assert abs(row.drift_change["diversity"][0]) < 0.01 < row.drift["diversity"]


def test_stored_scores_of_one_version_are_compared_and_others_refused(tmp_path):
    folders = [str(save_clip(tmp_path / f"clip-{seed}", seed=seed)) for seed in (0, 1)]
    a, b = draw_samples(tmp_path / "a", [10, 200, 30]), draw_samples(tmp_path / "b", [20, 20, 20])
    with pytest.raises(PalateError, match=f"no scores of clip yet.*palate score {b.folder} {a.folder} --scorer clip"):
        compare(a.folder, against=b.folder, scorer="clip")
    score([a.folder], ["clip"], {"model": folders[0]})
    score([b.folder], ["clip"], {"model": folders[1]})
    with pytest.raises(PalateError, match="scored by different versions of clip"):
        compare(a.folder, against=b.folder, scorer="clip")
    score([b.folder], ["clip", "drift"], {"model": folders[0]})
    with pytest.raises(PalateError, match="nothing has scored these pictures yet.*--scorer"):
        c = draw_samples(tmp_path / "c", [1, 2, 3])
        compare(c.folder, against=b.folder)
    result = compare(a.folder, against=b.folder)  # what scored them judges; statistics do not
    assert (result.scorer, result.others) == ("clip", ()) and result.version.startswith("1-")


def test_the_verb_scores_runs_and_their_base_and_takes_settings_by_scorer(tmp_path, capsys):
    run = make_run(tmp_path / "run", method="spo", reward="brightness")
    for name in ("samples", "base-samples"):
        draw_samples(run / name, [10, 20, 30, 40], repetitions=2, model=str(run) if name == "samples" else "world")
    score_verb.main([str(run), "--scorer", "brightness", "--scorer", "diversity", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [one["n"] for one in told] == [4, 4] and told[0]["used_in_training"] == ["brightness"]
    assert told[1]["used_in_training"] == [] and set(told[1]["means"]) == {"brightness", "diversity"}
    score_verb.main([str(run), "--scorer", "brightness"])
    assert "used in training: no evidence" in capsys.readouterr().out
    given = scorer_settings(["clip", "hpsv2.1", "world"], {"dtype": "fp32"}, {"hpsv2.1.model": "x", "tokenizer": "y"})
    assert given == {"clip": {"dtype": "fp32", "tokenizer": "y"}, "hpsv2.1": {"dtype": "fp32", "model": "x", "tokenizer": "y"}, "world": {}}  # fmt: skip


@pytest.mark.parametrize(
    ("scorers", "common", "settings", "words"),
    [
        (["clip", "pickscore"], {"model": "x"}, {}, "one reward model, and there are 2"),
        (["world"], {"model": "x"}, {}, "there are 0"),
        (["clip"], {}, {"hpsv2.1.model": "x"}, "hpsv2.1 is none of the scorers"),
    ],
)
def test_settings_that_belong_nowhere_get_one_line(scorers, common, settings, words):
    with pytest.raises(PalateError, match=words):
        scorer_settings(scorers, common, settings)


SLOW = """
import sys, time
import numpy as np
from palate.sampling.samples import open_samples
from palate.evaluation.scorers import Scorer
from palate.evaluation.scores import score_samples

def slow(images, prompts):
    time.sleep(0.05)
    return np.array([[np.asarray(image).mean()] for image in images])

print("ready", flush=True)
score_samples(open_samples(sys.argv[1]), Scorer("grey", "1", ("grey",), slow, batch_size=1))
"""


def test_a_killed_scoring_keeps_every_batch_and_goes_on(tmp_path):
    samples = draw_samples(tmp_path / "s", range(200))
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(samples.folder)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    path = samples.folder / "scores.parquet"
    while not path.exists() or len(read_scores(samples.folder)) < 5:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    kept = len(read_scores(samples.folder))
    assert 5 <= kept < 200
    whole, seen = counting()
    score_samples(samples, whole)
    assert len(seen) == 200 - kept and read_scores(samples.folder)["picture"].to_pylist() == list(range(200))


def test_scores_are_read_whole_while_another_process_replaces_them(tmp_path):
    small, large = (
        score_samples(draw_samples(tmp_path / name, range(count)), "brightness") and tmp_path / name / "scores.parquet"
        for name, count in (("small", 3), ("large", 250))
    )
    (tmp_path / "read").mkdir()
    stop = threading.Event()

    def replace():
        while not stop.is_set():
            for path in (small, large):
                shutil.copy(path, tmp_path / "next")
                os.replace(tmp_path / "next", tmp_path / "read" / "scores.parquet")

    shutil.copy(small, tmp_path / "read" / "scores.parquet")
    other = threading.Thread(target=replace)
    other.start()
    try:
        assert {len(read_scores(tmp_path / "read")) for _ in range(500)} <= {3, 250}
    finally:
        stop.set()
        other.join()
