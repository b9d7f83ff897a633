"""What the results say of losses: the safeguard, wrong votes, everything together, the other methods."""

from pathlib import Path

import numpy as np

from benchmarks.claims import figures
from benchmarks.claims.conditions import COMMON, LINKS, LONG, RANKED, RATES, SLACKS, TUNED_RATES, at_rate
from benchmarks.claims.estimates import clearly, difference, estimate, kept
from benchmarks.claims.results import Results
from benchmarks.claims.tables import Answer, best, change, listed_gaps, named, point, reading, table, verdict
from benchmarks.claims.tuning import chosen, tuned_conditions
from benchmarks.claims.world import FLIPS, MINORITY

# --- the safeguard -----------------------------------------------------------------------------------------------------


def tell_sdpo(results: Results, there: list[str], folder: Path) -> Answer:
    both = [rate for rate in RATES if all(results.of(name) for name in _plain_and_guarded(rate))]
    final = reading(results, "winner_error", 4)
    headline = (
        "With the safeguard (mu 0.9) the winner's error on the training pairs ends this far above the reference's, against plain DPO at the same learning rate: "
        + "; ".join(
            f"{rate:.0e} {final(guarded)} against {final(plain)}"
            for rate, (plain, guarded) in ((rate, _plain_and_guarded(rate)) for rate in both)
        )
    )
    guarded = [name for name in there if "safeguard" in name or "sdpo" in name]
    rising = [name for name in guarded if estimate(results.reading(name, "winner_error")).low > 0]
    still = [name for name in guarded if name not in rising]
    top = best(results, [_plain_and_guarded(rate)[0] for rate in RATES])
    points = [
        f"**It rises all the same**, its interval above 0, in {len(rising)} of {len(guarded)} guarded conditions; not in {named(still) or 'any'}; with mu 0.9 by {_share_of_plain(results)} of what it rises without. The bound is one of a small plain step on the pairs of a batch; these steps are AdamW's, and the error is measured at other noise.",
        point("The gain against plain DPO at the same learning rate", "; ".join(_guarded(results, rate, "utility") for rate in both)),
        point("The fidelity that this keeps", "; ".join(_guarded(results, rate, "fidelity") for rate in both), aside="shapes and colours as the prompt says"),
        point("The other base losses at 1e-04, gain with less without", _links(results, "utility"), f"Fidelity: {_links(results, 'fidelity')}."),
        point("Per pair, per batch, exact", "; ".join(f"{how} {estimate(results.gain(name)).text()}, winner's error {final(name)}" for how, name in {"pair": "sdpo-lr-1e-04", "batch": "safeguard-batch", "exact": "safeguard-exact"}.items() if results.of(name)), aside="at 1e-04"),
        *(_at_the_best(results, top) if top else []),
    ]  # fmt: skip
    columns = {
        "fidelity": change(results, "fidelity"), "winner's error": final, "at its highest": reading(results, "winner_error/highest", 4),
        "loser's error": reading(results, "loser_error", 4), "margin": reading(results, "rewards/margins", 1),
    }  # fmt: skip
    figure = figures.sweep(results, folder / "evidence-sdpo.png")
    return Answer(headline + ".", points, "utility and the winner's error over the learning rate", figure, table(results, there, ("human-100",), columns))  # fmt: skip


def _share_of_plain(results: Results) -> str:
    """From how little to how much of plain training's rise of the winner's error remains with mu 0.9, over rates and links."""
    pairs = [_plain_and_guarded(rate) for rate in RATES] + [(f"{link}-hot", f"{link}-hot-safeguard") for link in (*LINKS, "beta-500")]  # fmt: skip
    rises = [[estimate(results.reading(name, "winner_error")).mean for name in pair] for pair in pairs if all(results.of(name) for name in pair)]  # fmt: skip
    shares = [max(guarded, 0.0) / plain for plain, guarded in rises if plain > 0]
    return f"{min(shares):.0%} to {max(shares):.0%}" if shares else "an unknown share"


def _at_the_best(results: Results, top: str) -> list[str]:
    """What the safeguard costs where plain DPO is at its best, and what may be the reason."""
    slacks = {f"mu {mu}": f"sdpo-mu-{mu}" for mu in SLACKS} | {"mu 0.9": f"sdpo-lr-{RATES[0]:.0e}"}
    error = reading(results, "winner_error", 4)
    costs = "; ".join(
        f"{mu} {difference(results.gain(name), results.gain(top)).text()}, winner's error {error(name)}, mean factor {estimate(results.reading(name, 'lambda/mean')).text()}"
        for mu, name in slacks.items()
        if results.of(name)
    )
    lines = [
        point(f"At the best of plain DPO's {len(RATES)} rates, the gain against it", costs if top == "human-100" else "", aside=f"`{top}`")
    ]  # fmt: skip
    if top == "human-100" and difference(results.gain(slacks["mu 0.9"]), results.gain(top)).high < 0:
        longer = difference(results.gain("long-sdpo"), results.gain(top)) if results.of("long-sdpo") else None
        lines.append(
            f"**A possible reason**: there plain DPO gains while the winner's error rises ({error(top)}) and the loser's more ({reading(results, 'loser_error', 4)(top)}); a safeguard that forbids the first leaves little of that."
            + (f" {'More steps do not make up for it' if longer.high < 0 else 'More steps make up for it'}: mu 0.9 with {LONG} steps against plain DPO with {COMMON['max_train_steps']} {longer.text()}." if longer else "")
        )  # fmt: skip
    return lines


