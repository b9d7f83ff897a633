"""Win rates by votes: people's on some pairs of pictures, a judge's on all, and both combined without the judge's
bias."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from palate.command import command_line
from palate.data.dataset import PreferenceDataset
from palate.data.generators import compared_models, models_of_pairs
from palate.data.identity import image_ids
from palate.data.labels import collect_labels
from palate.data.samples import Samples
from palate.errors import PalateError, did_you_mean
from palate.evaluation.results import warnings
from palate.evaluation.winrate import Ids, binomial_interval, rate_interval, sign_test
from palate.files import plain
from palate.foreign import printable
from palate.judges.base import SELF
from palate.labels.selected import estimated
from palate.sampling.origin import run_of, trained_since
from palate.sampling.provenance import learned_by_samples

Propensity = Literal["given", "estimated"]


@dataclass(frozen=True)
class VoteRate:
    """How often a wins by votes, a tie as half, with an interval clustered by prompt."""

    rate: float
    low: float  # NaN if all votes are on one prompt
    high: float
    n: int  # pairs with a vote
    wins: int  # pairs on which the mean vote is for a
    ties: int
    losses: int
    prompts: int  # with a vote
    power: float = 0.0  # weight of the judge; 0: these votes alone
    confidence: float = 0.95
    error: float = float(
        "nan"
    )  # standard error of the rate, clustered by prompt; NaN where the votes are of one prompt
    p_value: float = 1.0  # exact sign test on the prompts of these votes; it ignores the judge

    @property
    def winner(self) -> str | None:
        """Either "a" or "b"; None if the interval includes one half or could not be estimated."""
        return "a" if self.low > 0.5 else "b" if self.high < 0.5 else None

    @property
    def test_words(self) -> str:
        """For example "sign test p 0.031"; "" if a judge helps, because the test ignores the judge."""
        return "" if self.power else f"sign test p {self.p_value:.2g}"


@dataclass(frozen=True)
class Contest:
    """Two models by the votes of a dataset on pairs of their pictures."""

    a: str
    b: str
    dataset: Path
    pairs: int  # of pictures of both
    prompts: int
    other_pairs: int  # in the dataset, but of other pictures
    human: VoteRate
    judge: str | None
    judge_used_in_training: bool | None  # None if unknown
    judged: VoteRate | None  # the judge's choices alone
    powered: VoteRate | None  # people's and the judge's together
    propensities: bool  # whether they are stored; else the labelled share is used
    command: str = ""
    older: tuple[str, ...] = ()  # models trained further since their pictures were made
    picked: tuple[str, ...] = ()  # where propensities were estimated: how people's pairs were chosen, in words

    @property
    def judge_mark(self) -> str:
        """A caution about the judge's votes alone; "" if there is none."""
        marks = {True: ", used in training: no evidence", None: ", perhaps used in training (not known): no evidence"}
        return marks.get(self.judge_used_in_training, "") if self.judge else ""

    @property
    def headline(self) -> VoteRate:
        return self.powered or self.human

    def show(self) -> None:
        """Print the three rates and the conclusion in words."""
        print(printable("\n".join(_lines(self))))

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them."""
        told: dict[str, Any] = plain(
            asdict(self)
            | {"folder": str(Path.cwd()), "winner": {"a": self.a, "b": self.b, None: None}[self.headline.winner]}
        )
        return told


def contest(
    a: Samples, b: Samples, dataset: PreferenceDataset, judge: str | None = None, names: tuple[str, str] = ("a", "b"),
    propensity: Propensity = "given",
) -> Contest:  # fmt: skip
    """How often a beats b by the votes of `dataset` (`palate import samples`). Pictures are matched by content.

    `judge` is an annotator_id; when absent, the only judge that voted, if there is one. propensity "estimated": pairs
    without a stored one are weighted by an estimate, for pairs that people picked. Raises PalateError when no pair
    shows these two models, when no person voted on one, for an unknown judge, and when one of several must be named.
    """
    table = dataset.pairs(columns=["pair_id", "prompt", "propensity"])
    sides = _sides(a, b, dataset, table["pair_id"].to_pylist(), table["prompt"].to_pylist())
    if np.isnan(sides).all():
        raise PalateError(
            f"{dataset.path}: no pair of pictures of {a.folder} and {b.folder}. Make them: palate import samples "
            f"{a.folder} {b.folder} --to {dataset.path}."
        )
    older = tuple(name for name, samples in zip(names, (a, b), strict=True) if trained_since(samples))
    return _contest(names, dataset, table, sides, judge, (a, b), older, propensity)


def contest_of_generators(
    a: str, b: str, dataset: PreferenceDataset, judge: str | None = None, propensity: Propensity = "given"
) -> Contest:
    """How often the pictures of model a beat those of model b by the votes of `dataset`, by what its pairs say of who
    made them (generator_0, generator_1). No picture is needed.

    Raises PalateError as `contest` does, and for models that the pairs do not name.
    """
    table = dataset.pairs(columns=["pair_id", "prompt", "propensity"])
    models = models_of_pairs(dataset)
    places: dict[tuple[str | None, str | None], float] = {(a, b): 0.0, (b, a): 1.0}
    sides = np.array([places.get(models[pair_id], np.nan) for pair_id in table["pair_id"].to_pylist()])
    if np.isnan(sides).all():
        there = compared_models(models)
        unknown = next((name for name in (a, b) if name not in there), None)
        if not there:
            told = "and its pairs do not say which models made them (generator_0, generator_1)"
        elif unknown is None:
            told = "and none of its pairs shows one beside the other"
        else:
            hint = did_you_mean(unknown, there, f"there are {', '.join(sorted(there))}.")
            told = f"and its pairs name no model {unknown!r}{hint}"
        raise PalateError(
            f"{a} and {b} are no folders of samples with pairs in {dataset.path}, {told.removesuffix('.')}."
        )
    return _contest((a, b), dataset, table, sides, judge, None, (), propensity)


def _contest(
    names: tuple[str, str],
    dataset: PreferenceDataset,
    table: pa.Table,
    sides: np.ndarray,
    judge: str | None,
    samples: tuple[Samples, Samples] | None,
    older: tuple[str, ...],
    propensity: Propensity,
) -> Contest:
    """sides [N]: which image of each pair of `table` is a's, NaN for pairs of other pictures."""
    mine = np.flatnonzero(~np.isnan(sides))
    ids, prompts = (np.array(table[name].to_pylist(), dtype=object)[mine] for name in ("pair_id", "prompt"))
    known = np.array([np.nan if p is None else p for p in table["propensity"].to_pylist()])[mine]
    votes = dataset.votes()
    judge = judge or _only_judge(dataset, votes, set(ids))
    labels = collect_labels(list(ids), votes, judge=judge, propensity=known)
    if not labels.labelled.any():
        raise PalateError(
            f"{dataset.path}: no person voted on a pair of these two models. Let people vote: palate label"
            f" {dataset.path}."
        )
    first = sides[mine] == 0
    picked: tuple[str, ...] = ()
    if propensity == "estimated":
        unknown, turn = np.isnan(known), np.where(first, 1.0, -1.0)
        labels, told, _ = estimated(dataset, list(ids), list(prompts), votes, labels, unknown, sides=turn)
        picked = tuple(told["sentences"])
    human, g = (np.where(first, x, 1 - x) for x in (labels.human, labels.judge))
    judged = powered = None
    if judge:
        hard = collect_labels(list(ids), votes, judge=judge, hard=True).judge
        judged = vote_rate(np.where(first, hard, 1 - hard), prompts)
        powered = vote_rate(human, prompts, labels.propensity, judge=g)
    used = None if samples is None else _used_in_training(judge, dataset, *samples)
    return Contest(
        *names,
        dataset.path,
        len(mine),
        len(set(prompts)),
        len(sides) - len(mine),
        vote_rate(human, prompts, labels.propensity),
        judge,
        used,
        judged,
        powered,
        bool(~np.isnan(known[labels.labelled]).any()),
        command_line(),
        older,
        picked,
    )


