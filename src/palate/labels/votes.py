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
from palate.data.identity import without_pictures
from palate.data.labels import Labels, collect_labels
from palate.data.schema import OVERALL
from palate.errors import PalateError
from palate.files import write_text
from palate.labels.chosen import chosen_pairs, spread
from palate.labels.judges import (
    confidence_of_images,
    disagreement,
    judge_margin,
    tell_judges,
)
from palate.labels.learnt import learnt_of
from palate.labels.nothing import nothing_to_learn
from palate.labels.people import votes_of_people
from palate.labels.questions import Asked, ask, combined, mean_votes, questions_in, weighted_targets
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
    conservative,
    robust,
    steadiest_number,
)
from palate.run.checks import SELF, judges_of
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
    left_out, pairs = chosen_pairs(dataset, pairs, config)
    _tell_unseen(dataset, config)
    pairs = pairs.set_column(1, "prompt", pairs["prompt"].dictionary_encode())
    asked = [ask(dataset, pairs, config, name, weight) for name, weight in questions_in(config).items()]
    pa.default_memory_pool().release_unused()  # reading a million pairs keeps 100 MB
    if config.source == "pairs":
        if len(pairs) < len(dataset):
            print(
                f"labels: {len(dataset) - len(pairs):,} single images have no pair to compare and are left out (method"
                " kto uses them)"
            )
        rows = _rows_of_pairs(dataset, pairs, asked, config, self_votes, left_out)
    else:
        humans = [_collect(pairs, one, config).human for one in asked]
        human = combined(humans, asked, config)
        of_dataset = spread(dataset, pairs, human)  # lists and single images are found in the whole dataset
        if config.source == "images":
            rows, used = rows_of_images(dataset, pairs, of_dataset), "single images"
            if config.confidence is not None:
                images = [row[0] for row in rows.images]
                judge = judges_of(config)[0]
                rows.confidence, unscored = confidence_of_images(dataset, images, judge, asked[0].of_judge(judge))
                rows.account["images without a score of the judge, which weigh 1"] = unscored
        elif config.source == "lists":
            rows, used = rows_of_lists(dataset, pairs, of_dataset, config.list_length), "ranked lists"
        elif config.source == "steps":
            rows, used = rows_of_prompts(pairs), "prompts, no votes"
        elif config.source == "teacher":
            rows, used = rows_of_every_image(dataset, pairs), "images, no votes"
        else:
            rows, used = rows_of_preferred(dataset, pairs, of_dataset), "preferred images"
        counts = {"pairs in the dataset": len(pairs) + left_out, "rows": len(rows)} | rows.account
        print(f"labels: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
        rows.account = {"method": config.method, "used": f"{len(rows):,} {used}"} | counts
        if config.source not in ("steps", "teacher"):
            rows.votes_used = _ids_where(pairs, ~np.isnan(human))
    if left_out:
        rows.account["pairs left out by where and max_train_samples"] = left_out
    votes = pa.concat_tables([one.votes for one in asked]) if asked[1:] else asked[0].votes
    if nothing := nothing_to_learn(dataset, rows, votes, config):
        rows.account["nothing to learn"] = nothing
        print(f"labels: NOTHING TO LEARN: {nothing}")
    del pairs, votes, asked
    pa.default_memory_pool().release_unused()
    return _swapped(rows) if config.swap else rows


def _tell_unseen(dataset: PreferenceDataset, config: TrainConfig) -> None:
    """Say how many pairs have no pictures. Raises PalateError where none has any and the source needs some."""
    unseen = len(without_pictures(dataset)) if config.source != "steps" else 0
    if unseen and unseen == len(dataset):
        raise PalateError(
            f"{dataset.path}: all its {unseen:,} pairs were imported without pictures, and training needs both of each"
            " pair. Import them again with image_0 and image_1; `palate audit` and `palate compare --votes` need none."
        )
    if unseen:
        print(
            f"labels: {unseen:,} pairs were imported without pictures: their votes correct judges, no step shows them"
        )


def _swapped(rows: Rows) -> Rows:
    """The rows with every vote turned around (Diffusion-NPO)."""
    return replace(
        rows, target=1 - rows.target, pseudo=None if rows.pseudo is None else 1 - rows.pseudo,
        judge_margin=None if rows.judge_margin is None else -rows.judge_margin,
        held_out=None if rows.held_out is None else _swapped(rows.held_out),
    )  # fmt: skip


def _rows_of_pairs(
    dataset: PreferenceDataset, pairs: pa.Table, asked: list[Asked], config: TrainConfig, self_votes: Floats | None,
    left_out: int,
) -> Rows:  # fmt: skip
    every = [_collect(pairs, one, config) for one in asked]
    if config.question_rule != "weights":  # decided by people's votes before anything else: one question from here on
        decided = combined([labels.human for labels in every], asked, config)
        asked, every = [replace(asked[0], weight=1.0)], [replace(every[0], human=decided)]
    weights = [one.weight for one in asked]
    human = mean_votes([labels.human for labels in every], weights)
    voted = ~np.isnan(human)
    account: dict[str, Any] = {
        "method": config.method,
        "pairs in the dataset": len(pairs) + left_out,
        "pairs with human votes": int(voted.sum()),
    }
    if config.question != OVERALL:
        account["question"] = config.question
    prompts = texts(pairs["prompt"])
    chosen = _held_out(voted, prompts, config)  # first, so that every part of the votes holds out the same pairs
    unused = chosen
    if config.leave_out_fold is not None:
        part, parts = config.leave_out_fold
        unused = chosen | (folds_of(prompts, parts, config.seed) == part)
    every = [_without(_without(labels, chosen), unused) for labels in every]
    learnt = [
        learnt_of(dataset, pairs, prompts, one, labels, config, self_votes)
        for one, labels in zip(asked, every, strict=True)
    ]
    every = [part.labels for part in learnt]
    if learnt[1:]:
        account["questions"] = {
            one.name: {"weight": one.weight, "pairs with human votes": int(labels.labelled.sum())} | part.account
            for one, labels, part in zip(asked, every, learnt, strict=True)
        }
    else:
        account |= learnt[0].account
    targets = weighted_targets([part.targets for part in learnt], weights)

    used = targets.weight > 0
    labelled = targets.labelled & (config.target != "judge")
    weight = targets.weight / targets.weight[used].mean()
    account |= {"pairs used": int(used.sum()), "of these with a human vote": int(labelled[used].sum())}
    account["used"] = (
        f"{account['pairs used']:,} pairs, {account['of these with a human vote']:,} of them with a human vote"
    )
    ids = np.array(pairs["pair_id"].to_pylist(), dtype=object)
    judged = _sum(weights, [np.where(np.isnan(labels.judge), 0.5, labels.judge) for labels in every])
    rows = Rows(
        id=ids, images=BothImages(ids), prompt=prompts,
        target=_smoothed(targets.target, config), weight=weight, labelled=labelled, account=account,
        human=mean_votes([labels.human for labels in every], weights), propensity=every[0].propensity,
        pseudo=_smoothed(judged, config),
        judge_margin=None if config.madpo is None else _sum(weights, [judge_margin(labels.judge) for labels in every]),
        uncertainty=None if config.uncertainty is None
        else _sum(weights, [disagreement(pairs, one.votes) for one in asked]),
        people=None if config.reliability == "equal"
        else votes_of_people(pairs, asked[0].votes, every[0].labelled, config),
    )  # fmt: skip
    held_out = replace(rows.take(chosen), target=human[chosen]) if chosen.any() else None
    if held_out is not None:
        account["pairs held out for validation"] = len(held_out)
    _tell(account)
    rows = rows if used.all() else rows.take(used)
    seen = np.any([labels.labelled for labels in every], axis=0)
    return replace(
        rows, held_out=held_out, labelled_per_batch=_labelled_per_batch(rows, config),
        votes_used=_ids_where(pairs, _votes_used(seen, chosen, config)),
    )  # fmt: skip


def _sum(weights: list[float], values: list[Floats]) -> Floats:
    return values[0] if len(values) == 1 else np.asarray(np.tensordot(weights, np.stack(values), 1))


def _votes_used(labelled: Bools, held_out: Bools, config: TrainConfig) -> Bools:
    """[N] bool: pairs whose human votes the run uses: directly, through a judge corrected on them, or for early
    stopping."""
    of_judge_alone = config.target == "judge" and config.correction == "none" and config.judge != SELF
    used = np.zeros(len(held_out), bool) if of_judge_alone else labelled
    return used | held_out if config.early_stop is not None else used


def _ids_where(pairs: pa.Table, chosen: Bools) -> frozenset[str]:
    return frozenset(pairs["pair_id"].filter(pa.array(chosen)).to_pylist())


def folds_of(prompts: list[str], folds: int, seed: int) -> Ints:
    """The part of the votes that each pair belongs to, [N]: whole prompts, dealt out in an addressed order."""
    order = sorted(set(prompts), key=lambda prompt: address("fold", seed, prompt))
    place = {prompt: k % folds for k, prompt in enumerate(order)}
    return np.array([place[prompt] for prompt in prompts])


def _held_out(labelled: Bools, prompts: list[str], config: TrainConfig) -> Bools:
    """[N] bool: whole prompts in an addressed order, until the share of the labelled pairs is reached."""
    chosen = np.zeros(len(prompts), bool)
    if config.held_out_votes == 0:
        return chosen
    wanted = max(1, round(config.held_out_votes * labelled.sum()))
    of_prompt: dict[str, list[int]] = {}
    for row in np.flatnonzero(labelled).tolist():
        of_prompt.setdefault(prompts[row], []).append(row)
    taken = 0
    for prompt in sorted(of_prompt, key=lambda prompt: address("held out", config.seed, prompt)):
        if taken >= wanted:
            break
        chosen[of_prompt[prompt]] = True
        taken += len(of_prompt[prompt])
    if not (labelled & ~chosen).any():
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


def _collect(pairs: pa.Table, asked: Asked, config: TrainConfig) -> Labels:
    """The human votes on a question, and propensities; judges are read separately."""
    votes, propensity = asked.votes, asked.propensity
    labels = collect_labels(pairs["pair_id"], votes, propensity=propensity, seed=config.seed)
    if config.human_votes is None:
        return labels
    available = int(labels.labelled.sum())
    if config.human_votes > available:
        raise PalateError(
            f"human_votes: {config.human_votes} pairs were asked for, but only {available} have a human vote"
            + ("." if asked.name == OVERALL else f" on {asked.name}.")
        )
    share = config.human_votes / available
    return collect_labels(pairs["pair_id"], votes, propensity=propensity, human_fraction=share, seed=config.seed)


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
    parts = account.get("questions", {"": account})
    for name, part in parts.items():
        if name:
            told = f"weight {part['weight']:.2f}, {part['pairs with human votes']:,} pairs with a human vote"
            print(f"labels: question {name}: {told}")
        _tell_part(part)


def _tell_part(account: dict[str, Any]) -> None:
    for sentence in account.get("propensities", {}).get("sentences", []):
        print(f"labels: {sentence}")
    tell_judges(account)
    if "choice" in account:
        print(f"labels: {account['choice']['why']}")
        if agreed := account["choice"]["agreement of people"]:
            print(f"labels: {agreed}")
    if "power" in account:
        ratio = account.get("predicted variance relative to human votes alone")
        told = "" if ratio is None else f"; predicted variance {ratio:.2f} x that of human votes alone"
        print(f"labels: DeDPO with power {account['power']:.2f}{told}")


def save_account(account: dict[str, Any], run: Path) -> None:
    """Write labels.json into the run."""
    write_text(run / "labels.json", json.dumps(account, indent=1))
