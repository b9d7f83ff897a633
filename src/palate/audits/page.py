"""The audit as one html file that opens anywhere, offline, in light and dark, on a phone."""

import math
from pathlib import Path
from typing import Any

from palate.audits.findings import Findings
from palate.audits.judges import Judge
from palate.audits.planning import Step
from palate.audits.words import (
    best_judge,
    bias,
    configuration,
    favoured,
    number,
    percent,
    person_line,
    points,
    question_lines,
    source_name,
    step_name,
)
from palate.command import given_command
from palate.data.dataset import PreferenceDataset
from palate.data.images import decode_image
from palate.errors import PalateError
from palate.files import write_text
from palate.pages import colour, picture_uri, templates

_WIDTH, _HEIGHT = 300, 190  # of the plot of votes, in its own units


def write_page(findings: Findings, dataset: PreferenceDataset, path: str | Path) -> None:
    """Render the findings with the pictures of the votes to look at, and write the page atomically to `path`."""
    write_text(path, render(findings, suspect_pictures(findings, dataset), given_command() or ""))


def render(findings: Findings, pictures: dict[str, tuple[str, str]] | None = None, command: str = "") -> str:
    """The page as one self-contained html document; all texts are escaped.

    pictures: pair_id -> data URLs of its two images; pairs without pictures are described in words.
    """
    return (
        templates(Path(__file__).parent)
        .get_template("audit.html.j2")
        .render(
            found=findings,
            pictures=pictures or {},
            command=command,
            configuration=configuration(findings),
            percent=percent,
            points=points,
            number=number,
            source_name=source_name,
            bias=bias,
            person_line=person_line(findings),
            favoured=favoured,
            corrected=_corrected(findings),
            curve=calibration_points,
            chart=plan_chart(findings.plan),
            places={f"{j.name}/{j.correction}": k for k, j in enumerate(findings.judges)},
            widest=_widest(findings.judges),
            step_name=step_name,
            best_judge=best_judge,
            question_lines=question_lines(findings),
            colour=colour,
        )
    )


def suspect_pictures(findings: Findings, dataset: PreferenceDataset) -> dict[str, tuple[str, str]]:
    """Both pictures of every suspect pair, as data URLs; unreadable pairs are left out."""
    wanted = {suspect.pair_id for suspect in findings.suspects}
    found: dict[str, tuple[str, str]] = {}
    for batch in dataset.iter_pairs(columns=["pair_id", "image_0", "image_1"]):
        for position, pair_id in enumerate(batch["pair_id"].to_pylist()):
            if pair_id not in wanted:
                continue
            row = batch.slice(position, 1).to_pylist()[0]
            try:
                first, second = (picture_uri(decode_image(row[n], dataset.path)) for n in ("image_0", "image_1"))
                found[pair_id] = (first, second)
            except PalateError:
                continue  # described in words
    return found


def calibration_points(judge: Judge) -> list[dict[str, float | str]]:
    """The bins of a calibration curve in percent of the plot: x from confidence 1/2 to 1, y from share 0 to 1
    upward."""
    return [
        {
            "x": 100 * (2 * point.confidence - 1), "y": 100 * (1 - point.share.value), "radius": 4,
            "top": 100 * (1 - _known(point.share.high, 1)), "bottom": 100 * (1 - _known(point.share.low, 0)),
            "text": f"said {point.confidence:.2f}, right {percent(point.share)} of {point.share.n:,}",
        }
        for point in judge.calibration
    ]  # fmt: skip


def plan_chart(plan: list[Step]) -> dict[str, Any] | None:
    """Curves of half widths against votes (both logarithmic), in the plot's units; None for fewer than two steps."""
    if len(plan) < 2:
        return None
    names = list(plan[0].judges)
    values = [step.alone for step in plan] + [value for step in plan for value in step.judges.values()]
    if min(values) <= 0:
        return None
    left, right = math.log(plan[0].votes), math.log(plan[-1].votes)
    low, high = math.log(min(values) / 1.08), math.log(max(values) * 1.08)

    def place(votes: int, value: float) -> tuple[float, float]:
        x = _WIDTH * (math.log(votes) - left) / (right - left)
        return round(x, 1), round(_HEIGHT * (high - math.log(value)) / (high - low), 1)

    lines = [[place(step.votes, step.alone) for step in plan]]
    lines += [[place(step.votes, step.judges[name]) for step in plan] for name in names]
    ticks = [value for value in (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 70) if low <= math.log(value) <= high]
    return {
        "width": _WIDTH, "height": _HEIGHT, "names": names, "lines": lines,
        "now": next((place(step.votes, 1)[0] for step in plan if step.now), None),
        "x": [(place(step.votes, 1)[0], f"{step.votes:,}") for step in (plan[0], plan[-1])],
        "y": [(place(plan[0].votes, value)[1], f"±{value}") for value in ticks],
    }  # fmt: skip


def _corrected(findings: Findings) -> dict[str, Judge]:
    """The corrected form of each judge that has one, by the judge's name."""
    return {judge.name: judge for judge in findings.judges if judge.correction != "none"}


def _widest(judges: list[Judge]) -> float:
    """The limit of the axis of judges' biases: a round number that contains every interval."""
    estimates = [e for judge in judges for e in (*judge.favours.values(), judge.length) if e]
    ends = [abs(end) for e in estimates for end in (e.value, e.low, e.high)]
    return max([0.1, *(math.ceil(10 * end) / 10 for end in ends if math.isfinite(end))])


def _known(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value
