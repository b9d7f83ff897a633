"""`palate label`"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from palate.cli.options import parse

DESCRIPTION = """\
A page to vote on: two pictures and their prompt, the arrow keys, every vote stored at once. Interrupted?
The same command resumes.

Examples:
  palate label prefs                                              every pair, on this machine
  palate label prefs --budget 400                                 400 pairs at random, propensity recorded
  palate label prefs --budget 400 --select uncertainty            where the judges are unsure, propensity recorded
  palate label prefs --question alignment aesthetics              two questions about every pair, one after another
  palate label prefs --raters ana,bo,chen --host 0.0.0.0          a team, one personal link each
  palate label prefs --raters ana,bo --known easy                 one view in ten from a dataset whose votes are right
  palate votes export prefs                                       the votes into the dataset"""


@dataclass
class Options:
    dataset: Annotated[Path, tyro.conf.Positional]
    """Folder of the dataset."""
    budget: int = 0
    """Pairs to show; 0: all of them, or as planned before. A larger budget later adds pairs."""
    select: Literal["uniform", "uncertainty", "disagreement"] = "uniform"
    """How pairs are drawn: all alike, or more often where the judges are unsure or disagree."""
    judges: str = ""
    """The judges to use for it, as in clip,pickscore; all if absent."""
    raters: str = ""
    """Who may vote, as in ana,bo,chen; a personal link is printed for each. You alone if absent."""
    host: str = "127.0.0.1"
    """Interface to listen on; any but loopback needs --raters."""
    port: int = 8484
    """Port to listen on; 0 takes any free one."""
    store: str | None = None
    """Database of the votes: a SQLAlchemy URL. PALATE_STORE, or votes.sqlite in the dataset's folder, if absent."""
    repeats: float = 0.05
    """Share of views that show a pair to the same person again."""
    shared: float = 0.1
    """Share of pairs that everyone is shown."""
    known: Path | None = None
    """A dataset of control pairs, each with a vote that is right; everyone is shown some, without being told which."""
    known_share: float = 0.1
    """Share of views that show a control pair."""
    question: tuple[str, ...] = ("Which picture do you prefer for this prompt?",)
    """What people are asked: the wording of the overall question, or names of questions (alignment), each with its
    wording if you like ("humour: Which is funnier?"); several are asked about every pair, one after another."""
    seed: int = 0
    """The seed of the draw of pairs, their order and their sides."""
    days: float = 30.0
    """How long a link works, in days."""
    rate: float = 20.0
    """Calls a second allowed to each person, averaged over time."""
    public_url: str | None = None
    """Address that the links begin with, if a proxy is in front of the page."""
    browser: bool = True
    """Open the page in a browser here, if you alone vote."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "label", DESCRIPTION)
    from palate.verbs.data import label

    label(**vars(options))