def vote_rate(
    votes: np.ndarray, prompt_ids: Ids, propensity: np.ndarray | None = None, *, judge: np.ndarray | None = None,
    power: float | Literal["tuned"] = "tuned", confidence: float = 0.95,
) -> VoteRate:  # fmt: skip
    """The mean vote over all N pairs, estimated from votes [N] in [0, 1] on some of them, NaN for the rest.

    propensity [N]: the probability that a pair was chosen to be voted on; equal ones when absent. judge [N]: a judge's
    probabilities, which may be wrong in any way; NaN counts as 1/2. With weights w = 1/propensity on voted pairs

        rate = power * mean(judge) + weighted mean over the voted pairs of (vote - power * judge)

    whose expectation is the mean vote of all pairs, up to the weights' normalisation, whatever the judge says. The
    tuned power in [0, 1] has the least estimated variance; it is 0 for a useless judge. It is kappa of
    `palate.labels.targets.dedpo`; with equal propensities and one pair per prompt this is `powered_mean` at lambda =
    kappa * N_unlabelled / N.

    The variance is that of the influences summed by prompt, because pictures of one prompt are dependent; a tuned power
    costs one degree of freedom. The interval is a score interval (`rate_interval`) for the number of independent votes
    with this variance, with Kish's effective number of prompts: the published normal interval (`powered_mean`) is too
    short near 0 and 1. If all votes are equal, it is the exact binomial interval with each voted prompt as one trial.
    Raises PalateError without a vote, for a propensity outside (0, 1], and for unequal lengths.
    """
    y = np.asarray(votes, dtype=np.float64)
    g = np.full(len(y), 0.5) if judge is None else np.where(np.isnan(judge), 0.5, np.asarray(judge, dtype=np.float64))
    pi = np.ones(len(y)) if propensity is None else np.asarray(propensity, dtype=np.float64)
    if not len(y) == len(g) == len(pi) == len(prompt_ids):
        raise PalateError(
            f"votes {len(y):,}, judge {len(g):,}, propensities {len(pi):,} and prompts {len(prompt_ids):,} must be"
            " equally many."
        )
    voted = ~np.isnan(y)
    if not voted.any():
        raise PalateError("a win rate by votes needs at least one vote.")
    if not ((pi[voted] > 0) & (pi[voted] <= 1)).all():
        raise PalateError(
            "a propensity of a voted pair is outside (0, 1]. It is the probability to be shown to people."
        )
    w = np.where(voted, 1 / np.where(voted, pi, 1.0), 0.0)
    w /= w.sum()
    y = np.where(voted, y, 0.0)
    _, prompt = np.unique(np.asarray(prompt_ids).astype(str), return_inverse=True)
    own = np.bincount(prompt, weights=w * (y - w @ y))  # influences by prompt at power 0 …
    change = np.bincount(prompt, weights=(g - g.mean()) / len(g) - w * (g - w @ g))  # … and per unit of power
    unanimous, tuned = np.ptp(y[voted]) == 0, power == "tuned"
    if power != "tuned":
        used = power
    elif unanimous:
        used = 0.0  # the judge explains none of the votes' spread
    else:
        used = float(np.clip(-(own @ change) / (change @ change), 0, 1)) if change @ change > 1e-24 else 0.0
    rate = float(np.clip(used * g.mean() + w @ (y - used * g), 0, 1))
    clusters = len(set(prompt[voted]))
    fitted = int(tuned and used > 0)
    low = high = error = float("nan")
    if clusters > 1:
        variance = clusters / max(1, clusters - 1 - fitted) * np.square(own + used * change).sum()
        error = float(np.sqrt(variance))
    if clusters > 1 and unanimous and used == 0:
        low, high = binomial_interval(rate, clusters, confidence)
    elif clusters > 1:
        people = float(w @ y)  # the people's own rate, for the variance of a single vote
        spread = 0.5 / clusters if unanimous else people * (1 - people)
        weighed = 1 / np.square(np.bincount(prompt, weights=w)).sum()  # Kish's effective number of prompts
        low, high = rate_interval(rate, variance, weighed, confidence, spread=spread, fitted=fitted)
    wins, losses = int((y[voted] > 0.5).sum()), int((y[voted] < 0.5).sum())
    n = int(voted.sum())
    return VoteRate(
        rate,
        low,
        high,
        n,
        wins,
        n - wins - losses,
        losses,
        clusters,
        float(used),
        confidence,
        error,
        sign_test(np.bincount(prompt, weights=np.where(voted, y, 0.0)), np.bincount(prompt, weights=voted)),
    )


