"""The votes of judges as a run uses them: one judge or several, raw or corrected, and how good they are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.arithmetic import HALF_95, bounded_logit
from palate.arrays import Floats
from palate.data.dataset import PreferenceDataset
from palate.data.labels import Labels, collect_labels
from palate.errors import PalateError
from palate.judges.calibration import imported_scores, unsaturated
from palate.judges.choice import Choice
from palate.judges.contexts import kinds_of_prompts, one_context
from palate.judges.correction import Correction, agreement
from palate.judges.embeddings import embedding_directions
from palate.judges.extras import extras_of
from palate.judges.statistics import statistics_of_pairs
from palate.judges.ways import Seen, choose, correct, resolution_of
from palate.labels.rows import Image
from palate.run.checks import SELF, judges_of
from palate.run.config import TrainConfig

_EXTRAS = {"models": "generators", "rubric": "questions of a rubric"}


def judge_votes(pairs: pa.Table, votes: pa.Table, config: TrainConfig) -> Floats | None:
    """Each judge's probability that image 0 is preferred [N, J]; None without a judge, or where it is the model
    itself."""
    if not config.judge or config.judge == SELF:
        return None
    ids, hard = pairs["pair_id"], config.hard_votes
    return np.column_stack([collect_labels(ids, votes, judge=n, hard=hard).judge for n in judges_of(config)])


def corrected(
    dataset: PreferenceDataset,
    pairs: pa.Table,
    labels: Labels,
    judged: Floats,
    config: TrainConfig,
    answers: Mapping[str, str],
) -> tuple[Correction, str]:
    """The correction of the judges [N, J], and its covariates in words. answers: the question of each judge's votes."""
    seen, told = _seen(dataset, pairs, judged, config, answers)
    correction = correct(config.correction, labels.human, seen, judges_of(config), config.seed)
    return _as_it_voted(correction, labels), told


def _seen(
    dataset: PreferenceDataset, pairs: pa.Table, judged: Floats, config: TrainConfig, answers: Mapping[str, str]
) -> tuple[Seen, str]:
    """What the correction of a configuration sees, and its covariates in words."""
    ids, prompts = pairs["pair_id"].to_pylist(), pairs["prompt"].to_pylist()
    if not config.hard_votes:
        columns = zip(judges_of(config), judged.T, strict=True)
        judged = np.column_stack([unsaturated(dataset, name, ids, votes, answers[name]) for name, votes in columns])
        if scored := [name for name in judges_of(config) if imported_scores(dataset, name, answers[name])]:
            print(
                f"labels: the scores that came with the votes of {', '.join(scored)} are calibrated on people's votes"
            )
    contexts = (
        kinds_of_prompts(dataset, ids, prompts, config.contexts, config.seed)
        if config.correction == "context"
        else one_context(len(ids))
    )
    none = Seen(judged, np.zeros((len(ids), 0)), (), None, prompts, contexts)
    if config.correction == "calibrate":
        return none, "none"
    differences, names, directions, told = none.differences, none.statistics, none.directions, []
    if config.covariates in ("all", "statistics"):
        by_pair, names = statistics_of_pairs(dataset)
        unreadable = np.zeros(len(names))  # such a pair is left out when pairs are encoded
        differences = np.stack([by_pair.get(pair_id, unreadable) for pair_id in ids])  # [N, K]
        told.append(f"{len(names)} picture statistics")
    if config.covariates in ("all", "embeddings"):
        directions, sources = embedding_directions(dataset, ids)
        if sources:
            told.append(f"{directions.shape[1]} directions of embeddings of {', '.join(sources)}")
        elif config.covariates == "embeddings":
            raise PalateError(
                f"covariates: embeddings, but {dataset.path} has none. Let a judge that has them vote "
                "(palate annotate --embeddings all), or set covariates: statistics."
            )
    wanted = {"all": ("models", "rubric"), "generators": ("models",), "rubric": ("rubric",)}.get(config.covariates, ())
    extras = extras_of(dataset, ids, wanted)
    told += [f"{len(extra.names)} {_EXTRAS[extra.kind]}" for extra in extras]
    if wanted and not told:
        missing = (
            "no pair says of both pictures which models made them" if wanted == ("models",) else "it has no rubric"
        )
        raise PalateError(f"covariates: {config.covariates}, but {dataset.path}: {missing}. Set covariates: all.")
    if config.correction == "context":
        told.append(f"{len(contexts.names)} kinds of prompts")
    seen = replace(none, differences=differences, statistics=names, directions=directions, extras=tuple(extras))
    return seen, " and ".join(told)


def chosen_way(
    dataset: PreferenceDataset, pairs: pa.Table, votes: pa.Table, labels: Labels, judged: Floats, config: TrainConfig,
    answers: Mapping[str, str],
) -> tuple[TrainConfig, Choice, str]:  # fmt: skip
    """The configuration with the target, correction, residual and power of least risk, what they were chosen from, and
    what repeated votes say of people's agreement, in words.

    A correction for which there are too few votes is not among them."""
    try:
        seen, _ = _seen(dataset, pairs, judged, replace(config, correction="covariates"), answers)
    except PalateError as error:
        print(f"labels: no covariates: {error}")
        seen, _ = _seen(dataset, pairs, judged, replace(config, correction="calibrate"), answers)
    contexts = kinds_of_prompts(dataset, pairs["pair_id"].to_pylist(), seen.prompts, config.contexts, config.seed)
    seen = replace(seen, contexts=contexts)
    resolution = resolution_of(pairs["pair_id"].filter(pa.array(labels.labelled)).to_pylist(), votes)
    choice, lacking = choose(labels, seen, judges_of(config), resolution, config.seed)
    for correction, reason in lacking.items():
        print(f"labels: not tried: {correction} ({reason})")
    chosen: dict[str, Any] = dict(choice.chosen.configuration)
    return replace(config, **chosen), choice, resolution.in_words()


