"""What the runs in the emoji world say: a sentence and a figure for each question, tables behind them."""

import json
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.claims.emoji import COMMON, FEW, JUDGES, MARKS, SHARES, conditions, load, questions
from benchmarks.claims.emoji_world import FLIPS, IN_POOL, NAMES, PAIRS, REPETITIONS, WRONG_IN
from benchmarks.claims.estimates import Estimate, difference, estimate, kept
from benchmarks.claims.figures import COLOURS, SIZE
from benchmarks.claims.tables import Gain, behind

TABLE = "Table"
FLIPPED, GUARDED = "evidence-emoji-flips.png", "evidence-emoji-safeguard.png"
SCALING, CURVES = "evidence-emoji-votes.png", "evidence-emoji-judges.png"
WORDS = {"mix": "the judge's votes as they are", "dedpo": "DeDPO as published", "auto": "the advised way"}
LABELLED = {"all": "votes on every pair", "alone": "votes alone"} | WORDS
EIGHTH = {
    "few-12": "the votes alone",
    "auto-12/wrong-in-3": "the advised way",
    "auto-12-faster/wrong-in-3": "the same at twice the learning rate",
    "auto-12-uniform/wrong-in-3": "the same with batches from all pairs alike",
}
ABOUT = {
    "wrong-in-3": f"likes the opposite in {', '.join(WRONG_IN[:-1])} and {WRONG_IN[-1]}",
    "own-errors": "has errors of its own for every name and style",
}


class Emoji:
    """The runs by condition and seed."""

    def __init__(self, found: dict[str, dict]):
        self.base = found["base"]
        planned = conditions()
        self.runs: dict[str, dict[int, dict]] = {name: {} for name in planned}
        for run in found.values():
            if run["condition"] in planned:
                self.runs[run["condition"]][run["seed"]] = run
        self.there = [name for name, runs in self.runs.items() if runs]

    def steps(self, name: str) -> Gain:
        """seed -> gain at the last step."""
        return {seed: run["curve"][-1]["utility"] - self.base["utility"] for seed, run in self.runs[name].items()}

    def drift(self, name: str) -> Gain:
        """seed -> gain at the drift that every way of that seed reached, between two marks on a straight line."""
        out = {}
        for seed, run in self.runs[name].items():
            points = [(0.0, 0.0)] + [(at["shift"], at["utility"] - self.base["utility"]) for at in run["curve"]]
            drifts = np.maximum.accumulate([drift for drift, _ in points])
            out[seed] = float(np.interp(self.common(seed), drifts, [gain for _, gain in points]))
        return out

    def common(self, seed: int) -> float:
        """The drift that every way to use labels reached in a seed, at the common learning rate."""
        compared = [name for name in {**questions()["judges"], **questions()["scaling"]} if "slower" not in name]
        runs = [self.runs[name][seed] for name in compared if seed in self.runs[name]]
        return min(max(at["shift"] for at in run["curve"]) for run in runs)

    def reading(self, name: str, column: str) -> Gain:
        """seed -> a reading of the last mark."""
        return {seed: run["curve"][-1][column] for seed, run in self.runs[name].items()}

    def agreement(self, judge: str, which: str) -> Gain:
        """seed -> how often the judge agrees with the votes that the advised way has."""
        runs = self.runs[f"auto/{judge}"].items()
        return {seed: run["labels"][which] for seed, run in runs if which in run["labels"]}


def tell_emoji(results: Path, folder: Path) -> str:
    """The first part of the page, with its figures in `folder`; empty without results of the base and of all votes."""
    found = load(results)
    if "base" not in found or not Emoji(found).runs["all"]:
        return ""
    emoji = Emoji(found)
    parts = [_introduction(emoji, found), _judges(emoji, folder), tell_labels(results.with_name("emoji_labels.json")), _scaling(emoji, folder), _flips(emoji, folder), _safeguard(emoji, folder)]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def _introduction(emoji: Emoji, found: dict[str, dict]) -> str:
    runs = [run for run in found.values() if "curve" in run]
    seeds = max(len(by_seed) for by_seed in emoji.runs.values())
    base = emoji.base
    return f"""## In the emoji world

{len(runs)} training runs of the [emoji world](emoji.md)'s diffusion model, up to {seeds} seeds each, {sum(run["seconds"] for run in runs) / 60:.0f} minutes of one core:

```sh
python -m benchmarks.claims.emoji              # goes on where it stopped; --only CONDITION for some
```

Two pictures of one name in two styles make a pair, {PAIRS:,} pairs of {len(NAMES)} names in eight groups (from a pool of {IN_POOL} pictures for each name and style, so that seeds
share pictures); people vote by the majority's table of group and style. Full fine-tuning, {MARKS[-1]} steps of {COMMON["train_batch_size"]} pairs, beta {COMMON["beta"]:.0f}, learning rate {COMMON["learning_rate"]:.0e}, the same
for every way. **Gain** is the mean true utility of {len(NAMES) * REPETITIONS} new samples of the same names less the base's {base["utility"]:.2f}; picking the best style of every group
would gain about 1. A **seed** draws other pairs, other votes and trains anew; brackets are 95 % intervals over seeds (Student), differences are paired. Fewer than five
seeds make them wide. At **equal drift** means where the mean square change of predictions is that which every way of the seed reached, on a straight line between measurements at
{" and ".join(map(str, MARKS))} steps."""


