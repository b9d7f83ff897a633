"""The map on a tiny grid with known truth; the whole one is committed results."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))
from benchmarks.claims import map as themap  # noqa: E402
from benchmarks.claims import map_page, proxy, ways  # noqa: E402


@pytest.fixture(scope="module")
def grid():
    """48 votes, six repetitions: a judge that is right, one wrong about two groups, one that is noise."""
    kinds = ("right", "w 2", "noise")
    some = [way for way in ways.WAYS if way.name in ("human only", "judge only", "mix", "DeDPO", "context, residual 0.25", "advised")]  # fmt: skip
    return {f"48 votes, {kind}": themap.measure(48, themap.JUDGES[kind], 0.0, 6, some) for kind in kinds}


def gain(grid, judge, way):
    return grid[f"48 votes, {judge}"]["ways"][way]["drift"]


def test_a_right_judge_is_worth_more_than_few_votes_and_one_that_is_noise_is_not_followed(grid):
    assert gain(grid, "right", "context, residual 0.25") > gain(grid, "right", "human only") + 0.05
    assert gain(grid, "right", "advised") > gain(grid, "right", "human only") + 0.05
    assert gain(grid, "noise", "mix") < gain(grid, "noise", "human only") - 0.05
    assert gain(grid, "noise", "advised") > gain(grid, "noise", "human only") - 0.03


def test_a_judge_that_is_wrong_about_some_groups_is_set_right_by_context(grid):
    assert gain(grid, "w 2", "context, residual 0.25") > gain(grid, "w 2", "human only") > gain(grid, "w 2", "mix")


def test_the_advice_is_never_clearly_worse_than_human_votes_alone(grid):
    assert themap.holds(grid)["not worse"] == 1


def test_a_run_stops_at_the_drift_and_more_votes_gain_more():
    worlds = [proxy.draw_world(seed) for seed in range(6)]
    taste, gains = np.stack([world.taste for world in worlds]), []
    for votes in (32, 256, 1024):
        pull = np.stack([proxy.pulls(w, np.nan_to_num(h, nan=0.5), ~np.isnan(h) * 1.0) for w in worlds for h in [w.labelled(votes)]])  # fmt: skip
        gains.append(proxy.gains_at_drift(pull, taste).mean())
    assert gains == sorted(gains)
    spread = taste.std(axis=2).mean()
    assert gains[-1] < np.sqrt(2 * proxy.DRIFT) * spread * 1.1  # no direction gains more for this drift


def test_pulls_keep_the_sides_of_every_pair():
    world = proxy.draw_world(0)
    pull = proxy.pulls(world, world.human, np.ones(len(world.human)))
    assert pull.sum() == pytest.approx(1)
    turned = proxy.World(world.taste, world.prompt, world.styles[:, ::-1], 1 - world.human, world.judge, world.order)
    np.testing.assert_allclose(proxy.pulls(turned, turned.human, np.ones(len(world.human))), pull)


def test_the_page_is_what_the_results_say():
    found = json.loads(themap.RESULTS.read_text())
    assert set(found) == set(themap.points())
    assert map_page.page(found) == (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    held = themap.holds(found)
    plain, turned = ({k: one for k, one in found.items() if k.endswith(f"flips {f:g}")} for f in (0, 0.2))
    assert held["not worse"] >= 0.95 and held["near"] >= 0.8
    assert themap.holds(plain)["near"] >= 0.8 and themap.holds(turned, themap.TOLD)["near"] >= 0.8
