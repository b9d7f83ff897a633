"""The demo: pairs and votes of the small world, six models, their samples, a table, a page."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from palate.command import command_line
from palate.demos.dataset import SAMPLING, make_dataset
from palate.evaluation.compare import Comparison, evaluate
from palate.evaluation.strengths import strengths
from palate.reports.page import Page, write_report
from palate.reports.plots import require_plots
from palate.reports.runs import page_of
from palate.reports.terminal import results_table
from palate.sampling.samples import sample
from palate.training.train import train
from palate.world import WORLD
from palate.world.pictures import PROMPTS

JUDGE = "biased-judge"
COMMON = {
    "pretrained_model_name_or_path": WORLD,
    "human_annotators": ["majority"],
    "beta": 2000.0,
    "learning_rate": 2e-5,
    "lr_scheduler": "constant",
    "train_batch_size": 24,
    "checkpointing_steps": 50,
    "checkpoints_total_limit": 1,
    "share_reference": True,
}
AS_IS = {"judge": JUDGE, "hard_votes": True, "correction": "none"}


def rows_of_demo(human_votes: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """folder -> (title in the table, keys added to its configuration)."""
    few = {"human_votes": human_votes}
    return {
        "dpo-all": ("DPO · every human vote", {"method": "dpo"}),
        "dpo-eighth": ("DPO · one eighth of the human votes", {"method": "dpo", **few}),
        "mix": ("DPO · the eighth + judge, as is", {"method": "mix", **few, **AS_IS}),
        "dedpo": ("DeDPO · the eighth + judge", {"method": "dedpo", **few, **AS_IS}),
        "dedpo-corrected": (
            "DeDPO · corrected judge, safeguard",
            {"method": "dedpo", **few, "judge": JUDGE, "safeguard": 0.5},
        ),
    }


QUICK = ("mix", "dedpo-corrected")


@dataclass(frozen=True)
class Scale:
    """The size of the demo, which decides how long it takes."""

    pairs: int
    steps: int  # of training, per model
    repetitions: int  # pictures per prompt and model


FULL, REDUCED = Scale(pairs=1536, steps=90, repetitions=8), Scale(pairs=640, steps=80, repetitions=4)


def demo(out: Path = Path("demo-run"), quick: bool = False, seed: int = 0, scale: Scale | None = None) -> Page:
    """Run the demo into the folder `out`; print the table, write the page and return it. The same call resumes.

    `quick` trains only two of the models, on fewer pairs and for fewer steps. Raises PalateError if matplotlib (the
    extra `plots`) is missing.
    """
    require_plots()
    began, console = time.monotonic(), _console()
    scale = scale or (REDUCED if quick else FULL)
    pairs, human = scale.pairs, scale.pairs // 8
    console.print(
        f"palate demo · small world · {pairs:,} pairs · {human:,} human votes, {pairs:,} votes of a biased judge"
    )
    dataset = make_dataset(out / "dataset", pairs, seed, voters=("majority", JUDGE))

    rows = {name: row for name, row in rows_of_demo(human).items() if name in QUICK or not quick}
    for name, (title, settings) in rows.items():
        console.print(f"\n[bold]{title}[/]")
        folders = {"dataset": str(dataset.path), "output_dir": str(out / name)}
        train({**COMMON, **settings, **folders}, seed=seed, max_train_steps=scale.steps)

    sampling = replace(SAMPLING, seed=seed, repetitions=scale.repetitions)
    base = evaluate("base", out / "base", sample(WORLD, list(PROMPTS), out / "base" / "samples", sampling), "world")
    compared = [
        evaluate(name, out / name, sample(out / name, list(PROMPTS), out / name / "samples", sampling), "world", base)
        for name in rows
    ]

    prompts = base.samples.prompts
    table = (
        strengths(["base", *rows], [row.scores for row in (base, *compared)], prompts) if len(compared) > 1 else None
    )
    page = page_of(
        Comparison(base, compared, "world", table=table),
        title="palate demo · small world",
        command=command_line(),
        pictures=30,
        names={name: title for name, (title, _) in rows.items()},
        facts={
            "dataset": f"{pairs:,} pairs of base samples; human votes: {human:,} of them, or all where it says so",
            "runs": "one training seed per row; seeds differ more than rows that look alike",
        },
    )
    write_report(page, out / "report.html")
    console.print()
    console.print(results_table(page))
    console.print(f"\npictures, curves and every number: {out / 'report.html'}   ({time.monotonic() - began:.0f} s)")
    return page


def _console() -> Console:
    """The terminal; without one, a console wide enough for the table."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)
