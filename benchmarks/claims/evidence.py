"""docs/evidence.md: each question, one sentence, a table and a figure, all of it from the committed results."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.claims import figures
from benchmarks.claims.conditions import COMMON, JUDGES, PAIRS, RATES, SLACKS
from benchmarks.claims.estimates import Estimate, difference, estimate, kept
from benchmarks.claims.results import Results, load
from benchmarks.claims.world import FLIPS, MINORITY
from palate.files import write_text

NOISE = (
    0.002  # rise of the winner's error that counts as none: about the spread of its mean over 20 steps between seeds
)

# What a question's answer is made of, each with so many seeds; other conditions add to it.
SEEDS = 5
CORE = {
    "dedpo": ("human-100", "human-12", *(f"{way}-12/{judge}" for way in ("mix", "dedpo-tuned", "corrected-dedpo") for judge in JUDGES)),
    "sdpo": ("human-100", *(f"{way}-lr-{rate:.0e}" for way in ("dpo", "sdpo") for rate in RATES[1:]), f"sdpo-lr-{RATES[0]:.0e}"),
    "adaptive": ("human-100", "dpo-flipped-30", "adaptive-flipped-30", "rdpo-flipped-30", "three-votes-30", "dpo-crowd", "adaptive-crowd"),
}  # fmt: skip


def write_evidence(asked: dict[str, list], out: Path, page: Path) -> None:
    """Write the page and its figures beside it; questions without any result yet are named as such."""
    if not (out / "runs.jsonl").exists():
        print("claims: no results yet")
        return
    results = load(out)
    parts = [introduction(results)]
    for name, conditions in asked.items():
        conditions = [c for c in conditions if results.of(c.name) or not c.when_advised]
        there = [c.name for c in conditions if results.of(c.name)]
        title, tell = QUESTIONS[name]
        missing = len(conditions) - len(there)
        note = (
            f"\n\n{missing} of {len(conditions)} conditions of this question have not been run yet." if missing else ""
        )
        core_is_there = name in CORE and all(len(results.of(one)) >= SEEDS for one in CORE[name])
        if not core_is_there and (missing > 0.9 * len(conditions) or len(there) < 4):
            body = "Not enough runs yet."
        elif not core_is_there and missing > len(conditions) / 2:  # what there is, and no conclusion from a part
            body = "So far, and no conclusion yet:\n\n" + table(results, there, "human-12")
        else:
            body = tell(results, there, page.parent)
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
    seeds, hours = len({run["seed"] for run in runs}), sum(run["seconds"] for run in runs) / 3600
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


# --- tables ----------------------------------------------------------------------------------------------------------


def table(
    results: Results, names: list[str], against: str | None = None, more: dict[str, Callable[[str], str]] | None = None
) -> str:
    """One row per condition that has results: gain, wins, the difference to `against`, and further columns."""
    columns: dict[str, Callable[[str], str]] = {
        "gain": lambda name: estimate(results.gain(name)).text(),
        "wins over base": lambda name: estimate(results.wins(name)).text(),
    }
    if against and results.of(against):
        columns[f"gain against `{against}`"] = lambda name: (
            "" if name == against else difference(results.gain(name), results.gain(against)).text()
        )
    columns |= more or {}
    columns["seeds"] = lambda name: str(len(results.of(name)))
    head = f"| condition | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}"
    rows = [
        f"| `{name}` | {' | '.join(cell(name) for cell in columns.values())} |" for name in names if results.of(name)
    ]
    return "\n".join([head, *rows])


def reading(results: Results, name: str, places: int = 3) -> Callable[[str], str]:
    """A column of the runs' own readings."""
    return lambda condition: estimate(results.reading(condition, name)).text(places)


def best(results: Results, names: list[str]) -> str | None:
    """The condition of the highest mean gain."""
    means = {name: estimate(results.gain(name)).mean for name in names if results.of(name)}
    return max(means, key=means.get) if means else None


def words(found: Estimate, better: str, worse: str, same: str) -> str:
    """What an interval of a difference allows to be said."""
    if not found.low == found.low:
        return "one seed says nothing"
    return better if found.low > 0 else worse if found.high < 0 else same


