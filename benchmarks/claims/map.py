"""The map: which way to train is best, over votes, judges and flipped votes, in a world of milliseconds.

python -m benchmarks.claims.map           goes on where it stopped: results/map.json, docs/map.md, docs/map.png
python -m benchmarks.claims.map --quick   a small grid, printed, nothing written
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.claims.proxy import (
    BETA,
    BETA_OF_LOSSES,
    PAIRS,
    World,
    draw_world,
    gains_at_drift,
    gains_at_steps,
    pulls,
)
from benchmarks.claims.ways import ROBUST, WAYS, Seen, Way, see
from palate.files import write_text
from palate.labels.targets import human_only

RESULTS = Path(__file__).parent / "results" / "map.json"
DOCS = Path(__file__).parents[2] / "docs"
REPEATS = 20
FIRST_SEED = 30_000  # no constant of the choice was chosen on these worlds
VOTES = (32, 128, 256)
JUDGES = {  # name: how it errs
    "right": {}, "w 1": {"wrong": 1}, "w 2": {"wrong": 2}, "w 6": {"wrong": 6}, "i 1": {"own": 1.0}, "i 2": {"own": 2.0},
    "w 2, i 1": {"wrong": 2, "own": 1.0}, "noise": {"own": 30.0},
}  # fmt: skip
FLIPS = (0.0, 0.2)
RATES = (0.0, 0.1, 0.2, 0.3, 0.4)  # of the flips of all votes, without a judge
ALONE, ADVISED, TOLD, ALL = "human only", "advised", "advised, agreement known", "all votes"
STEPPED = (ALL, ALONE, "mix", "DeDPO", "DeDPO, tuned", "context, residual 0.5", ADVISED)  # also read at equal steps
PUBLISHED = {  # gains at equal drift that a first version of this world gave, another program: (votes, judge) -> way -> gain
    (32, "w 2"): (0.19, 0.10, 0.14, 0.15, 0.17, 0.30, 0.29, 0.28, 0.25, 0.18),
    (32, "i 1"): (0.19, 0.31, 0.14, 0.17, 0.32, 0.29, 0.27, 0.27, 0.24, 0.17),
    (32, "i 2"): (0.19, 0.25, 0.12, 0.15, 0.30, 0.16, 0.18, 0.21, 0.21, 0.15),
    (32, "w 2, i 1"): (0.19, 0.09, 0.12, 0.15, 0.22, 0.27, 0.25, 0.24, 0.23, 0.17),
    (128, "w 2"): (0.28, 0.13, 0.24, 0.27, 0.30, 0.34, 0.34, 0.33, 0.32, 0.29),
    (128, "i 1"): (0.28, 0.31, 0.26, 0.28, 0.34, 0.31, 0.32, 0.31, 0.31, 0.28),
    (128, "i 2"): (0.28, 0.27, 0.24, 0.27, 0.30, 0.21, 0.25, 0.25, 0.29, 0.27),
    (128, "w 2, i 1"): (0.28, 0.11, 0.24, 0.27, 0.25, 0.32, 0.33, 0.29, 0.30, 0.28),
    (256, "right"): (0.314, 0.336, 0.312, 0.320, 0.346, 0.347, 0.346, 0.344, 0.338, 0.320),
    (256, "w 1"): (0.314, 0.252, 0.302, 0.314, 0.286, 0.345, 0.345, 0.343, 0.337, 0.320),
    (256, "i 1"): (0.314, 0.324, 0.304, 0.313, 0.332, 0.320, 0.328, 0.332, 0.333, 0.312),
}
COLUMNS = ("human only", "mix", "DeDPO", "calibrated, DeDPO", "calibrated, mix", "context, residual 0",
           "context, residual 0.1", "context, residual 0.25", "context, residual 0.5", "context, residual 1")  # fmt: skip


def measure(votes: int, judge: dict, flips: float, repeats: int, ways: Iterable[Way] = WAYS) -> dict:
    """One point: mean gain, standard error, and paired difference to human votes alone, at equal drift, and mean gain at
    equal steps, of every way and of all votes without a judge."""
    worlds = [draw_world(seed, **judge, flips=flips) for seed in range(FIRST_SEED, FIRST_SEED + repeats)]
    seen = [see(world, votes, flips) for world in worlds]
    taste = np.stack([world.taste for world in worlds])
    beta = BETA_OF_LOSSES if votes == PAIRS else BETA
    gains = {ALL: _gains(worlds, taste, Way(ALL, lambda seen: human_only(seen.labels)), seen, beta)}
    gains |= {way.name: _gains(worlds, taste, way, seen, beta) for way in ways}
    alone = gains[ALONE][0] if ALONE in gains else gains[ALL][0]
    told = {
        name: {
            "drift": _rounded(drift.mean()), "error": _rounded(_error(drift)), "against": _rounded((drift - alone).mean()),
            "against error": _rounded(_error(drift - alone)), "steps": _rounded(steps.mean()) if steps is not None else None,
        }
        for name, (drift, steps) in gains.items()
    }  # fmt: skip
    agreement = np.mean([np.mean((w.judge > 0.5) == (w.human > 0.5)) for w in worlds])
    chosen = Counter(one.chosen.in_words().split(", power")[0] for one in seen)
    share = float(np.mean([one.chosen.share for one in seen]))
    return {"agreement": _rounded(agreement), "ways": told, "advice": dict(chosen.most_common(5)), "expected share": _rounded(share)}  # fmt: skip


def _gains(
    worlds: list[World], taste: np.ndarray, way: Way, seen: list[Seen], beta: float
) -> tuple[np.ndarray, np.ndarray | None]:
    pull = np.stack([_pull(world, way, one) for world, one in zip(worlds, seen, strict=True)])
    drift = gains_at_drift(pull, taste, way.link, adaptive=way.adaptive, beta=beta)
    return drift, gains_at_steps(pull, taste)[0] if way.name in STEPPED else None


def _pull(world: World, way: Way, seen: Seen) -> np.ndarray:
    if way.name == ALL:
        return pulls(world, world.human, np.ones(PAIRS))
    targets = way.targets(seen)
    return pulls(world, targets.target, targets.weight)


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _rounded(value: float) -> float:
    return round(float(value), 4)


def points() -> dict[str, tuple[int, str, float, tuple[Way, ...]]]:
    """key -> votes, judge, flips and ways of each point of the map."""
    grid = {f"{v} votes, {j}, flips {f:g}": (v, j, f, WAYS) for f, v, j in product(FLIPS, VOTES, JUDGES)}
    rates = {f"all votes, flips {f:g}": (PAIRS, "right", f, (WAYS[0], *ROBUST)) for f in RATES}
    first = {key: point for key, point in grid.items() if point[2] == 0}
    return first | rates | grid


def holds(found: dict, way: str = ADVISED) -> dict[str, float]:
    """What the advice comes to over the points of the grid: how often it is never clearly worse than human votes alone,
    and within 10 % of the best way."""
    grid = [one for key, one in found.items() if not key.startswith("all votes")]
    safe = [w["ways"][way]["against"] > -2 * w["ways"][way]["against error"] - 0.003 for w in grid]
    best = [
        max(told["drift"] for name, told in one["ways"].items() if name not in (ALL, ADVISED, TOLD)) for one in grid
    ]
    near = [one["ways"][way]["drift"] >= 0.9 * top for one, top in zip(grid, best, strict=True)]
    return {"points": len(grid), "not worse": float(np.mean(safe)), "near": float(np.mean(near))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tell", action="store_true", help="the page alone, from the results that are there")
    options = parser.parse_args()
    if options.quick:
        found = {}
        for votes, judge in product((32, 128), ("right", "w 2", "noise")):
            found[f"{votes} votes, {judge}"] = one = measure(votes, JUDGES[judge], 0.0, 8)
            print(f"{votes} votes, {judge}: " + ", ".join(f"{n} {one['ways'][n]['drift']:.2f}" for n in (ALL, ALONE, "mix", "DeDPO", ADVISED)))  # fmt: skip
        print(holds(found))
        return
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for key, (votes, judge, flips, ways) in points().items():
        if key not in found and not options.tell:
            found[key] = measure(votes, JUDGES[judge], flips, REPEATS, ways)
            write_text(RESULTS, json.dumps(found, indent=0, sort_keys=True) + "\n")
            print(key, {n: found[key]["ways"][n]["drift"] for n in (ALL, ALONE, ADVISED) if n in found[key]["ways"]}, flush=True)  # fmt: skip
    from benchmarks.claims.map_page import write_page

    write_page(found, DOCS)


if __name__ == "__main__":
    main()
