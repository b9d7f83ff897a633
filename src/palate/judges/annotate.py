"""`palate annotate`: a judge votes on every pair of a dataset that it has not voted on yet.

Answers are stored as they arrive (judges/answers.sqlite), keyed by content, and so are the picture embeddings that some
judges compute while voting. Votes are appended to the table at the end: raw scores and the uncalibrated probability.
Calibration is stored separately and never changes a vote.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from palate.data.dataset import PreferenceDataset
from palate.data.identity import single_images
from palate.data.images import image_bytes
from palate.data.schema import OVERALL
from palate.engine import mapped
from palate.errors import PalateError
from palate.judges.answers import AnswerStore, NotKept, judge_key, pair_content
from palate.judges.ask import at_temperature
from palate.judges.base import SELF, Answer, Judge
from palate.judges.calibration import view_folder
from palate.judges.embeddings import FILE, EmbeddingStore, can_embed, embed_pairs, picture_content
from palate.judges.load import load_judge
from palate.judges.workers import UNREADABLE, Embedding, Voting, maker
from palate.progress import progress_bar

FEWEST = 10  # answers; from here on a judge that gives all of them the same probability is refused
MOST_FAILED = 3  # give up after so many batches in a row with no answer at all


@dataclass
class Report:
    """What one call did, as counts of pairs; `usage` counts requests and tokens of this call alone."""

    judge: str
    annotator: str
    pairs: int = 0
    already_voted: int = 0
    judged: int = 0
    from_answers: int = 0  # the same content was answered in an earlier run
    failed: int = 0
    unreadable: int = 0
    single_images: int = 0
    in_sample: int = 0  # left out: the judge was trained on their human votes
    left_for_later: int = 0  # beyond the limit
    votes: int = 0
    embedded: int = 0  # pictures
    choices: dict[str, int] = field(default_factory=lambda: {"0": 0, "1": 0, "tie": 0})
    first_failure: str | None = None
    usage: dict[str, float] = field(default_factory=dict)
    rubric: dict[str, "Report"] = field(default_factory=dict)  # of each question of a rubric, by its name
    first_shown: float | None = None  # mean probability of the picture shown first, where both orders were asked


def annotate(
    dataset: PreferenceDataset,
    judge: str,
    *,
    settings: dict[str, Any] | None = None,
    annotator: str | None = None,
    temperature: float | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    engine: str = "local",
    workers: int = 1,
    gpus: float = 0.0,
    embeddings: Literal["auto", "all", "none"] = "auto",
    again: bool = False,
    load: Callable[..., Judge] = load_judge,
    question: str = OVERALL,
) -> Report:
    """Let the judge `judge` vote on every pair that it has not voted on yet. The same call resumes; once all pairs have
    a vote it costs nothing.

    `settings` go to the judge. `annotator` is the id under which it votes (its name by default). `temperature` divides
    score differences. `limit` stops after so many pairs. `embeddings` says which picture embeddings to store beside the
    votes: auto, those that voting computes anyway; all, those of every pair it voted on, in earlier runs too; none.
    `again` ignores stored answers and asks about every pair that has no vote. `load` finds a judge by its name, here
    and on other machines. `question` is what its votes answer; a judge may vote on several, one after another. Raises
    PalateError for a judge that cannot be used or whose answers carry no information, and for an annotator id that
    already voted with another version or other settings.
    """
    if temperature is not None and not temperature > 0:
        raise PalateError(f"temperature: {temperature:g}, but it must be positive.")
    settings = settings or {}
    voter = load(judge, **settings)
    annotator = annotator or str(getattr(voter, "annotator", judge))
    key, version = _identity(judge, voter, temperature)
    voted = _already(dataset, annotator, version, question)
    singles = single_images(dataset)
    in_sample = (dataset.pair_ids().keys() & getattr(voter, "trained_on", frozenset())) - voted - singles
    report = Report(judge, annotator, already_voted=len(voted), single_images=len(singles), in_sample=len(in_sample))
    report.pairs = len(dataset) - len(singles)
    if not report.pairs:
        raise PalateError(f"{dataset.path}: no pairs to judge. Import some first (palate import).")

    if embeddings == "all" and not can_embed(voter):
        raise PalateError(f"judge {judge!r} has no embeddings (a method embed). Leave out --embeddings all.")
    beside = embeddings != "none" and can_embed(voter, freely=True)
    answers: dict[str, Answer] = {}
    scale = temperature or float(getattr(voter, "temperature", 1.0))
    who = {
        "judge": judge,
        "annotator": annotator,
        "version": version,
        "settings": _settings(voter),
        "temperature": scale,
    }
    if question != OVERALL:
        who["question"] = question
    todo = report.pairs - report.already_voted - report.in_sample
    if not todo and not voted:
        raise PalateError(
            f"judge {judge!r} was trained on human votes of all {report.pairs:,} pairs of {dataset.path}: its votes"
            f" there say nothing. Let models vote that did not see them ({SELF}CONFIG.yaml), or allow it (--set"
            " in_sample=true)."
        )
    size = batch_size or int(getattr(voter, "batch_size", 16))
    run = partial(mapped, engine=engine, workers=workers, gpus=gpus)
    with ExitStack() as opened:
        vectors = None
        if embeddings == "all" or (beside and todo):
            vectors = opened.enter_context(EmbeddingStore(view_folder(dataset, annotator) / FILE, key))
        if todo:
            make = maker(Voting, engine, load, judge, voter, settings, beside)
            store = opened.enter_context(AnswerStore(dataset.path / "judges" / "answers.sqlite"))
            rows = _rows(dataset, voted | singles | in_sample, getattr(voter, "uses_pair_id", False), report, limit)
            batches = _unanswered(rows, key, store, answers, report, size, vectors if beside else None, again)
            try:
                with progress_bar(f"{annotator} votes", min(todo, limit or todo)) as advance:
                    _judge_all(run(make, batches), key, store, answers, report, advance, vectors)
            except NotKept:
                _write(dataset, report, _tempered(answers, scale), who)
                raise
        if embeddings == "all" and vectors:
            make = maker(Embedding, engine, load, judge, voter, settings)
            report.embedded += embed_pairs(dataset, voted | answers.keys(), vectors, partial(run, make), size)
    report.left_for_later = todo - len(answers) - report.failed - report.unreadable
    answers = _tempered(answers, scale)
    try:
        _refuse_useless(report, answers)
    except PalateError:
        if todo:  # forget refused answers, so that a repaired judge is asked again
            with AnswerStore(dataset.path / "judges" / "answers.sqlite") as store:
                store.forget(key)
        raise
    _write(dataset, report, answers, who)
    return report


def _rows(
    dataset: PreferenceDataset, skip: set[str], by_pair_id: bool, report: Report, limit: int | None
) -> Iterator[dict[str, Any]]:
    """The pairs outside `skip`, at most `limit`, with their encoded images and the key of their content."""
    taken, most = 0, len(dataset) if limit is None else limit
    for batch in dataset.iter_pairs(columns=["pair_id", "prompt", "image_0", "image_1"], batch_size=64):
        if taken >= most:
            break
        if skip.issuperset(batch["pair_id"].to_pylist()):
            continue  # without reading an image
        for row in batch.to_pylist():
            if row["pair_id"] in skip or taken >= most:
                continue
            taken += 1
            try:
                images = [image_bytes(row[f"image_{k}"], dataset.path) for k in (0, 1)]
            except PalateError as error:
                report.unreadable += 1
                report.first_failure = report.first_failure or f"{row['pair_id']}: {error}"
                continue
            content = pair_content(row["prompt"], [*images, row["pair_id"].encode()] if by_pair_id else images)
            yield {
                "pair_id": row["pair_id"],
                "prompt": row["prompt"],
                "content": content,
                "pictures": [picture_content(image) for image in images],
                "image_0": images[0],
                "image_1": images[1],
            }


def _unanswered(
    rows: Iterator[dict[str, Any]], key: str, store: AnswerStore, answers: dict[str, Answer], report: Report, size: int,
    vectors: EmbeddingStore | None, again: bool,
) -> Iterator[list[dict[str, Any]]]:  # fmt: skip
    """Batches of `size` rows without a stored answer. Stored answers go into `answers`; pairs whose pictures are
    embedded already are recorded in `vectors`."""
    waiting: list[dict[str, Any]] = []
    known_pictures: dict[str, list[str]] = {}
    for row in rows:
        known = None if again else store.get(key, row["content"])
        if known is not None:
            answers[row["pair_id"]] = known
            report.from_answers += 1
            if vectors and not vectors.lacking(row["pictures"]):
                known_pictures[row["pair_id"]] = row["pictures"]
            continue
        waiting.append(row)
        if len(waiting) >= size:
            yield waiting
            waiting = []
    if vectors:
        vectors.put({}, known_pictures)
    if waiting:
        yield waiting


def _judge_all(
    results: Iterator[tuple[list[Any], list[Any]]], key: str, store: AnswerStore, answers: dict[str, Answer],
    report: Report, advance: Callable[[int], None], vectors: EmbeddingStore | None,
) -> None:  # fmt: skip
    failed_batches = 0
    for rows, found in results:
        said = [answer for answer, _ in found]
        sides = [(row, both) for row, (_, both) in zip(rows, found, strict=True) if both is not None]
        if vectors and sides:  # before the answers: an answered pair is not asked again
            by_picture = {p: v for row, both in sides for p, v in zip(row["pictures"], both, strict=True)}
            report.embedded += vectors.put(by_picture, {row["pair_id"]: row["pictures"] for row, _ in sides})
        for row, answer in zip(rows, said, strict=True):
            for name, amount in answer.usage.items():
                report.usage[name] = report.usage.get(name, 0) + amount
            if answer.failure is None:
                answers[row["pair_id"]] = answer
                report.judged += 1
                continue
            report.first_failure = report.first_failure or f"{row['pair_id']}: {answer.failure}"
            report.unreadable += answer.failure.startswith(UNREADABLE)
            report.failed += not answer.failure.startswith(UNREADABLE)
        store.put(key, {row["content"]: answer for row, answer in zip(rows, said, strict=True)})
        advance(len(rows))
        failures = [a.failure for a in said if a.failure and not a.failure.startswith(UNREADABLE)]
        failed_batches = failed_batches + 1 if len(failures) == len(said) else 0
        if failed_batches >= MOST_FAILED or (failed_batches and not answers):
            raise PalateError(
                f"judge {report.judge!r} answers no more: {failures[0]}. The {len(answers):,} answers before are kept; "
                "the same command resumes."
            )


def _tempered(answers: dict[str, Answer], scale: float) -> dict[str, Answer]:
    return {pair_id: at_temperature(answer, scale) for pair_id, answer in answers.items()}


def _identity(name: str, judge: Judge, temperature: float | None) -> tuple[str, str]:
    """The cache key of its answers, and the version in its votes. The temperature changes votes, not answers."""
    own = str(getattr(judge, "version", "1"))
    kind = SELF if name.startswith(SELF) else name  # a run is identified by its content, not by its path
    key = judge_key(kind, own, _settings(judge))
    return key, f"{own}-{key[:8]}" + (f"-t{temperature:g}" if temperature else "")


def _settings(judge: Judge) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(getattr(judge, "settings", {})), default=str))
    return plain


def _already(dataset: PreferenceDataset, annotator: str, version: str, question: str) -> set[str]:
    """Pairs on which it answered this question. Raises PalateError where the id belongs to another annotator."""
    columns = ["pair_id", "annotator_id", "source", "instruction_version"]
    votes = dataset.votes(columns, question=question).to_pylist()
    own = [vote for vote in votes if vote["annotator_id"] == annotator]
    other = [vote for vote in own if vote["source"] != "judge" or vote["instruction_version"] != version]
    if other:
        who = "a person" if other[0]["source"] != "judge" else f"version {other[0]['instruction_version']}"
        raise PalateError(
            f"annotator {annotator!r} has {len(other):,} votes in {dataset.path} already, of {who}; this judge is"
            f" version {version}. Votes of two would be averaged: give this one another id with --name."
        )
    return {vote["pair_id"] for vote in own}


def _refuse_useless(report: Report, answers: dict[str, Answer]) -> None:
    if not answers and not report.already_voted and not report.left_for_later:
        raise PalateError(
            f"judge {report.judge!r} voted on none of {report.pairs:,} pairs ({report.unreadable:,} with images that"
            f" cannot be read, {report.failed:,} failed). The first: {report.first_failure}."
        )
    said = {round(answer.probability, 12) for answer in answers.values() if answer.probability is not None}
    if len(answers) >= FEWEST and len(said) == 1:
        raise PalateError(
            f"judge {report.judge!r} gives all {len(answers):,} pairs the same probability ({said.pop():g}): that "
            "carries no information, so no vote was written. Check its pictures, its template or its weights; the same "
            "command asks again."
        )


def _write(dataset: PreferenceDataset, report: Report, answers: dict[str, Answer], who: dict[str, Any]) -> None:
    rows, shown = [], []
    for pair_id, answer in answers.items():
        p = answer.probability
        assert p is not None  # `ask` gives a failure where there is none
        choice = "0" if p > 0.5 else "1" if p < 0.5 else "tie"
        report.choices[choice] += 1
        if not answer.from_scores and answer.score_0 is not None and answer.score_1 is not None:
            shown.append((answer.score_0 + answer.score_1) / 2)
        rows.append(
            {
                "pair_id": pair_id,
                "annotator_id": report.annotator,
                "source": "judge",
                "choice": choice,
                "probability": p,
                "score_0": answer.score_0,
                "score_1": answer.score_1,
                "instruction_version": who["version"],
                "question": who.get("question"),
            }
        )
    if rows:
        kind = "scores" if all(answer.from_scores for answer in answers.values()) else "probabilities"
        dataset.add_provenance(who | {"answers": kind})  # before the votes: a kill must leave none without it
        report.votes = dataset.append_votes(rows).added
    report.first_shown = float(np.mean(shown)) if shown else None