def shrunk(results: Results, judge: str) -> dict[int, float]:
    """seed -> gain of the share of the residual that the seed's held-out votes chose."""
    out: dict[int, tuple[float, float]] = {}
    for name in {
        run["condition"]
        for run in results.runs
        if run["condition"].startswith("residual-") and run["condition"].endswith(f"/{judge}")
    }:
        heldout, gain = results.reading(name, "validation/cross_entropy"), results.gain(name)
        for seed in heldout:
            out[seed] = min(out.get(seed, (float("inf"), 0.0)), (heldout[seed], gain[seed]))
    return {seed: gain for seed, (_, gain) in out.items()}


# --- questions -------------------------------------------------------------------------------------------------------


def tell_dedpo(results: Results, there: list[str], folder: Path) -> str:
    few = [name for name in there if "-12" in name and not name.startswith("residual")]
    top, all_votes, alone = best(results, few), results.gain("human-100"), results.gain("human-12")
    gaps = {name: difference(results.gain(name), all_votes) for name in few}
    less = [name for name, gap in gaps.items() if gap.high < 0]
    headline = (
        f"**With human votes on an eighth of the pairs {len(few) - len(less)} of {len(few)} conditions gain as much as all human votes within the interval"
        f" (all: {estimate(all_votes).text()}; the highest, `{top}`: {estimate(results.gain(top)).text()}, difference {gaps[top].text()}).**"
        + (f" Clearly less: {', '.join(f'`{name}`' for name in less)}." if less else "")
    )
    found = [
        f"**The judge's votes as they are** (`mix`), against the human votes alone: {'; '.join(_against(results, 'mix-12', alone))}.",
        f"**DeDPO with tuned power**, whatever the judge, against the human votes alone: {'; '.join(_against(results, 'dedpo-tuned-12', alone))}. {_never_worse([f'dedpo-tuned-12/{judge}' for judge in JUDGES], results, alone)}",
        f"**What `palate audit` advises** (of {_advised_counts(results)}), against the human votes alone: {'; '.join(f'{judge} {difference(gain, alone).text()}' for judge, gain in advised(results).items())}.",
        f"**A corrected judge with DeDPO at a quarter**, against all human votes: {'; '.join(f'{judge} {difference(results.gain(name), all_votes).text()}' for judge in JUDGES if results.of(name := f'corrected-dedpo-25/{judge}'))}.",
        f"**Few human votes alone**, against all of them: {'; '.join(f'{share} % {difference(results.gain(name), all_votes).text()}' for share in ('05', '12', '25', '50') if results.of(name := f'human-{share}'))}. Few pairs are visited more often in as many steps; their margins grow larger, and carry the model as far.",
    ]
    if gains := shrunk(results, "biased-judge"):
        found.append(
            f"**A share of the residual chosen by held-out votes**, biased-judge: gain {estimate(gains).text()}, against the human votes alone {difference(gains, alone).text()}."
        )
    figure = figures.bars(results, there, folder / "evidence-dedpo.png", "human-12", "human-100")
    dark = {
        "brightness of the ground": lambda name: estimate(results.gain(name, "brightness")).text(),
        "fidelity": lambda name: estimate(results.gain(name, "fidelity")).text(),
        "margin": reading(results, "rewards/margins", 1),
    }
    listed = "\n".join(f"- {line}" for line in found if not line.endswith(": ."))
    wall = folder / figures.WALL
    shown = (
        f"\n\n![samples of the models of seed 0]({wall.name})\n\nThe same prompts and noise, seed 0. People prefer centred shapes on darker ground, the biased judge brighter ground."
        if wall.exists()
        else ""
    )
    return f"{headline}\n\n{listed}{shown}\n\n![gain of every condition]({figure.name})\n\n{table(results, there, 'human-12', dark)}"


def _against(results: Results, way: str, alone: dict[int, float]) -> list[str]:
    """The difference to the human votes alone, per judge."""
    return [
        f"{judge} {difference(results.gain(name), alone).text()}"
        for judge in JUDGES
        if results.of(name := f"{way}/{judge}")
    ]


def _never_worse(names: list[str], results: Results, alone: dict[int, float]) -> str:
    there = [name for name in names if results.of(name)]
    worse = [name for name in there if difference(results.gain(name), alone).high < 0]
    if not worse:
        return f"Worse beyond the interval: none of {len(there)}."
    return f"Worse beyond the interval: {', '.join(f'`{name}`' for name in worse)}."


