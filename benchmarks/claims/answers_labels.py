"""What the results say of labels: few human votes, judges, batches, pools."""

from pathlib import Path

import numpy as np

from benchmarks.claims import figures
from benchmarks.claims.conditions import (
    COMMON,
    FEW,
    FRACTIONS,
    JUDGES,
    LONG,
    PAIRS,
    POOLS,
    TUNED_RATES,
    at_rate,
    few_labels,
)
from benchmarks.claims.estimates import difference, estimate
from benchmarks.claims.results import Results
from benchmarks.claims.tables import (
    MARGIN,
    Answer,
    Gain,
    best,
    change,
    gaps,
    listed_gaps,
    point,
    reading,
    shrunk,
    table,
    verdict,
)
from benchmarks.claims.tuning import chosen, tuned_conditions
from palate.world.voters import VOTERS

BATCH = int(COMMON["train_batch_size"])
STEPS = int(COMMON["max_train_steps"])


def tell_dedpo(results: Results, there: list[str], folder: Path) -> Answer:
    all_votes, alone = results.gain("human-100"), results.gain("human-12")
    few = [name for name in there if "-12/" in name and not name.startswith("residual")]
    headline = (
        f"An eighth of the human votes alone gains {estimate(alone).text()}, all of them {estimate(all_votes).text()} (difference {difference(alone, all_votes).text()}): "
        f"{'so at this rate and length a judge has nothing to add' if difference(alone, all_votes).high > 0 else 'less'}. Of {len(few)} ways to use a judge beside the eighth, against all human votes: {verdict(results, few, 'human-100')}."
    )
    tuned = _per_judge("dedpo-tuned-12")
    worse = [name for name in tuned.values() if difference(results.gain(name), alone).high < 0]
    advice = advised(results)
    pooled = {seed: float(np.mean([gain[seed] for gain in advice.values()])) for seed in _common(advice)}
    visits = {"alone": STEPS * BATCH / FRACTIONS["12"], "in half of each batch": STEPS * BATCH / 2 / FRACTIONS["12"], "of all": STEPS * BATCH / PAIRS}  # fmt: skip
    points = [
        f"**Why few are enough**: a vote of the eighth is visited {visits['alone']:.0f} times alone, {visits['in half of each batch']:.1f} times where a judge votes on the other half of each batch, one of all human votes {visits['of all']:.1f} times. "
        f"So the conditions differ in the size of the steps that they come to (margin {reading(results, 'rewards/margins', 1)('human-12')} against {reading(results, 'rewards/margins', 1)('human-100')}) as well as in their labels. The next two questions give each a learning rate of its own, and more steps.",
        point("The judge's votes as they are, against the eighth alone", gaps(results, _per_judge("mix-12"), alone), aside="`mix`"),
        point("DeDPO with tuned power, against the eighth alone", gaps(results, tuned, alone), f"Worse beyond the interval: {len(worse)} of {len(tuned)}. Of an adversary it takes nothing: its power there is 0, and the run that of the eighth alone." if results.of("dedpo-tuned-12/adversarial") and max(results.reading("dedpo-tuned-12/adversarial", "power").values(), default=1) == 0 else f"Worse beyond the interval: {len(worse)} of {len(tuned)}."),
        point("What `palate audit` advises, against the eighth alone", listed_gaps(advice, alone), aside=f"it advised {_advised_counts(results)}", more=f"All judges together {difference(pooled, alone).text()}, against all human votes {difference(pooled, all_votes).text()}. The variance that was predicted for the first steps, relative to the eighth alone: {_predicted(results)}{'; no gain follows from it here' if difference(pooled, alone).low <= 0 else ''}." if pooled else ""),
        point("The same on the judge's score alone, against the eighth alone", gaps(results, _per_judge("score-dedpo-12"), alone), aside="`score-dedpo`", more="The correction sees picture statistics, among them brightness and place, of which the utility here is made; elsewhere they may tell less."),
        point("At a quarter, with the useful judge, against all human votes", gaps(results, {way: f"{way}-25/calibrated" for way in ("dedpo", "dedpo-tuned", "corrected-dedpo")}, all_votes), aside="`calibrated`"),
        point("At a quarter, with the biased judge, against all human votes", gaps(results, {way: f"{way}-25/biased-judge" for way in ("mix", "dedpo-tuned", "corrected", "corrected-dedpo")}, all_votes)),
        point("At a twentieth, with the biased judge, against the twentieth alone", gaps(results, {way: f"{way}-05/biased-judge" for way in ("mix", "dedpo-tuned", "corrected", "corrected-dedpo")}, results.gain("human-05"))),
        point("The model as its own judge, against the eighth alone", gaps(results, {"self-training": "self-training-12"}, alone), aside="cross-fitted"),
        point("A share of the residual chosen by held-out votes, against the eighth alone", listed_gaps({judge: shrunk(results, judge) for judge in JUDGES}, alone)),
        point("Robust losses on the biased judge's votes as they are, against the eighth alone", gaps(results, {name: f"mix-{name}-12/biased-judge" for name in ("cdpo", "rdpo", "ipo", "holder")}, alone)),
        point("Fewer and more human votes alone, against all of them", gaps(results, {f"{int(share)} %": f"human-{share}" for share in FRACTIONS}, all_votes)),
        f"**What the gain is made of** (`human-100`): {_parts(results, 'human-100')}.",
    ]  # fmt: skip
    columns = {
        "brightness of the ground": change(results, "brightness"), "centring": change(results, "centring"), "fidelity": change(results, "fidelity"),
        "margin": reading(results, "rewards/margins", 1),
    }  # fmt: skip
    wall = folder / figures.WALL
    shown = [
        f"![samples of the models of seed 0]({wall.name})",
        "The same prompts and noise, seed 0. People prefer centred shapes on darker ground, the biased judge brighter ground.",
    ]
    return Answer(
        headline, points, "gain of every condition",
        figures.bars(results, there, folder / "evidence-dedpo.png", "human-12", "human-100"),
        table(results, there, ("human-12", "human-100"), columns), shown if wall.exists() else [],
    )  # fmt: skip


