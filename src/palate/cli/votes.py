"""`palate votes`"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from palate.cli.options import parse
from palate.errors import PalateError
from palate.foreign import printable

if TYPE_CHECKING:
    from palate.web.export import Exported

DESCRIPTION = """\
Votes from the live store into the dataset, and from and to Label Studio. Every action can be repeated: existing
votes do not change. In the small world, simulated people can vote.

Examples:
  palate votes export prefs                          the live store's votes, and the pairs' propensities
  palate votes export prefs --label-studio ls.json   the dataset's human votes as Label Studio's pairwise tasks
  palate votes import prefs --label-studio ls.json   Label Studio's annotations as votes
  palate votes simulate prefs --voter majority       of a small world: somebody else does the rest"""


@dataclass
class Options:
    action: Annotated[Literal["export", "import", "simulate"], tyro.conf.Positional]
    """export, import or simulate."""
    dataset: Annotated[Path, tyro.conf.Positional]
    """Folder of the dataset."""
    store: str | None = None
    """Database of the votes: a SQLAlchemy URL. PALATE_STORE, or votes.sqlite in the dataset's folder, if absent."""
    label_studio: Path | None = None
    """A file in Label Studio's JSON format to write or read, instead of the live store."""
    pictures: bool = False
    """Write the pictures into Label Studio's file, so that it can show them without a server."""
    voter: str = "majority"
    """Who is simulated: majority, hesitant or minority of the small world, or a person of the emoji world."""
    count: int = 0
    """How many votes are simulated; 0: until no pair is left."""
    json: bool = False
    """Print the counts as JSON."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "votes", DESCRIPTION)
    from palate.verbs.data import votes

    if options.action != "simulate" and options.label_studio:
        counts = votes(options.action, options.dataset, label_studio=options.label_studio, pictures=options.pictures)
        told = _in_words(options, counts)
    elif options.action == "simulate":
        done = votes("simulate", options.dataset, store=options.store, voter=options.voter, count=options.count)
        counts, told = asdict(done), (
            f"votes: {done.votes:,} simulated votes of {done.voter}; {done.answered:,} of {done.drawn:,} drawn pairs"
            " have one"
        )  # fmt: skip
    elif options.action == "import":
        raise PalateError(
            "votes import: give the file, as in --label-studio ls.json. `palate import` reads other formats."
        )
    else:
        exported = votes("export", options.dataset, store=options.store)
        counts, told = asdict(exported), _exported(exported)
    print(json.dumps(counts) if options.json else printable(told))


def _in_words(options: Options, counts: dict[str, Any]) -> str:
    if options.action == "export":
        line = f"votes: {counts['tasks']:,} tasks with {counts['annotations']:,} annotations in {options.label_studio}"
        lacking = counts["without pictures"]
        if lacking:
            line += (
                f"\nvotes: {lacking:,} of them without pictures, which Label Studio does not take; --pictures adds them"
            )
        return line
    left_out = "".join(f", {n:,} {why}" for why, n in counts["left out"].items())
    unknown = f" ({counts['of unknown people']:,} of unknown people)" if counts["of unknown people"] else ""
    there = f"{counts['already there']:,} were there already"
    return f"votes: {counts['added']:,} votes added, {there}{unknown}{left_out}"


def _exported(done: "Exported") -> str:
    lines = [
        f"votes: {done.added:,} votes added, {done.already_there:,} were there already; {done.answered:,} of "
        f"{done.drawn:,} drawn pairs have one; propensity set on {done.propensities:,} pairs"
    ]
    for name, right in done.right.items():
        interval = f"[{right['low']:.0%}, {right['high']:.0%}]"
        lines.append(
            f"votes: {name} was right on {right['share']:.0%} {interval} of {right['n']:,} pairs with a known answer"
        )
    return "\n".join(lines)
