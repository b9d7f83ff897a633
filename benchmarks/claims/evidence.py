"""docs/evidence.md: each question, one sentence, a table and a figure, all of it from the committed results."""

from pathlib import Path

from benchmarks.claims.answers import QUESTIONS
from benchmarks.claims.conditions import COMMON, PAIRS
from benchmarks.claims.results import Results, load
from palate.files import write_text


def write_evidence(asked: dict[str, list], out: Path, page: Path) -> None:
    """Write the page and its figures beside it; questions without any result yet are named as such."""
    if not (out / "runs.jsonl").exists():
        print("claims: no results yet")
        return
    results = load(out)
    parts = [introduction(results)]
    for name, conditions in asked.items():
        conditions = [c for c in conditions if results.of(c.name) or c.when == "always"]
        there = [c.name for c in conditions if results.of(c.name)]
        title, tell = QUESTIONS[name]
        missing = len(conditions) - len(there)
        note = (
            f"\n\n{missing} of {len(conditions)} conditions of this question have not been run yet." if missing else ""
        )
        enough = there and missing <= len(conditions) / 2
        body = tell(results, there, page.parent) if enough else "Not enough runs yet."
        parts.append(f"## {title}\n\n{body}{note}")
    write_text(page, "\n\n".join(parts) + "\n")
    print(f"claims: {page}")


def introduction(results: Results) -> str:
    """What was measured, how, and how to do it again."""
    runs = [run for run in results.runs if run["key"] != "base"]
    commits = sorted({run["commit"].removesuffix("-dirty") for run in runs})
    changed = (
        ", some with changes that were not committed yet" if any("-dirty" in run["commit"] for run in runs) else ""
    )
    seeds, hours = max(len(results.of(run["condition"])) for run in runs), sum(run["seconds"] for run in runs) / 3600
    base = results.base
    return f"""# Evidence

What the methods' claims come to in the [small world](world.md), where the truth is known: {len(runs)} training runs, up to {seeds} seeds each
({hours:.1f} hours of one core). Every number comes from committed results and can be made again:

```sh
python -m benchmarks.claims                        # goes on where it stopped; --questions NAME for some, --tell for this page alone
python -m benchmarks.claims --quick                # a few runs of each question in minutes
```

A **seed** is a repetition of everything: other pairs, other votes, another labelled subset, other training. **Gain** is the mean true utility of
{len(base["utility"])} samples ({len(set(base["prompt"].tolist()))} prompts, equal noise for every model) less that of the base model, {base["utility"].mean():.2f}; **wins** is the share of
samples better than the base's. Brackets are 95 % intervals over seeds (Student); "against" columns are paired by seed. The true utility of every
picture is in [`results/pictures.parquet`](../benchmarks/claims/results/pictures.parquet), each run's settings and readings in
[`results/runs.jsonl`](../benchmarks/claims/results/runs.jsonl). Made by commit{"s" if len(commits) > 1 else ""} {", ".join(commits)}{changed}.
Unless said otherwise: {PAIRS} pairs, {COMMON["max_train_steps"]} steps of {COMMON["train_batch_size"]} pairs, beta {COMMON["beta"]:.0f}, learning rate {COMMON["learning_rate"]:.0e}, full fine-tuning."""
