"""From the votes of a dataset to the rows of a run, with an account of how good each source was."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from palate.addresses import address
from palate.arrays import Bools, Floats, Ints
from palate.data.dataset import PreferenceDataset
from palate.data.labels import Labels, collect_labels, only_people
from palate.errors import PalateError
from palate.files import write_text
from palate.judges.correction import combine
from palate.labels.judges import (
    account_of,
    chosen_way,
    confidence_of_images,
    corrected,
    disagreement,
    judge_account,
    judge_margin,
    judge_votes,
    tell_judges,
)
from palate.labels.nothing import nothing_to_learn
from palate.labels.rows import (
    BothImages,
    Rows,
    pairs_of_two,
    rows_of_every_image,
    rows_of_images,
    rows_of_lists,
    rows_of_preferred,
    rows_of_prompts,
    texts,
)
from palate.labels.targets import (
    Targets,
    conservative,
    dedpo,
    human_only,
    judge_only,
    mix,
    ramped,
    robust,
    steadiest_number,
    tuned_power,
    variance_ratio,
)
from palate.run.checks import SELF, judge_name, judges_of
from palate.run.config import TrainConfig


def prepare_rows(dataset: PreferenceDataset, config: TrainConfig, self_votes: Floats | None = None) -> Rows:
    """The rows that the run trains on; prints one line of counts and one per finding.

    `self_votes` [N], in the order of the pairs, are those of the model itself where it is the judge and voted
    beforehand.
    """
    pairs = (
        pairs_of_two(dataset)
        if config.source == "pairs"
        else dataset.pairs(columns=["pair_id", "prompt", "propensity"])
    )
    pairs = pairs.set_column(1, "prompt", pairs["prompt"].dictionary_encode())
    votes = dataset.votes(["pair_id", "annotator_id", "source", "choice", "probability"])
    pa.default_memory_pool().release_unused()  # reading a million pairs keeps 100 MB
    if config.human_annotators is not None:
        votes = only_people(votes, config.human_annotators)
    if config.source == "pairs":
        if len(pairs) < len(dataset):
            print(
                f"labels: {len(dataset) - len(pairs):,} single images have no pair to compare and are left out (method"
                " kto uses them)"
            )
        rows = _rows_of_pairs(dataset, pairs, votes, config, self_votes)
    else:
        human = _collect(pairs, votes, config).human
        if config.source == "images":
            rows, used = rows_of_images(dataset, pairs, human), "single images"
            if config.confidence is not None:
                images = [row[0] for row in rows.images]
                rows.confidence, unscored = confidence_of_images(dataset, images, judges_of(config)[0])
                rows.account["images without a score of the judge, which weigh 1"] = unscored
        elif config.source == "lists":
            rows, used = rows_of_lists(dataset, pairs, human, config.list_length), "ranked lists"
        elif config.source == "steps":
            rows, used = rows_of_prompts(pairs), "prompts, no votes"
        elif config.source == "teacher":
            rows, used = rows_of_every_image(dataset, pairs), "images, no votes"
        else:
            rows, used = rows_of_preferred(dataset, pairs, human), "preferred images"
        counts = {"pairs in the dataset": len(pairs), "rows": len(rows)} | rows.account
        print(f"labels: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
        rows.account = {"method": config.method, "used": f"{len(rows):,} {used}"} | counts
        if config.source not in ("steps", "teacher"):
            rows.votes_used = _ids_where(pairs, ~np.isnan(human))
    if nothing := nothing_to_learn(dataset, rows, votes, config):
        rows.account["nothing to learn"] = nothing
        print(f"labels: NOTHING TO LEARN: {nothing}")
    del pairs, votes
    pa.default_memory_pool().release_unused()
    return _swapped(rows) if config.swap else rows


def _swapped(rows: Rows) -> Rows:
    """The rows with every vote turned around (Diffusion-NPO)."""
    return replace(
        rows, target=1 - rows.target, pseudo=None if rows.pseudo is None else 1 - rows.pseudo,
        judge_margin=None if rows.judge_margin is None else -rows.judge_margin,
        held_out=None if rows.held_out is None else _swapped(rows.held_out),
    )  # fmt: skip


def _rows_of_pairs(
    dataset: PreferenceDataset, pairs: pa.Table, votes: pa.Table, config: TrainConfig, self_votes: Floats | None
) -> Rows:
    labels = _collect(pairs, votes, config)
    judged = judge_votes(pairs, votes, config)
    if judged is not None:
        labels = replace(labels, judge=combine(judged))
    account: dict[str, Any] = {
        "method": config.method,
        "pairs in the dataset": len(pairs),
        "pairs with human votes": int(labels.labelled.sum()),
    }
    prompts = texts(pairs["prompt"])
    chosen = _held_out(labels, prompts, config)  # first, so that every part of the votes holds out the same pairs
    validation, labels = labels, _without(labels, chosen)
    if config.leave_out_fold is not None:
        part, parts = config.leave_out_fold
        labels = _without(labels, folds_of(prompts, parts, config.seed) == part)

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
        auto = config.target == "auto"
        if auto:
            config, choice = chosen_way(dataset, pairs, labels, judged, config)
            account["choice"] = {
                "way": choice.chosen.in_words(),
                "why": choice.sentence(),
            } | choice.chosen.configuration
        unused = auto and config.target == "human" and config.madpo is None  # the judge was not chosen
        if config.correction != "none" and not unused:
            correction, covariates = corrected(dataset, pairs, labels, judged, config)
            labels = replace(labels, judge=correction.probability)
            told = {"finding": correction.sentence(), "covariates": covariates}
            account["corrected judge"] = judge_account(labels.human, labels.judge) | told
    power = 1.0 if config.power == "auto" else config.power
    if config.target == "dedpo":
        power = tuned_power(labels.human, labels.judge) if config.power == "auto" else power
        account |= {"power": power}
        if config.judge != SELF or self_votes is not None:
            account |= {"predicted variance relative to human votes alone": variance_ratio(labels, power)}
    targets = _targets(labels, config.target, power)
    if config.residual != 1:
        judged = np.where(np.isnan(labels.judge), 0.5, labels.judge)
        targets = replace(targets, target=ramped(targets.target, judged, config.residual))
        account["share of the residual"] = config.residual

    used = targets.weight > 0
    labelled = targets.labelled & (config.target != "judge")
    weight = targets.weight / targets.weight[used].mean()
    account |= {"pairs used": int(used.sum()), "of these with a human vote": int(labelled[used].sum())}
    account["used"] = (
        f"{account['pairs used']:,} pairs, {account['of these with a human vote']:,} of them with a human vote"
    )
    ids = np.array(pairs["pair_id"].to_pylist(), dtype=object)
    rows = Rows(
        id=ids, images=BothImages(ids), prompt=prompts,
        target=_smoothed(targets.target, config), weight=weight, labelled=labelled, account=account, human=labels.human,
        propensity=labels.propensity, pseudo=_smoothed(np.where(np.isnan(labels.judge), 0.5, labels.judge), config),
        judge_margin=None if config.madpo is None else judge_margin(labels.judge),
        uncertainty=None if config.uncertainty is None else disagreement(pairs, votes),
    )  # fmt: skip
    held_out = replace(rows.take(chosen), target=validation.human[chosen]) if chosen.any() else None
    if held_out is not None:
        account["pairs held out for validation"] = len(held_out)
    _tell(account)
    rows = rows if used.all() else rows.take(used)
    return replace(
        rows, held_out=held_out, labelled_per_batch=_labelled_per_batch(rows, config),
        votes_used=_ids_where(pairs, _votes_used(labels, chosen, config)),
    )  # fmt: skip


def _votes_used(labels: Labels, held_out: Bools, config: TrainConfig) -> Bools:
    """[N] bool: pairs whose human votes the run uses: directly, through a judge corrected on them, or for early
    stopping."""
    of_judge_alone = config.target == "judge" and config.correction == "none" and config.judge != SELF
    used = np.zeros(len(held_out), bool) if of_judge_alone else labels.labelled
    return used | held_out if config.early_stop is not None else used


def _ids_where(pairs: pa.Table, chosen: Bools) -> frozenset[str]:
    return frozenset(pairs["pair_id"].filter(pa.array(chosen)).to_pylist())


def folds_of(prompts: list[str], folds: int, seed: int) -> Ints:
    """The part of the votes that each pair belongs to, [N]: whole prompts, dealt out in an addressed order."""
    order = sorted(set(prompts), key=lambda prompt: address("fold", seed, prompt))
    place = {prompt: k % folds for k, prompt in enumerate(order)}
    return np.array([place[prompt] for prompt in prompts])


def _held_out(labels: Labels, prompts: list[str], config: TrainConfig) -> Bools:
    """[N] bool: whole prompts in an addressed order, until the share of the labelled pairs is reached."""
    chosen = np.zeros(len(prompts), bool)
    if config.held_out_votes == 0:
        return chosen
    wanted = max(1, round(config.held_out_votes * labels.labelled.sum()))
    of_prompt: dict[str, list[int]] = {}
    for row in np.flatnonzero(labels.labelled).tolist():
        of_prompt.setdefault(prompts[row], []).append(row)
    taken = 0
    for prompt in sorted(of_prompt, key=lambda prompt: address("held out", config.seed, prompt)):
        if taken >= wanted:
            break
        chosen[of_prompt[prompt]] = True
        taken += len(of_prompt[prompt])
    if not (labels.labelled & ~chosen).any():
        raise PalateError(
            "held_out_votes: all votes belong to one prompt, so none would be left to train on. Set it to 0."
        )
    return chosen


def _without(labels: Labels, chosen: Bools) -> Labels:
    """The labels without some of the human votes, as if those pairs had not been shown: propensities fall to match."""
    lost = labels.labelled & chosen
    if not lost.any():
        return labels
    share = 1 - lost.sum() / labels.labelled.sum()
    return replace(labels, human=np.where(lost, np.nan, labels.human), propensity=labels.propensity * share)


def _smoothed(target: Floats, config: TrainConfig) -> Floats:
    """Conservative and robust DPO are linear in the label, so they act on any target."""
    if config.label_smoothing:
        return conservative(target, config.label_smoothing)
    return robust(target, config.flip_rate) if config.flip_rate else target


def _collect(pairs: pa.Table, votes: pa.Table, config: TrainConfig) -> Labels:
    """The human votes and propensities; judges are read separately."""
    propensity = pairs["propensity"].to_numpy()
    labels = collect_labels(pairs["pair_id"], votes, propensity=propensity, seed=config.seed)
    if config.human_votes is None:
        return labels
    available = int(labels.labelled.sum())
    if config.human_votes > available:
        raise PalateError(
            f"human_votes: {config.human_votes} pairs were asked for, but only {available} have a human vote."
        )
    share = config.human_votes / available
    return collect_labels(pairs["pair_id"], votes, propensity=propensity, human_fraction=share, seed=config.seed)


def _targets(labels: Labels, target: str, power: float) -> Targets:
    if target == "human":
        return human_only(labels)
    if target == "mix":
        return mix(labels)
    if target == "judge":
        return judge_only(labels)
    return dedpo(labels, power)


def _labelled_per_batch(rows: Rows, config: TrainConfig) -> int | None:
    """Half of a batch where both kinds of pairs are used, and with a share of the residual the number that its targets
    ask for; None, a uniform draw, where there is only one kind."""
    if rows.labelled.all() or not rows.labelled.any() or config.batches == "uniform":
        return None
    if config.train_batch_size == 1:
        return None  # a batch of one cannot hold both kinds
    if config.labelled_per_batch is None and config.residual < 1:
        return steadiest_number(rows.target, rows.weight, rows.labelled, config.train_batch_size)
    return config.labelled_per_batch or max(1, config.train_batch_size // 2)


def _tell(account: dict[str, Any]) -> None:
    used, labelled = account["pairs used"], account["of these with a human vote"]
    print(f"labels: {used:,} of {account['pairs in the dataset']:,} pairs, {labelled:,} with a human vote")
    tell_judges(account)
    if "choice" in account:
        print(f"labels: {account['choice']['why']}")
    if "power" in account:
        ratio = account.get("predicted variance relative to human votes alone")
        told = "" if ratio is None else f"; predicted variance {ratio:.2f} x that of human votes alone"
        print(f"labels: DeDPO with power {account['power']:.2f}{told}")


def save_account(account: dict[str, Any], run: Path) -> None:
    """Write labels.json into the run."""
    write_text(run / "labels.json", json.dumps(account, indent=1))
