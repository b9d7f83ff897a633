"""`palate report`"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from palate.cli.options import parse

DESCRIPTION = """\
One self-contained html page: pictures before and after, win rates with intervals, votes, curves, label sources.
Wants samples (palate sample RUN --prompts FILE --base) and for reward models their scores (palate score RUN); where the
base's samples are missing, they are made first, which takes as long as the run's did.

Examples:
  palate report runs/dedpo                         after `palate compare runs/dedpo --prompts FILE`
  palate report runs/dpo runs/dedpo --out both.html
  palate report runs/dedpo --scorer hpsv2.1 --scorer aesthetic
  palate report runs/dedpo --votes contest         people's votes on these pictures (palate import samples)
  palate report runs/dedpo --card                  the model card for the hub as well"""


@dataclass
class Options:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Runs with samples, one at least; all started from the same base model."""
    out: Path | None = None
    """The page to write; RUN/report.html when absent."""
    scorer: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Who judges; can be given several times. When absent, those that scored the samples (`palate score`), else world
    for the small world's prompts."""
    votes: Path | None = None
    """A dataset of votes on these pictures; when absent, those that `palate compare --votes` used of these runs."""
    judge: str | None = None
    """The judge in --votes whose votes help those of people; the only one there when absent."""
    group: bool = False
    """All runs are training seeds of one method. Runs that differ in their seed alone are found by themselves."""
    card: bool = False
    """Also write the model card, RUN/model/README.md, of every run."""
    pictures: int = 24
    """How many prompts to show."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "report", DESCRIPTION)
    from palate.command import said_as
    from palate.verbs.models import report

    with said_as(["palate", "report", *argv]):
        page = report(
            options.runs,
            options.out,
            scorer=options.scorer,
            votes=options.votes,
            judge=options.judge,
            group=options.group,
            card=options.card,
            pictures=options.pictures,
        )
    print(f"report: {page}")
    if options.card:
        print("\n".join(f"card: {run / 'model' / 'README.md'}" for run in options.runs))
