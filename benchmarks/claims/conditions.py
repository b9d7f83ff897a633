"""The runs that answer each question: a name, and what the configuration adds. Every run is repeated with every seed.

A run that answers two questions has one name and is made once.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from benchmarks.claims.world import FEW, FLIPS, PAIRS

PEOPLE, CROWD = ["majority"], ["crowd"]
FRACTIONS = {"05": PAIRS // 20, "12": PAIRS // 8, "25": PAIRS // 4, "50": PAIRS // 2}
JUDGES = ("calibrated", "biased-judge", "chance", "adversarial")
POOLS = (2 * FEW, PAIRS, 2 * PAIRS)
RESIDUALS = (0.0, 0.5, 1.0)
ADVISED = {
    "none": "soft-dedpo",
    "calibrate": "score-dedpo",
}  # corrections beside the covariates that an audit may advise
AS_IS = {"correction": "none", "hard_votes": True}  # what a pipeline that believes its judge does

LONG = 360  # steps

COMMON = {
    "pretrained_model_name_or_path": "world", "human_annotators": PEOPLE, "beta": 2000.0, "learning_rate": 2e-5, "lr_scheduler": "constant",
    "train_batch_size": 12, "max_train_steps": 120, "checkpointing_steps": 10_000, "share_reference": True, "report_to": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """One way to train: everything but the seed."""

    name: str
    settings: dict[str, Any] = field(hash=False)
    pairs: int = PAIRS
    when: Literal["always", "advised", "tuned"] = (
        "always"  # advised: by the audit, in this seed; tuned: the rate was chosen
    )
    seeds: tuple[int, ...] | None = None  # these instead of the benchmark's


def questions() -> dict[str, list[Condition]]:
    """question -> its conditions."""
    return {
        "dedpo": dedpo(), "own-rate": own_rate(), "longer": longer(), "hesitant": hesitant(), "allocation": allocation(), "sdpo": sdpo(), "adaptive": adaptive(),
        "together": together(), "scaling": scaling(), "methods": every_method(),
    }  # fmt: skip


def few(count: int, method: str, judge: str | None = None, **settings: Any) -> dict[str, Any]:
    """A method with the human votes of `count` pairs, and a judge on all."""
    return {"method": method, "human_votes": count} | ({"judge": judge} if judge else {}) | settings


def with_judge(count: int, judge: str) -> dict[str, dict]:
    """The ways to use one judge's votes besides `count` human ones."""
    return {
        "mix": few(count, "mix", judge, **AS_IS),
        "dedpo": few(count, "dedpo", judge, **AS_IS),
        "dedpo-tuned": few(count, "dedpo-tuned", judge, **AS_IS),
        "corrected": few(count, "mix", judge, correction="covariates"),
        "corrected-dedpo": few(count, "dedpo", judge, correction="covariates", power="auto"),
    }


def shrunk(count: int, judge: str, share: float) -> dict[str, Any]:
    """Between the mix and DeDPO; which share is best is chosen per seed, by the votes that each run holds out."""
    return few(count, "dedpo", judge, **AS_IS, residual=share, held_out_votes=0.2, validation_steps=60)


