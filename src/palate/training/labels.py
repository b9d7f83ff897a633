"""From the votes of a dataset to the targets of a run, with an account of what each source was worth."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from palate.data.dataset import PreferenceDataset
from palate.data.images import decode_image
from palate.errors import PalateError
from palate.files import atomic_path, write_text
from palate.judges.correction import Correction, agreement, calibrate_judge, correct_judge
from palate.judges.covariates import picture_statistics
from palate.progress import progress_bar
from palate.targets import (
    Labels,
    Targets,
    collect_labels,
    dedpo,
    human_only,
    judge_only,
    mix,
    tuned_power,
    variance_ratio,
)
from palate.training.cache import EncodedPairs
from palate.training.config import TrainConfig


@dataclass
class RunLabels:
    """The pairs that a run trains on, [N] each, and what is known of their labels."""

    pair_id: np.ndarray
    target: np.ndarray
    weight: np.ndarray  # mean 1 over the pairs
    labelled: np.ndarray  # bool
    labelled_per_batch: int | None
    account: dict  # counts and figures for the report

    def require_encoded(self, encoded: EncodedPairs) -> None:
        """Leave out pairs that could not be encoded. Raises PalateError when none is left."""
        there = np.array([pair_id in encoded for pair_id in self.pair_id])
        if not there.any():
            raise PalateError(
                "none of the pairs with votes has images that can be read; `palate info` says what is there."
            )
        if not there.all():
            self.account["pairs without readable images"] = int((~there).sum())
            for name in ("pair_id", "target", "weight", "labelled"):
                setattr(self, name, getattr(self, name)[there])
            self.weight = self.weight / self.weight.mean()


def prepare_labels(dataset: PreferenceDataset, config: TrainConfig) -> RunLabels:
    """Collect votes, correct the judge where asked, form targets; prints one line of counts and one per finding."""
    pairs = dataset.pairs(columns=["pair_id", "prompt", "propensity"])
    votes = dataset.votes()
    if config.human_annotators is not None:
        votes = _only_people(votes, config.human_annotators)
    labels = _collect(pairs, votes, config)
    account: dict = {
        "method": config.method,
        "pairs in the dataset": len(pairs),
        "pairs with human votes": int(labels.labelled.sum()),
    }

    if config.judge:
        account["judge"] = judge_account(labels.human, labels.judge) | {
            "name": config.judge,
            "votes": int((~np.isnan(labels.judge)).sum()),
        }
        if config.correction != "none":
            correction = _correct(dataset, pairs, labels, config)
            labels = Labels(human=labels.human, judge=correction.probability, propensity=labels.propensity)
            account["corrected judge"] = judge_account(labels.human, labels.judge) | {"finding": correction.sentence()}
    power = config.power
    if config.method == "dedpo":
        power = tuned_power(labels.human, labels.judge) if power == "auto" else power
        account |= {"power": power, "predicted variance relative to human votes alone": variance_ratio(labels, power)}
    targets = _targets(labels, config.method, power)

    used = targets.weight > 0
    labelled = targets.labelled[used] & (config.method != "judge")
    weight = targets.weight[used] / targets.weight[used].mean()
    account |= {"pairs used": int(used.sum()), "of these with a human vote": int(labelled.sum())}
    _tell(account)
    return RunLabels(
        pair_id=np.array(pairs["pair_id"].to_pylist(), dtype=object)[used], target=targets.target[used], weight=weight,
        labelled=labelled, labelled_per_batch=_labelled_per_batch(labelled, config), account=account,
    )  # fmt: skip


def judge_account(human: np.ndarray, judge: np.ndarray) -> dict[str, float]:
    """Agreement and Brier score of a judge against human votes ([N], NaN where absent), as plain numbers."""
    both = ~np.isnan(human) & ~np.isnan(judge)
    return asdict(agreement(judge[both], human[both])) if both.sum() > 1 else {"n": int(both.sum())}


def statistics_of_pairs(dataset: PreferenceDataset) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Picture statistics of image 0 minus those of image 1 for every pair that can be read, and their names.

    Computed once and kept in the dataset's cache folder; pairs that are added later are added there.
    """
    path = dataset.path / "cache" / "statistics.parquet"
    rows = pq.read_table(path).to_pylist() if path.exists() else []
    known = {row["pair_id"] for row in rows}
    if len(known) < len(dataset):
        rows += list(_new_statistics(dataset, known))
        with atomic_path(path) as temporary:
            pq.write_table(pa.Table.from_pylist(rows), temporary)
    names = tuple(name for name in rows[0] if name != "pair_id")
    return {row["pair_id"]: np.array([row[name] for name in names]) for row in rows}, names


