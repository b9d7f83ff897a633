"""Tables of the evidence, and the words that an interval allows."""

from collections.abc import Callable

from benchmarks.claims.estimates import Estimate, difference, estimate
from benchmarks.claims.results import Results


def table(
    results: Results, names: list[str], against: str | None = None, more: dict[str, Callable[[str], str]] | None = None
) -> str:
    """One row per condition that has results: gain, wins, the difference to `against`, and further columns."""
    columns: dict[str, Callable[[str], str]] = {
        "gain": lambda name: estimate(results.gain(name)).text(),
        "wins over base": lambda name: estimate(results.wins(name)).text(),
    }
    if against and results.of(against):
        columns[f"gain against `{against}`"] = lambda name: (
            "" if name == against else difference(results.gain(name), results.gain(against)).text()
        )
    columns |= more or {}
    columns["seeds"] = lambda name: str(len(results.of(name)))
    head = f"| condition | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}"
    rows = [
        f"| `{name}` | {' | '.join(cell(name) for cell in columns.values())} |" for name in names if results.of(name)
    ]
    return "\n".join([head, *rows])


def reading(results: Results, name: str, places: int = 3) -> Callable[[str], str]:
    """A column of the runs' own readings."""
    return lambda condition: estimate(results.reading(condition, name)).text(places)


def best(results: Results, names: list[str]) -> str | None:
    """The condition of the highest mean gain."""
    means = {name: estimate(results.gain(name)).mean for name in names if results.of(name)}
    return max(means, key=means.get) if means else None


def words(found: Estimate, better: str, worse: str, same: str) -> str:
    """What an interval of a difference allows to be said."""
    if not found.low == found.low:
        return "one seed says nothing"
    return better if found.low > 0 else worse if found.high < 0 else same


def shrunk(results: Results, judge: str) -> dict[int, float]:
    """seed -> gain of the share of the residual that the seed's held-out votes chose."""
    out: dict[int, tuple[float, float]] = {}
    for name in {
        run["condition"]
        for run in results.runs
        if run["condition"].startswith("residual-") and run["condition"].endswith(f"/{judge}")
    }:
        heldout, gain = results.reading(name, "validation/cross_entropy"), results.gain(name)
        for seed in heldout:
            out[seed] = min(out.get(seed, (float("inf"), 0.0)), (heldout[seed], gain[seed]))
    return {seed: gain for seed, (_, gain) in out.items()}
