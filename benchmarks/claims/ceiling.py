"""How near to the best way a choice can come that sees what a user sees: a ceiling for the advice of the map.

python -m benchmarks.claims.ceiling        results/ceiling.json; an hour on one core

For every repetition of every point it trains all ways, and learns from the other repetitions (a forest, five folds by
seed) what each way gains where the votes and judges look like this. It knows the worlds of the map, which no user does:
votes of 24 points in as many worlds each, and nothing else. Worlds of other seeds than those of the map.
"""

import json
from itertools import product
from pathlib import Path

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

from benchmarks.claims.map import FLIPS, JUDGES, VOTES
from benchmarks.claims.proxy import draw_world, gains_at_drift, pulls
from benchmarks.claims.ways import kept, see
from palate.data.labels import Labels
from palate.files import write_text
from palate.judges.choice import RESIDUALS
from palate.labels.targets import human_only, tuned_power

RESULTS = Path(__file__).parent / "results" / "ceiling.json"
FIRST_SEED, REPEATS = 5_000, 30


def look(labels: Labels) -> list[float]:
    """What the votes say of a judge: how it agrees, how much it says, the error of the first, and the tuned power."""
    seen = labels.labelled
    a, b = labels.human[seen] - 0.5, labels.judge[seen] - 0.5
    everywhere = float(np.mean((labels.judge - 0.5) ** 2))
    power = float(np.clip(np.mean(a * b) / max(float(np.mean(b * b)), 1e-12), 0, 1))
    return [float(np.mean(a * b)), float(np.mean(b * b)), everywhere, float((a * b).std() / np.sqrt(len(a))), power]


def trained(votes: int, judge: dict, flips: float) -> tuple[np.ndarray, np.ndarray]:
    """What is seen [R, F] and what all ways gain [R, W], of all repetitions of a point."""
    seen, pull, taste = [], [], []
    for seed in range(FIRST_SEED, FIRST_SEED + REPEATS):
        world = draw_world(seed, **judge, flips=flips)
        one = see(world, votes, flips)
        judges = (one.labels, one.calibrated, one.context)
        seen.append([number for labels in judges for number in look(labels)])
        powers = [(1.0, tuned_power(labels.human, labels.judge)) for labels in judges]
        targets = [human_only(one.labels)] + [
            kept(labels, r, float(k))
            for labels, own in zip(judges, powers, strict=True)
            for r in RESIDUALS
            for k in own
        ]
        pull += [pulls(world, target.target, target.weight) for target in targets]
        taste += [world.taste] * len(targets)
    return np.array(seen), gains_at_drift(np.stack(pull), np.stack(taste)).reshape(REPEATS, -1)


def ceiling(points: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """For each point the gain of the way that a forest chooses, over that of the point's best way. The points are those
    that a user could not tell apart beforehand."""
    x, y = (np.concatenate([point[k] for point in points]) for k in (0, 1))
    fold = np.tile(np.arange(REPEATS) % 5, len(points))
    guess = np.zeros_like(y)
    for k in range(5):
        forest = ExtraTreesRegressor(400, min_samples_leaf=4, random_state=0).fit(x[fold != k], y[fold != k])
        guess[fold == k] = forest.predict(x[fold == k])
    got = y[np.arange(len(y)), guess.argmax(axis=1)].reshape(len(points), REPEATS).mean(axis=1)
    return [float(one / point[1].mean(axis=0).max()) for one, point in zip(got, points, strict=True)]


def summary(found: dict[tuple[int, str, float], tuple[np.ndarray, np.ndarray]]) -> dict[str, dict[str, float]]:
    """The share of points within 10 % of the best way, where it is known whether votes are flipped and where it is not."""
    told = {}
    for name, groups in (("known", [(f,) for f in FLIPS]), ("unknown", [FLIPS])):
        ratios: dict[float, list[float]] = {f: [] for f in FLIPS}
        for votes, flips in product(VOTES, groups):
            keys = [key for key in found if key[0] == votes and key[2] in flips]
            for key, ratio in zip(keys, ceiling([found[key] for key in keys]), strict=True):
                ratios[key[2]].append(ratio)
        for f, own in ratios.items():
            told[f"flips {f:g}, {name}"] = {"points": len(own), "near": round(float(np.mean(np.array(own) >= 0.9)), 3),
                                           "ratio": round(float(np.mean(own)), 3), "least": round(min(own), 2)}  # fmt: skip
    return told


if __name__ == "__main__":
    grid = {(v, j, f): trained(v, JUDGES[j], f) for v, j, f in product(VOTES, JUDGES, FLIPS)}
    write_text(RESULTS, json.dumps(summary(grid), indent=1) + "\n")
