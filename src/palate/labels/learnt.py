"""What a run learns of one question: from its votes, its judges and its propensities to targets."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from palate.arrays import Floats
from palate.data.dataset import PreferenceDataset
from palate.data.labels import Labels
from palate.judges.correction import combine, majority
from palate.labels.judges import account_of, chosen_way, corrected, judge_account, judge_votes
from palate.labels.questions import Asked
from palate.labels.selected import with_propensities
from palate.labels.targets import (
    OWN,
    Targets,
    dedpo,
    human_only,
    judge_only,
    mix,
    of_another_source,
    ramped,
    tuned_power,
    variance_ratio,
)
from palate.run.checks import SELF, judge_name, judges_of
from palate.run.config import TrainConfig


@dataclass(frozen=True)
class Learnt:
    """What a run learns of one question."""

    targets: Targets
    labels: Labels  # their judge corrected where it is, their propensities estimated where they are
    account: dict[str, Any]


def learnt_of(
    dataset: PreferenceDataset, pairs: pa.Table, prompts: list[str], asked: Asked, labels: Labels, config: TrainConfig,
    self_votes: Floats | None,
) -> Learnt:  # fmt: skip
    """The targets of one question, debiased by its own judge, votes and propensity.

    `labels` has its human votes without those held out; `self_votes` [N] are those of the model itself where it is the
    judge and voted beforehand.
    """
    account: dict[str, Any] = {}
    if config.propensity != "given":
        labels, account["propensities"] = with_propensities(dataset, pairs, asked.votes, labels, prompts, config)
    elsewhere = config.propensity == "density-ratio"
    judged = judge_votes(pairs, asked.votes, config)
    if judged is not None:
        together = majority if config.judges_together == "majority" else combine
        labels = replace(labels, judge=together(judged))
    if config.judge == SELF:
        votes_of_model = np.full(len(pairs), 0.5) if self_votes is None else self_votes
        labels = replace(labels, judge=votes_of_model)
        if self_votes is not None:
            account["judge"] = judge_account(labels.human, self_votes) | {"name": SELF, "votes": len(pairs)}
    elif config.judge and judged is not None:
        account["judge"] = account_of(str(judge_name(config)), labels.human, labels.judge)
        if judged.shape[1] > 1:
            columns = zip(judges_of(config), judged.T, strict=True)
            account["judges"] = [account_of(name, labels.human, votes) for name, votes in columns]
        answers = {name: asked.of_judge(name) for name in judges_of(config)}
        auto = config.target == "auto"
        if auto:
            config, choice, agreed = chosen_way(dataset, pairs, asked.votes, labels, judged, config, answers)
            told = {"way": choice.chosen.in_words(), "why": choice.sentence(), "agreement of people": agreed}
            account["choice"] = told | choice.chosen.configuration
        alone = auto and config.target == "human"  # the judge was not chosen
        unused = alone and config.madpo is None
        if alone and config.propensity != "given":
            config = replace(config, target="dedpo", power=0.0)  # human votes alone, each weighted
        if config.correction != "none" and not unused:
            correction, covariates = corrected(dataset, pairs, labels, judged, config, answers)
            labels = replace(labels, judge=correction.probability)
            told = {"finding": correction.sentence(), "covariates": covariates}
            account["corrected judge"] = judge_account(labels.human, labels.judge) | told
    power = 1.0 if config.power == "auto" else config.power
    if config.target == "dedpo":
        power = tuned_power(labels.human, labels.judge) if config.power == "auto" else power
        account |= {"power": power}
        if config.judge != SELF or self_votes is not None:
            own = OWN if elsewhere else 1.0
            account |= {"predicted variance relative to human votes alone": variance_ratio(labels, power, own)}
    targets = _targets(labels, config.target, power)
    if elsewhere and config.target == "dedpo":
        targets = of_another_source(targets)
    if config.residual != 1:
        judged = np.where(np.isnan(labels.judge), 0.5, labels.judge)
        targets = replace(targets, target=ramped(targets.target, judged, config.residual))
        account["share of the residual"] = config.residual
    return Learnt(targets, labels, account)


def _targets(labels: Labels, target: str, power: float) -> Targets:
    if target == "human":
        return human_only(labels)
    if target == "mix":
        return mix(labels)
    if target == "judge":
        return judge_only(labels)
    return dedpo(labels, power)
