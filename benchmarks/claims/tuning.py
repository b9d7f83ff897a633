"""The learning rate of each method in the ranking: the best of a few on a repetition that the ranking does not use."""

from benchmarks.claims.conditions import RANKED, TUNED_RATES, at_rate, tuning
from benchmarks.claims.results import Results
from benchmarks.claims.tables import best


def chosen(results: Results) -> dict[str, float]:
    """method -> the learning rate of the highest true utility; only methods of which every rate was tried."""
    out = {}
    for method in RANKED:
        runs = {tuning(method, rate): rate for rate in TUNED_RATES}
        if all(results.of(name) for name in runs):
            out[method] = runs[best(results, list(runs))]
    return out


def tuned_conditions(results: Results) -> dict[str, str]:
    """method -> the condition with its chosen learning rate."""
    return {method: at_rate(method, rate).name for method, rate in chosen(results).items()}