def _per_judge(way: str) -> dict[str, str]:
    return {judge: f"{way}/{judge}" for judge in JUDGES}


def _parts(results: Results, name: str) -> str:
    """How much of a gain in utility each of its terms makes."""
    taste = VOTERS["majority"]
    terms = {"fidelity": taste.fidelity, "centring": taste.centring, "brightness": taste.brightness}
    each = {
        term: {seed: weight * gain for seed, gain in results.gain(name, term).items()} for term, weight in terms.items()
    }
    return ", ".join(f"{term} {estimate(gain).text()}" for term, gain in each.items())


def advised(results: Results) -> dict[str, Gain]:
    """judge -> seed -> gain of what the audit advised on the votes of this seed."""
    out: dict[str, Gain] = {judge: {} for judge in JUDGES}
    for seed, told in results.advice.items():
        for judge, name in told.items():
            if seed in (gain := results.gain(name)):
                out[judge][seed] = gain[seed]
    return {judge: gain for judge, gain in out.items() if gain}


def _predicted(results: Results) -> str:
    """What the runs that the audit advises predicted of their gradient's variance, per judge."""
    found = {judge: results.reading(name, "variance") for judge, name in _per_judge("corrected-dedpo-12").items()}
    return "; ".join(f"{judge} {estimate(of).text()}" for judge, of in found.items() if of)


def _common(gains: dict[str, Gain]) -> set[int]:
    return set.intersection(*map(set, gains.values())) if gains else set()


def _advised_counts(results: Results) -> str:
    """How often each kind of configuration was advised."""
    kinds = [name.split("/")[0] for told in results.advice.values() for name in told.values()]
    return ", ".join(f"{kinds.count(kind)} × `{kind}`" for kind in dict.fromkeys(kinds)) or "nothing yet"


def tell_own_rate(results: Results, there: list[str], folder: Path) -> Answer:
    conditions = tuned_conditions(results)
    names = {way: conditions[way] for way in ("dpo", *few_labels()) if results.of(conditions.get(way, ""))}
    every, alone = names.get("dpo", "human-100"), names.get("human-12", "human-12")
    ways = [name for way, name in names.items() if "/" in way]
    headline = (
        f"Each at its own learning rate an eighth of the human votes gains {estimate(results.gain(alone)).text()}, all of them {estimate(results.gain(every)).text()} "
        f"(difference {difference(results.gain(alone), results.gain(every)).text()}). With a judge, against the eighth alone: {gaps(results, {f'`{name}`': name for name in ways}, results.gain(alone))}."
    )
    rates = chosen(results)
    moved = {
        f"`{way}`": difference(results.gain(name), results.gain(at_rate(way, COMMON["learning_rate"]).name)).text()
        for way, name in names.items()
        if rates[way] != COMMON["learning_rate"]
    }
    points = [
        f"**The rate** is the best of {', '.join(f'{rate:.0e}' for rate in TUNED_RATES)} by the true utility of one repetition that no table uses: {', '.join(f'`{way}` {rates[way]:.0e}' for way in names)}.",
        point(f"What another rate than the common {COMMON['learning_rate']:.0e} changes", "; ".join(f"{way} {gap}" for way, gap in moved.items()), "One repetition chooses noisily: another rate does not mean a better result."),
    ]  # fmt: skip
    columns = {"fidelity": change(results, "fidelity"), "margin": reading(results, "rewards/margins", 1)}
    there = list(names.values())
    figure = figures.bars(results, there, folder / "evidence-own-rate.png", alone, every)
    return Answer(headline, points, "gain of every condition", figure, table(results, there, (alone, every), columns))