def _plain_and_guarded(rate: float) -> tuple[str, str]:
    return at_rate("dpo", rate).name, at_rate("sdpo", rate).name


def _guarded(results: Results, rate: float, column: str) -> str:
    """What the safeguard changes at a learning rate."""
    plain, guarded = _plain_and_guarded(rate)
    return f"{rate:.0e} {difference(results.gain(guarded, column), results.gain(plain, column)).text()}"


def _links(results: Results, column: str) -> str:
    """What the safeguard changes with every other base loss."""
    pairs = {link: (f"{link}-hot-safeguard", f"{link}-hot") for link in LINKS}
    return "; ".join(
        f"{link} {difference(results.gain(guarded, column), results.gain(plain, column)).text()}"
        for link, (guarded, plain) in pairs.items()
        if results.of(guarded) and results.of(plain)
    )


# --- wrong votes -------------------------------------------------------------------------------------------------------


def tell_adaptive(results: Results, there: list[str], folder: Path) -> Answer:
    clean, own = results.gain("human-100"), results.gain("adaptive-flipped-0")
    share = {name: kept(results.gain(name), clean) for name in there}
    others = {"DPO": "dpo-flipped-30", "robust DPO (told the true rate)": "rdpo-flipped-30", "the majority of three votes": "three-votes-30"}  # fmt: skip
    adaptive = results.gain("adaptive-flipped-30")
    headline = (
        f"At 30 % flipped votes Adaptive-DPO keeps {share['adaptive-flipped-30'].text()} of DPO's clean gain and {kept(adaptive, own).text()} of its own; "
        + ", ".join(f"{label} keeps {share[name].text()}" for label, name in others.items() if name in share)
        + f". What it gains more than {'; '.join(f'{label} {difference(adaptive, results.gain(name)).text()}' for label, name in others.items() if name in share)}"
    )
    more = {p: _paired_gain(results, p) for p in FLIPS}
    beyond = {p: {seed: gain - (own[seed] - clean[seed]) for seed, gain in of.items() if seed in own and seed in clean} for p, of in more.items()}  # fmt: skip
    auc = {p: estimate(results.reading(f"adaptive-flipped-{p}", "auc/minority")) for p in FLIPS}
    kept_by = {"DPO": "dpo-crowd", "robust DPO at a rate of 20 %": "rdpo-crowd", "Adaptive-DPO": "adaptive-crowd"}
    at_30 = {"averaged over the draws of a run": "adaptive-memory-flipped-30", "the margin inside β, where it acts (ours)": "adaptive-inside-flipped-30"}  # fmt: skip
    points = [
        point("More than DPO on the same votes", "; ".join(f"{p} % {estimate(gain).text()}" for p, gain in more.items() if gain), f"On clean votes it gains {difference(own, clean).text()} more, by larger steps (winner's error {reading(results, 'winner_error', 4)('adaptive-flipped-0')} against {reading(results, 'winner_error', 4)('human-100')}); beyond that: {'; '.join(f'{p} % {estimate(gain).text()}' for p, gain in beyond.items() if gain)}." if own else ""),
        point("A real minority", "; ".join(f"{name} keeps {share[one].text()}" for name, one in kept_by.items() if one in share), f"Of its own clean gain Adaptive-DPO keeps {kept(results.gain('adaptive-crowd'), own).text()}." if own and results.of("adaptive-crowd") else "", aside=f"{MINORITY} % of the pairs voted on by people of the opposite taste in composition; where tastes agree these vote alike"),
        point("How well the metric finds flipped votes", "; ".join(f"{p} % {found.text()}" for p, found in auc.items() if found.n), "A possible reason for less at many flips: the model that it asks learned from them.", aside="area under the curve"),
        point("Variants at 30 %, share of DPO's clean gain", "; ".join(f"{name} {share[one].text()}" for name, one in at_30.items() if one in share)),
    ]  # fmt: skip
    columns = {
        "share of DPO's clean gain": lambda name: share[name].text(),
        "AUC of the metric": reading(results, "auc/minority", 2),
        "AUC of the doubt": reading(results, "auc/doubt", 2),
    }
    figure = figures.flips(results, folder / "evidence-adaptive.png")
    return Answer(headline + ".", points, "share of the clean gain over the share of flipped votes", figure, table(results, there, ("human-100",), columns))  # fmt: skip


