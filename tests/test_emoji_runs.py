"""The plan, the pairs and the page of the runs in the emoji world; the runs themselves are an hour of work and not made here."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from palate.backbones import load_backbone
from palate.data.dataset import PreferenceDataset
from palate.run.load import load_config
from palate.world import EMOJI
from palate.world.emoji_measure import measure_emoji
from palate.world.emoji_pictures import GROUP_OF, GROUPS, STYLES
from palate.world.emoji_voters import true_emoji_utility

sys.path.append(str(Path(__file__).parents[1]))
from benchmarks.claims import emoji, emoji_labels, emoji_page, emoji_world  # noqa: E402


def test_every_condition_is_a_configuration_that_training_takes_and_none_is_made_twice():
    for settings in emoji.conditions().values():
        load_config(emoji.COMMON | settings | {"dataset": "data", "output_dir": "run"})
    told = [json.dumps(emoji.COMMON | settings, sort_keys=True) for settings in emoji.conditions().values()]
    assert len(set(told)) == len(told)
    assert len({emoji.key(name, seed) for name in emoji.conditions() for seed in (0, 1)}) == 2 * len(emoji.conditions())
    assert emoji.COMMON["max_train_steps"] == emoji.MARKS[-1]
    assert all(mark % emoji.COMMON["checkpointing_steps"] == 0 for mark in emoji.MARKS)


def test_pairs_are_of_one_name_in_two_styles_all_names_alike_and_another_seed_has_others():
    pairs = emoji_world.pairs_of(0, 256)
    names, styles = (np.array(pairs) // emoji_world.IN_POOL // 4, np.array(pairs) // emoji_world.IN_POOL % 4)
    assert (names[:, 0] == names[:, 1]).all() and (styles[:, 0] != styles[:, 1]).all()
    assert set(np.bincount(names[:, 0])) == {256 // len(emoji_world.NAMES)}
    assert len({frozenset(pair) for pair in pairs}) == 256
    assert emoji_world.pairs_of(0, 64) == pairs[:64] != emoji_world.pairs_of(1, 64)
    assert {GROUP_OF[name] for name in emoji_world.NAMES} == set(GROUPS)


@pytest.fixture
def drawn(tmp_path):
    """A pool of pictures whose size says their style, in place of samples, and a dataset of 64 pairs of them."""
    count = len(emoji_world.NAMES) * len(STYLES) * emoji_world.IN_POOL
    pictures = np.full((count, 64, 64, 3), 255, np.uint8)
    for k in range(count):
        edge = 10 + 8 * (k // emoji_world.IN_POOL % len(STYLES))
        pictures[k, 10:edge, 10:edge] = k % 251
    np.savez(tmp_path / "pool.npz", pictures=pictures)
    return tmp_path


def test_a_dataset_has_every_voter_on_every_pair_and_is_made_once(drawn):
    path = emoji_world.prepare(drawn, 0, 64)
    dataset = PreferenceDataset.open(path)
    votes = dataset.votes()
    people = {"majority", "minority", "flipped", "crowd"}
    assert set(votes["annotator_id"].to_pylist()) == people | set(emoji.JUDGES) and len(votes) == 64 * (
        len(people) + len(emoji.JUDGES)
    )
    before = (path / "dataset.json").stat().st_mtime_ns
    assert emoji_world.prepare(drawn, 0, 64) == path and (path / "dataset.json").stat().st_mtime_ns == before
    rows = sorted(votes.to_pylist(), key=lambda row: row["pair_id"])
    human = {name: np.array([row["choice"] for row in rows if row["annotator_id"] == name]) for name in people}
    changed = human["majority"] != human["flipped"]
    assert 0.1 < changed.mean() < 0.5  # 30 of 100
    assert not (human["majority"] != human["crowd"])[~changed].any()  # the minority votes where others are turned


def test_drift_is_none_of_the_base_and_grows_with_the_distance_from_it():
    torch.manual_seed(0)
    backbone = load_backbone(EMOJI)
    pictures = np.full((len(emoji_world.NAMES) * emoji_world.REPETITIONS, 64, 64, 3), 200, np.uint8)
    drift = emoji_world.Drift(backbone, pictures)
    assert drift.of(backbone.network) == {"rise": 0.0, "shift": 0.0}
    shifts = []
    noise = [torch.randn_like(parameter) for parameter in backbone.network.parameters()]
    for _ in range(2):
        with torch.no_grad():
            for parameter, one in zip(backbone.network.parameters(), noise, strict=True):
                parameter += 2e-3 * one
        shifts.append(drift.of(backbone.network)["shift"])
    assert 0 < shifts[0] < shifts[1]


def run(name: str, seed: int, gains: list[float], shifts: list[float]) -> dict:
    curve = [
        {"step": step, "utility": 2 + gain, "shift": shift, "rise": shift, "recognised": 1.0}
        for step, gain, shift in zip(emoji.MARKS, gains, shifts, strict=True)
    ]
    labels = {"judge": 0.6, "choice": {"way": "a way"}}
    return {"key": f"{name}{seed}", "condition": name, "seed": seed, "commit": "abc", "seconds": 60.0, "labels": labels, "curve": curve}  # fmt: skip


def results(path: Path, gains: dict[str, tuple[list[float], list[float]]], seeds: int = 3) -> dict[str, dict]:
    emoji.keep({"key": "base", "condition": "base", "utility": 2.0}, path)
    for seed in range(seeds):
        for name, (gain, shift) in gains.items():
            emoji.keep(run(name, seed, [g + 0.001 * seed for g in gain], shift), path)
    return emoji.load(path)


def test_equal_drift_is_where_every_way_was_and_between_two_marks_a_straight_line(tmp_path):
    found = results(tmp_path / "emoji.jsonl", {"all": ([0.2, 0.4], [0.01, 0.02]), "few-5": ([0.1, 0.2], [0.02, 0.06])})
    read = emoji_page.Emoji(found)
    assert read.common(0) == 0.02
    assert read.drift("all")[0] == pytest.approx(0.4) and read.drift("few-5")[0] == pytest.approx(0.1)
    assert read.steps("few-5") == {seed: pytest.approx(0.2 + 0.001 * seed) for seed in range(3)}


def test_the_page_says_what_the_runs_say_and_no_more(tmp_path):
    moved = [0.01, 0.02]
    ways = {f"{way}/{judge}": ([0.1, 0.3], moved) for judge in emoji.JUDGES for way in emoji_page.WORDS}
    results(tmp_path / "clear.jsonl", {"all": ([0.2, 0.4], moved), "few-5": ([0.1, 0.2], moved)} | ways)
    page = emoji_page.tell_emoji(tmp_path / "clear.jsonl", tmp_path)
    assert (
        "**More votes teach more: 51 votes gain 0.20" in page
        and "0.9 times with 1,024" in page
        and "advised way keeps 75 % [75, 75]" in page
    )
    assert "| `auto/own-errors` | 0.30 [0.30, 0.30] |" in page and "3 × a way" in page
    assert {path.name for path in tmp_path.glob("*.png")} == {emoji_page.SCALING, emoji_page.CURVES}
    results(tmp_path / "equal.jsonl", {"all": ([0.2, 0.4], moved), "few-5": ([0.2, 0.4], moved)})
    page = emoji_page.tell_emoji(tmp_path / "equal.jsonl", tmp_path)
    assert "More votes teach no more" in page and "as good as all votes" not in page
    assert emoji_page.tell_emoji(tmp_path / "none.jsonl", tmp_path) == ""


def test_wrong_votes_and_the_safeguard_are_told_when_all_of_their_runs_are_there(tmp_path):
    moved = [0.01, 0.02]
    flips = {name: ([0.1, 0.2], moved) for name in emoji.questions()["flips"] if name != "all"}
    grid = {name: ([0.1, 0.3 if name.startswith("sdpo") else -0.1], moved) for name in emoji.questions()["safeguard"]}
    results(tmp_path / "part.jsonl", {"all": ([0.2, 0.4], moved)} | dict(list(flips.items())[:-1]))
    assert "minority" not in emoji_page.tell_emoji(tmp_path / "part.jsonl", tmp_path)
    results(tmp_path / "whole.jsonl", {"all": ([0.2, 0.4], moved)} | flips | grid)
    page = emoji_page.tell_emoji(tmp_path / "whole.jsonl", tmp_path)
    assert "Adaptive-DPO keeps 50 % [50, 50]" in page and "without the safeguard 50% of 12" in page.lower()
    assert "with it 100% of 12 settings end better than the base, 0.10 below the best on average (n = 3)" in page


def test_targets_that_are_the_truth_are_worth_all_and_turned_ones_the_opposite():
    chance = np.array([0.9, 0.2, 0.6])
    assert emoji_labels.worth(chance, np.ones(3), chance) == {"right": 1.0, "cosine": pytest.approx(1.0)}
    assert emoji_labels.worth(1 - chance, np.ones(3), chance) == {"right": 0.0, "cosine": pytest.approx(-1.0)}
    part = emoji_labels.worth(np.array([1.0, 0.5, 0.5]), np.array([1.0, 0.0, 0.0]), chance)
    assert part["right"] == 1.0 and part["cosine"] == pytest.approx(0.4 / np.hypot(np.hypot(0.4, 0.3), 0.1))


def test_the_worth_of_labels_is_told_from_its_file(tmp_path):
    rows = [{"seed": seed, "way": way, "votes": votes, "judge": judge, "right": 0.7, "cosine": 0.5 + 0.1 * seed, "chosen": None}
            for seed in (0, 1) for judge in emoji.JUDGES for votes in (emoji.FEW, emoji.SHARES["12"]) for way in emoji_labels.WAYS]  # fmt: skip
    rows += [{**rows[0], "way": "alone", "judge": "", "votes": votes} for votes in (emoji.FEW, emoji.SHARES["12"])]
    rows += [{**rows[0], "way": "all", "judge": "", "votes": emoji_world.PAIRS, "cosine": 0.875}]
    (tmp_path / "labels.json").write_text(json.dumps(rows))
    page = emoji_page.tell_labels(tmp_path / "labels.json")
    assert "(0.88 with every vote)" in page and "0.50 alone, 0.55 with the judge as it is" in page
    assert emoji_page.tell_labels(tmp_path / "nothing.json") == ""


def test_a_run_made_again_replaces_its_line_when_read(tmp_path):
    path = tmp_path / "emoji.jsonl"
    for gain in (0.1, 0.2):
        emoji.keep(run("all", 0, [gain, gain], [0.01, 0.02]), path)
    assert len(path.read_text().splitlines()) == 2
    assert [json.loads(line)["condition"] for line in path.read_text().splitlines()] == ["all", "all"]
    assert emoji.load(path)["all0"]["curve"][-1]["utility"] == 2.2


def test_utility_of_the_groups_is_that_of_the_truth(tmp_path):
    pictures = np.full((4, 64, 64, 3), 255, np.uint8)
    shown = measure_emoji(pictures, list(emoji_world.NAMES[:4]))
    some = emoji_world.taken(shown, [2, 0])
    assert some.asked == [shown.asked[2], shown.asked[0]] and np.array_equal(some.style, shown.style[[2, 0]])
    assert np.allclose(true_emoji_utility(some), true_emoji_utility(shown)[[2, 0]])