def _as_it_voted(correction: Correction, labels: Labels) -> Correction:
    """The correction with its agreement "before" taken from the judge's raw votes, not from the fit to its scores."""
    both = labels.labelled & ~np.isnan(labels.judge)
    return replace(correction, before=agreement(labels.judge[both], labels.human[both]))


def account_of(name: str, human: Floats, judge: Floats) -> dict[str, float | str]:
    """`judge_account` with the judge's name and the number of its votes."""
    return {**judge_account(human, judge), "name": name, "votes": int((~np.isnan(judge)).sum())}


def judge_account(human: Floats, judge: Floats) -> dict[str, float]:
    """Agreement, Brier score and skill of a judge against human votes ([N], NaN where absent), as plain numbers."""
    both = ~np.isnan(human) & ~np.isnan(judge)
    if both.sum() < 2:
        return {"n": int(both.sum())}
    found = agreement(judge[both], human[both])
    return asdict(found) | ({"skill": found.skill} if found.brier_reference else {})


def tell_judges(account: dict[str, Any]) -> None:
    """Print how well a run's judges agree with people, raw and corrected, from the account of its labels."""
    several = account.get("judges", [])
    for told in several:
        _tell_judge(f"{told['name']} agrees", told)
    _tell_judge("the judges together agree" if several else "the judge agrees", account.get("judge", {}))
    corrected = account.get("corrected judge", {})
    _tell_judge("the corrected judges agree" if several else "the corrected judge agrees", corrected)
    if "finding" in corrected:
        if corrected["covariates"] != "none" and not corrected["covariates"].endswith("picture statistics"):
            print(f"labels: corrected on {corrected['covariates']}")
        print(f"labels: {corrected['finding']}")


def _tell_judge(who: str, told: dict[str, Any]) -> None:
    if told.get("accuracy") is None:
        return
    low, high = told["accuracy"] - HALF_95 * told["accuracy_error"], told["accuracy"] + HALF_95 * told["accuracy_error"]
    print(
        f"labels: {who} with people on {told['accuracy']:.0%} [{low:.0%}, {min(high, 1):.0%}] of "
        f"{told['n']:,} pairs, Brier score {told['brier']:.2f} (always one half: {told['brier_reference']:.2f})"
    )


def judge_margin(judge: Floats) -> Floats:
    """The judge's logit for image 0, 0 where it did not vote."""
    margin: Floats = np.nan_to_num(bounded_logit(judge))
    return margin


def disagreement(pairs: pa.Table, votes: pa.Table) -> Floats:
    """Standard deviation over judges of their logits, [N]; 0 where fewer than two voted. PalateError without two
    judges."""
    judges = sorted(pc.unique(votes["annotator_id"].filter(pc.equal(votes["source"], "judge"))).to_pylist())
    if len(judges) < 2:
        raise PalateError(
            f"uncertainty is the disagreement of judges, and the dataset has votes of {len(judges)}. Add another"
            " judge's."
        )
    voted_by = (collect_labels(pairs["pair_id"], votes, judge=name).judge for name in judges)
    logits = np.stack([bounded_logit(probability) for probability in voted_by])
    voted = (~np.isnan(logits)).sum(axis=0)
    spread = np.zeros(len(pairs))
    spread[voted > 1] = np.nanstd(logits[:, voted > 1], axis=0, ddof=1)
    return spread


def confidence_of_images(
    dataset: PreferenceDataset, images: Sequence[Image], judge: str, question: str
) -> tuple[Floats, int]:
    """How far the judge's score of each image is from the median of them all, in standard deviations, [N], and how many
    images have no score; 0 for those (threshold-guided optimisation, arXiv 2605.04653). PalateError where none has."""
    votes = dataset.votes(["pair_id", "annotator_id", "source", "score_0", "score_1"], question=question)
    votes = votes.filter(pc.and_(pc.equal(votes["source"], "judge"), pc.equal(votes["annotator_id"], judge)))
    found: dict[Image, float] = {}
    for side in (0, 1):
        columns = votes["pair_id"].to_pylist(), votes[f"score_{side}"].to_pylist()
        found |= {(pair_id, side): score for pair_id, score in zip(*columns, strict=True) if score is not None}
    scores = np.array([found.get(image, np.nan) for image in images], dtype=np.float64)
    if np.isnan(scores).all():
        raise PalateError(
            f"confidence: {judge} left no scores of these images in {dataset.path}. Let a judge vote that scores"
            " single "
            "images (palate annotate), or remove confidence."
        )
    spread = np.nanstd(scores)
    distance: Floats = np.nan_to_num(np.abs(scores - np.nanmedian(scores))) / (spread if spread > 0 else 1.0)
    return distance, int(np.isnan(scores).sum())
