"""docs/evidence.md: each question, one sentence, a table and a figure, all of it from the committed results."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.claims.answers_labels import (
    tell_allocation,
    tell_dedpo,
    tell_hesitant,
    tell_longer,
    tell_own_rate,
    tell_scaling,
)
from benchmarks.claims.answers_losses import tell_adaptive, tell_methods, tell_sdpo, tell_together
from benchmarks.claims.conditions import COMMON, PAIRS
from benchmarks.claims.emoji_page import tell_emoji
from benchmarks.claims.estimates import estimate
from benchmarks.claims.results import Results, load
from benchmarks.claims.tables import MARGIN, Answer
from benchmarks.claims.world import FEW, MINORITY
from palate.files import write_text

QUESTIONS: dict[str, tuple[str, Callable[[Results, list[str], Path], Answer]]] = {
    "dedpo": ("Few human votes and a judge: is DeDPO as good as all human votes?", tell_dedpo),
    "own-rate": ("And with each at its own learning rate?", tell_own_rate),
    "longer": ("And with longer training?", tell_longer),
    "hesitant": ("And when people hesitate and the judge is poor?", tell_hesitant),
    "allocation": ("How should a batch be divided between pairs with and without a human vote?", tell_allocation),
    "scaling": ("More judged pairs: does the mix decline, and DeDPO not?", tell_scaling),
    "sdpo": ("Does the safeguard keep the preferred image from getting worse?", tell_sdpo),
    "adaptive": ("Wrong votes and minorities: what does Adaptive-DPO keep?", tell_adaptive),
    "together": ("All together: does the combination beat its parts?", tell_together),
    "methods": ("All other methods on the same votes", tell_methods),
}

OPENING = """# Evidence

What the methods' claims come to where the truth is known: first in the emoji world, whose taste depends on what is shown, then in the world of
shapes, whose taste is nearly one number, so that a hundred votes know it. Which way is best in which case is on the [map](map.md). Every number comes from
committed results and can be made again."""


def write_evidence(asked: dict[str, list], out: Path, page: Path) -> None:
    """Write the page and its figures beside it; questions without any result yet are named as such."""
    if not (out / "runs.jsonl").exists():
        print("claims: no results yet")
        return
    results = load(out)
    parts = [OPENING, tell_emoji(out / "emoji.jsonl", page.parent), introduction(results)]
    for name, (title, tell) in QUESTIONS.items():
        if name in asked:
            parts.append(f"### {title}\n\n{section(results, name, asked[name], tell, page.parent)}")
    write_text(page, "\n\n".join(part for part in parts if part) + "\n")
    print(f"claims: {page}")


def section(results: Results, name: str, conditions: list, tell: Callable, folder: Path) -> str:
    """The answer to a question, as far as there is one, and how it is made again."""
    conditions = [c for c in conditions if results.of(c.name) or c.when == "always"]
    there = [c.name for c in conditions if results.of(c.name)]
    missing = len(conditions) - len(there)
    if not there or missing > len(conditions) / 2:
        return f"Not enough runs yet: {len(there)} of {len(conditions)} conditions."
    note = f" {missing} of {len(conditions)} conditions have not been run yet." if missing else ""
    return f"{tell(results, there, folder).text()}\n\nThese runs again: `python -m benchmarks.claims --questions {name} --again`.{note}"


def introduction(results: Results) -> str:
    """What was measured, how, and how to do it again."""
    runs = [run for run in results.runs if run["key"] != "base"]
    commits = sorted({run["commit"].removesuffix("-dirty") for run in runs})
    seeds, hours = max(len(results.of(run["condition"])) for run in runs), sum(run["seconds"] for run in runs) / 3600
    base = results.base
    return f"""## In the world of shapes

What the claims come to in the [small world](world.md): {len(runs)} training runs, up to {seeds} seeds each ({hours:.1f} hours of one core):

```sh
python -m benchmarks.claims                        # goes on where it stopped; --questions NAME or --only CONDITION for some
python -m benchmarks.claims --tell                 # this page alone, from the results that are there
python -m benchmarks.claims --quick                # a few runs of each question in minutes
```