def tell_longer(results: Results, there: list[str], folder: Path) -> Answer:
    alone, every = results.gain("long-human-12"), results.gain("long-human-100")
    ways = {f"`{name}`": name for name in there if "/" in name}
    headline = (
        f"With {LONG} steps instead of {STEPS} the eighth of human votes alone gains {estimate(alone).text()}, all of them {estimate(every).text()} (difference {difference(alone, every).text()}); "
        f"with a judge, against the eighth alone: {gaps(results, ways, alone)}"
    )
    short = {name: difference(results.gain(name), results.gain(name.removeprefix("long-"))).text() for name in there}
    points = [
        point("Against all human votes", gaps(results, ways, every)),
        point(f"What the further {LONG - STEPS} steps change", "; ".join(f"`{name}` {gap}" for name, gap in short.items())),
    ]  # fmt: skip
    columns = {
        "fidelity": change(results, "fidelity"),
        "winner's error": reading(results, "winner_error", 4),
        "margin": reading(results, "rewards/margins", 1),
    }
    figure = figures.bars(results, there, folder / "evidence-longer.png", "long-human-12", "long-human-100")
    return Answer(headline + ".", points, "gain of every condition", figure, table(results, there, ("long-human-12", "long-human-100"), columns))  # fmt: skip


def tell_hesitant(results: Results, there: list[str], folder: Path) -> Answer:
    ways = [name for name in there if "/" in name]
    alone, every = results.gain("hesitant-12"), results.gain("hesitant-100")
    headline = (
        f"An eighth of the votes of people who hesitate gains {estimate(alone).text()}, all of them {estimate(every).text()}; with a poor judge beside the eighth, "
        f"against the eighth alone: {verdict(results, ways, 'hesitant-12')}."
    )
    top = best(results, ways)
    points = [
        point("Each way, against the eighth alone", gaps(results, {f"`{name}`": name for name in ways}, alone)),
        f"**The highest**, `{top}`, against all of these people's votes: {difference(results.gain(str(top)), every).text()}.",
    ]
    figure = figures.bars(results, there, folder / "evidence-hesitant.png", "hesitant-12", "hesitant-100")
    return Answer(headline, points, "gain of every condition", figure, table(results, there, ("hesitant-12", "hesitant-100")))  # fmt: skip


def tell_allocation(results: Results, there: list[str], folder: Path) -> Answer:
    other = "uniform-batches"
    headline = f"Against batches drawn from all pairs alike, with and without a human vote: {verdict(results, there, other)} ({gaps(results, {f'`{name}`': name for name in there if name != other}, results.gain(other))})."
    figure = figures.bars(results, there, folder / "evidence-allocation.png", "human-12", "human-100")
    points = ["`corrected-dedpo-12/biased-judge` has 6 of 12, the default."]
    return Answer(headline, points, "gain of every allocation", figure, table(results, there, (other,)))


def tell_scaling(results: Results, there: list[str], folder: Path) -> Answer:
    first, last = (lambda way, pool=pool: f"{way}-pool-{pool}" for pool in (POOLS[0], POOLS[-1]))
    ways = ("mix", "dedpo", "corrected-dedpo")
    changes = [
        f"{way} {difference(results.gain(last(way)), results.gain(first(way))).text()}"
        for way in ways
        if results.of(last(way)) and results.of(first(way))
    ]
    headline = (
        f"From {POOLS[0]:,} to {POOLS[-1]:,} judged pairs, {FEW} of them with a human vote, the gain changes by {', '.join(changes)}. "
        f"Against the {FEW} human votes alone: {verdict(results, there, 'human-12')}."
    )
    unlabelled = STEPS * BATCH // 2
    points = [
        f"**A run visits {unlabelled} pairs without a human vote**, whatever the pool: of the largest, {unlabelled / (POOLS[-1] - FEW):.0%}. What the pool changes is how often each is seen, and the weight of the judged part in the loss. An interval inside {MARGIN} of no difference is called as much."
    ]
    figure = figures.pools(results, folder / "evidence-scaling.png")
    return Answer(headline, points, "gain over the size of the pool", figure, table(results, there, ("human-12",)))
