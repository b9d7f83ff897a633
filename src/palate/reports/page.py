"""The report: one html file that opens anywhere, offline. The first screen answers the question, the rest proves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from PIL import Image

from palate.data.images import image_size
from palate.errors import PalateError
from palate.evaluation.results import warnings
from palate.evaluation.winrate import WinRate
from palate.files import write_text
from palate.pages import Picture, colour, picture_uri, templates
from palate.reports.commands import commands_of
from palate.reports.numbers import ONE_PROMPT, Interval, change_places, change_text, decimals, is_change, with_interval
from palate.reports.parts import Page, Row, Section, Source, verdict
from palate.reports.plots import curve_panels
from palate.reports.words import and_, contest_words, shortened

if TYPE_CHECKING:
    from palate.evaluation.contest import Contest, VoteRate

__all__ = ["Page", "Row", "Source", "featured", "rate_text", "render", "verdict", "write_report"]

_WIDEST_TILE = 300  # pixels; three fit side by side on a wide screen
_METRICS = {  # metric -> heading; shown in this order, with all other metrics collapsed below
    "rewards/accuracies": "Share of pairs on which model and target agree",
    "rewards/margins": "Margin: logit toward the target's side",
    "validation/cross_entropy": "Cross-entropy of held-out human votes",
    "validation/drift": "Drift: denoising error on held-out pairs, less the base's",
    "validation/accuracy by drift": "Agreement with held-out human votes, by drift",
    "wins by drift": "Wins over the base, by drift",
    "winner_error": "Winner's denoising error, less the reference's",
    "loser_error": "Loser's denoising error, less the reference's",
    "lambda/mean": "Safeguard λ on the loser's gradient",
    "lambda/share_active": "Share of pairs with λ below 1",
    "adaptive_weight/mean": "Adaptive weight",
    "loss_per_pair": "Loss",
}


def write_report(page: Page, path: str | Path) -> None:
    """Render `page` and write it atomically to `path`."""
    write_text(path, render(page))


def render(page: Page) -> str:
    """The page as one self-contained html document; all texts are escaped.

    Raises PalateError if a row has pictures but not one per prompt, or if a picture cannot be read.
    """
    for row in [page.base, *page.rows]:
        if row.pictures and len(row.pictures) != len(page.prompts):
            raise PalateError(
                f"Report row '{row.name}' has {len(row.pictures)} pictures for {len(page.prompts)} prompts. "
                "Give one picture per prompt, in the same order, or none."
            )
    panels = _panels(page.rows)
    known = sum(metric in _METRICS for _, metric, _ in panels)
    return (
        templates(Path(__file__).parent)
        .get_template("page.html.j2")
        .render(
            page=page,
            wall=_wall(page),
            tile=_tile(page.base.pictures),
            featured=featured(page.rows),
            headline=_results(page.headline, page.utility_name),
            others=[_results(section, f"mean {section.scorer}") for section in page.others],
            strengths=_strengths(page),
            panels=panels[:known],
            more_panels=panels[known:],
            measures=list(dict.fromkeys(name for row in [page.base, *page.rows] for name in row.drift)),
            changes_of=lambda measure: [row.change[measure] for row in page.rows if measure in row.change],
            change_places=change_places,
            change_text=change_text,
            is_change=is_change,
            training=_training(page.rows),
            rate_text=rate_text,
            contest_rates=contest_rates,
            contest_words=contest_words,
            agreement_text=_column([source.agreement for source in page.sources], most=2),
            warnings=warnings(page.lost, page.older),
            commands=commands_of(page),
            with_interval=with_interval,
            shortened=shortened,
            verdict=verdict,
            and_=and_,
            colour=colour,
        )
    )


def rate_places(rows: list[Row]) -> int:
    """Decimals for the rows' win rates: two at most."""
    return decimals([(row.win.rate, row.win.low, row.win.high) for row in rows if row.win], most=2)


def rate_text(win: WinRate | VoteRate, places: int) -> str:
    """Rate and interval; with one more decimal if rounding would make a winner's interval touch one half."""
    hidden = win.winner and 0.5 in (round(win.low, places), round(win.high, places))
    return with_interval((win.rate, win.low, win.high), places + 1 if hidden else places, ONE_PROMPT)


