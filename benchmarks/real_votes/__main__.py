"""What palate's estimates are worth on real votes: coverage of intervals, and what judges gain, over random splits.

python -m benchmarks.real_votes                 200 splits at 5, 10 and 25 % labels, minutes on one core; resumes
python -m benchmarks.real_votes --splits 20     a look; --folder says where
python -m benchmarks.real_votes --tell          no new split: tables and figures from the results that are there
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.real_votes.measure import SHARES, contests, flagged, intervals, plans
from benchmarks.real_votes.tables import fill, page_tables, summarise, table
from benchmarks.real_votes.votes import read_votes
from palate.audits.intervals import Estimate
from palate.files import write_text
from palate.progress import progress_bar

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"


@dataclass
class Options:
    """Estimates of palate on 1,600 pairs with real votes."""

    splits: int = 200
    """Random splits at each share of labels."""
    folder: Path = Path("real-votes-run")
    """One line for each split that is done; can be deleted afterwards."""
    tell: bool = False
    """Only write the table and the figures."""


def main(options: Options) -> None:
    votes = read_votes()
    if not options.tell:
        lines = run(options)
        seeds = {share: [line["seed"] for line in lines if line["share"] == share] for share in SHARES}
        planned = {share: [told(plans(votes, seed, share)) for seed in seeds[share]] for share in SHARES}
        write_text(RESULTS, json.dumps(summarise(lines, planned), indent=1))
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    print(table(found))
    from benchmarks.real_votes.figures import draw_figures  # matplotlib, which counting does not wait for

    docs = HERE.parents[1] / "docs"
    draw_figures(found, votes, docs)
    page = docs / "real-votes.md"
    write_text(page, fill(page.read_text(encoding="utf-8"), page_tables(found)))


def run(options: Options) -> list[dict]:
    """Every split, one line of JSON each; those that are there are not made again."""
    path = options.folder / "splits.jsonl"
    options.folder.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]  # a killed process may leave half a line
    if whole != text:
        write_text(path, whole)
    lines = [json.loads(line) for line in whole.splitlines()]
    done = {(line["seed"], line["share"]) for line in lines}
    votes = read_votes()
    wanted = [(seed, share) for seed in range(options.splits) for share in SHARES]
    with progress_bar("splits", len(wanted)) as advance, open(path, "a", encoding="utf-8") as file:
        for seed, share in wanted:
            if (seed, share) not in done:
                lines.append(split(votes, seed, share))
                file.write(json.dumps(lines[-1]) + "\n")
                file.flush()
                os.fsync(file.fileno())
            advance(1)
    return [line for line in lines if line["seed"] < options.splits]


def split(votes, seed: int, share: float) -> dict:
    """All that is kept of one split: [row, number, low, value, high, truth] of every interval, and the errors of
    contests."""
    errors = {k: np.round(v, 5).tolist() for k, v in contests(votes, seed, share).items()}
    return {
        "seed": seed,
        "share": share,
        "told": told(intervals(votes, seed, share)),
        "errors": errors,
        "flagged": flagged(votes, seed, share),
    }


def told(found: Iterable[tuple[str, str, Estimate, float]]) -> list[list]:
    return [
        [row, number, *(float(np.round(x, 5)) for x in (e.low, e.value, e.high, truth))]
        for row, number, e, truth in found
    ]


if __name__ == "__main__":
    main(tyro.cli(Options))
