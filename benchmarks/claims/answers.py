"""What the results say to each question: a sentence, what stands behind it, a figure and a table."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.claims import figures
from benchmarks.claims.conditions import COMMON, FRACTIONS, JUDGES, LONG, RATES, SLACKS, TUNED_RATES
from benchmarks.claims.estimates import difference, estimate, kept, paired
from benchmarks.claims.results import Results
from benchmarks.claims.tables import best, reading, shrunk, table, words
from benchmarks.claims.tuning import chosen, tuned_conditions
from benchmarks.claims.world import FLIPS, MINORITY
from palate.evaluation.strengths import holm

NOISE = (
    0.002  # rise of the winner's error that counts as none: about the spread of its mean over 20 steps between seeds
)


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
    shares = {judge: shrunk(results, judge) for judge in JUDGES}
    tuned = _per_judge("dedpo-tuned-12")
    found = [
        f"**The judge's votes as they are** (`mix`), against the human votes alone: {_gaps(results, _per_judge('mix-12'), alone)}.",
        f"**DeDPO with tuned power**, whatever the judge, against the human votes alone: {_gaps(results, tuned, alone)}. {_never_worse(list(tuned.values()), results, alone)}",
        f"**What `palate audit` advises** (of {_advised_counts(results)}), against the human votes alone: {_listed_gaps(advised(results), alone)}.",
        f"**At a quarter, with a useful judge** (calibrated), against all human votes: {_gaps(results, {way: f'{way}-25/calibrated' for way in ('dedpo', 'dedpo-tuned', 'corrected-dedpo')}, all_votes)}.",
        f"**At a twentieth, with the biased judge**, against the twentieth alone: {_gaps(results, {way: f'{way}-05/biased-judge' for way in ('mix', 'dedpo-tuned', 'corrected', 'corrected-dedpo')}, results.gain('human-05'))}.",
        f"**A share of the residual chosen by held-out votes**, against the human votes alone: {_listed_gaps(shares, alone)}.",
        f"**Robust losses on the biased judge's votes as they are**, against the human votes alone: {_gaps(results, {name: f'mix-{name}-12/biased-judge' for name in ('cdpo', 'rdpo', 'ipo', 'holder')}, alone)}.",
        f"**Few human votes alone**, against all of them: {_gaps(results, {f'{int(share)} %': f'human-{share}' for share in FRACTIONS}, all_votes)}. Few pairs are visited more often in as many steps; their margins grow larger, and carry the model as far.",
    ]
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


def _per_judge(way: str) -> dict[str, str]:
    return {judge: f"{way}/{judge}" for judge in JUDGES}


def _gaps(results: Results, conditions: dict[str, str], to: dict[int, float]) -> str:
    """What each condition that has results gains more than `to`, under its label."""
    return _listed_gaps({label: results.gain(name) for label, name in conditions.items()}, to)


def _listed_gaps(gains: dict[str, dict[int, float]], to: dict[int, float]) -> str:
    return "; ".join(f"{label} {difference(gain, to).text()}" for label, gain in gains.items() if gain)


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


def tell_longer(results: Results, there: list[str], folder: Path) -> str:
    alone, every = results.gain("long-human-12"), results.gain("long-human-100")
    text = (
        f"**With {LONG} steps instead of {COMMON['max_train_steps']} the eighth of human votes alone gains {estimate(alone).text()}, all of them {estimate(every).text()}; "
        f"against the eighth alone, {_listed_gaps({f'`{name}`': results.gain(name) for name in there if '/' in name}, alone)}.**"
    )
    pairs = {"all human votes": ("long-human-100", "human-100"), "an eighth of them": ("long-human-12", "human-12")}
    changes = "; ".join(
        f"{label} {difference(results.gain(long), results.gain(short)).text()}"
        for label, (long, short) in pairs.items()
    )
    figure = figures.bars(results, there, folder / "evidence-longer.png", "long-human-12", "long-human-100")
    columns = {
        "fidelity": lambda name: estimate(results.gain(name, "fidelity")).text(),
        "winner's error": reading(results, "winner_error", 4),
        "margin": reading(results, "rewards/margins", 1),
    }
    return f"{text}\n\n- **What the longer training changes** for human votes alone: {changes}.\n\n![gain of every condition]({figure.name})\n\n{table(results, there, 'long-human-12', columns)}"


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
    rates = chosen(results)
    names = {method: name for method, name in tuned_conditions(results).items() if results.of(name)}
    ranked = sorted(names.values(), key=lambda name: -estimate(results.gain(name)).mean)
    dpo = names.get("dpo", "human-100")
    gaps = {method: paired(results.gain(name), results.gain(dpo)) for method, name in names.items() if name != dpo}
    p_values = dict(zip(gaps, holm([gap.pvalue for gap in gaps.values()]), strict=True))
    more, less = (
        [method for method, gap in gaps.items() if p_values[method] < 0.05 and sign * gap.statistic > 0]
        for sign in (1, -1)
    )
    edge = [method for method in names if rates[method] in (TUNED_RATES[0], TUNED_RATES[-1])]
    text = (
        f"**On every human vote, each at its own learning rate, {len(more)} of {len(gaps)} methods gain more than DPO beyond chance{_listed(more)}, and {len(less)} less{_listed(less)}** "
        "(paired by seed, corrected for the number of comparisons by Holm's method)."
    )
    found = [
        f"**The rate** is the best of {', '.join(f'{rate:.0e}' for rate in TUNED_RATES)} by the true utility of one repetition that the table does not use; everything else is common. At an end of that list, so that another might be better still: {', '.join(f'`{method}`' for method in edge) or 'none'}.",
        "**Not in the ranking**: methods that learn from ranked lists (`rankdpo`, `diffusion-lpo`), from a reward on the model's own samples (`spo`, `tailorpo`) or from the disagreement of judges (`uncertainty-dpo`), and those that change how one samples (`npo`, `self-npo`, `pc-diffusion`); what they learn from, or are measured by, is another. `dspo-sd15` is `sft` here. `smpo` and `madpo` also see the calibrated judge.",
    ]
    figure = figures.bars(results, ranked, folder / "evidence-methods.png", dpo, dpo)
    columns = {
        "fidelity": lambda name: estimate(results.gain(name, "fidelity")).text(),
        "winner's error": reading(results, "winner_error", 4),
    }
    listed = "\n".join(f"- {line}" for line in found)
    return f"{text}\n\n{listed}\n\n![gain of every method]({figure.name})\n\n{table(results, ranked, dpo, columns)}"


QUESTIONS: dict[str, tuple[str, Callable[[Results, list[str], Path], str]]] = {
    "dedpo": ("Few human votes and a judge: is DeDPO as good as all human votes?", tell_dedpo),
    "longer": ("And with longer training?", tell_longer),
    "hesitant": ("And when people hesitate and the judge is poor?", tell_hesitant),
    "allocation": ("How should a batch be divided between pairs with and without a human vote?", tell_allocation),
    "sdpo": ("Does the safeguard keep the preferred image from getting worse?", tell_sdpo),
    "adaptive": ("Wrong votes and minorities: what does Adaptive-DPO keep?", tell_adaptive),
    "together": ("All together: does the combination beat its parts?", tell_together),
    "scaling": ("More judged pairs: does the mix decline, and DeDPO not?", tell_scaling),
    "methods": ("All other methods on the same votes", tell_methods),
}