def _scaling(emoji: Emoji, folder: Path) -> str:
    names = {f"few-{share}": count for share, count in SHARES.items() if emoji.runs[f"few-{share}"]} | {"all": PAIRS}
    if len(names) < 2:
        return ""
    slower = [name for name in ("all-slower", "few-5-slower") if emoji.runs[name]]
    figure, axes = plt.subplots(figsize=SIZE)
    for told, read, colour in (("equal steps", emoji.steps, COLOURS[0]), ("equal drift", emoji.drift, COLOURS[1])):
        _points(axes, list(names.values()), [estimate(read(name)) for name in names], told, colour)
    axes.set(xscale="log", xlabel="human votes", ylabel="gain in true utility")
    axes.set_xticks(list(names.values()), [f"{count:,}" for count in names.values()])
    axes.minorticks_off()
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(frameon=False)
    _save(figure, folder / SCALING)
    every, few = emoji.steps("all"), emoji.steps("few-5")
    gap, at_drift = difference(every, few), difference(emoji.drift("all"), emoji.drift("few-5"))
    gains = ", ".join(f"{count:,} votes gain {estimate(emoji.steps(name)).text()}" for name, count in names.items())
    sentence = f"**{_verdict(gap, at_drift)}: {gains}; all less {FEW} votes {gap.text()} after equally many steps and {at_drift.text()} at equal drift (n = {gap.n}).**"
    visits = ", ".join(
        f"{MARKS[-1] * COMMON['train_batch_size'] / count:.1f} times with {count:,}" for count in names.values()
    )
    why = f"In {MARKS[-1]} steps a vote is visited {visits}: with all votes it is steps that are short, and a share of the votes visited often can come near."
    table = behind(_table(emoji, [*names, *slower]), TABLE)
    return f"### How many votes does a taste take?\n\n{sentence}\n\n![gain over the number of votes]({SCALING})\n\n{why}\n\n{table}"


def _verdict(steps: Estimate, drift: Estimate) -> str:
    if steps.low > 0 and drift.low > 0:
        return "More votes teach more"
    return (
        "More votes seem to teach more, but not beyond the interval" if drift.mean > 0 else "More votes teach no more"
    )


def _judges(emoji: Emoji, folder: Path) -> str:
    there = [judge for judge in JUDGES if all(emoji.runs[f"{way}/{judge}"] for way in WORDS)]
    if not there:
        return ""
    figure, axes = plt.subplots(1, len(there), figsize=(SIZE[0], SIZE[1]), sharey=True, squeeze=False)
    for axis, judge in zip(axes[0], there, strict=True):
        shown = {"all": f"all {PAIRS:,} votes", "few-5": f"{FEW} votes alone"} | {
            f"{way}/{judge}": words for way, words in WORDS.items()
        }
        for colour, (name, words) in zip(COLOURS, shown.items(), strict=False):
            _curve(axis, emoji, name, words, colour)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(xlabel="drift: mean square change of predictions", title=f"judge: {judge}")
    axes[0][0].set_ylabel("gain in true utility")
    axes[0][-1].legend(frameon=False, fontsize=7)
    _save(figure, folder / CURVES)
    names = ["all", "few-5", *(f"{way}/{judge}" for judge in there for way in WORDS)]
    eighth = [name for name in EIGHTH if emoji.runs[name]]
    names += eighth
    lines = [_of_judge(emoji, judge) for judge in there]
    if len(eighth) > 1:
        lines.append(_of_eighth(emoji, eighth))
    return (
        f"### Few votes and a judge: as good as all votes?\n\n{_headline(emoji, there)}\n\n![gain over drift]({CURVES})\n\n"
        f"Lines are means over seeds at {' and '.join(map(str, MARKS))} steps.\n\n"
        + "\n".join(lines)
        + f"\n\n{behind(_table(emoji, names), 'Table')}"
    )


