"""The figures of docs/evidence.md."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.claims.conditions import POOLS, RATES, at_rate
from benchmarks.claims.estimates import Estimate, estimate, kept
from benchmarks.claims.results import Results
from benchmarks.claims.world import FLIPS, PAIRS

WALL = "evidence-pictures.png"
SIZE = (8.0, 4.2)
COLOURS = ("#3b6ea5", "#c8553d", "#5a9367", "#8d6a9f", "#b08d57", "#444444")


def bars(results: Results, names: list[str], path: Path, low: str, high: str) -> Path:
    """Gains as points with intervals, the human-only lines across."""
    names = [name for name in names if results.of(name) and not name.startswith("residual")]
    found = [estimate(results.gain(name)) for name in names]
    figure, axes = plt.subplots(figsize=(SIZE[0], 0.8 + 0.22 * len(names)))
    for name, colour in {low: COLOURS[5], high: COLOURS[2]}.items():
        if results.of(name):
            axes.axvline(estimate(results.gain(name)).mean, color=colour, linewidth=1, linestyle="--", label=name)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.errorbar(
        [f.mean for f in found],
        range(len(names)),
        xerr=_reach(found),
        fmt="o",
        color=COLOURS[0],
        markersize=4,
        linewidth=1,
    )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("gain in true utility over the base model, 95 % interval over seeds")
    return _save(figure, path)


def wall(pictures: dict[str, list[Path]], path: Path) -> Path:
    """A row of pictures per model, the same prompts and noise in every column."""
    columns = max(len(paths) for paths in pictures.values())
    figure, axes = plt.subplots(len(pictures), columns, figsize=(columns * 0.9 + 1.8, len(pictures) * 0.95), squeeze=False)  # fmt: skip
    for row, (name, paths) in zip(axes, pictures.items(), strict=True):
        for axis, picture in zip(row, paths, strict=True):
            axis.imshow(plt.imread(picture))
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    return _save(figure, path)


def sweep(results: Results, path: Path) -> Path:
    """Gain, and the winner's error, over the learning rate, plain and with the safeguard."""
    figure, axes = plt.subplots(1, 2, figsize=SIZE)
    rates = RATES
    for label, colour, name in (
        ("DPO", COLOURS[1], lambda rate: at_rate("dpo", rate).name),
        ("with the safeguard", COLOURS[0], lambda rate: at_rate("sdpo", rate).name),
    ):
        there = [rate for rate in rates if results.of(name(rate))]
        for axis, value in ((axes[0], results.gain), (axes[1], lambda c: results.reading(c, "winner_error"))):
            found = [estimate(value(name(rate))) for rate in there]
            axis.errorbar(
                there, [f.mean for f in found], yerr=_reach(found), fmt="o-", color=colour, label=label, markersize=4
            )
    for axis, told in zip(axes, ("gain in true utility", "winner's error, less the reference's"), strict=True):
        axis.set(xscale="log", xlabel="learning rate", ylabel=told)
        axis.set_xticks(rates, [f"{rate:.0e}" for rate in rates])
        axis.minorticks_off()
        axis.axhline(0, color="black", linewidth=0.8)
    axes[0].legend(frameon=False)
    return _save(figure, path)


def flips(results: Results, path: Path) -> Path:
    """Share of the clean gain over the share of flipped votes."""
    figure, axes = plt.subplots(figsize=SIZE)
    clean = results.gain("human-100")
    methods = {
        "DPO": "dpo-flipped",
        "robust DPO, rate known": "rdpo-flipped",
        "Adaptive-DPO": "adaptive-flipped",
        "majority of three, a third of the pairs": "three-votes",
    }
    for k, ((label, name), colour) in enumerate(zip(methods.items(), COLOURS, strict=False)):
        there = [p for p in (0, *FLIPS) if results.of(_flipped(name, p))]
        found = [kept(results.gain(_flipped(name, p)), clean) for p in there]
        beside = [p + 0.5 * (k - 1.5) for p in there]  # so that intervals can be told apart
        axes.errorbar(
            beside, [f.mean for f in found], yerr=_reach(found), fmt="o-", color=colour, label=label, markersize=4
        )
    axes.axhline(0.8, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="flipped votes, %", ylabel="share of DPO's clean gain", xticks=(0, *FLIPS))
    axes.legend(frameon=False)
    return _save(figure, path)


def pools(results: Results, path: Path) -> Path:
    """Gain over the number of judged pairs beside 96 human votes."""
    figure, axes = plt.subplots(figsize=SIZE)
    for way, colour in zip(("mix", "dedpo", "corrected-dedpo"), COLOURS, strict=False):
        names = {p: f"{way}-12/biased-judge" if p == PAIRS else f"{way}-pool-{p}" for p in POOLS}
        there = [p for p, name in names.items() if results.of(name)]
        found = [estimate(results.gain(names[p])) for p in there]
        axes.errorbar(
            there, [f.mean for f in found], yerr=_reach(found), fmt="o-", color=colour, label=way, markersize=4
        )
    if results.of("human-12"):
        axes.axhline(
            estimate(results.gain("human-12")).mean,
            color=COLOURS[5],
            linewidth=1,
            linestyle="--",
            label="96 human votes alone",
        )
    axes.set(xscale="log", xlabel="judged pairs", ylabel="gain in true utility")
    axes.set_xticks(POOLS, [f"{pool:,}" for pool in POOLS])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return _save(figure, path)


def _flipped(name: str, percent: int) -> str:
    return "human-100" if percent == 0 and name in ("dpo-flipped", "rdpo-flipped") else f"{name}-{percent}"


def _reach(found: list[Estimate]) -> np.ndarray:
    """How far the intervals reach below and above the means, [2, n]; 0 where there is none."""
    return np.nan_to_num(np.array([[f.mean - f.low, f.high - f.mean] for f in found]).T) if found else np.zeros((2, 0))


def _save(figure: plt.Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path