def dedpo() -> list[Condition]:
    """Human votes that agree with themselves: how few are enough, with which judge, used how."""
    out = [Condition("human-100", {"method": "dpo"})]
    out += [Condition(f"human-{share}", few(count, "dpo")) for share, count in FRACTIONS.items()]
    for judge in JUDGES:
        out += [
            Condition(f"{way}-12/{judge}", settings) for way, settings in with_judge(FRACTIONS["12"], judge).items()
        ]
    for judge in JUDGES:
        for correction, name in ADVISED.items():
            control = correction == "calibrate" and judge in (
                "biased-judge",
                "adversarial",
            )  # without picture statistics
            settings = few(FRACTIONS["12"], "dedpo", judge, correction=correction, power="auto")
            out.append(Condition(f"{name}-12/{judge}", settings, when="always" if control else "advised"))
    out += [
        Condition(f"residual-{share}-12/{judge}", shrunk(FRACTIONS["12"], judge, share))
        for judge in ("calibrated", "biased-judge")
        for share in RESIDUALS
    ]
    for share in ("05", "25"):
        ways = with_judge(FRACTIONS[share], "biased-judge")
        out += [
            Condition(f"{way}-{share}/biased-judge", ways[way])
            for way in ("mix", "dedpo-tuned", "corrected", "corrected-dedpo")
        ]
    ways = with_judge(FRACTIONS["25"], "calibrated")
    out += [Condition(f"{way}-25/calibrated", ways[way]) for way in ("dedpo", "dedpo-tuned", "corrected-dedpo")]
    out += [Condition("self-training-12", few(FRACTIONS["12"], "self-training-crossfit", self_draws=2))]
    robust = {
        "cdpo": {"label_smoothing": 0.25},
        "rdpo": {"flip_rate": 0.25},
        "ipo": {"link": "ipo"},
        "holder": {"link": "holder"},
    }
    mixed = with_judge(FRACTIONS["12"], "biased-judge")["mix"]
    out += [Condition(f"mix-{name}-12/biased-judge", mixed | changes) for name, changes in robust.items()]
    return out


def longer() -> list[Condition]:
    """The same with three times as many steps, in which few votes are visited so often that they can be learned by heart."""
    ways = {"human-100": {"method": "dpo"}} | few_labels()
    return [Condition(f"long-{name}", settings | {"max_train_steps": LONG}) for name, settings in ways.items()]


def hesitant() -> list[Condition]:
    """People who agree with themselves in four of five votes, and a judge little better than a coin."""
    people = {"human_annotators": ["hesitant"]}
    out = [
        Condition("hesitant-100", {"method": "dpo", **people}),
        Condition("hesitant-12", few(FRACTIONS["12"], "dpo", **people)),
    ]
    ways = with_judge(FRACTIONS["12"], "poor-judge")
    return out + [Condition(f"hesitant-{way}-12/poor-judge", settings | people) for way, settings in ways.items()]


def allocation() -> list[Condition]:
    """How many of a batch of 12 have a human vote, and batches drawn from all pairs alike."""
    base = with_judge(FRACTIONS["12"], "biased-judge")["corrected-dedpo"]
    out = [Condition(f"labelled-{count}-of-12", base | {"labelled_per_batch": count}) for count in (2, 10)]
    return [
        *out,
        Condition("corrected-dedpo-12/biased-judge", base),
        Condition("uniform-batches", base | {"batches": "uniform"}),
    ]


RATES = (2e-5, 5e-5, 1e-4, 2e-4)
CONSTANT_PULL = {"link_parameter": 0.5}  # of link: linear: what was measured before its pull could fall
LINKS = ("ipo", "hinge", "dmpo", "alpha-dpo", "holder", "squared-sigmoid", "linear")  # the base losses besides DPO's
SLACKS = (0.3, 0.6)  # mu below the published 0.9 of Stable Diffusion 1.5; 0.6 is that of SDXL


def sdpo() -> list[Condition]:
    """From the rate at which DPO is at its best to where it breaks, with and without the safeguard."""
    out = []
    for rate in RATES:
        out += [at_rate("dpo", rate), at_rate("sdpo", rate)]
    hot = {"method": "dpo", "learning_rate": 1e-4}
    out += [Condition("long-sdpo", {"method": "sdpo", "safeguard": 0.9, "max_train_steps": LONG})]
    out += [Condition(f"sdpo-mu-{mu}", {"method": "sdpo", "safeguard": mu}) for mu in SLACKS]
    out += [Condition("safeguard-mu-0.6", hot | {"safeguard": 0.6})]
    out += [
        Condition(f"safeguard-{mode}", hot | {"safeguard": 0.9, "safeguard_mode": mode}) for mode in ("batch", "exact")
    ]
    for link in LINKS:
        base = hot | {"link": link} | (CONSTANT_PULL if link == "linear" else {})
        out += [Condition(f"{link}-hot", base), Condition(f"{link}-hot-safeguard", base | {"safeguard": 0.9})]
    out += [
        Condition("beta-500-hot", hot | {"beta": 500.0}),
        Condition("beta-500-hot-safeguard", hot | {"beta": 500.0, "safeguard": 0.9}),
    ]
    return out