def _new_statistics(dataset: PreferenceDataset, known: set[str]) -> Iterator[dict]:
    with progress_bar("picture statistics", len(dataset) - len(known)) as advance:
        for batch in dataset.iter_pairs(columns=["pair_id", "image_0", "image_1"]):
            rows = [row for row in batch.to_pylist() if row["pair_id"] not in known]
            for row in rows:
                try:
                    images = [np.asarray(decode_image(row[name], dataset.path)) for name in ("image_0", "image_1")]
                except PalateError:
                    continue  # counted where pairs are encoded
                first, second = map(picture_statistics, images)
                yield {"pair_id": row["pair_id"], **{name: first[name] - second[name] for name in first}}
            advance(len(rows))


def _collect(pairs: pa.Table, votes: pa.Table, config: TrainConfig) -> Labels:
    propensity = pairs["propensity"].to_numpy()
    labels = collect_labels(
        pairs["pair_id"], votes, judge=config.judge, propensity=propensity, hard=config.hard_votes, seed=config.seed
    )
    if config.human_votes is None:
        return labels
    available = int(labels.labelled.sum())
    if config.human_votes > available:
        raise PalateError(
            f"human_votes: {config.human_votes} pairs were asked for, but only {available} have a human vote."
        )
    return collect_labels(
        pairs["pair_id"], votes, judge=config.judge, propensity=propensity, hard=config.hard_votes,
        human_fraction=config.human_votes / available, seed=config.seed,
    )  # fmt: skip


def _only_people(votes: pa.Table, people: tuple[str, ...]) -> pa.Table:
    source, annotator = votes["source"].to_pylist(), votes["annotator_id"].to_pylist()
    known = {a for s, a in zip(source, annotator, strict=True) if s == "human"}
    unknown = set(people) - known
    if unknown:
        raise PalateError(
            f"human_annotators: {', '.join(sorted(unknown))} never voted; there are {', '.join(sorted(known)) or 'none'}."
        )
    return votes.filter(pa.array([s != "human" or a in people for s, a in zip(source, annotator, strict=True)]))


def _correct(dataset: PreferenceDataset, pairs: pa.Table, labels: Labels, config: TrainConfig) -> Correction:
    prompts = pairs["prompt"].to_pylist()
    if config.correction == "calibrate":
        return calibrate_judge(labels.judge, labels.human, seed=config.seed, groups=prompts)
    by_pair, names = statistics_of_pairs(dataset)
    unreadable = np.full(len(names), np.nan)
    differences = np.stack([by_pair.get(pair_id, unreadable) for pair_id in pairs["pair_id"].to_pylist()])  # [N, K]
    differences = np.nan_to_num(differences)  # an unreadable pair is left out when pairs are encoded
    return correct_judge(labels.judge, differences, labels.human, names=names, seed=config.seed, groups=prompts)


def _targets(labels: Labels, method: str, power: float) -> Targets:
    if method == "dpo":
        return human_only(labels)
    if method == "mix":
        return mix(labels)
    if method == "judge":
        return judge_only(labels)
    return dedpo(labels, power)


def _labelled_per_batch(labelled: np.ndarray, config: TrainConfig) -> int | None:
    """Half of a batch where both kinds of pairs are used; alike from all of them where there is one kind only."""
    if labelled.all() or not labelled.any():
        return None
    if config.train_batch_size == 1:
        return None  # a batch of one cannot hold both kinds
    return config.labelled_per_batch or max(1, config.train_batch_size // 2)


def _tell(account: dict) -> None:
    used, labelled = account["pairs used"], account["of these with a human vote"]
    print(f"labels: {used:,} of {account['pairs in the dataset']:,} pairs, {labelled:,} with a human vote")
    for name in ("judge", "corrected judge"):
        told = account.get(name, {})
        if told.get("accuracy") is None:
            continue
        low, high = told["accuracy"] - 1.96 * told["accuracy_error"], told["accuracy"] + 1.96 * told["accuracy_error"]
        print(
            f"labels: the {name} agrees with people on {told['accuracy']:.0%} [{low:.0%}, {min(high, 1):.0%}] of "
            f"{told['n']:,} pairs, Brier score {told['brier']:.2f}"
        )
        if "finding" in told:
            print(f"labels: {told['finding']}")
    if "power" in account:
        ratio = account["predicted variance relative to human votes alone"]
        print(
            f"labels: DeDPO with power {account['power']:.2f}; predicted variance {ratio:.2f} x that of human votes alone"
        )


def save_account(account: dict, run: Path) -> None:
    """Write labels.json into the run."""
    write_text(run / "labels.json", json.dumps(account, indent=1))
