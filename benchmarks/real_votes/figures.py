"""The figures of docs/real-votes.md."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.real_votes.votes import RealVotes
from palate.audits.agreement import a_person, ceiling, credit
from palate.audits.couples import couples_of

INK, BLUE, RED, GREEN, QUIET = "#222222", "#3b6ea5", "#c8553d", "#5a9367", "#b9b9b9"
WAYS = {"human": ("human votes alone", QUIET), "mix": ("mix", RED), "judge": ("the judges alone", "#b08d57"), "dedpo": ("DeDPO", BLUE)}  # fmt: skip


def draw_figures(found: dict, votes: RealVotes, docs: Path) -> None:
    """Write the three figures beside the page."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    _save(_scale(votes), docs / "real-votes-scale.png")
    _save(_coverage(found), docs / "real-votes-coverage.png")
    _save(_couples(votes), docs / "real-votes-couples.png")
    _save(_contests(found), docs / "real-votes-contests.png")


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def _scale(votes: RealVotes) -> plt.Figure:
    """Judges and people on one scale of agreement, and Brier scores beside that of saying nothing."""
    y = votes.mean
    order, rows = [], []
    for j, name in enumerate(votes.judges):
        g = votes.judge[:, j]
        kept = ~np.isnan(g)
        rows.append((name, credit(0.5 + np.sign(g - 0.5) / 2, y)[kept].mean(), np.mean((y - g)[kept] ** 2)))
    order = sorted(rows, key=lambda row: row[1])
    person = a_person(votes.votes(), votes.prompt)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.4), sharey=True)
    place = range(len(order))
    left.barh(place, [100 * row[1] - 50 for row in order], left=50, color=BLUE, height=0.6)
    left.axvspan(100 * person.low, 100 * person.high, color=GREEN, alpha=0.35, linewidth=0)
    left.axvline(100 * person.value, color=GREEN)
    left.text(100 * person.value, len(order) - 0.3, " a person", color=GREEN, ha="center", va="bottom")
    best = 100 * ceiling(person)
    left.axvline(best, color=INK, linestyle=":")
    left.text(best, len(order) - 0.3, "the most a\njudge can", color=INK, ha="center", va="bottom")
    left.set_yticks(place, [row[0] for row in order])
    left.set_xlim(50, 78)
    left.set_xlabel("agrees with people, % (50 is a coin)")
    nothing = np.mean((y - 0.5) ** 2)
    right.barh(place, [row[2] for row in order], color=[RED if row[2] > nothing else BLUE for row in order], height=0.6)
    right.axvline(nothing, color=INK, linestyle="--")
    right.text(nothing, len(order) - 0.3, "always one half", ha="center", va="bottom")
    right.axvline(0.25, color=QUIET, linestyle=":")
    right.text(0.25, len(order) - 0.3, "¼", color="#777777", ha="center", va="bottom")
    right.set_xlim(0, 0.27)
    right.set_xlabel("Brier score (red: worse than saying nothing)")
    return figure


def _coverage(found: dict) -> plt.Figure:
    """How often each 95 % interval held, at every share of labels."""
    shares = list(found)
    keys = [key for key in found[shares[0]]["intervals"] if "unrelated" not in key and "as seen" not in key]
    figure, axes = plt.subplots(figsize=(7.2, 0.26 * len(keys) + 0.8))
    axes.axvspan(93, 97, color=GREEN, alpha=0.2, linewidth=0)
    axes.axvline(95, color=GREEN, linewidth=1)
    for k, (share, colour) in enumerate(zip(shares, (RED, "#b08d57", BLUE), strict=False)):
        held = np.array([found[share]["intervals"][key]["held"] for key in keys])
        splits = found[share]["splits"]
        error = 196 * np.sqrt(np.maximum(held * (1 - held), 0.01) / splits)
        at = np.arange(len(keys))[::-1] + 0.22 * (1 - k)
        axes.errorbar(100 * held, at, xerr=[error, np.minimum(error, 100 - 100 * held)], fmt="o", markersize=3.5, linewidth=1, color=colour,
                      label=f"{100 * float(share):g} % labels")  # fmt: skip
    axes.set_yticks(np.arange(len(keys))[::-1], keys)
    axes.set_xlim(80, 100.5)
    axes.set_xlabel("95 % intervals that hold the truth, %")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


def _couples(votes: RealVotes) -> plt.Figure:
    """The excess of every couple of people."""
    couples = couples_of(votes.votes(), votes.prompt)[::-1]
    figure, axes = plt.subplots(figsize=(6.4, 2.9))
    axes.axvline(0, color=QUIET)
    for k, couple in enumerate(couples):
        colour = RED if couple.flagged else BLUE
        axes.plot([couple.excess.low, couple.excess.high], [k, k], color=colour)
        axes.plot(couple.excess.value, k, "o", color=colour, markersize=4)
        axes.text(0.265, k, f"same image on {100 * couple.same.value:.0f} %", va="center", color=colour, fontsize=8)
    axes.set_yticks(range(len(couples)), [f"{couple.first} and {couple.second}" for couple in couples])
    axes.set_xlim(-0.1, 0.26)
    axes.set_xlabel("agreement beyond what being right explains")
    return figure


def _contests(found: dict) -> plt.Figure:
    """Errors of a contest between two generators, and how far each way is biased."""
    shares = list(found)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 2.9))
    for k, (way, (name, colour)) in enumerate(WAYS.items()):
        cells = [found[share]["contests"][f"generator/{way}"] for share in shares]
        at = np.arange(len(shares)) + 0.2 * (k - 1.5)
        left.bar(at, [100 * cell["rms"] for cell in cells], width=0.18, color=colour, label=name)
        if way != "judge":
            right.bar(at, [cell["bias"] for cell in cells], width=0.18, color=colour)
    for axes in (left, right):
        axes.set_xticks(range(len(shares)), [f"{100 * float(share):g} %" for share in shares])
        axes.set_xlabel("pairs with human votes")
    left.set_ylabel("root mean square error, points")
    right.set_ylabel("largest bias, standard deviations")
    left.legend(frameon=False, fontsize=8)
    return figure