def adaptive() -> list[Condition]:
    """Votes turned around at random, and a real minority; every method has as many votes."""
    out = [Condition("human-100", {"method": "dpo"})]
    for percent in (0, *FLIPS):
        votes = {"human_annotators": [f"flipped-{percent}" if percent else "majority"]}
        out.append(Condition(f"adaptive-flipped-{percent}", {"method": "adaptive-dpo", **votes}))
        if percent:
            out.append(Condition(f"dpo-flipped-{percent}", {"method": "dpo", **votes}))
            out.append(Condition(f"rdpo-flipped-{percent}", {"method": "rdpo", "flip_rate": percent / 100, **votes}))
        out.append(Condition(f"three-votes-{percent}", {"method": "dpo", "human_annotators": [f"three-{percent}"]}))
    flipped = {"method": "adaptive-dpo", "human_annotators": ["flipped-30"]}
    out += [Condition("adaptive-inside-flipped-30", flipped | {"adaptive_margin": "inside"})]
    out += [Condition("adaptive-memory-flipped-30", flipped | {"adaptive_memory": True})]
    crowd = {"human_annotators": CROWD}
    out += [
        Condition("dpo-crowd", {"method": "dpo", **crowd}),
        Condition("rdpo-crowd", {"method": "rdpo", "flip_rate": 0.2, **crowd}),
    ]
    return [
        *out,
        Condition("adaptive-crowd", {"method": "adaptive-dpo", **crowd}),
        Condition("adaptive-memory-crowd", {"method": "adaptive-dpo", "adaptive_memory": True, **crowd}),
    ]


def together() -> list[Condition]:
    """An eighth of human votes, a fifth of them the minority's, and the biased judge on the rest."""
    people = {"human_annotators": ["few-crowd"]}
    judged = {"judge": "biased-judge", **people}
    parts = {
        "human": {"method": "dpo", **people},
        "adaptive": {"method": "adaptive-dpo", **people},
        "rdpo": {"method": "rdpo", "flip_rate": 0.2, **people},
        "sdpo": {"method": "sdpo", "safeguard": 0.9, **people},
        "mix": {"method": "mix", **judged, **AS_IS},
        "dedpo": {"method": "dedpo", **judged, **AS_IS},
        "corrected-dedpo": {"method": "dedpo-tuned", **judged},
        "corrected-dedpo-safeguard": {"method": "dedpo-tuned", "safeguard": 0.9, **judged},
        "corrected-dedpo-adaptive": {"method": "dedpo-tuned", "adaptive": True, **judged},
        "all": {"method": "dedpo-tuned", "safeguard": 0.9, "adaptive": True, **judged},
        "all-mu-0.6": {"method": "dedpo-tuned", "safeguard": 0.6, "adaptive": True, **judged},
    }
    return [Condition(f"together-{name}", settings) for name, settings in parts.items()]


def scaling() -> list[Condition]:
    """96 pairs with human votes, and a growing pool that the biased judge voted on."""
    out = [Condition("human-12", few(FEW, "dpo"))]
    for pairs in POOLS:
        ways = with_judge(FEW, "biased-judge")
        names = ("mix", "dedpo", "corrected-dedpo")
        suffix = "-12/biased-judge" if pairs == PAIRS else f"-pool-{pairs}"
        out += [Condition(f"{way}{suffix}", ways[way], pairs) for way in names]
    return out


