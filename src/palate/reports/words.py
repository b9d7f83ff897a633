"""The answer in plain sentences, and what it leaves open."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from palate.evaluation.scorers import statistic_names
from palate.evaluation.winrate import seeds_words
from palate.reports.numbers import percent
from palate.reports.parts import Page, Row, Votes

if TYPE_CHECKING:
    from palate.evaluation.contest import Contest
    from palate.evaluation.strengths import Table


def and_(names: list[str] | tuple[str, ...]) -> str:
    """For example "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def summary(
    base: Row, rows: list[Row], table: Table | None = None, trained_on: tuple[str, ...] = (), judge: str = "",
    unknown: tuple[str, ...] = (),
) -> str:  # fmt: skip
    """The result in one to three plain sentences; names a winner only where interval and correction allow it.

    Runs that a row combines are told as that row. Nothing is concluded from a judge that one of the models learned
    from, or may have: `unknown` are those of which it is not known.
    """
    if trained_on:
        return f"No verdict: {and_(trained_on)} learned from {judge}, so what {judge} says of it is no evidence."
    if unknown:
        return f"No verdict: it is not known whether {and_(unknown)} learned from {judge}."
    combined = {name for row in rows for name in row.members}
    told = [(row, row.win) for row in rows if row.win and row.name not in combined and not row.one_of]
    if statistic_names(judge):
        return " ".join(win.sentence(row.name, row.against or base.name, judge) for row, win in told)
    better = [(row, win) for row, win in told if row.winner == "a"]
    worse = [row.name for row, _ in told if row.winner == "b"]
    if len(told) == 1:
        row, win = told[0]
        name, other = row.name, row.against or base.name
        if row.winner == win.winner:
            return win.sentence(name, other)
        return (
            f"No winner between {name} and {other}: {name} won {percent(win.rate)} of {win.n:,} comparisons, which is"
            " not sure among all pairs of models (Holm)."
        )
    if not better:
        text = f"None of the {len(told)} trained models is shown to be better than {base.name}."
    else:
        best, win = max(better, key=lambda one: one[1].rate)
        other = best.against or base.name
        text = (
            f"{best.name} wins {percent(win.rate)} of {win.n:,} comparisons with"
            f" {other}{seeds_words(win)} on equal prompts and noise (95 % interval {percent(win.low)} to"
            f" {percent(win.high)}).{_among_models(best.name, other, table)}"
        )
    return text + (f" Worse than {base.name}: {', '.join(worse)}." if worse else "")


def _among_models(best: str, base: str, table: Table | None) -> str:
    """Whether the best model is also better than the others, as far as the corrected claims go; "" where none are
    told."""
    if table is None:
        return ""
    claims = [claim for claim in table.claims if best in (claim.a, claim.b) and base not in (claim.a, claim.b)]
    unsure = [claim.b if claim.a == best else claim.a for claim in claims if claim.winner != best]
    if not claims:
        return ""
    return f" It is not shown to be better than {and_(unsure)}." if unsure else " It beats every other model here."


def contest_words(found: Contest) -> str:
    """What people said of the pictures, in a sentence."""
    rate = found.headline
    helped = f", {found.judge}'s votes helping" if rate.power else ""
    told = f"{found.a} wins {percent(rate.rate)} against {found.b} by people's votes on {rate.n:,} pairs{helped}"
    if math.isnan(rate.low):
        return f"No winner by people: {told}, and votes on a single prompt give no interval."
    told += f" (95 % interval {percent(rate.low)} to {percent(rate.high)})"
    return f"{told}." if rate.winner else f"No winner by people: {told}."


def limits(page: Page, world: bool) -> list[str]:
    """What the page's numbers do not show, as sentences; `world` where the small world's truth judges."""
    trained = [row for row in page.rows if not row.members]
    several = any(row.win and row.win.seeds > 1 for row in page.rows)
    out = ["Intervals hold for other prompts of the same kind, not for other kinds of prompts."]
    if trained and not several:
        out.append("One training seed per model: the same training with another seed may end elsewhere.")
    if world:
        out.append(
            "The world's truth can be known because the world is a toy; other pictures are judged by other things."
        )
    elif not page.contests:
        out.append("No person judged these pictures. A scorer is a program with a taste of its own.")
    if page.contests:
        out.append(
            "Intervals of votes know which pictures show the same prompt, but not that one person voted on many pairs."
        )
    for section in [page.headline, *page.others]:
        if section.trained_on:
            out.append(
                f"{and_(section.trained_on)} learned from {section.scorer}: its verdict is shown, and is no evidence."
            )
    return out


def shortened(annotators: tuple[Votes, ...], most: int = 12) -> list[Votes]:
    """At most so many of them by source; the votes of the rest are added up into one line, so that none is left out."""
    out: list[Votes] = []
    for source in dict.fromkeys(one.source for one in annotators):
        own = [one for one in annotators if one.source == source]
        out += own if len(own) <= most else own[: most - 1]
        if rest := own[most - 1 :] if len(own) > most else []:
            out.append(Votes(source, f"{len(rest):,} more", sum(one.votes for one in rest), 0))
    return out