def _headline(emoji: Emoji, judges: list[str]) -> str:
    read = emoji.drift
    told = [
        f"beside the judge that {ABOUT[judge]} the advised way keeps {_percent(kept(read(f'auto/{judge}'), read('all')))} of the gain of all votes"
        for judge in judges
    ]
    return (
        f"**At equal drift, with {FEW} votes, "
        + "; ".join(told)
        + f"; the votes alone keep {_percent(kept(read('few-5'), read('all')))} (n = {len(read('all'))}).**"
    )


def _of_judge(emoji: Emoji, judge: str) -> str:
    """One line: how good the judge is, and each way against the votes alone and against all."""
    told = []
    for way, words in WORDS.items():
        gain, alone = emoji.drift(f"{way}/{judge}"), emoji.drift("few-5")
        told.append(f"{words} {difference(gain, alone).text()}")
    ways = [run["labels"].get("choice", {}).get("way", "") for run in emoji.runs[f"auto/{judge}"].values()]
    return (
        f"- `{judge}` ({ABOUT[judge]}; agrees with {_percent(estimate(emoji.agreement(judge, 'judge')))} of the votes). Against the {FEW} votes alone, at equal drift: "
        f"{'; '.join(told)}. Advised: {'; '.join(f'{ways.count(way)} × {way}' for way in dict.fromkeys(ways))}."
    )


def _flips(emoji: Emoji, folder: Path) -> str:
    """Votes turned around at random, and a real minority; both steady in what they like."""
    people = {
        "flipped": f"{FLIPS} % of the votes turned around",
        "crowd": f"a minority voting on {FLIPS} % of the pairs",
    }
    ways = {"dpo": "DPO", "adaptive": "Adaptive-DPO", "rdpo": f"robust DPO, told {FLIPS} %"}
    names = [f"{way}/{who}" for who in people for way in ways if emoji.runs[f"{way}/{who}"]]
    if len(names) < len(people) * len(ways):
        return ""
    figure, axes = plt.subplots(figsize=SIZE)
    for k, (who, colour) in enumerate(zip(people, COLOURS, strict=False)):
        found = [kept(emoji.steps(f"{way}/{who}"), emoji.steps("all")) for way in ways]
        _points(axes, [x + 0.1 * k for x in range(len(ways))], found, people[who], colour, "o")
    axes.axhline(0.8, color="black", linewidth=0.8, linestyle=":")
    axes.set(ylabel="share of the gain of clean votes", xticks=range(len(ways)), xticklabels=list(ways.values()))
    axes.legend(frameon=False)
    _save(figure, folder / FLIPPED)
    told = "; ".join(
        f"with {words} " + ", ".join(f"{ways[way]} keeps {_percent(kept(emoji.steps(f'{way}/{who}'), emoji.steps('all')))}" for way in ways)
        for who, words in people.items()
    )  # fmt: skip
    seeds = len(emoji.runs[names[0]])
    return f"### Wrong votes and a minority: what is kept?\n\n**After equally many steps, {told} of the gain of clean votes (n = {seeds}).**\n\n![share of the clean gain]({FLIPPED})\n\n{behind(_table(emoji, ['all', *names]), TABLE)}"


def _safeguard(emoji: Emoji, folder: Path) -> str:
    """Over a grid of learning rates, beta and steps that a user might pick: better than the base, and how far from the best."""
    names = list(questions()["safeguard"])
    if not all(emoji.runs[name] for name in names):
        return ""
    gains = {name: _mean_curve(emoji, name) for name in names}  # [marks] each
    best = max(float(curve.max()) for curve in gains.values())
    figure, axes = plt.subplots(figsize=SIZE)
    told = []
    for k, (kind, words) in enumerate({"dpo": "without the safeguard", "sdpo": "with it"}.items()):
        of_kind = np.concatenate([curve for name, curve in gains.items() if name.startswith(f"{kind}-")])
        axes.plot(np.sort(of_kind), "o-", color=COLOURS[k], label=words, markersize=4)
        told.append(f"{words} {np.mean(of_kind > 0):.0%} of {len(of_kind)} settings end better than the base, {best - of_kind.mean():.2f} below the best on average")  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="settings, from the worst to the best", ylabel="gain in true utility")
    axes.legend(frameon=False)
    _save(figure, folder / GUARDED)
    seeds = len(emoji.runs[names[0]])
    return f"### Does the safeguard protect from a bad setting?\n\n**{told[0][0].upper()}{told[0][1:]}; {told[1]} (n = {seeds}).**\n\n![gains over the grid]({GUARDED})\n\n{behind(_table(emoji, names), TABLE)}"


