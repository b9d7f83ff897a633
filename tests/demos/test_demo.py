"""The demo, scaled down: every stage runs, going on after an interruption repeats nothing, the page tells what happened."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from palate.demos import demo_seeds
from palate.demos.demo import FULL, QUICK, Scale, conclusions, demo, gain_text, rows_of_demo, settings_of_demo
from palate.demos.demo_seeds import over_seeds, read_kept
from palate.demos.wall import draw_wall
from palate.evaluation.seeds import seeds_mean

TINY = Scale(each=1, pairs=40, human=20, steps=1, repetitions=1, names=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a whole demo, the page that it returned, what it printed, and its html."""
    folder, printed = tmp_path_factory.mktemp("demo") / "demo", io.StringIO()
    with contextlib.redirect_stdout(printed):
        page = demo(folder, scale=TINY)
    return folder, page, printed.getvalue(), (folder / "report.html").read_text()


def test_every_row_of_the_demo_is_trained_compared_and_reported(made):
    folder, page, printed, html = made
    titles = [title for title, _ in rows_of_demo(TINY).values()]
    assert [row.name for row in page.rows] == titles and page.base.name == "base"
    assert all(row.win.n == 8 and row.utility for row in page.rows)
    for title in titles:
        assert title[:12] in printed and title in html
    account = json.loads((folder / "dedpo" / "labels.json").read_text())
    assert account["pairs with human votes"] == 20 and account["pairs used"] == 40
    assert json.loads((folder / "advised" / "labels.json").read_text())["choice"]["why"] in " ".join(printed.split())
    gains = json.loads((folder / "gains.json").read_text())
    assert list(gains) == list(rows_of_demo(TINY)) and all(len(own) == 8 for own in gains.values())
    for row, own in zip(page.rows, gains.values(), strict=True):
        assert np.mean(own) == pytest.approx(row.utility[0] - page.base.utility[0], abs=1e-6)


def test_the_demo_goes_on_where_it_was_interrupted_and_the_quick_one_has_two_of_its_rows(made):
    folder, first, _, _ = made
    kept = (folder / "few" / "samples" / "000000.png").stat().st_mtime_ns
    (folder / "advised" / "samples" / "000003.png").unlink()
    again = demo(folder, quick=True, scale=TINY)
    assert (folder / "few" / "samples" / "000000.png").stat().st_mtime_ns == kept
    titles = [rows_of_demo(TINY)[name][0] for name in QUICK]
    assert [row.name for row in again.rows] == titles
    assert [row.win for row in again.rows] == [row.win for row in first.rows if row.name in titles]


def test_the_wall_shows_both_models_in_their_places(made, tmp_path):
    folder, *_ = made
    with Image.open(folder / "wall.png") as wall:
        assert min(wall.size) > 200
    white, black = np.full((2, 64, 64, 3), 255, np.uint8), np.zeros((2, 64, 64, 3), np.uint8)
    draw_wall(["red apple", "penguin"], white, black, ("a", "b"), "c", tmp_path / "wall.png", columns=1)
    dark = np.asarray(Image.open(tmp_path / "wall.png")).max(axis=2) == 0  # letters are not quite black
    left, right = np.split(dark, [dark.shape[1] // 2 + 30], axis=1)
    assert dark.sum() == 2 * 64 * 64 and not left.any() and right.any()


def gains_of(mean: float, seed: int) -> list[float]:
    noise = np.random.default_rng([seed, int(1000 * mean)]).standard_normal(40)
    return (mean + 0.05 * (noise - noise.mean()) + 0.01 * (seed - 2)).tolist()


def test_what_the_seeds_say_in_words_is_what_their_gains_say():
    means = {"few": 0.2, "mix": 0.1, "dedpo": 0.25, "advised": 0.36, "all": 0.4}
    every = [{row: gains_of(mean, seed) for row, mean in means.items()} for seed in range(5)]
    mean, low, high = over_seeds(every, "advised", less="few")
    assert (mean, low, high) == seeds_mean(np.array([one["advised"] for one in every]) - [one["few"] for one in every])
    told = conclusions(every, rows_of_demo(FULL))
    assert "the few alone bring 50 %, with the judge as it is 25 %" in told[0] and "as advised 90 %" in told[0]
    assert told[1].endswith("over 5 seeds: more.") and told[3].endswith("over 5 seeds: less.")
    assert "4 of the 5 seeds were run before" in told[-1]
    assert "not ranked" in conclusions(every[:1], rows_of_demo(FULL))[-1] and "[" not in gain_text(every[:1], "few")


def test_kept_seeds_count_only_for_the_same_settings_and_never_twice(tmp_path, monkeypatch):
    settings = settings_of_demo(FULL)
    kept = {"command": "", "settings": settings, "seeds": {"0": {"few": [1.0]}, "3": {"few": [2.0]}}}
    monkeypatch.setattr(demo_seeds, "KEPT", tmp_path / "kept.json")
    assert read_kept(settings, but=0) == {}
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    assert read_kept(settings, but=0) == {3: {"few": [2.0]}}
    assert read_kept(settings_of_demo(TINY), but=0) == {}


def test_the_kept_seeds_are_those_of_this_demo():
    if not demo_seeds.KEPT.exists():
        pytest.skip("no other seeds are kept")
    found = read_kept(settings_of_demo(FULL), but=-1)
    assert found and all(set(gains) == set(rows_of_demo(FULL)) for gains in found.values())
    assert {len(own) for gains in found.values() for own in gains.values()} == {len(FULL.prompts)}
