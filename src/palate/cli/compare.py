"""`palate compare`"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from palate.cli.options import parse
from palate.errors import PalateError

DESCRIPTION = """Paired win rates on the same prompts and noise, with 95 % intervals clustered by prompt.

Examples:
  palate compare runs/dedpo --prompts world --scorer world --guidance 2
  palate compare runs/dedpo runs/dpo --against base
  palate compare runs/dedpo --against runs/dpo --scorer pickscore --scorer aesthetic
  palate compare runs/dedpo-seed0 runs/dedpo-seed1 runs/dedpo-seed2 --json
  palate compare runs/dedpo --against runs/dpo --votes contest --judge pickscore"""


@dataclass
class Options:
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Runs, or folders of samples; one at least."""
    against: str = "base"
    """What they are compared with: "base" (the model a run started from), another run, or a folder of samples."""
    prompts: str | None = None
    """A file of prompts, or "world" for the built-in small world's; needed when there are no samples yet."""
    part: str | None = None
    """Only one category, style or challenge of the prompts, or rows like 2400:3200."""
    limit: int | None = None
    """Only so many prompts, drawn evenly; a larger limit contains a smaller one."""
    column: str | None = None
    """The column of the prompts' file that holds them; prompt, caption or text when absent."""
    scorer: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Who judges; can be given several times. When absent, those that scored the samples (`palate score`), else world
    for the small world's prompts."""
    votes: Path | None = None
    """A dataset of pairs of these two models' pictures (palate import samples): its votes decide, and scorers judge
    only if --scorer names them."""
    judge: str | None = None
    """With --votes: whose votes on all pairs make those of people on some of them go further; the only judge when
    absent."""
    group: bool = False
    """All models are training seeds of one method. Runs that differ in their seed alone are found by themselves."""
    out: Path | None = None
    """Where the result is stored as JSON; compare.json in the first model's folder when absent. What is there is
    replaced."""
    json: bool = False
    """Print the result as JSON."""
    steps: int | None = None
    """Where pictures are to be made: denoising steps; the family's when absent. This and the rest as in `palate
    sample`."""
    guidance: float | None = None
    """Where pictures are to be made: 1 is none; the family's when absent."""
    sampler: str = "default"
    """Where pictures are to be made: dpm++, ddim or euler; the family's by default."""
    seed: int = 0
    """Where pictures are to be made: the seed of their noise."""
    repetitions: int = 1
    """Where pictures are to be made: how many per prompt."""
    mixed_precision: str = "no"
    """Where pictures are to be made: no (fp32), bf16, or on a GPU fp16."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "compare", DESCRIPTION)
    from palate.data.samples import Sampling
    from palate.evaluation.compare import compare
    from palate.evaluation.results import save
    from palate.sampling.prompts import load_suite

    if options.prompts is None and (options.part or options.limit or options.column):
        raise PalateError("--part, --limit and --column are about --prompts; give those, or leave the three out.")
    suite = load_suite(options.prompts, options.part, options.limit, options.column) if options.prompts else None
    sampling = Sampling(
        options.steps, options.guidance, options.sampler, options.seed, options.repetitions,
        mixed_precision=options.mixed_precision,
    )  # fmt: skip
    if options.judge and options.votes is None:
        raise PalateError("--judge names a judge of --votes; give that dataset, or use --scorer.")
    command = shlex.join(["palate", "compare", *argv])
    if options.votes is not None:
        _by_votes(options, suite, sampling, command)
        if not options.scorer:
            return
    comparison = compare(
        list(options.models), options.against, prompts=suite, scorer=list(options.scorer) or None, sampling=sampling,
        group=options.group, command=command,
    )  # fmt: skip
    save(comparison, options.out or Path(options.models[0]) / "compare.json")
    if options.json:
        print(json.dumps(comparison.as_dict()))
    else:
        comparison.show()


def _by_votes(options: Options, suite, sampling, command: str) -> None:
    from palate.data.dataset import open_dataset
    from palate.evaluation.compare import two_models
    from palate.evaluation.contest import contest
    from palate.evaluation.results import save

    if len(options.models) != 1:
        raise PalateError(f"--votes compares one model with --against, and {len(options.models)} are named.")
    names, samples = two_models(options.models[0], options.against, suite, sampling, command)
    found = contest(*samples, open_dataset(options.votes), options.judge, names, command)
    out = options.out if options.out and not options.scorer else None
    save(found, out or Path(options.models[0]) / "compare-votes.json")
    if options.json:
        print(json.dumps(found.as_dict()))
    else:
        found.show()
