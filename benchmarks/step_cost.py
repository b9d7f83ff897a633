"""What one training step costs: palate's, today's usual recipe, and the floor that neither can go below.

    python benchmarks/step_cost.py                    the table of docs/speed.md
    python benchmarks/step_cost.py --json cost.json   and every number behind it
    python benchmarks/step_cost.py --methods all      every preset of `palate methods` against dpo: see method_costs.py

One model of Stable Diffusion 1.5's architecture with random weights, one batch, one set of trained parameters, fp32;
once with LoRA (rank 16), once with full fine-tuning. The variants of a step take turns, in a new random order every
round; seconds are medians over rounds, ratios are medians of the ratios within a round. Every variant's step ends with
the same clipping and AdamW, timed separately, because they dilute ratios. Memory is measured one process per variant.
"""

import gc
import json
import multiprocessing
import random
import resource
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from method_costs import compare_methods
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from step_data import Options, describe, prepare
from step_variants import VARIANTS, Parts, take_step

from palate.errors import PalateError
from palate.files import write_text

MEMORY_STEPS = 2  # the second one has the optimiser's moments and the gradients of a first
COLUMNS = ("seconds", "of it, update", "× floor", "range", "without update", "× palate", "peak MB", "× floor")
KINDS = {"LoRA": "lora", "full fine-tuning": "full"}
TARGETS = (
    ("LoRA", "palate", "floor", 1.55, "one forward of the reference makes 1.5"),
    ("LoRA", "palate, precomputed", "floor", 1.08, ""),
    ("LoRA", "palate, precomputed", "usual recipe", 0.6, "at 512 px"),
    ("full fine-tuning", "palate", "floor", 1.38, "one forward of the reference makes 1.33"),
    ("full fine-tuning", "palate, precomputed", "floor", 1.08, ""),
    ("full fine-tuning", "palate, precomputed", "usual recipe", 0.6, "at 512 px"),
)


@dataclass
class Cost:
    """What one variant cost: one entry per round, and one peak."""

    seconds: list[float]  # a whole step
    update: list[float]  # of which clipping and AdamW
    peak_mb: float = float("nan")
    built_mb: float = float("nan")  # the peak before the first step: where it equals the above, loading made the peak


# --- measuring -------------------------------------------------------------------------------------------------------


def measure_time(
    folder: Path, options: Options, variants: list[str], is_lora: bool, tick: Callable[[], None]
) -> dict[str, Cost]:
    """Seconds of every variant, taking turns within rounds; `tick` is called after every step."""
    parts = Parts(folder, options, is_lora)
    steps = {name: VARIANTS[name](parts) for name in variants}
    costs = {name: Cost([], []) for name in steps}
    for number in range(options.warmup + options.steps):
        names = list(steps)
        random.Random(number).shuffle(names)
        for name in names:
            gc.collect()
            seconds, update = take_step(parts, steps[name], number)
            if number >= options.warmup:
                costs[name].seconds.append(seconds)
                costs[name].update.append(update)
            tick()
    return costs


def measure_peak(folder: Path, options: Options, is_lora: bool, name: str) -> tuple[float, float]:
    """Megabytes by which this fresh process's peak grew, from before anything was built until before the first step, and
    until after MEMORY_STEPS steps."""
    torch.set_flush_denormal(True)
    before = _peak_mb()
    parts = Parts(folder, options, is_lora)
    gradient = VARIANTS[name](parts)
    built = _peak_mb()
    for number in range(MEMORY_STEPS):
        take_step(parts, gradient, number)
    return built - before, _peak_mb() - before


def _peak_mb() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(options: Options) -> tuple[dict[str, dict[str, Cost]], int]:
    """The cost of every variant, by kind of training and name, and the number of the UNet's parameters."""
    rounds = options.warmup + options.steps
    variants = [name for name in VARIANTS if options.batch > 1 or name != "palate + adaptive"]  # which compares pairs
    chosen = {kind: short for kind, short in KINDS.items() if short in options.kinds}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    context = multiprocessing.get_context("forkserver")  # libraries are imported once; every process starts from there
    context.set_forkserver_preload(["palate.training.loop", "palate.demos.pretrain"])
    with (
        tempfile.TemporaryDirectory() as temporary,
        ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes,
        Progress(*columns, transient=True, console=Console(stderr=True)) as progress,
    ):
        folder = Path(temporary)
        task = progress.add_task("preparing a model and a cache", total=1 + len(chosen) * len(variants) * (rounds + 1))
        parameters = processes.submit(prepare, folder, options).result()
        progress.advance(task)
        costs = {}
        for kind, short in chosen.items():
            is_lora = short == "lora"
            progress.update(task, description=f"timing, {kind}")
            costs[kind] = measure_time(folder, options, variants, is_lora, lambda: progress.advance(task))
            for name in variants:
                progress.update(task, description=f"memory, {kind}, {name}")
                cost = costs[kind][name]
                cost.built_mb, cost.peak_mb = processes.submit(measure_peak, folder, options, is_lora, name).result()
                progress.advance(task)
    return costs, parameters


