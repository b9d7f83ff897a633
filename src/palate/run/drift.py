"""How far a run moved from its base: the drift that its validations measured, for those who read the run later."""

import math
from collections.abc import Mapping
from pathlib import Path

from palate.arithmetic import HALF_95
from palate.errors import PalateError
from palate.run.load import load_config
from palate.run.metrics import read_metrics

METRIC = "validation/drift"
_UNLIKE = 1.25  # times as far as another run is called unequal, where the intervals say so, too

Interval = tuple[float, float, float]  # mean, low, high


def drift_of(run: Path) -> Interval | None:
    """Drift of a run's model with its 95 % interval over held-out pairs: how far the mean denoising error of both
    images rose above the base's.

    That of the last validation, or with early_stop of the best one, whose weights are the model. None where it was not
    measured (no held_out_votes, an older palate), or not of the weights that were saved (ema_decay).
    """
    lines = [line for line in read_metrics(run) if METRIC in line]
    try:
        config = load_config(run / "config.yaml")
    except PalateError:
        return None
    if not lines or config.ema_decay is not None:
        return None
    last = min(lines, key=lambda line: line["validation/cross_entropy"]) if config.early_stop is not None else lines[-1]
    half = HALF_95 * last.get(f"{METRIC}_error", math.nan)
    return last[METRIC], last[METRIC] - half, last[METRIC] + half


def unequal_drift(drifts: Mapping[str, Interval]) -> str:
    """One sentence where models (name -> drift) moved unequally far, beyond the noise of their measurement; else ""."""
    drifts = {name: drift for name, drift in drifts.items() if not math.isnan(drift[1])}  # with an interval
    if len(drifts) < 2:
        return ""
    near, far = (pick(drifts, key=lambda name: drifts[name][0]) for pick in (min, max))
    (low, *near_ends), (high, *far_ends) = drifts[near], drifts[far]
    apart = math.hypot(near_ends[1] - low, far_ends[1] - high)  # half the interval of the difference
    if not high - low > apart or high < _UNLIKE * low:
        return ""
    times = (
        f"{high / low:.1f} times as far from the base as {near}" if low > 0 else f"further from the base than {near}"
    )
    return (
        f"{far} moved {times} (drift {high:+.2g} and {low:+.2g}): a part of what tells them apart may be how far they"
        " moved. max_drift ends runs at equal drift."
    )
