"""`palate report`"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from palate.cli.options import parse

DESCRIPTION = """One self-contained html page: pictures before and after, win rates with intervals, curves, label sources.

Examples:
  palate report runs/dedpo                         after `palate compare runs/dedpo --prompts FILE`
  palate report runs/dpo runs/dedpo --out both.html"""


@dataclass
class Options:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Runs with samples; all started from the same base model."""
    out: Path | None = None
    """The page to write; RUN/report.html when absent."""
    scorer: str = "world"
    """world, a picture statistic such as brightness, or a plug-in's name."""
    pictures: int = 24
    """How many prompts to show."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "report", DESCRIPTION)
    from palate.report.runs import report

    print(f"report: {report(list(options.runs), options.out, options.scorer, options.pictures)}")