# Methods in one ranking, and what each needs beyond its preset.
OWN_ERRORS = {"share_reference": False}  # the reference's errors are not those of the pairs at their own draws
RANKED: dict[str, dict[str, Any]] = {
    name: {"method": name, **extra}
    for name, extra in {
        "dpo": {}, "sdpo": {"safeguard": 0.9}, "adaptive-dpo": {"human_annotators": PEOPLE}, "alpha-dpo": {}, "amapo": {}, "cdpo": {}, "dmpo": {}, "dpo-sft": {},
        "dspo-sdxl": OWN_ERRORS, "hinge": {}, "holder-dpo": {}, "ipo": {}, "kto": OWN_ERRORS | {"train_batch_size": 24}, "linear-dpo": CONSTANT_PULL | {"reference": "auto"}, "mapo": OWN_ERRORS,
        "rn-dpo": OWN_ERRORS, "sft": OWN_ERRORS, "sudo": OWN_ERRORS, "poly-dpo": {}, "sce": {}, "gce": {}, "re-po": {},
        "diffusion-nft": OWN_ERRORS | {"train_batch_size": 24}, "threshold-guided": OWN_ERRORS | {"train_batch_size": 24}, "rethinking-dpo": OWN_ERRORS,
    }.items()
}  # fmt: skip
KNOWN_AS = {"dpo": "human-100", "adaptive-dpo": "adaptive-flipped-0"}  # in other questions, at the common rate
TUNED_RATES = (1e-5, 2e-5, 5e-5, 1e-4)
TUNING_SEED = 1000  # not among those of the tables


def few_labels() -> dict[str, dict[str, Any]]:
    """Ways to use an eighth of the human votes, to be compared with all of them at the rate that suits each."""
    useful, biased = with_judge(FRACTIONS["12"], "calibrated"), with_judge(FRACTIONS["12"], "biased-judge")
    return {
        "human-12": few(FRACTIONS["12"], "dpo"),
        "dedpo-12/calibrated": useful["dedpo"],
        "dedpo-12/biased-judge": biased["dedpo"],
        "corrected-dedpo-12/biased-judge": biased["corrected-dedpo"],
    }


def own_rate() -> list[Condition]:
    """All human votes and an eighth, each at the learning rate that suits it."""
    return tuned({"dpo": RANKED["dpo"]} | few_labels())


def every_method() -> list[Condition]:
    """The methods that learn from human votes on pairs, each at the learning rate that suits it."""
    return tuned(RANKED)


def tuned(ways: dict[str, dict[str, Any]]) -> list[Condition]:
    """Every rate on the tuning seed; and on the others, where it was chosen."""
    out = []
    for name in ways:
        for rate in TUNED_RATES:
            run = at_rate(name, rate)
            out += [replace(run, name=tuning(name, rate), seeds=(TUNING_SEED,)), replace(run, when="tuned")]
    return out


def tuning(way: str, rate: float) -> str:
    """The name of the run by which a learning rate is chosen, or not."""
    return f"tuning-{way}-lr-{rate:.0e}"


def at_rate(way: str, rate: float) -> Condition:
    """A method on every human vote, or a way to use an eighth of them, at some learning rate."""
    labels = few_labels()
    settings, name = (RANKED | labels)[way], f"{way}-lr-{rate:.0e}"
    if rate == COMMON["learning_rate"]:
        return Condition(way if way in labels else KNOWN_AS.get(way, name), settings)
    return Condition(name, settings | {"learning_rate": rate})


def quick() -> dict[str, list[Condition]]:
    """The few runs that show the form of every answer in minutes."""
    wanted = ("human-100", "human-12", "mix-12/biased-judge", "corrected-dedpo-12/biased-judge", "dpo-lr-1e-04", "sdpo-lr-1e-04", "dpo-flipped-30", "adaptive-flipped-30")  # fmt: skip
    chosen = {name: questions()[name] for name in ("dedpo", "sdpo", "adaptive")}
    return {name: [c for c in conditions if c.name in wanted] for name, conditions in chosen.items()}
