"""Tables of the evidence, and the words that an interval allows."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.claims.estimates import Estimate, clearly, difference, estimate
from benchmarks.claims.results import Results

MARGIN = 0.1  # of gain, a sixth of what all human votes gain: an interval inside it says "as much"

Gain = dict[int, float]  # seed -> gain


@dataclass(frozen=True)
class Answer:
    """What the results say to a question: a sentence, points, a figure and a table."""

    headline: str
    points: list[str]  # an empty one is left out
    caption: str
    figure: Path
    table: str
    shown: list[str] = field(default_factory=list)  # further paragraphs, before the figure

    def text(self) -> str:
        """As Markdown: a sentence and a figure, and behind them all else."""
        points = "\n".join(f"- {point}" for point in self.points if point)
        more = "\n\n".join(part for part in (points, *self.shown, self.table) if part)
        return f"**{self.headline}**\n\n![{self.caption}]({self.figure.name})\n\n{behind(more)}"


def behind(more: str, told: str = "Details and table") -> str:
    """What opens on request."""
    return f"<details><summary>{told}</summary>\n\n{more}\n\n</details>"


def point(title: str, content: str, more: str = "", aside: str = "") -> str:
    """A line of the answer, with an aside after its title and more after its content; empty where there is no content."""
    return f"**{title}**{f' ({aside})' if aside else ''}: {content}. {more}".strip() if content else ""


def table(
    results: Results,
    names: list[str],
    against: Iterable[str] = (),
    more: dict[str, Callable[[str], str]] | None = None,
) -> str:
    """One row per condition that has results: gain, wins, the differences to some conditions, and further columns."""
    columns: dict[str, Callable[[str], str]] = {
        "gain": lambda name: estimate(results.gain(name)).text(),
        "wins over base": lambda name: estimate(results.wins(name)).within(0, 1).text(),
    }
    for other in against:
        if results.of(other):
            columns[f"against `{other}`"] = lambda name, other=other: (
                "" if name == other else difference(results.gain(name), results.gain(other)).text()
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


def change(results: Results, column: str) -> Callable[[str], str]:
    """A column of what the pictures' measurement changed by."""
    return lambda condition: estimate(results.gain(condition, column)).text()


def best(results: Results, names: list[str]) -> str | None:
    """The condition of the highest mean gain."""
    means = {name: estimate(results.gain(name)).mean for name in names if results.of(name)}
    return max(means, key=means.get) if means else None


def gaps(results: Results, conditions: dict[str, str], to: Gain) -> str:
    """What each condition that has results gains more than `to`, under its label."""
    return listed_gaps({label: results.gain(name) for label, name in conditions.items()}, to)


def listed_gaps(gains: dict[str, Gain], to: Gain) -> str:
    """The same of gains that are there."""
    return "; ".join(f"{label} {difference(gain, to).text()}" for label, gain in gains.items() if gain)


def named(names: Iterable[str]) -> str:
    """Names as code, comma-separated."""
    return ", ".join(f"`{name}`" for name in names)


def verdict(results: Results, names: list[str], to: str) -> str:
    """Which conditions gain clearly more or less than another, which as much, and how many remain open."""
    gains = {name: results.gain(name) for name in names if results.of(name) and name != to}
    other = results.gain(to)
    more, less = clearly(gains, other)
    found: dict[str, Estimate] = {name: difference(gain, other) for name, gain in gains.items()}
    same = [name for name, gap in found.items() if gap.low > -MARGIN and gap.high < MARGIN and name not in more + less]
    told = [
        f"{words} {named(those)}"
        for words, those in (("clearly more", more), ("clearly less", less), (f"as much within {MARGIN}", same))
        if those
    ]
    undecided = len(gains) - len(more) - len(less) - len(same)
    if undecided:
        told.append(f"undecided {'all' if not told else undecided} of {len(gains)}" if not told else f"undecided the other {undecided}")  # fmt: skip
    return "; ".join(told)


def shrunk(results: Results, judge: str) -> Gain:
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