def _mean_curve(emoji: Emoji, name: str) -> np.ndarray:
    """Gain at every mark, the seeds averaged, [marks]."""
    runs = emoji.runs[name].values()
    return np.mean([[at["utility"] - emoji.base["utility"] for at in run["curve"]] for run in runs], axis=0)


def _of_eighth(emoji: Emoji, names: list[str]) -> str:
    """One line: the same with an eighth of the votes."""
    told = "; ".join(
        f"{EIGHTH[name]} {estimate(emoji.drift(name)).text()} at equal drift, {estimate(emoji.steps(name)).text()} after equally many steps (n = {len(emoji.runs[name])})"
        for name in names
    )
    return f"- With {SHARES['12']} votes and the judge `wrong-in-3`: {told}."


def tell_labels(path: Path) -> str:
    """What the targets are worth before any training: a table of means over seeds; empty where it was not measured."""
    if not path.exists():
        return ""
    found, cells = json.loads(path.read_text()), {}
    for one in found:
        cells.setdefault((one["judge"], one["votes"], one["way"]), {})[one["seed"]] = one
    rows = [
        f"| {judge or 'none'} | {votes:,} | {LABELLED[way]} | {estimate({s: one['right'] for s, one in by_seed.items()}).text()} | {estimate({s: one['cosine'] for s, one in by_seed.items()}).text()} |"
        for (judge, votes, way), by_seed in sorted(cells.items(), key=lambda item: (item[0][0], item[0][1]))
    ]
    mean = {k: float(np.mean([one["cosine"] for one in by_seed.values()])) for k, by_seed in cells.items()}
    pull = "; ".join(
        f"with {votes} votes and `{judge}` {mean['', votes, 'alone']:.2f} alone, {mean[judge, votes, 'mix']:.2f} with the judge as it is, {mean[judge, votes, 'dedpo']:.2f} by DeDPO, {mean[judge, votes, 'auto']:.2f} by the advised way"
        for judge in JUDGES for votes in (FEW, SHARES["12"])
    )  # fmt: skip
    seeds = len({one["seed"] for one in found})
    head = "| judge | human votes | way | points where the truth does | cosine to the truth |\n|---|---|---|---|---|"
    table = behind("\n".join([head, *rows]), TABLE)
    return f"### What are the labels worth before any training?\n\n**Cosine between the pull of the targets and that of the truth on all {PAIRS:,} pairs ({mean['', PAIRS, 'all']:.2f} with every vote): {pull} (n = {seeds}).** `python -m benchmarks.claims.emoji_labels`\n\n{table}"


def _table(emoji: Emoji, names: list[str]) -> str:
    columns: dict[str, Callable[[str], str]] = {
        "gain, equal steps": lambda name: estimate(emoji.steps(name)).text(),
        "gain, equal drift": lambda name: estimate(emoji.drift(name)).text(),
        "share of all votes', equal steps": lambda name: _percent(kept(emoji.steps(name), emoji.steps("all"))),
        "share, equal drift": lambda name: _percent(kept(emoji.drift(name), emoji.drift("all"))),
        "recognised": lambda name: estimate(emoji.reading(name, "recognised")).within(0, 1).text(),
        "drift": lambda name: estimate(emoji.reading(name, "shift")).text(4),
        "rise of the error": lambda name: estimate(emoji.reading(name, "rise")).text(4),
        "seeds": lambda name: str(len(emoji.runs[name])),
    }
    head = f"| condition | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}"
    rows = [f"| `{name}` | {' | '.join(cell(name) for cell in columns.values())} |" for name in names]
    return "\n".join([head, *rows])


def _percent(share: Estimate) -> str:
    """A share as per cent, with its interval where there is a bounded one."""
    if share.n == 0:
        return "–"
    text = f"{100 * share.mean:.0f} %"
    return text if share.low != share.low else f"{text} [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def _points(axis: plt.Axes, x: list[float], found: list[Estimate], label: str, colour: str, form: str = "o-") -> None:
    reach = np.nan_to_num(np.array([[f.mean - f.low, f.high - f.mean] for f in found]).T)
    axis.errorbar(x, [f.mean for f in found], yerr=reach, fmt=form, color=colour, label=label, markersize=4)


def _curve(axis: plt.Axes, emoji: Emoji, name: str, words: str, colour: str) -> None:
    curves = [run["curve"] for run in emoji.runs[name].values()]
    drift = np.array([[0.0, *(at["shift"] for at in curve)] for curve in curves]).mean(axis=0)
    gain = np.array([[0.0, *(at["utility"] - emoji.base["utility"] for at in curve)] for curve in curves]).mean(axis=0)
    axis.plot(drift, gain, "o-", color=colour, label=words, markersize=4)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