def advised(results: Results) -> dict[str, dict[int, float]]:
    """judge -> seed -> gain of what the audit advised on the votes of this seed."""
    out: dict[str, dict[int, float]] = {judge: {} for judge in JUDGES}
    for seed, told in results.advice.items():
        for judge, name in told.items():
            if seed in (gain := results.gain(name)):
                out[judge][seed] = gain[seed]
    return {judge: gain for judge, gain in out.items() if gain}


def _advised_counts(results: Results) -> str:
    """How often each kind of configuration was advised."""
    kinds = [name.split("/")[0] for told in results.advice.values() for name in told.values()]
    return ", ".join(f"{kinds.count(kind)} × `{kind}`" for kind in dict.fromkeys(kinds)) or "nothing yet"


def tell_hesitant(results: Results, there: list[str], folder: Path) -> str:
    top = best(results, [name for name in there if name != "hesitant-100"])
    text = ""
    if top and results.of("hesitant-100"):
        gap = difference(results.gain(top), results.gain("hesitant-100"))
        text = f"**Of an eighth of the votes of people who hesitate and a poor judge, `{top}` makes the most, {words(gap, 'more than', 'less than', 'as much as, within the interval,')} all of these people's votes (difference {gap.text()}).**\n\n"
    figure = figures.bars(results, there, folder / "evidence-hesitant.png", "hesitant-12", "hesitant-100")
    return f"{text}![gain of every condition]({figure.name})\n\n{table(results, there, 'hesitant-12')}"


def tell_allocation(results: Results, there: list[str], folder: Path) -> str:
    top = best(results, there)
    gap = difference(results.gain(top), results.gain("uniform-batches"))
    text = f"**Against batches drawn from all pairs alike the best allocation, `{top}`, gains {gap.text()}: {words(gap, 'more', 'less', 'no clear difference')}.**"
    figure = figures.bars(results, there, folder / "evidence-allocation.png", "human-12", "human-100")
    return f"{text}\n\n![gain of every allocation]({figure.name})\n\n{table(results, there, 'corrected-dedpo-12/biased-judge')}"


def tell_sdpo(results: Results, there: list[str], folder: Path) -> str:
    guarded = [name for name in there if "safeguard" in name or name.startswith("sdpo")]
    rising = [name for name in guarded if estimate(results.reading(name, "winner_error/highest")).low > NOISE]
    plain = [name for name in there if name.startswith("dpo-lr") or name == "human-100"]
    highest = "; ".join(
        f"{rate:.0e} {' against '.join(estimate(results.reading(name, 'winner_error/highest')).text(4) for name in reversed(_plain_and_guarded(rate)))}"
        for rate in (RATES[0], RATES[2])  # where plain DPO is at its best, and where it breaks
        if _both(results, rate)
    )
    text = f"**The safeguard (mu 0.9) holds the winner's error, at its highest, this far above the reference's, against plain DPO at the same learning rate: {highest}.**"
    top = best(results, plain)
    found = [
        f"**Beyond {NOISE}**, about the noise of that reading, it rises in {len(rising)} of {len(guarded)} guarded conditions{_listed(rising)}.",
        f"**The gain against plain DPO at the same learning rate**, mu 0.9: {'; '.join(_guarded(results, rate, 'utility') for rate in RATES if _both(results, rate))}.",
        f"**How much fidelity that keeps** (shapes and colours as the prompt says, against plain): {'; '.join(_guarded(results, rate, 'fidelity') for rate in RATES if _both(results, rate))}.",
    ]
    if top == "human-100":
        slacks = {f"mu {mu}": f"sdpo-mu-{mu}" for mu in SLACKS} | {"mu 0.9": f"sdpo-lr-{RATES[0]:.0e}"}
        gaps = [
            f"{mu} {difference(results.gain(name), results.gain(top)).text()}, the winner's error at its highest {estimate(results.reading(name, 'winner_error/highest')).text(4)}, mean factor {estimate(results.reading(name, 'lambda/mean')).text()}"
            for mu, name in slacks.items()
            if results.of(name)
        ]
        found.append(f"**At plain DPO's own best setting** (`{top}`) the gain against it: {'; '.join(gaps)}.")
        if difference(results.gain(slacks["mu 0.9"]), results.gain(top)).high < 0:
            found.append(
                f"**Why**: there plain DPO gains while the winner's error rises by {estimate(results.reading(top, 'winner_error')).text(4)} and the loser's by more, {estimate(results.reading(top, 'loser_error')).text(4)}. "
                "A safeguard that forbids the first forbids the way this model learns; what remains is to lower the winner's error, which is slower. "
                "It protects where plain DPO would break, and costs where it would not."
            )
    figure = figures.sweep(results, folder / "evidence-sdpo.png")
    columns = {
        "fidelity": lambda name: estimate(results.gain(name, "fidelity")).text(),
        "winner's error": reading(results, "winner_error", 4), "at its highest": reading(results, "winner_error/highest", 4),
        "loser's error": reading(results, "loser_error", 4), "margin": reading(results, "rewards/margins", 1),
    }  # fmt: skip
    listed = "\n".join(f"- {line}" for line in found if not line.endswith(": ."))
    return f"{text}\n\n{listed}\n\n![utility and the winner's error over the learning rate]({figure.name})\n\n{table(results, there, None, columns)}"


