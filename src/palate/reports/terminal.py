"""The same results as a table in the terminal."""

from rich.markup import escape
from rich.table import Table

from palate.reports.numbers import ONE_PROMPT, decimals, with_interval
from palate.reports.page import Page, Row, rate_places, rate_text, verdict

_STYLES = {"a": "green", "b": "red", None: "dim"}


def results_table(page: Page) -> Table:
    """One line per model: utility, win rate over base with its interval, n and test, and a note. Print with rich.

    Green: better than base, red: worse, dim: no winner.
    """
    rows = [page.base, *page.rows]
    utility_places = decimals([row.utility for row in rows if row.utility])
    places = rate_places(page.rows)
    judged_by = f"judged by {escape(page.judged_by)}" if page.judged_by else None
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim", caption=judged_by)
    table.caption_justify = "left"
    table.add_column("labels used")
    table.add_column(escape(page.utility_name), justify="right", no_wrap=True)
    table.add_column("wins over base (95 %)", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("sign test p", no_wrap=True)
    table.add_column("")
    for row in rows:
        utility = escape(with_interval(row.utility, utility_places, ONE_PROMPT)) if row.utility else "–"
        table.add_row(escape(row.name), utility, *_wins(row, places), _note(row, row.against or page.base.name))
    return table


def _wins(row: Row, places: int) -> tuple[str, str, str]:
    if row.win is None:
        return "–", "", ""
    return (
        f"[{_STYLES[row.winner]}]{escape(rate_text(row.win, places))}[/]",
        f"{row.win.n:,}",
        row.win.test_words.removeprefix("sign test p "),
    )


def _note(row: Row, base: str) -> str:
    """What a reader must not miss (worse than base, or no winner), then the row's own note."""
    warning = verdict(row, base) if row.win and row.winner != "a" else ""
    note = " · ".join(dict.fromkeys(part for part in (warning, row.note) if part))
    return f"← {escape(note)}" if note else ""
