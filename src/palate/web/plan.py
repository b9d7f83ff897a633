"""The plan of a labelling: which pairs of a dataset could be shown, which are drawn, and with what propensity."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import sqlalchemy as sa

from palate.arrays import Floats
from palate.data.dataset import PreferenceDataset
from palate.data.identity import single_images, without_pictures
from palate.data.known import known_answers, save_known
from palate.data.questions import votes_on
from palate.data.schema import OVERALL, content_id
from palate.data.selection import Drawn, by_score, judge_scores, uniform
from palate.data.store import Settings, plan_rows, save_plan, settings_of
from palate.errors import PalateError

AGREED = 3  # so many people must agree before a pair of the dataset itself has a known answer


def prepare_plan(
    engine: sa.Engine, dataset: PreferenceDataset, wanted: Settings, judges: tuple[str, ...] = ()
) -> tuple[Settings, dict[str, int]]:
    """The store's plan: created if there is none, extended if the budget grew. Returns settings and counts.

    The population is every pair of two images. Pairs on which people voted before certainly have a vote, so their
    propensity is 1 and they are not shown; the others are drawn. Given the earlier votes, DeDPO's estimate stays
    unbiased. A budget of 0 means "as planned", or all pairs for a new plan. The share of views with a known answer may
    change at any time.

    Raises PalateError when the store belongs to another dataset, its plan has other settings, or there is nothing to
    show.
    """
    stored, budget = settings_of(engine), sum(wanted.budgets)
    if stored is None:
        rows = _population(dataset, wanted)
        unlabelled = sum(row["kind"] != "before" for row in rows)
        if not unlabelled:
            raise PalateError(_nothing_to_show(dataset, len(rows)))
        settings = replace(wanted, budgets=(budget or unlabelled,))
        if settings.select != "uniform":
            ids = [row["pair_id"] for row in rows]
            columns = ["pair_id", "annotator_id", "source", "choice", "probability"]
            told, _ = votes_on(dataset, settings.names[0], columns)
            for row, score in zip(rows, judge_scores(ids, told, settings.select, judges), strict=True):
                row["score"] = float(score)
        draw_pairs(rows, settings)
        save_plan(engine, settings, rows)
        return settings, _counts(rows, dataset)
    stored = replace(stored, known=wanted.known)
    rows = plan_rows(engine)
    _require_same(stored, wanted, dataset)
    if budget and budget < stored.budgets[-1]:
        raise PalateError(
            f"--budget {budget}: the plan has {stored.budgets[-1]} pairs already, and some may have been shown. "
            "Give a larger one to add pairs, or leave it out."
        )
    if budget > stored.budgets[-1]:
        stored = replace(stored, budgets=(*stored.budgets, budget))
        draw_pairs(rows, stored)
        save_plan(engine, stored, rows)
    return stored, _counts(rows, dataset)


def prepare_known(
    engine: sa.Engine, dataset: PreferenceDataset, controls: PreferenceDataset, question: str = OVERALL
) -> tuple[list[str], int]:
    """Make control pairs, shown to everyone, of the pairs of `controls` on whose answer people agree.

    In a dataset of its own, one person's answer is enough. In the dataset that is being labelled, AGREED people are
    needed: those pairs were labelled before and are not drawn. Returns the control pairs' ids, and how many pairs were
    left out because they may be drawn. Raises PalateError when none is left.
    """
    same = dataset_key(dataset) == dataset_key(controls)
    answers = known_answers(controls, AGREED if same else 1, question)
    ids, left_out = save_known(engine, answers)
    if ids:
        return ids, left_out
    if answers:
        why = f"all {left_out:,} of its pairs with a known answer are among those that people are to label"
    elif same:
        why = f"there is no pair on which {AGREED} people or more voted before, all for the same picture"
    else:
        why = "no pair has human votes that are all for the same picture"
    raise PalateError(
        f"--known {controls.path}: {why}. Give a dataset of control pairs, each with a vote that is right."
    )


def labelled_propensities(settings: Settings, rows: list[dict[str, Any]], answered: set[str]) -> dict[str, float]:
    """For each pair of the plan, the probability that it was drawn and has a vote. `answered`: the pairs with a vote.

    The pairs of one wave are shown in random order, so wherever people stopped, those with a vote are a random part of
    the wave. With pi_w the pair's propensity under the w-th budget and a_w the share of wave w that has a vote, the
    probability is sum_w (pi_w - pi_(w-1)) * a_w (derived). It is 1 for pairs on which people had voted before. Raises
    PalateError when it would be 0 for a pair, because no pair of its wave has a vote.
    """
    open_ = [row for row in rows if row["kind"] != "before"]
    total: Floats = np.zeros(len(open_))
    before: Floats = np.zeros(len(open_))
    for wave, budget in enumerate(settings.budgets):
        now = _drawn(open_, settings, budget).propensity
        drawn = [row["pair_id"] for row in open_ if row["wave"] == wave]
        share = len(answered.intersection(drawn)) / len(drawn) if drawn else 0.0
        total, before = total + (now - before) * share, now
    if not (total > 0).all():
        raise PalateError(
            "votes export: of the pairs that were drawn first, none has a vote, so propensities are not known. Label"
            " some."
        )
    return {row["pair_id"]: 1.0 for row in rows if row["kind"] == "before"} | {
        row["pair_id"]: float(value) for row, value in zip(open_, total, strict=True)
    }


def dataset_key(dataset: PreferenceDataset) -> str:
    """An id of the dataset that stays the same when its folder is moved."""
    about = json.loads((dataset.path / "dataset.json").read_text(encoding="utf-8"))
    return content_id(dataset.name, str(about.get("created_at")))


def _population(dataset: PreferenceDataset, settings: Settings) -> list[dict[str, Any]]:
    """Every pair of two pictures, and whether people answered what is asked about it before. Raises PalateError where
    they answered some of several questions: their propensities would not be one number."""
    asked = [_answered(dataset, question) for question in settings.names]
    if len(set(map(frozenset, asked))) > 1:
        counts = ", ".join(f"{name} {len(own):,}" for name, own in zip(settings.names, asked, strict=True))
        raise PalateError(
            f"--question: people answered some of these questions before, on different pairs ({counts}). Ask "
            "them one at"
            " a time, each with a --store of its own."
        )
    before, single = asked[0], single_images(dataset) | without_pictures(dataset)
    return [
        {"pair_id": pair_id, "kind": "before" if pair_id in before else "left", "propensity": 1.0, "rank": -1.0,
         "score": None, "wave": -1}
        for pair_id in dataset.pairs(["pair_id"])["pair_id"].to_pylist()
        if pair_id not in single
    ]  # fmt: skip


def _answered(dataset: PreferenceDataset, question: str) -> set[str]:
    votes = dataset.votes(["pair_id", "source", "choice"], question=question)
    told = votes.filter(pc.and_(pc.equal(votes["source"], "human"), pc.not_equal(votes["choice"], "skip")))
    return set(told["pair_id"].to_pylist())


def _drawn(open_: list[dict[str, Any]], settings: Settings, budget: int) -> Drawn:
    ids = [row["pair_id"] for row in open_]
    if settings.select == "uniform":
        return uniform(ids, budget, settings.seed)
    return by_score(ids, np.array([row["score"] for row in open_]), budget, settings.seed)


def draw_pairs(rows: list[dict[str, Any]], settings: Settings) -> None:
    """Draw pairs for the last budget. It contains all pairs of a smaller budget; the new ones are the next wave."""
    open_ = [row for row in rows if row["kind"] != "before"]
    result, wave = _drawn(open_, settings, settings.budgets[-1]), len(settings.budgets) - 1
    for row, propensity, drawn, rank in zip(open_, result.propensity, result.drawn, result.rank, strict=True):
        row["propensity"] = float(propensity)
        if drawn and row["wave"] < 0:
            row |= {"kind": "drawn", "wave": wave, "rank": wave + float(rank)}
    if not result.drawn.any():
        raise PalateError("--budget: so few pairs were asked for that none was drawn. Give a larger budget.")


def _require_same(stored: Settings, wanted: Settings, dataset: PreferenceDataset) -> None:
    if stored.dataset != wanted.dataset:
        raise PalateError(f"--store: it holds the votes of another dataset than {dataset.path}. Give one of its own.")
    for name in ("select", "seed", "repeats", "shared", "instruction_version", "questions"):
        if getattr(stored, name) != getattr(wanted, name):
            told = "question" if name in ("instruction_version", "questions") else name
            began, now = (
                ", ".join(f"{n}: {s}" for n, s in one.questions.items()) or one.question
                if told == "question"
                else getattr(one, name)
                for one in (stored, wanted)
            )
            raise PalateError(
                f"--{told}: labelling began with {began!r}, and {now!r} now would mix"
                " two plans. Leave it as it was, or give another --store."
            )


def _counts(rows: list[dict[str, Any]], dataset: PreferenceDataset) -> dict[str, int]:
    kinds = [row["kind"] for row in rows]
    single, unseen = len(single_images(dataset)), len(without_pictures(dataset))
    return {
        "pairs": len(dataset), "drawn": kinds.count("drawn"), "had votes": kinds.count("before"),
        "single images": single, "without pictures": unseen,
        "added since": len(dataset) - single - unseen - len(rows),
    }  # fmt: skip


def _nothing_to_show(dataset: PreferenceDataset, pairs: int) -> str:
    if pairs:
        return f"{dataset.path}: people voted on all its {pairs:,} pairs already. Import more pairs to label."
    if unseen := len(without_pictures(dataset)):
        return f"{dataset.path}: its {unseen:,} pairs were imported without pictures, so there is nothing to show."
    return f"{dataset.path}: no pair of two images to show. Add some with `palate import`."
