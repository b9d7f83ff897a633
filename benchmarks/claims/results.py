"""Results of runs, as one table of pictures and one of runs: small enough to be committed, and all that evidence is made of."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.claims.advice import read_advice
from palate.files import atomic_path, write_text

PICTURES, RUNS = "pictures.parquet", "runs.jsonl"
BASE = "base"


@dataclass(frozen=True)
class Results:
    """Every run with its pictures."""

    runs: list[dict]
    pictures: dict[str, dict[str, np.ndarray]]  # key of the run -> column -> [pictures]
    advice: dict[int, dict[str, str]] = field(default_factory=dict)  # seed -> judge -> condition that the audit advises

    @cached_property
    def base(self) -> dict[str, np.ndarray]:
        return self.pictures[BASE]

    def of(self, condition: str) -> dict[int, dict]:
        """seed -> the run of a condition."""
        return {run["seed"]: run for run in self.runs if run["condition"] == condition and run["key"] != BASE}

    def gain(self, condition: str, column: str = "utility") -> dict[int, float]:
        """seed -> mean over pictures of the run's value less the base's."""
        return {
            seed: float((self.pictures[run["key"]][column] - self.base[column]).mean())
            for seed, run in self.of(condition).items()
        }

    def wins(self, condition: str) -> dict[int, float]:
        """seed -> share of pictures with a higher true utility than the base's on the same noise; a tie counts half."""
        out = {}
        for seed, run in self.of(condition).items():
            difference = self.pictures[run["key"]]["utility"] - self.base["utility"]
            out[seed] = float(np.mean((difference > 0) + (difference == 0) / 2))
        return out

    def reading(self, condition: str, name: str) -> dict[int, float]:
        """seed -> one of the run's own readings, where it has it."""
        return {seed: run[name] for seed, run in self.of(condition).items() if name in run}


def known(folder: Path) -> set[str]:
    """Keys of the runs whose results are there."""
    path = folder / RUNS
    return {json.loads(line)["key"] for line in path.read_text().splitlines()} if path.exists() else set()


def load(folder: Path) -> Results:
    """The results of a folder."""
    runs = [json.loads(line) for line in (folder / RUNS).read_text().splitlines()]
    table = pq.read_table(folder / PICTURES)
    key = np.array(table["run"].to_pylist())
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names if name != "run"}
    order = {run: np.flatnonzero(key == run) for run in dict.fromkeys(key.tolist())}
    return Results(
        runs,
        {run: {name: column[rows] for name, column in columns.items()} for run, rows in order.items()},
        read_advice(folder),
    )


def collect(folder: Path, out: Path, planned: dict[str, str]) -> None:
    """Add the results of finished runs to the tables in `out`; what a table has already stays, unless it was made again.

    Only runs of the present plan are kept (`planned`: key -> condition; changed settings have other keys), under its names."""
    fresh = {path.stem: pq.read_table(path) for path in sorted(folder.glob("*.parquet"))}
    about = {key: json.loads(table.schema.metadata[b"run"]) for key, table in fresh.items()}
    if (out / RUNS).exists():
        old = {run["key"]: run for run in map(json.loads, (out / RUNS).read_text().splitlines())}
        table = pq.read_table(out / PICTURES)
        keys = np.array(table["run"].to_pylist())
        for key, run in old.items():
            before = table.filter(pa.array(keys == key)).drop_columns(["run"])
            if key not in fresh:
                fresh[key], about[key] = before, run
            elif run["commit"] != about[key]["commit"]:
                about[key]["repeated"] = largest_difference(before, fresh[key])
    kept = [key for key in fresh if key in planned or key == BASE]
    if dropped := [about[key]["condition"] for key in fresh if key not in kept]:
        print(f"claims: {len(dropped)} runs of settings that are no longer planned are left out: {', '.join(dropped)}")
    about |= {key: about[key] | {"condition": planned.get(key, BASE)} for key in kept}
    kept = sorted(kept, key=lambda key: (about[key]["condition"], about[key]["seed"]))
    if not kept:
        return
    tables = [
        fresh[key].replace_schema_metadata(None).add_column(0, "run", pa.array([key] * len(fresh[key]))) for key in kept
    ]
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / PICTURES) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary, compression="zstd", use_dictionary=["run", "prompt"])
    write_text(out / RUNS, "".join(json.dumps(about[key], sort_keys=True) + "\n" for key in kept))


def largest_difference(before: pa.Table, after: pa.Table) -> float:
    """By how much the true utility of a picture differs at most between two makings of the same run."""
    return float(np.abs(before["utility"].to_numpy() - after["utility"].to_numpy()).max())
