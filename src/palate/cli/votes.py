"""`palate votes`"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from palate.cli.options import parse
from palate.errors import PalateError
from palate.foreign import printable

DESCRIPTION = """\
Votes out of the live store into the dataset, and from and to Label Studio. Each can be repeated: a vote
that is there already is left as it is. In the small world, simulated people can do the voting.

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
    """A file in Label Studio's JSON format to write or read, in place of the live store."""
    pictures: bool = False
    """Write the pictures into Label Studio's file, which it can then show without any server."""
    voter: str = "majority"
    """Who is simulated: majority, hesitant or minority of the small world."""
    count: int = 0
    """How many votes are simulated; 0: until no pair is left."""
    json: bool = False
    """Print the counts as JSON."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "votes", DESCRIPTION)
    act = _studio if options.label_studio else _simulate if options.action == "simulate" else _live
    try:
        counts, line = act(options)
    except ImportError as error:
        raise PalateError(f"votes needs {error.name}: pip install 'palate[web]'") from error
    print(json.dumps(counts) if options.json else printable(line))


def _studio(options: Options) -> tuple[dict, str]:
    from palate.data.dataset import open_dataset
    from palate.web.labelstudio import export_tasks, import_annotations

    dataset, file = open_dataset(options.dataset), options.label_studio
    if options.action == "export":
        counts = export_tasks(dataset, file, options.pictures)
        line = f"votes: {counts['tasks']:,} tasks with {counts['annotations']:,} annotations in {file}"
        lacking = counts["without pictures"]
        if lacking:
            line += (
                f"\nvotes: {lacking:,} of them without pictures, which Label Studio does not take; --pictures adds them"
            )
        return counts, line
    counts = import_annotations(dataset, file)
    left_out = "".join(f", {n:,} {why}" for why, n in counts["left out"].items())
    unknown = f" ({counts['of unknown people']:,} of unknown people)" if counts["of unknown people"] else ""
    there = f"{counts['already there']:,} were there already"
    return counts, f"votes: {counts['added']:,} votes added, {there}{unknown}{left_out}"


def _simulate(options: Options) -> tuple[dict, str]:
    from palate.demos.simulate import simulate_votes

    dataset, engine = _dataset_and_store(options)
    done = simulate_votes(engine, dataset, options.voter, options.count)
    return (
        asdict(done),
        (
            f"votes: {done.votes:,} simulated votes of {done.voter}; {done.answered:,} of {done.drawn:,} drawn pairs"
            " have one"
        ),
    )


def _live(options: Options) -> tuple[dict, str]:
    from palate.web.export import export_votes

    if options.action == "import":
        raise PalateError(
            "votes import: give the file, as in --label-studio ls.json. `palate import` reads other formats."
        )
    dataset, engine = _dataset_and_store(options)
    done = export_votes(engine, dataset)
    lines = [
        f"votes: {done.added:,} votes added, {done.already_there:,} were there already; {done.answered:,} of "
        f"{done.drawn:,} drawn pairs have one; propensity set on {done.propensities:,} pairs"
    ]
    for name, right in done.right.items():
        interval = f"[{right['low']:.0%}, {right['high']:.0%}]"
        lines.append(
            f"votes: {name} was right on {right['share']:.0%} {interval} of {right['n']:,} pairs with a known answer"
        )
    return asdict(done), "\n".join(lines)


def _dataset_and_store(options: Options):
    """The dataset and its live store, which must be there."""
    from palate.data.database import connect
    from palate.data.dataset import open_dataset
    from palate.data.store import default_store, open_store

    dataset, url = open_dataset(options.dataset), options.store or default_store(options.dataset)
    where = connect(url).url
    if where.get_backend_name() == "sqlite" and where.database and not Path(where.database).exists():
        raise PalateError(
            f"votes {options.action}: no votes of people yet ({where.database} is not there). "
            f"Label first: `palate label {dataset.path}`."
        )
    return dataset, open_store(url)