def _plain_and_guarded(rate: float) -> tuple[str, str]:
    return "human-100" if rate == COMMON["learning_rate"] else f"dpo-lr-{rate:.0e}", f"sdpo-lr-{rate:.0e}"


def _both(results: Results, rate: float) -> bool:
    return all(results.of(name) for name in _plain_and_guarded(rate))


def _guarded(results: Results, rate: float, column: str) -> str:
    """What the safeguard changes at a learning rate."""
    plain, guarded = _plain_and_guarded(rate)
    return f"{rate:.0e} {difference(results.gain(guarded, column), results.gain(plain, column)).text()}"


def _listed(names: list[str]) -> str:
    return f" ({', '.join(f'`{name}`' for name in names)})" if names else ""


def tell_adaptive(results: Results, there: list[str], folder: Path) -> str:
    clean = results.gain("human-100")
    share = {name: kept(results.gain(name), clean) for name in there}
    at = share.get("adaptive-flipped-30")
    text = ""
    if at:
        text = f"**At 30 % flipped votes Adaptive-DPO keeps {at.text()} of the clean gain"
        others = [
            f"{name} {share[other].text()}"
            for name, other in (
                ("DPO", "dpo-flipped-30"),
                ("robust DPO", "rdpo-flipped-30"),
                ("majority of three", "three-votes-30"),
            )
            if other in share
        ]
        text += f" ({', '.join(others)}).**" if others else ".**"
    auc = {p: estimate(results.reading(f"adaptive-flipped-{p}", "auc/minority")).text() for p in FLIPS}
    kept_by = {"DPO": "dpo-crowd", "robust DPO": "rdpo-crowd", "Adaptive-DPO": "adaptive-crowd"}
    at_30 = {"averaged over the draws of a run": "adaptive-memory-flipped-30", "the margin inside β, where it acts (ours)": "adaptive-inside-flipped-30"}  # fmt: skip
    found = [
        f"**Adaptive-DPO against DPO on the same votes**: {'; '.join(f'{p} % {difference(results.gain(a), results.gain(d)).text()}' for p in FLIPS if results.of(a := f'adaptive-flipped-{p}') and results.of(d := f'dpo-flipped-{p}'))}.",
        f"**A real minority** ({MINORITY} % of the pairs voted on by people of the opposite taste in composition): {'; '.join(f'{name} keeps {share[one].text()}' for name, one in kept_by.items() if one in share)}.",
        f"**Why less at many flips**: the metric finds them worse, the more there are (AUC {'; '.join(f'{p} % {text}' for p, text in auc.items() if text != '–')}), because the model that it asks learned from them.",
        f"**Variants at 30 %**: {'; '.join(f'{name} {share[one].text()}' for name, one in at_30.items() if one in share)}.",
    ]
    listed = "\n".join(f"- {line}" for line in found if not line.endswith(": ."))
    figure = figures.flips(results, folder / "evidence-adaptive.png")
    columns = {
        "share of the clean gain": lambda name: share[name].text(),
        "AUC of the metric": reading(results, "auc/minority", 2),
        "AUC of the doubt": reading(results, "auc/doubt", 2),
    }
    return f"{text}\n\n{listed}\n\n![share of the clean gain over the share of flipped votes]({figure.name})\n\n{table(results, there, None, columns)}"


