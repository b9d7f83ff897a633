"""One split of the real votes: what palate's estimates say on the labelled pairs, and what is true."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from benchmarks.real_votes.votes import RealVotes
from palate.arithmetic import bounded_logit
from palate.audits.agreement import a_person, credit
from palate.audits.choosing import name_a_row
from palate.audits.couples import couples_of
from palate.audits.intervals import Estimate
from palate.audits.judges import ALL, Judge, fitted, measured
from palate.audits.planning import gain_and_draws, plan
from palate.audits.prompts import prompts_of
from palate.judges.correction import calibrate_judge

SHARES = (0.05, 0.10, 0.25)
SINGLE = "clipscore_vitb32"  # the judge that is also corrected alone; it voted on every pair
NAMES = {"accuracy": "agreement", "brier": "Brier score", "skill": "skill", "confidence": "slope"}
OF_GAIN = {"power": "power", "variance": "variance ratio"}
DIRECTIONS = ("chance", "generator", "the judge's own")


@dataclass(frozen=True)
class Split:
    """Pairs of prompts drawn with replacement from the 160, a copy of a prompt being a prompt of its own, with human
    votes on a random part of the pairs."""

    votes: RealVotes
    rows: np.ndarray  # [N] the pairs among the 1,600
    prompt: np.ndarray  # [N] the real prompt
    labelled: np.ndarray  # [N]


def draw(votes: RealVotes, seed: int, share: float) -> Split:
    rng = np.random.default_rng([seed, round(1000 * share)])
    of_prompt = [np.flatnonzero(votes.prompt == p) for p in range(votes.prompt.max() + 1)]
    rows = [of_prompt[p] for p in rng.integers(0, len(of_prompt), len(of_prompt))]
    drawn = votes.take(np.concatenate(rows))
    copy = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    labelled = rng.permutation(len(copy)) < round(share * len(copy))
    return Split(replace(drawn, prompt=copy), np.concatenate(rows), drawn.prompt, labelled)


def truth_of(judge: np.ndarray, human: np.ndarray) -> dict[str, float]:
    """What a judge [N] scores on all pairs; without the pairs on which it did not vote."""
    kept = ~np.isnan(judge)
    g, y = judge[kept], human[kept]
    a, b, x, slope = y - 0.5, g - 0.5, bounded_logit(g), 0.0
    for _ in range(50):
        p = expit(slope * x)
        slope += np.sum(x * (y - p)) / np.sum(x * x * p * (1 - p))
    return {
        "agreement": float(credit(0.5 + np.sign(b) / 2, y).mean()), "Brier score": float(np.mean((a - b) ** 2)),
        "skill": float(1 - np.mean((a - b) ** 2) / np.mean(a * a)), "slope": float(slope),
        "power": float(np.clip(a @ b / (b @ b), 0, 1)), "aa": float(np.mean(a * a)), "ab": float(np.mean(a * b)),
        "bb": float(np.mean(b * b)),
    }  # fmt: skip


def ratio_at(truth: dict[str, float], power: float, share: float) -> float:
    left = (truth["aa"] - 2 * power * truth["ab"] + power * power * truth["bb"]) / truth["aa"]
    return share + (1 - share) * left


def intervals(votes: RealVotes, seed: int, share: float) -> Iterator[tuple[str, str, Estimate, float]]:
    """(row, number, estimate, truth) for every judge as it is, one judge and all judges corrected, the named row, and
    a person.

    Corrections hold a real prompt out with all its copies, and the truth of a corrected judge is what its fits score on
    the 160 prompts, each by the fit that saw no vote on it.
    """
    split = draw(votes, seed, share)
    there, n = split.votes, len(split.labelled)
    evidence = there.evidence(split.labelled)
    base = evidence.labels()
    gains, draws, truths = {}, {}, {}

    def told(
        row: str, key: str, probability: np.ndarray, truth: dict[str, float]
    ) -> Iterator[tuple[str, str, Estimate, float]]:
        name, correction = key.split("/")
        judge = Judge(**measured(evidence, name, correction, replace(base, judge=probability)))
        judge = fitted(judge) if correction != "none" else judge
        yield from ((row, NAMES[k], getattr(judge, k), truth[NAMES[k]]) for k in NAMES)
        yield from ((row, OF_GAIN[k], getattr(judge.gain, k), truth.get(k, np.nan)) for k in OF_GAIN if k == "power")
        yield row, "variance ratio", judge.gain.variance, ratio_at(truth, judge.gain.power.value, share)
        gains[key], truths[key] = judge.gain, truth
        draws[key] = gain_and_draws(replace(base, judge=probability), there.prompt)[1]

    for j, name in enumerate(votes.judges):
        truth = truth_of(votes.judge[:, j], votes.mean)
        yield from told("judges as they are", f"{name}/none", there.judge[:, j], truth)
    human = np.concatenate([base.human, np.full(len(votes.prompt), np.nan)])
    groups = np.concatenate([split.prompt, votes.prompt]).tolist()
    for row, name in (("one judge, corrected", SINGLE), ("all judges, corrected", ALL)):
        columns = list(range(len(votes.judges))) if name == ALL else [votes.judges.index(name)]
        judge_votes = np.vstack([there.judge[:, columns], votes.judge[:, columns]])
        names = votes.judges if name == ALL else ()
        found = calibrate_judge(judge_votes, human, judges=names, groups=groups, seed=seed).probability
        yield from told(row, f"{name}/calibrate", found[:n], truth_of(found[n:], votes.mean))
    named = name_a_row(gains, draws)
    best = min(gains, key=lambda name: gains[name].variance.value)
    for row, name, gain in (
        ("the best row, as seen", best, gains[best]), ("the named row, corrected", named.name, named.gain)
    ):  # fmt: skip
        yield row, "variance ratio", gain.variance, ratio_at(truths[name], gain.power.value, share)
    yield "a person", "agreement", a_person(evidence.human, there.prompt), a_person(votes.votes(), votes.prompt).value


def plans(votes: RealVotes, seed: int, share: float) -> Iterator[tuple[str, str, Estimate, float]]:
    """The plan's half width today around how often people take what a judge takes, with the floor of the prompts and as
    if pairs were unrelated. Where a judge cannot decide, it takes one side at random, always the same."""
    split = draw(votes, seed, share)
    there, labelled = split.votes, split.labelled
    human = np.where(labelled, there.mean, np.nan)
    square = float(np.nanmean((human - 0.5) ** 2))
    prompts = prompts_of(there.prompt, human, there.judge - 0.5)
    (now,) = (s for s in plan({}, int(labelled.sum()), len(human), square, prompts) if s.now)
    coins = np.random.default_rng(0).choice([-1.0, 1.0], votes.judge.shape)
    for j in range(len(votes.judges)):
        whole = np.where(votes.judge[:, j] == 0.5, coins[:, j], np.sign(votes.judge[:, j] - 0.5))
        whole = np.where(np.isnan(whole), coins[:, j], whole)
        seen, truth = np.mean((whole[split.rows] * (human - 0.5))[labelled]), float(np.mean(whole * (votes.mean - 0.5)))
        for number, half in (("plan over prompts", now.alone), ("plan over unrelated pairs", now.new_prompts)):
            half /= 100
            yield "human votes alone", number, Estimate(seen, seen - half, seen + half, int(labelled.sum())), truth


def flagged(votes: RealVotes, seed: int, share: float) -> list[list[str]]:
    """The couples that are warned of on the labelled pairs of a split."""
    split = draw(votes, seed, share)
    human = split.votes.human * np.where(split.labelled, 1.0, np.nan)[:, None]
    found = couples_of(replace(split.votes, human=human).votes(), split.votes.prompt, seed)
    return [[couple.first, couple.second] for couple in found if couple.flagged]


def contests(votes: RealVotes, seed: int, share: float) -> dict[str, list[float]]:
    """Errors of means over the 1,600 pairs of direction * (vote - 1/2), where a random part of them has human votes: by
    human votes alone, by `mix` and by DeDPO with the corrected judges, and by these alone.

    Directions: 32 of random signs, the contests of any two generators (their own 160 pairs), the sign of the corrected
    judges. Also what `variance` predicts for DeDPO's residual.
    """
    rng = np.random.default_rng([seed, round(1000 * share), 1])
    n = len(votes.prompt)
    labelled = rng.permutation(n) < round(share * n)
    labels = votes.labels(np.full(n, 0.5), labelled)
    judge = calibrate_judge(votes.judge, labels.human, judges=votes.judges, groups=votes.prompt.tolist(), seed=seed)
    b, a = judge.probability - 0.5, votes.mean - 0.5
    power = float(np.clip(a[labelled] @ b[labelled] / (b[labelled] @ b[labelled]), 0, 1))
    first, second = votes.generators
    models = sorted(set(first) | set(second))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (32, n))
    duels = [
        1.0 * ((first == m) & (second == k)) - 1.0 * ((first == k) & (second == m))
        for i, m in enumerate(models)
        for k in models[i + 1 :]
    ]
    errors: dict[str, list[float]] = {}
    for kind, rows in zip(DIRECTIONS, (signs, np.array(duels), np.sign(b)[None]), strict=True):
        for s in rows:
            size = np.sum(s != 0)
            truth, share_here = s @ a / size, labelled[s != 0].mean()
            if share_here == 0:
                continue
            human = (s * a)[labelled].sum() / (size * share_here)
            dedpo = power * (s @ b) / size + (s * (a - power * b))[labelled].sum() / (size * share_here)
            mixed = (s @ np.where(labelled, a, b)) / size
            for way, value in (("human", human), ("dedpo", dedpo), ("mix", mixed), ("judge", s @ b / size)):
                errors.setdefault(f"{kind}/{way}", []).append(float(value - truth))
    residual = np.mean((a - power * b)[labelled] ** 2) / np.mean(a[labelled] ** 2)
    return errors | {"predicted": [float(residual)]}
