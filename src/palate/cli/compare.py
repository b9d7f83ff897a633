"""`palate compare`"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from palate.cli.options import parse

if TYPE_CHECKING:
    from palate.evaluation.contest import Contest
    from palate.evaluation.results import Comparison

DESCRIPTION = """Paired win rates on the same prompts and noise, with 95 % intervals clustered by prompt.

Examples:
  palate compare runs/dedpo --prompts world --scorer world --guidance 2
  palate compare runs/dedpo runs/dpo --against base
  palate compare runs/dedpo --against runs/dpo --scorer pickscore --scorer aesthetic
  palate compare runs/dedpo-seed0 runs/dedpo-seed1 runs/dedpo-seed2 --json
  palate compare runs/dedpo --against runs/dpo --votes contest --judge pickscore
  palate compare sd2.1 --against sd1.5 --votes prefs     two generators that the pairs name; no pictures are needed"""


@dataclass
class Options:
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Runs, or folders of samples; at least one."""
    against: str = "base"
    """What they are compared with: "base" (the model a run started from), another run, or a folder of samples."""
    prompts: str | None = None
    """A file of prompts, or "world" for the built-in small world's; needed when there are no samples yet."""
    part: str | None = None
    """Only one category, style or challenge of the prompts, or rows like 2400:3200."""
    limit: int | None = None
    """Only so many prompts, drawn evenly; a larger limit contains the prompts of a smaller one."""
    column: str | None = None
    """The column of the prompts' file that holds them; prompt, caption or text when absent."""
    scorer: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Who judges; can be given several times. When absent, those that scored the samples (`palate score`), else world
    for the small world's prompts."""
    votes: Path | None = None
    """A dataset of pairs of these two models' pictures (palate import samples), or whose pairs name both as their
    generators; its votes decide; scorers are used only if --scorer names them."""
    judge: str | None = None
    """With --votes: a judge with votes on all pairs, to make people's votes on some of them more precise; the only
    judge when absent."""
    propensity: Literal["given", "estimated"] = "given"
    """With --votes. estimated: for pairs that people picked; those without a stored propensity count by an estimate."""
    group: bool = False
    """All models are training seeds of one method. Runs that differ only in their seed are found automatically."""
    out: Path | None = None
    """Where to write the result as JSON; compare.json in the first model's folder when absent. An existing file is
    replaced."""
    json: bool = False
    """Print the result as JSON."""
    steps: int | None = None
    """For pictures that are made first: denoising steps; the family's when absent. This and the rest as in `palate
    sample`."""
    guidance: float | None = None
    """For pictures that are made first: guidance, 1 is none; the family's when absent."""
    sampler: str = "default"
    """For pictures that are made first: dpm++, ddim or euler; the family's by default."""
    seed: int = 0
    """For pictures that are made first: the seed of their noise."""
    repetitions: int = 1
    """For pictures that are made first: how many per prompt."""
    mixed_precision: str = "no"
    """For pictures that are made first: no (fp32), bf16, or on a GPU fp16."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "compare", DESCRIPTION)
    from palate.command import said_as
    from palate.data.samples import Sampling
    from palate.verbs.models import compare

    sampling = Sampling(
        options.steps, options.guidance, options.sampler, options.seed, options.repetitions,
        mixed_precision=options.mixed_precision,
    )  # fmt: skip
    alike: Any = {
        "prompts": None if options.prompts is None else Path(options.prompts), "part": options.part,
        "limit": options.limit, "column": options.column, "sampling": sampling,
    }  # fmt: skip
    models, against, judge, how = options.models, options.against, options.judge, options.propensity
    with said_as(["palate", "compare", *argv]):
        if options.votes is not None:
            out = None if options.scorer else options.out
            decided = compare(models, against, votes=options.votes, judge=judge, propensity=how, out=out, **alike)
            _show(decided, options.json)
            if not options.scorer:
                return
            judge, how = None, "given"
        scorer, group = options.scorer, options.group
        found = compare(
            models, against, scorer=scorer, judge=judge, propensity=how, group=group, out=options.out, **alike
        )
        _show(found, options.json)


def _show(found: "Comparison | Contest", as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.as_dict()))
    else:
        found.show()