def _sides(a: Samples, b: Samples, dataset: PreferenceDataset, ids: list[str], prompts: list[str]) -> np.ndarray:
    """The side of a's picture in each pair, [N]: 0 or 1; NaN if the pair shows other pictures."""
    known = image_ids(dataset)
    of_a, of_b = ({*zip(s.prompts, s.contents, strict=True)} for s in (a, b))
    side = np.full(len(ids), np.nan)
    for k, (pair_id, prompt) in enumerate(zip(ids, prompts, strict=True)):
        zero, one = ((prompt, known.get((pair_id, s))) for s in (0, 1))
        if zero in of_a and one in of_b:
            side[k] = 0
        elif one in of_a and zero in of_b:
            side[k] = 1
    return side


def _used_in_training(judge: str | None, dataset: PreferenceDataset, a: Samples, b: Samples) -> bool | None:
    """Whether one of the models was trained on this judge's votes, or is the judge itself; None if unknown."""
    entries = [entry for entry in dataset.provenance if isinstance(entry, dict) and entry.get("annotator") == judge]
    names = {judge} | {entry.get("judge") for entry in entries}
    models = {(run_of(s) or Path(s.settings["model"])).resolve() for s in (a, b)}
    itself = any(name and name.startswith(SELF) and Path(name.removeprefix(SELF)).resolve() in models for name in names)
    learned = learned_by_samples(a) | learned_by_samples(b)
    return True if itself or names & learned.names else None if learned.lost else False


