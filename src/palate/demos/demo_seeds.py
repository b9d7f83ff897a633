"""The demo with other seeds: what it gained then, kept in a file beside this one.

    python -m palate.demos.demo_repeat --seeds 1 2 3 4 5

A seed is a whole repetition: other pairs, other votes, another labelled subset, other training, other noise. Kept gains
count only for a demo with the same settings.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from palate.arrays import Floats
from palate.evaluation.seeds import seeds_mean
from palate.evaluation.winrate import Interval

KEPT = Path(__file__).parent / "demo_seeds.json"
Gains = dict[str, list[float]]  # row -> gain in utility over the base, of each prompt in the suite's order


def read_kept(settings: dict[str, Any], but: int) -> dict[int, Gains]:
    """Seed -> gains of the demo with these settings and other seeds than `but`; nothing where none are kept."""
    if not KEPT.exists():
        return {}
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    if kept["settings"] != json.loads(json.dumps(settings)):
        return {}
    return {int(seed): gains for seed, gains in kept["seeds"].items() if int(seed) != but}


def over_seeds(gains: list[Gains], row: str, less: str | None = None, over: float = 1.0) -> Interval:
    """The mean gain of a row over seeds (less that of another row), with an interval for other seeds and prompts."""
    values: Floats = np.array([one[row] for one in gains]) / over  # [S, P]
    if less is not None:
        values = values - np.array([one[less] for one in gains]) / over
    return seeds_mean(values)
