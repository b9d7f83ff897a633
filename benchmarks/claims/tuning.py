"""The learning rate that suits a method, or a way to use labels: the best of a few on a repetition that no table uses."""

from benchmarks.claims.conditions import RANKED, TUNED_RATES, at_rate, few_labels, tuning
from benchmarks.claims.results import Results
from benchmarks.claims.tables import best


def chosen(results: Results) -> dict[str, float]:
    """method or way -> the learning rate of the highest true utility; only those of which every rate was tried."""
    out = {}
    for way in RANKED | few_labels():
        runs = {tuning(way, rate): rate for rate in TUNED_RATES}
        if all(results.of(name) for name in runs):
            out[way] = runs[best(results, list(runs))]
    return out


def tuned_conditions(results: Results) -> dict[str, str]:
    """method or way -> the condition with its chosen learning rate."""
    return {way: at_rate(way, rate).name for way, rate in chosen(results).items()}