def tell_together(results: Results, there: list[str], folder: Path) -> str:
    text = ""
    if results.of("together-all"):
        top = str(best(results, there))
        told = {
            "DeDPO, safeguard and adaptive weights": "together-all",
            "with a safeguard of mu 0.6": "together-all-mu-0.6",
            "without the safeguard": "together-dedpo-adaptive",
        }
        gains = "; ".join(
            f"{what} {estimate(results.gain(name)).text()}" for what, name in told.items() if results.of(name)
        )
        costs = difference(results.gain("together-all"), results.gain("together-dedpo-adaptive")).high < 0
        clear = [n for n in there if n != top and difference(results.gain(top), results.gain(n)).low > 0]
        text = (
            f"**All together gain: {gains}. The best is `{top}`, clearly more than {len(clear)} of the {len(there) - 1} others{_listed(clear)}.**"
            + (
                ""
                if not costs
                else " The safeguard costs gain here, at a learning rate at which nothing breaks without it (see above)."
            )
            + "\n\n"
        )
    figure = figures.bars(results, there, folder / "evidence-together.png", "together-human", "human-100")
    columns = {"winner's error": reading(results, "winner_error", 4), "margin": reading(results, "rewards/margins", 1)}
    return f"{text}![gain of every combination]({figure.name})\n\n{table(results, there, 'together-human', columns)}"


def tell_scaling(results: Results, there: list[str], folder: Path) -> str:
    figure = figures.pools(results, folder / "evidence-scaling.png")
    text = ""
    if results.of("mix-pool-1536"):
        last = {
            way: difference(results.gain(f"{way}-pool-1536"), results.gain(f"{way}-pool-192"))
            for way in ("mix", "dedpo", "corrected-dedpo")
        }
        text = (
            "**From 192 to 1,536 judged pairs beside 96 human votes the gain changes by "
            + ", ".join(f"{gap.text()} ({way})" for way, gap in last.items())
            + ".**\n\n"
        )
    return f"{text}![gain over the size of the pool]({figure.name})\n\n{table(results, there, 'human-12')}"


def tell_methods(results: Results, there: list[str], folder: Path) -> str:
    ranked = sorted(there, key=lambda name: -estimate(results.gain(name)).mean)
    gaps = {name: difference(results.gain(name), results.gain("human-100")) for name in there if name != "human-100"}
    clear = [name for name, gap in gaps.items() if gap.low > 0]
    text = (
        f"**On every human vote and at one common setting, {len(clear)} of {len(gaps)} methods gain clearly more than DPO"
        + (f": {', '.join(f'`{name}`' for name in clear)}" if clear else "")
        + ".** Settings were not tuned per method, so this ranks the settings as much as the methods."
    )
    figure = figures.bars(results, ranked, folder / "evidence-methods.png", "human-100", "human-100")
    return f"{text}\n\n![gain of every method]({figure.name})\n\n{table(results, ranked, 'human-100', {'winner' + chr(39) + 's error': reading(results, 'winner_error', 4)})}"


QUESTIONS: dict[str, tuple[str, Callable[[Results, list[str], Path], str]]] = {
    "dedpo": ("Few human votes and a judge: is DeDPO as good as all human votes?", tell_dedpo),
    "hesitant": ("And when people hesitate and the judge is poor?", tell_hesitant),
    "allocation": ("How should a batch be divided between pairs with and without a human vote?", tell_allocation),
    "sdpo": ("Does the safeguard keep the preferred image from getting worse?", tell_sdpo),
    "adaptive": ("Wrong votes and minorities: what does Adaptive-DPO keep?", tell_adaptive),
    "together": ("All together: does the combination beat its parts?", tell_together),
    "scaling": ("More judged pairs: does the mix decline, and DeDPO not?", tell_scaling),
    "methods": ("All other methods on the same votes", tell_methods),
}
