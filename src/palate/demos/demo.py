"""The demo: pairs and votes of the emoji world, five models, their samples, a table, a wall of pictures, a page."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from palate.command import command_line
from palate.data.dataset import PreferenceDataset
from palate.data.samples import Sampling
from palate.demos.demo_seeds import Gains, over_seeds, read_kept
from palate.demos.emoji_pool import make_pool_dataset
from palate.demos.wall import draw_wall
from palate.evaluation.compare import Comparison, Evaluated, evaluate
from palate.evaluation.strengths import strengths
from palate.files import write_text
from palate.reports.numbers import decimals, with_interval
from palate.reports.page import Page, rate_places, rate_text, write_report
from palate.reports.plots import require_plots
from palate.reports.runs import page_of
from palate.sampling.samples import sample
from palate.training.train import train
from palate.world import EMOJI
from palate.world.emoji_pictures import GROUPS

# Everything that decides what the demo shows and how long it takes.
PEOPLE, JUDGE = "majority", "wrong-judge"
SAMPLING = Sampling(steps=8, guidance=2.5, sampler="dpm++")
COMMON = {
    "pretrained_model_name_or_path": EMOJI,
    "human_annotators": [PEOPLE],
    "beta": 500.0,
    "learning_rate": 1e-4,
    "lr_scheduler": "constant",
    "train_batch_size": 16,
    "checkpointing_steps": 50,
    "checkpoints_total_limit": 1,
    "share_reference": True,
}
AS_IS = {"judge": JUDGE, "hard_votes": True, "correction": "none"}
FEW, MIX, DEDPO, ADVISED, ALL = "few", "mix", "dedpo", "advised", "all"


@dataclass(frozen=True)
class Scale:
    """The size of the demo, which decides how long it takes."""

    each: int  # pictures of every name in every style, from which the pairs are drawn
    pairs: int
    human: int  # of them with a human vote, but for the row that has all
    steps: int  # of training, per model
    repetitions: int  # pictures per prompt and model
    names: int  # of each of the eight groups

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(name for group in GROUPS.values() for name in group[: 2 * self.names : 2])


FULL = Scale(each=6, pairs=1024, human=128, steps=60, repetitions=3, names=4)
REDUCED = Scale(each=3, pairs=384, human=64, steps=40, repetitions=1, names=4)
QUICK = (FEW, ADVISED)


def rows_of_demo(scale: Scale) -> dict[str, tuple[str, dict[str, Any]]]:
    """folder -> (title in the table, keys added to its configuration)."""
    few = {"human_votes": scale.human}
    return {
        FEW: (f"{scale.human} human votes alone", {"method": "dpo", **few}),
        MIX: (f"the {scale.human} + judge, as it is", {"method": "mix", **few, **AS_IS}),
        DEDPO: (f"the {scale.human} + judge, DeDPO", {"method": "dedpo", **few, **AS_IS}),
        ADVISED: (f"the {scale.human} + judge, as advised (auto)", {"method": "auto", **few, "judge": JUDGE}),
        ALL: (f"all {scale.pairs} human votes", {"method": "dpo"}),
    }


def settings_of_demo(scale: Scale) -> dict[str, Any]:
    """What decides the numbers, but for the seed: results of other seeds count only where all of it is the same."""
    rows = {name: keys for name, (_, keys) in rows_of_demo(scale).items()}
    return {"scale": asdict(scale), "common": COMMON, "rows": rows, "sampling": asdict(SAMPLING)}


def demo(out: Path = Path("demo-run"), quick: bool = False, seed: int = 0, scale: Scale | None = None) -> Page:
    """Run the demo into the folder `out`; print the table, write wall and page and return the page. The same call
    resumes.

    `quick` trains only two of the models, on fewer pairs and for fewer steps. Raises PalateError if matplotlib (the
    extra `plots`) is missing.
    """
    require_plots()
    began, console = time.monotonic(), a_console()
    scale = scale or (REDUCED if quick else FULL)
    console.print(
        f"palate demo · emoji world · {scale.pairs:,} pairs · {scale.human:,} with a human vote, all with one of a "
        "judge that is wrong about food, places and tools"
    )
    prompts = list(scale.prompts)
    dataset = make_pool_dataset(
        out / "dataset", scale.prompts, scale.each, scale.pairs, seed, (PEOPLE, JUDGE), SAMPLING
    )
    rows = {name: row for name, row in rows_of_demo(scale).items() if name in QUICK or not quick}
    for name, (title, settings) in rows.items():
        console.print(f"\n[bold]{title}[/]")
        _train(dataset, out / name, settings, seed, scale.steps)

    sampling = replace(SAMPLING, seed=seed, repetitions=scale.repetitions)
    base = evaluate("base", out / "base", sample(EMOJI, prompts, out / "base" / "samples", sampling), EMOJI)
    compared = [
        evaluate(name, out / name, sample(out / name, prompts, out / name / "samples", sampling), EMOJI, base)
        for name in rows
    ]
    gains = {row.name: _gains(row, base, len(prompts)) for row in compared}
    write_text(out / "gains.json", json.dumps(gains) + "\n")
    others = {} if quick else read_kept(settings_of_demo(scale), but=seed)
    page = _page({name: title for name, (title, _) in rows.items()}, base, compared, scale, len(others) + 1)
    write_report(page, out / "report.html")
    shown = compared[list(rows).index(ADVISED)]
    draw_wall(
        base.samples.prompts, base.samples.images(), shown.samples.images(), ("base", "aligned"),
        f"the same names and the same noise; aligned: {rows[ADVISED][0]}", out / "wall.png",
    )  # fmt: skip
    every = [*others.values(), gains]
    console.print()
    console.print(_table(page, list(rows), every))
    for line in conclusions(every, rows):
        console.print(line)
    console.print(f"\npictures: {out / 'wall.png'} · curves and every number: {out / 'report.html'}   "
                  f"({time.monotonic() - began:.0f} s)")  # fmt: skip
    return page


def _train(dataset: PreferenceDataset, out: Path, settings: Mapping[str, Any], seed: int, steps: int) -> None:
    folders = {"dataset": str(dataset.path), "output_dir": str(out)}
    train({**COMMON, **settings, **folders}, seed=seed, max_train_steps=steps)


def _gains(row: Evaluated, base: Evaluated, prompts: int) -> list[float]:
    """Gain in true utility of each prompt, in the suite's order."""
    return [float(gain) for gain in (row.scores - base.scores).reshape(prompts, -1).mean(axis=1)]