def _paired_gain(results: Results, percent: int) -> dict[int, float]:
    """seed -> what Adaptive-DPO gains more than DPO at a share of flips."""
    adaptive, plain = (results.gain(f"{name}-flipped-{percent}") for name in ("adaptive", "dpo"))
    return {seed: adaptive[seed] - plain[seed] for seed in adaptive if seed in plain}


# --- together ----------------------------------------------------------------------------------------------------------


def tell_together(results: Results, there: list[str], folder: Path) -> Answer:
    whole = {"with the safeguard": "together-all", "with one of mu 0.6": "together-all-mu-0.6", "without it": "together-corrected-dedpo-adaptive"}  # fmt: skip
    top = str(best(results, there))
    parts = [f"together-{part}" for part in ("human", "adaptive", "sdpo", "corrected-dedpo")]
    headline = (
        f"A corrected judge, DeDPO and adaptive weights gain {'; '.join(f'{how} {estimate(results.gain(name)).text()}' for how, name in whole.items() if results.of(name))}. "
        f"The highest is `{top}`; against it: {verdict(results, there, top)}"
    )
    costs = difference(results.gain("together-all"), results.gain("together-corrected-dedpo-adaptive"))
    points = [
        point("What it gains more than each part alone, without the safeguard", "; ".join(f"`{part}` {difference(results.gain('together-corrected-dedpo-adaptive'), results.gain(part)).text()}" for part in parts if results.of(part))),
        point("What the safeguard changes here", costs.text(), "Nothing breaks without it at this learning rate; where it would, see above." if costs.high < 0 else ""),
    ]  # fmt: skip
    columns = {"winner's error": reading(results, "winner_error", 4), "margin": reading(results, "rewards/margins", 1)}
    figure = figures.bars(results, there, folder / "evidence-together.png", "together-human", "human-100")
    return Answer(headline + ".", points, "gain of every combination", figure, table(results, there, ("together-human", top), columns))  # fmt: skip


# --- the other methods -------------------------------------------------------------------------------------------------


def tell_methods(results: Results, there: list[str], folder: Path) -> Answer:
    rates, conditions = chosen(results), tuned_conditions(results)
    names = {method: conditions[method] for method in RANKED if results.of(conditions.get(method, ""))}
    ranked = sorted(names.values(), key=lambda name: -estimate(results.gain(name)).mean)
    dpo = names.get("dpo", "human-100")
    gains = {method: results.gain(name) for method, name in names.items() if name != dpo}
    more, less = clearly(gains, results.gain(dpo))
    found = [difference(gain, results.gain(dpo)) for gain in gains.values()]
    reach = np.median([(gap.high - gap.low) / 2 for gap in found])
    edge = [method for method in names if rates[method] in (TUNED_RATES[0], TUNED_RATES[-1])]
    headline = (
        f"On every human vote, each at its own learning rate, {len(more)} of {len(gains)} methods gain more than DPO beyond chance{_in_brackets(more)}, and {len(less)} less{_in_brackets(less)}; "
        f"with so few seeds only differences well above {reach:.2f} can show"
    )
    points = [
        f"**The rate** is the best of {', '.join(f'{rate:.0e}' for rate in TUNED_RATES)} by the true utility of one repetition that no table uses, which is a noisy choice; β and everything else are common (`human-100` is `dpo` and `adaptive-flipped-0` is `adaptive-dpo` at {COMMON['learning_rate']:.0e}). At an end of that list, so that another might be better still: {named(edge) or 'none'}.",
        f"**The five highest against DPO**: {listed_gaps({f'`{method}`': gains[method] for method in sorted(gains, key=lambda method: -estimate(gains[method]).mean)[:5]}, results.gain(dpo))}.",
        "**Beyond chance** means Student's test paired by seed, corrected for the number of comparisons by Holm's method; the table's intervals are not.",
        "**Not in the ranking**: methods that learn from ranked lists (`rankdpo`, `diffusion-lpo`), a judge (`smpo`, `madpo`, `uncertainty-dpo`), or a reward on the model's own samples (`spo`, `tailorpo`), those that change how one samples (`npo`, `self-npo`, `pc-diffusion`), and for their cost those that invert or sample first (`inpo`, `spin`) and the second pass of `sdpo-exact`. Nothing happens to hard votes in `dpo-pro`. `linear-dpo` is the constant pull here (`link_parameter: 0.5`), and so is `linear` above. `dspo-sd15` is `sft` here; `adaptive-ipo` and `rdpo` are variants of what is there. The effect of each shows in [its own test](methods.md#from-paper-to-preset-to-test).",
    ]  # fmt: skip
    columns = {"fidelity": change(results, "fidelity"), "winner's error": reading(results, "winner_error", 4)}
    figure = figures.bars(results, ranked, folder / "evidence-methods.png", dpo, dpo)
    return Answer(headline + ".", points, "gain of every method", figure, table(results, ranked, (dpo,), columns))


def _in_brackets(names: list[str]) -> str:
    return f" ({named(names)})" if names else ""