A **seed** is a repetition of everything: other pairs, other votes, another labelled subset, other training. **Gain** is the mean true utility of
{len(base["utility"])} samples ({len(set(base["prompt"].tolist()))} prompts, equal noise for every model) less that of the base model, {base["utility"].mean():.2f}; **wins** is the share of
samples better than the base's. Brackets are 95 % intervals over seeds (Student); differences and "against" columns are paired by seed. They hold for
these prompts, which are those of training, and this noise; between prompts a gain has a further standard error of {_prompt_error(results):.3f} (`human-100`).
**Clearly** more or less means beyond chance after Holm's correction for the number of comparisons in that sentence; **as much** an interval
inside ±{MARGIN}; the rest is undecided. Unless said otherwise: {PAIRS} pairs, {COMMON["max_train_steps"]} steps of {COMMON["train_batch_size"]} pairs, beta {COMMON["beta"]:.0f}, learning rate {COMMON["learning_rate"]:.0e}, full
fine-tuning. The length was chosen after a first look at 240 steps (the page of commit 370df42: 3 or 4 seeds of ten conditions), where an eighth of the votes alone gained .61 [-.16, 1.38]
because one run of it broke down; what more steps do is a question of its own below.

The true utility of every picture is in [`results/pictures.parquet`](../benchmarks/claims/results/pictures.parquet), each run's settings and readings in
[`results/runs.jsonl`](../benchmarks/claims/results/runs.jsonl). A gain of these tables from the pictures, by hand:

```python
import pandas
pictures = pandas.read_parquet("benchmarks/claims/results/pictures.parquet").set_index(["run", "picture"]).utility
runs = pandas.read_json("benchmarks/claims/results/runs.jsonl", lines=True).query("condition == 'human-12'")
print([(pictures[key] - pictures["base"]).mean() for key in runs.key])                # one gain per seed
```

Made by commit{"s" if len(commits) > 1 else ""} {", ".join(commits)}.{_repeats(results)}

**People** are `majority` (consistent) unless a name says otherwise: `hesitant` ones agree with themselves in four of five votes; in `flipped-30` 30 % of the votes
are turned around; in `crowd` people of the opposite taste in composition vote on {MINORITY} % of the pairs, in `few-crowd` on a fifth of the {FEW} pairs that have a
vote; `three-votes` spends as many votes on a third of the pairs and takes the majority.

{_judges(results)}

**Ways to use a judge** beside the human votes of a share of the pairs (`-12`: 12.5 %): `mix` takes its votes, 0 or 1, where there is no human one; `dedpo` debiases
these votes by the human ones, `dedpo-tuned` with the power that has the least variance; `corrected` first fits the judge's score and picture statistics to the human votes
(cross-fitted) and mixes, `corrected-dedpo` debiases that, with tuned power; `score-dedpo` the same without picture statistics; `residual-…` keeps a share of the correction."""


def _prompt_error(results: Results) -> float:
    """Standard error of a mean gain over prompts, the seeds averaged."""
    runs = results.of("human-100").values()
    gains = sum(results.pictures[run["key"]]["utility"] - results.base["utility"] for run in runs) / max(len(runs), 1)
    prompts = results.base["prompt"]
    means = [float(gains[prompts == prompt].mean()) for prompt in dict.fromkeys(prompts.tolist())] if len(runs) else [0]
    return float(np.std(means) / np.sqrt(max(len(means) - 1, 1)))


def _repeats(results: Results) -> str:
    """How much a run that was made a second time differs from what it was."""
    differences = [run["repeated"] for run in results.runs if "repeated" in run]
    if not differences:
        return ""
    return f" {len(differences)} runs of older commits were made again with newer ones: the utility of no picture differed by more than {max(differences):.2g}."


def _judges(results: Results) -> str:
    """What the judges are, and how often they agree with the human votes."""
    told = {
        "calibrated": ("mix-12", "useful: noisy, its probabilities are right"),
        "biased-judge": ("mix-12", "prefers brighter ground where people prefer darker, and is over-confident"),
        "chance": ("mix-12", "a coin, and sure of itself"),
        "adversarial": ("mix-12", "prefers what people do not"),
        "poor-judge": ("hesitant-mix-12", "very noisy, beside people who hesitate"),
    }
    rows = [
        f"| `{judge}` | {what} | {estimate(results.reading(f'{way}/{judge}', 'judge/accuracy')).within(0, 1).text()} |"
        for judge, (way, what) in told.items()
    ]
    return "\n".join(["| judge | what it is | agrees with the human votes |", "|---|---|---|", *rows])