def _only_judge(dataset: PreferenceDataset, votes: pa.Table, ids: set[str]) -> str | None:
    rows = votes.select(["pair_id", "annotator_id", "source"]).to_pylist()
    judges = sorted({row["annotator_id"] for row in rows if row["source"] == "judge" and row["pair_id"] in ids})
    if len(judges) > 1:
        raise PalateError(
            f"{dataset.path}: several judges voted ({', '.join(judges)}). Choose one: --judge {judges[0]}."
        )
    return judges[0] if judges else None


def _lines(found: Contest) -> list[str]:
    out = [
        f"contest of {found.a} and {found.b} · {found.pairs:,} pairs on {found.prompts:,} prompts, {found.human.n:,}"
        " with votes of people"
    ]
    rows = {"votes of people alone": found.human}
    if found.judge and found.judged and found.powered:
        rows |= {
            f"judge {found.judge} alone{found.judge_mark}": found.judged,
            f"both, power {found.powered.power:.2f}": found.powered,
        }
    width = max(map(len, rows))
    for name, rate in rows.items():
        facts = [f"n {rate.n:,}", f"ties {rate.ties:,}", *filter(None, [rate.test_words])]
        interval = "no interval: one prompt only" if np.isnan(rate.low) else f"{rate.low:.3f}, {rate.high:.3f}"
        out.append(f"  {name:<{width}}  wins {rate.rate:.3f} [{interval}]  {', '.join(facts)}")
    if found.other_pairs:
        out.append(f"  {found.other_pairs:,} pairs of {found.dataset} are of other pictures and are left out")
    out += [f"  {sentence}" for sentence in found.picked]
    if not found.propensities and not found.picked and found.human.n < found.pairs:
        out.append("  no propensities are stored: the pairs that people saw are taken as drawn at random")
    out += [f"WARNING: {warning}" for warning in warnings({}, found.older)]
    best = found.headline
    by = "votes of people" + (
        " and the judge together" if best.power else ", the judge adding nothing" if found.judge else ""
    )
    told = f"{found.a} wins {100 * best.rate:.0f} % against {found.b} by {by}"
    if np.isnan(best.low):
        return [*out, f"No winner: {told}, and votes on a single prompt give no interval."]
    told += f" (95 % interval {100 * best.low:.0f} % to {100 * best.high:.0f} %)"
    return [*out, f"{told}." if best.winner else f"No winner: {told}, and the interval includes one half."]
