"""`palate demo`"""

from dataclasses import dataclass
from pathlib import Path

from palate.cli.options import parse

DESCRIPTION = """From imperfect votes to a better model: the whole way in the emoji world, nothing downloaded.

Examples:
  palate demo                             five models, a table, a wall of emoji
  palate demo --quick                     two of them, on fewer pairs
  palate demo --mine                      forty votes of yours in the browser, and emoji as you like them
  palate demo --mine --taste glossy-food  the same by somebody who is simulated"""


@dataclass
class Options:
    out: Path | None = None
    """The folder to write, demo-run or demo-mine if absent; after an interruption the same command resumes."""
    quick: bool = False
    """Two rows of the table instead of five."""
    mine: bool = False
    """A model of your own taste instead of the table."""
    taste: str = ""
    """With mine: the simulated person who votes instead of you, glossy-food for one."""
    browser: bool = True
    """With mine: open the page in a browser here."""
    seed: int = 0
    """The seed of pairs, votes, batches, draws and samples."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "demo", DESCRIPTION)
    from palate.command import said_as
    from palate.verbs.models import demo

    with said_as(["palate", "demo", *argv]):
        demo(**vars(options))
