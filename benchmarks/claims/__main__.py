"""The papers' claims in the small world: every condition, several seeds, 95 % intervals.

python -m benchmarks.claims                            all questions, 5 seeds; hours on 2 cores, goes on where it stopped
python -m benchmarks.claims --questions dedpo sdpo     some of them
python -m benchmarks.claims --quick                    a few runs of each, 2 seeds, minutes; written to --folder alone
python -m benchmarks.claims --tell                     no new run: tables and figures from the results that are there
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.claims.advice import advise, read_advice, remember
from benchmarks.claims.conditions import COMMON, PAIRS, questions, quick
from benchmarks.claims.evidence import write_evidence
from benchmarks.claims.figures import WALL, wall
from benchmarks.claims.measure import BASE, Job, dataset_folder, one_thread, run_base, run_quietly
from benchmarks.claims.results import collect, known, load
from benchmarks.claims.tuning import tuned_conditions
from benchmarks.claims.world import prepare
from palate.progress import progress_bar

HERE = Path(__file__).parent
COMMITTED = HERE / "results"
SHOWN = ("human-100", "human-12", "mix-12/biased-judge", "mix-12/adversarial", "corrected-dedpo-12/biased-judge", "corrected-dedpo-12/adversarial")  # fmt: skip
MOST_SEEDS = 50  # results of more seeds than that are left out of the tables


@dataclass
class Options:
    """The papers' claims in the small world, measured."""

    questions: tuple[str, ...] = ()
    """Which ones; all when absent."""
    only: tuple[str, ...] = ()
    """Only the conditions of these names."""
    seeds: int = 5
    """Repetitions: other pairs, other votes, other training."""
    workers: int = 2
    """Runs at a time, one thread each."""
    folder: Path = Path("claims-run")
    """Where runs work; can be deleted afterwards."""
    quick: bool = False
    """Few conditions, 2 seeds, few steps."""
    tell: bool = False
    """Only write tables and figures."""
    most: int | None = None
    """Stop after so many runs."""
    again: bool = False
    """Also make the runs whose results are committed."""


def main(options: Options) -> None:
    asked = quick() if options.quick else questions()
    unknown = set(options.questions) - set(asked)
    if unknown:
        sys.exit(f"claims: no question {', '.join(sorted(unknown))}; there are {', '.join(asked)}")
    chosen = {
        name: conditions for name, conditions in asked.items() if not options.questions or name in options.questions
    }
    if options.only:
        chosen = {name: [c for c in conditions if c.name in options.only] for name, conditions in chosen.items()}
    seeds, steps = (2, 40) if options.quick else (options.seeds, COMMON["max_train_steps"])
    out = options.folder / "evidence" if options.quick else COMMITTED
    planned = {job.key: job.condition.name for job in jobs_of(asked, range(MOST_SEEDS), steps, options.folder)}
    if not options.tell:
        collect(options.folder / "results", out, planned)
    left = options.most if options.most is not None else sys.maxsize
    for when in (
        () if options.tell else (("always", "advised"), ("tuned",))
    ):  # what tuning chooses is known after its runs
        part = {name: [c for c in conditions if c.when in when] for name, conditions in chosen.items()}
        left -= make_runs(part, range(seeds), steps, options, out, left)
        collect(options.folder / "results", out, planned)
    page = options.folder / "evidence.md" if options.quick else HERE.parents[1] / "docs" / "evidence.md"
    draw_wall(asked, steps, options.folder, page.parent)
    write_evidence(asked, out, page)


def draw_wall(asked: dict[str, list], steps: int, folder: Path, to: Path) -> None:
    """Pictures of some models of seed 0, where their samples are still there; what was drawn before stays otherwise."""
    by_name = {condition.name: condition for conditions in asked.values() for condition in conditions}
    shown = {"base": folder / "runs" / BASE / "samples"} | {
        name: folder / "runs" / Job(by_name[name], 0, folder, steps).key / "samples"
        for name in SHOWN
        if name in by_name
    }
    paths = {name: [samples / f"{i:06}.png" for i in range(0, 120, 12)] for name, samples in shown.items()}
    there = {name: pictures for name, pictures in paths.items() if all(picture.exists() for picture in pictures)}
    if len(there) > 3:
        wall(there, to / WALL)


def jobs_of(chosen: dict[str, list], seeds: range, steps: int, folder: Path) -> list[Job]:
    """Every run of some questions, seed by seed; one that two questions share is there once."""
    jobs = [
        Job(condition, seed, folder, steps)
        for conditions in chosen.values()
        for condition in conditions
        for seed in condition.seeds or seeds
    ]
    return sorted({job.key: job for job in jobs}.values(), key=lambda job: job.seed)


def advice_for(seeds: range, folder: Path, out: Path) -> dict[int, dict[str, str]]:
    """What the audit advises each seed; kept with the results."""
    known_already = read_advice(out)
    fresh = {}
    for seed in set(seeds) - known_already.keys():
        dataset = dataset_folder(folder, seed)
        prepare(dataset, seed, PAIRS)
        fresh[seed] = advise(dataset, seed)
    return remember(out, fresh)


def called_for(jobs: list[Job], seeds: range, folder: Path, out: Path) -> list[Job]:
    """Of these runs, those that are made: all, but for conditions that the audit has to advise or tuning to choose."""
    kinds = {job.condition.when for job in jobs}
    advice = advice_for(seeds, folder, out) if "advised" in kinds else {}
    tuned = set(tuned_conditions(load(out)).values()) if "tuned" in kinds and known(out) else set()
    made = {
        "always": lambda job: True,
        "advised": lambda job: job.condition.name in advice[job.seed].values(),
        "tuned": lambda job: job.condition.name in tuned,
    }
    return [job for job in jobs if made[job.condition.when](job)]


def make_runs(chosen: dict[str, list], seeds: range, steps: int, options: Options, out: Path, most: int) -> int:
    """Every run that is not there yet, seed by seed, so that an interrupted benchmark has whole repetitions; their number."""
    jobs = called_for(jobs_of(chosen, seeds, steps, options.folder), seeds, options.folder, out)
    there = set() if options.again else known(out)
    todo = [job for job in jobs if job.key not in there and not job.result.exists()][:most]
    if jobs:
        print(f"claims: {len(jobs)} runs, {len(jobs) - len(todo)} of them there, {len(todo)} to make")
    if not todo:
        return 0
    run_base(options.folder)
    for seed, pairs in sorted({(job.seed, job.condition.pairs) for job in todo}):
        prepare(dataset_folder(options.folder, seed, pairs), seed, pairs)
    context = multiprocessing.get_context("spawn")
    failed = []
    with (
        ProcessPoolExecutor(options.workers, context, one_thread) as pool,
        progress_bar("claims", len(todo)) as advance,
    ):
        futures = {pool.submit(run_quietly, job): job for job in todo}
        for future in as_completed(futures):
            if message := future.result():
                failed.append(f"{futures[future].condition.name}, seed {futures[future].seed}: {message}")
            advance(1)
    for line in failed:
        print(f"claims: failed: {line}")
    return len(todo)


if __name__ == "__main__":
    main(tyro.cli(Options))
