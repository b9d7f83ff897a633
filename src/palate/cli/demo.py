"""`palate demo`"""

from dataclasses import dataclass
from pathlib import Path

from palate.cli.options import parse

DESCRIPTION = """From imperfect votes to a better model: the whole way in the small world, nothing downloaded.

Examples:
  palate demo                       six models, about five minutes on 2 CPU cores
  palate demo --quick               two of them, less than two minutes
  palate demo --out elsewhere"""


@dataclass
class Options:
    out: Path = Path("demo-run")
    """The folder to write; run again to go on after an interruption."""
    quick: bool = False
    """Two rows of the table instead of six."""
    seed: int = 0
    """Of votes, batches, draws and samples."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "demo", DESCRIPTION)
    from palate.command import said_as
    from palate.verbs.models import demo

    with said_as(["palate", "demo", *argv]):
        demo(options.out, quick=options.quick, seed=options.seed)