def contest_rates(found: Contest) -> list[tuple[str, VoteRate, bool]]:
    """(whose votes, how often the first model wins, whether it is evidence)."""
    rates = [("votes of people alone", found.human, True)]
    if found.judged and found.powered:
        rates.append((f"the judge {found.judge} alone{found.judge_mark}", found.judged, False))
        rates.append((f"both together, power {found.powered.power:.2f}", found.powered, True))
    return rates


def featured(rows: list[Row]) -> int:
    """Position of the row whose pictures are shown first: the highest win rate among rows with pictures."""
    shown = [position for position, row in enumerate(rows) if row.pictures]
    return max(shown, key=lambda position: win.rate if (win := rows[position].win) else -1.0, default=0)


def _results(section: Section, heading: str) -> dict[str, Any]:
    """A table of results for the template: a scorer's rows, with suitable decimals for each column."""
    rows = [section.base, *section.rows]
    return {
        "section": section,
        "heading": heading,
        "rows": rows,
        "utility_text": _column([row.utility for row in rows], why=ONE_PROMPT),
        "places": rate_places(section.rows),
    }


def _strengths(page: Page) -> list[tuple[str, str, Interval]]:
    """(name, text, interval on an axis from 0 to 1 with strength 0 in its middle), strongest first."""
    if page.table is None:
        return []
    rows = [(one.name, (one.strength, one.low, one.high)) for one in page.table.strengths]
    end = max([abs(value) for _, values in rows for value in values if value == value] + [1e-9])
    text = _column([interval for _, interval in rows], most=2, why=ONE_PROMPT)
    return [
        (name, text((mean, low, high)), (0.5 + mean / (2 * end), 0.5 + low / (2 * end), 0.5 + high / (2 * end)))
        for name, (mean, low, high) in rows
    ]


def _training(rows: list[Row]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(what, [(run, how)]) for the rows' trainings; a value that all share is listed once, under the name ""."""
    trained = [row for row in rows if row.training]
    out = []
    for key in dict.fromkeys(key for row in trained for key in row.training):
        told = [(row.name, row.training.get(key, "–")) for row in trained]
        out.append((key, [("", told[0][1])] if len({value for _, value in told}) == 1 else told))
    return out


def _tile(pictures: list[Picture]) -> tuple[int, float]:
    """Least width of a tile in pixels, close to the pictures' own so that large ones are not shown small, and the
    aspect ratio (width / height)."""
    if not pictures:
        return 0, 1.0
    first = pictures[0]
    width, height = first.size if isinstance(first, Image.Image) else image_size({"path": str(first)}, ".") or (1, 1)
    return min(_WIDEST_TILE, max(140, width)), round(width / height, 4)


def _wall(page: Page) -> list[dict[str, Any]]:
    """Per prompt: its text, the base's picture, and (position, row name, picture) of each row that has pictures."""
    if not page.base.pictures:
        return []
    wall = []
    for index, prompt in enumerate(page.prompts):
        after = [
            (position, row.name, picture_uri(row.pictures[index]))
            for position, row in enumerate(page.rows)
            if row.pictures
        ]
        wall.append({"prompt": prompt, "base": picture_uri(page.base.pictures[index]), "after": after})
    return wall


def _panels(rows: list[Row]) -> list[tuple[str, str, Markup]]:
    """(heading, metric, svg) for every metric of any row, those of _METRICS first."""
    runs = {str(position): row.curves | _wins_by_drift(row) for position, row in enumerate(rows)}  # names may repeat
    order = list(_METRICS)
    panels = sorted(curve_panels(runs), key=lambda panel: order.index(panel[0]) if panel[0] in order else len(order))
    return [(_METRICS.get(metric, metric), metric, Markup(svg)) for metric, svg in panels]


def _wins_by_drift(row: Row) -> dict[str, list[tuple[float, float]]]:
    """From the base, which wins half of the comparisons with itself, to where the run ended."""
    if row.moved is None or row.win is None or row.no_evidence:
        return {}
    return {"wins by drift": [(0.0, 0.5), (row.moved[0], row.win.rate)]}


def _column(intervals: list[Interval | None], most: int = 4, why: str = "") -> Callable[[Interval], str]:
    """A function from an interval to text, with decimals that suit the whole column."""
    places = decimals([interval for interval in intervals if interval], most)
    return lambda interval: with_interval(interval, places, why)