def _page(
    titles: dict[str, str], base: Evaluated, compared: list[Evaluated], scale: Scale, seeds: int
) -> Page:  # fmt: skip
    scores = [row.scores for row in (base, *compared)]
    return page_of(
        Comparison(base, compared, EMOJI, table=strengths(["base", *titles], scores, base.samples.prompts)),
        title="palate demo · emoji world",
        command=command_line(),
        pictures=32,
        names=titles,
        facts={
            "dataset": f"{scale.pairs:,} pairs of the base's own pictures in two different styles; human votes: "
            f"{scale.human:,} of them, or all where it says so",
            "runs": "one training seed per row" + (f"; {seeds - 1} more are kept with palate" if seeds > 1 else ""),
        },
    )


def _table(page: Page, names: list[str], every: list[Gains]) -> Table:
    """One line per model: utility and wins of this run, and the gain over all seeds."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("labels used")
    table.add_column("true utility", justify="right", no_wrap=True)
    table.add_column("wins over base (95 %)", no_wrap=True)
    table.add_column(f"gain over {len(every)} seeds (95 %)" if len(every) > 1 else "gain", no_wrap=True)
    places = rate_places(page.rows)
    digits = decimals([row.utility for row in (page.base, *page.rows) if row.utility])
    for row, name in zip([page.base, *page.rows], [None, *names], strict=True):
        utility = with_interval(row.utility, digits) if row.utility else "–"
        wins = rate_text(row.win, places) if row.win else "–"
        table.add_row(*map(escape, (row.name, utility, wins, gain_text(every, name) if name else "–")))
    return table


def gain_text(every: list[Gains], name: str) -> str:
    """Mean gain with its interval over seeds; without an interval for a single seed."""
    mean, low, high = over_seeds(every, name)
    return f"{mean:+.2f}" if np.isnan(low) else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def conclusions(every: list[Gains], rows: Mapping[str, tuple[str, Any]]) -> list[str]:
    """What the table says, in words: each way's share of what all votes gain, and the advised way against the rest."""
    if ALL not in rows:
        return []
    whole = over_seeds(every, ALL)[0]
    share = {name: f"{100 * over_seeds(every, name)[0] / whole:.0f} %" for name in rows}
    lines = [
        f"Of what all votes gain, the few alone bring {share[FEW]}, with the judge as it is {share[MIX]}, with DeDPO "
        f"{share[DEDPO]}, as advised {share[ADVISED]}."
    ]
    if len(every) < 2:
        return [*lines, "One seed: ways that are close are not ranked."]
    for other, words in ((FEW, "the few votes alone"), (MIX, "the judge as it is"), (ALL, "all votes")):
        mean, low, high = over_seeds(every, ADVISED, less=other)
        told = "more" if low > 0 else "less" if high < 0 else "not clearly different"
        lines.append(f"As advised less {words}: {mean:+.2f} [{low:+.2f}, {high:+.2f}] over {len(every)} seeds: {told}.")
    return [*lines, f"{len(every) - 1} of the {len(every)} seeds were run before and are kept with palate "
            "(docs/demo.md has the command)."]  # fmt: skip


def a_console() -> Console:
    """The terminal; without one, a console wide enough for the table."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)
