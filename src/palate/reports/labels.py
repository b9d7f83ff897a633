"""Whose labels a run used: votes by annotator, and how well each judge agreed with people."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from palate.arithmetic import HALF_95
from palate.data.dataset import PreferenceDataset, open_dataset
from palate.errors import PalateError
from palate.reports.parts import Labels, Source, Votes
from palate.reports.training import account_of
from palate.run.load import read_yaml


def sources_of(runs: list[Path]) -> list[Source]:
    """How well each judge that these runs used agreed with people, as the runs recorded it."""
    found: dict[str, Source] = {}
    accounts = [account_of(run) for run in runs]
    parts = [(question, part) for account in accounts for question, part in account.get("questions", {}).items()]
    for question, account in [*(("", account) for account in accounts), *parts]:
        on = f" on {question}" if question else ""
        judge = account.get("judge") or {}
        entries = [(f"{told.get('name', '')}{on}", told) for told in [*account.get("judges", []), judge]]
        entries.append((f"{judge.get('name', '')}{on}, corrected", account.get("corrected judge") or {}))
        for name, told in entries:
            if "accuracy" in told:
                share, half = told["accuracy"], HALF_95 * told["accuracy_error"]
                interval = (share, max(0.0, share - half), min(1.0, share + half))
                votes = told.get("votes", judge.get("votes", told["n"]))
                scores = told["brier"], told.get("finding", ""), told["n"], told.get("brier_reference")
                found[name] = Source(name, votes, interval, *scores)
    return list(found.values())


def labels_of(runs: list[Path]) -> tuple[list[Labels], list[str]]:
    """Current votes by annotator in these runs' datasets, and a sentence for each dataset that cannot be read."""
    datasets = dict.fromkeys(str(read_yaml(run / "config.yaml").get("dataset") or "") for run in runs)
    found, missing = [], []
    for path in datasets:
        try:
            found.append(count_labels(open_dataset(path)))
        except PalateError:
            missing.append(f"The dataset {path} is not there any more, so its votes are not counted here.")
    return found, missing


def count_labels(dataset: PreferenceDataset) -> Labels:
    """Votes by source and annotator (skips are left out), and on how many pairs."""
    votes = dataset.votes(["pair_id", "annotator_id", "source", "choice"])
    votes = votes.filter(pc.not_equal(votes["choice"], "skip"))
    counted = votes.group_by(["source", "annotator_id"]).aggregate(
        [("pair_id", "count"), ("pair_id", "count_distinct")]
    )
    rows = [
        Votes(row["source"], row["annotator_id"], row["pair_id_count"], row["pair_id_count_distinct"])
        for row in counted.to_pylist()
    ]
    rows.sort(key=lambda one: (one.source, -one.votes, one.annotator))
    with_votes = {source: _pairs_with(votes, source) for source in ("human", "judge")}
    return Labels(dataset.name, len(dataset), with_votes["human"], with_votes["judge"], tuple(rows))


def _pairs_with(votes: pa.Table, source: str) -> int:
    return int(pc.count_distinct(votes.filter(pc.equal(votes["source"], source))["pair_id"]).as_py())