# --- telling ---------------------------------------------------------------------------------------------------------


def ratios(cost: Cost, base: Cost, with_update: bool = True) -> np.ndarray:
    """One ratio per round, [n]: the whole step, or all of it but clipping and AdamW."""
    part = [np.array(c.seconds) - (0 if with_update else np.array(c.update)) for c in (cost, base)]
    return part[0] / part[1]


def check_targets(costs: dict[str, dict[str, Cost]]) -> list[dict]:
    """Each target with what was measured: the larger of the median ratios with and without the update."""
    checked = []
    for kind, name, base, limit, why in TARGETS:
        if kind not in costs:
            continue
        medians = [
            float(np.median(ratios(costs[kind][name], costs[kind][base], with_update))) for with_update in (True, False)
        ]
        checked.append(
            {"kind": kind, "of": name, "to": base, "limit": limit, "why": why, "whole step": medians[0], "without the update": medians[1],
             "holds": max(medians) <= limit}
        )  # fmt: skip
    return checked


def print_tables(costs: dict[str, dict[str, Cost]], checked: list[dict], title: str) -> None:
    """One table per kind of training, then the targets."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(title)
    for kind, rows in costs.items():
        table = Table(title=kind, title_justify="left", title_style="bold")
        table.add_column("step", no_wrap=True)
        for column in COLUMNS:
            table.add_column(column, justify="right", no_wrap=column == "range")
        for name, cost in rows.items():
            to_floor = ratios(cost, rows["floor"])
            table.add_row(
                name, f"{np.median(cost.seconds):.2f}", f"{np.median(cost.update):.2f}", f"{np.median(to_floor):.2f}",
                f"{to_floor.min():.2f}–{to_floor.max():.2f}", f"{np.median(ratios(cost, rows['floor'], False)):.2f}",
                f"{np.median(ratios(cost, rows['palate'])):.2f}", f"{cost.peak_mb:.0f}", f"{cost.peak_mb / rows['floor'].peak_mb:.2f}",
            )  # fmt: skip
        console.print(table)
    for target in checked:
        mark = "[green]holds[/]" if target["holds"] else "[red]missed[/]"
        reason = f" ({target['why']})" if target["why"] else ""
        console.print(
            f"{mark}: {target['kind']}, {target['of']} at most {target['limit']} × {target['to']}{reason}: "
            f"{target['whole step']:.2f} whole step, {target['without the update']:.2f} without the update"
        )


def main(options: Options) -> None:
    """Measure, print, and write the numbers where asked. Raises PalateError for a size that the architecture cannot have."""
    if options.width % 40 or options.width < 40:
        raise PalateError(f"width: {options.width} is not a multiple of 40. Use 40, 80 or 160.")
    if options.resolution % 64 or options.resolution < 64:
        raise PalateError(f"resolution: {options.resolution} is not a multiple of 64 pixels. Use 128, 256 or 512.")
    if min(options.batch, options.steps) < 1 or options.warmup < 0:
        raise PalateError("batch and steps must be at least 1, warmup at least 0.")
    torch.set_flush_denormal(True)  # as `palate train` does
    if options.methods:
        return compare_methods(options)
    costs, parameters = measure(options)
    checked = check_targets(costs)
    title = describe(options, parameters)
    print_tables(costs, checked, title)
    if options.json:
        rows = {kind: {name: asdict(cost) for name, cost in by_name.items()} for kind, by_name in costs.items()}
        write_text(options.json, json.dumps({"measured": title, "costs": rows, "targets": checked}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except PalateError as error:
        sys.exit(f"step_cost: {error}")
