"""One run: train, sample, measure. Everything a table says comes from what this writes."""

import json
import os
import subprocess
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.stats import mannwhitneyu

import palate
from benchmarks.claims.conditions import COMMON, PAIRS, Condition
from benchmarks.claims.world import FLIPS, shares
from palate.data.dataset import open_dataset
from palate.data.samples import Sampling
from palate.data.schema import content_id
from palate.demos.dataset import SAMPLING
from palate.files import atomic_path, write_text
from palate.sampling.samples import sample
from palate.world.measure import measure
from palate.world.pictures import PROMPTS
from palate.world.voters import true_utility

REPETITIONS = 4  # pictures per prompt; the same noise for every model
TAIL = 20  # steps at the end of training over which its readings are averaged
READINGS = ("winner_error", "loser_error", "rewards/margins", "rewards/accuracies", "largest_labelled_logit", "lambda/mean", "lambda/would_rise", "validation/cross_entropy")  # fmt: skip
BASE = "base"


@dataclass(frozen=True)
class Job:
    """A condition with one seed, and where its files are."""

    condition: Condition
    seed: int
    folder: Path
    steps: int

    @property
    def key(self) -> str:
        """A name for what is computed: the same settings, the same key."""
        told = json.dumps(self.settings, sort_keys=True)
        return content_id("claims", told, str(self.condition.pairs), str(self.seed), str(REPETITIONS))[:16]

    @property
    def settings(self) -> dict:
        """The configuration but for its folders; a condition may have steps of its own."""
        return COMMON | {"max_train_steps": self.steps} | self.condition.settings

    @property
    def dataset(self) -> Path:
        return dataset_folder(self.folder, self.seed, self.condition.pairs)

    @property
    def result(self) -> Path:
        return self.folder / "results" / f"{self.key}.parquet"


def dataset_folder(folder: Path, seed: int, pairs: int = PAIRS) -> Path:
    """Where the pairs of a seed are."""
    return folder / "data" / f"seed-{seed}-pairs-{pairs}"


def sampling() -> Sampling:
    """How every model is sampled."""
    return Sampling(**{**asdict(SAMPLING), "repetitions": REPETITIONS})


def run(job: Job) -> None:
    """Train, sample and measure; the result is one file, written when all of it is there."""
    began = time.monotonic()
    out = job.folder / "runs" / job.key
    trained = palate.train(job.settings | {"dataset": str(job.dataset), "output_dir": str(out), "seed": job.seed})
    pictures = sample(out, list(PROMPTS), out / "samples", sampling())
    about = {
        "key": job.key, "condition": job.condition.name, "seed": job.seed, "pairs": job.condition.pairs, "steps": job.settings["max_train_steps"],
        "settings": json.dumps(job.condition.settings, sort_keys=True), "seconds": time.monotonic() - began, "commit": commit(),
        **readings(trained.metrics), **labels(out), **minority(job, out),
    }  # fmt: skip
    write_result(job.result, about, pictures.images(), pictures.prompts)
    _tidy(out)


def one_thread() -> None:
    """What a worker process begins with."""
    torch.set_num_threads(1)


def run_quietly(job: Job) -> str | None:
    """Run a job with its output in a file; None, or the last line of what went wrong."""
    (job.folder / "logs").mkdir(parents=True, exist_ok=True)
    with open(job.folder / "logs" / f"{job.key}.txt", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            run(job)
        except Exception:  # one run that fails costs itself alone, and is listed at the end
            traceback.print_exc()
            return traceback.format_exc().strip().splitlines()[-1]
    return None


def run_base(folder: Path) -> Path:
    """The untrained model's pictures, measured: what every run is compared with."""
    path = folder / "results" / f"{BASE}.parquet"
    if not path.exists():
        pictures = sample("world", list(PROMPTS), folder / "runs" / BASE / "samples", sampling())
        write_result(
            path, {"key": BASE, "condition": BASE, "seed": 0, "commit": commit()}, pictures.images(), pictures.prompts
        )
    return path


def write_result(path: Path, about: dict, images: np.ndarray, prompts: list[str]) -> None:
    """A row per picture, and what is known of the run in the file's metadata."""
    shown = measure(images, prompts)
    table = pa.table({
        "picture": pa.array(range(len(prompts)), pa.int16()), "prompt": prompts, "utility": true_utility(shown).astype(np.float32),
        "fidelity": shown.fidelity.astype(np.float32), "centring": shown.centring.astype(np.float32), "brightness": shown.brightness.astype(np.float32),
        "colour_right": shown.colour_right,
    })  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata({"run": json.dumps(about)}), temporary)


def readings(metrics: list[dict]) -> dict[str, float]:
    """Means over the last steps of training, on training pairs; and the winner's error at its highest (a moving mean)."""
    out = {}
    for name in READINGS:
        values = [line[name] for line in metrics if name in line]
        if values:
            out[name] = float(np.mean(values[-1:] if name.startswith("validation") else values[-TAIL:]))
            if name == "winner_error":
                out["winner_error/highest"] = float(
                    max(np.mean(values[i : i + TAIL]) for i in range(max(1, len(values) - TAIL + 1)))
                )
    return out


def labels(out: Path) -> dict:
    """What the run says of its labels: the judge, the power, the predicted variance."""
    account = json.loads((out / "labels.json").read_text())
    told = {"power": account.get("power"), "variance": account.get("predicted variance relative to human votes alone")}
    for name in ("judge", "corrected judge"):
        if account.get(name, {}).get("accuracy") is not None:
            told |= {f"{name}/accuracy": account[name]["accuracy"], f"{name}/brier": account[name]["brier"]}
    return {name: value for name, value in told.items() if value is not None}


def minority(job: Job, out: Path) -> dict[str, float]:
    """How well the minority metric finds the votes that were turned around (area under the ROC curve), where some were."""
    people = job.condition.settings.get("human_annotators", [""])[0]
    if not (out / "minority.parquet").exists() or people not in {f"flipped-{percent}" for percent in FLIPS} | {"crowd"}:
        return {}
    table = pq.read_table(out / "minority.parquet")
    ids = table["pair_id"].to_pylist()
    votes = {name: _votes(open_dataset(str(job.dataset)), name) for name in (people, "majority")}
    wrong = np.array([votes[people][i] != votes["majority"][i] for i in ids])
    found = {name: table[name].to_numpy() for name in ("minority", "doubt")}
    chance = shares(ids, job.seed, "order")  # a control: it has to be near one half
    return {f"auc/{name}": _auc(value[wrong], value[~wrong]) for name, value in {**found, "chance": chance}.items()}


def commit() -> str:
    """The commit of the code that runs, marked where code (not a result) was changed since."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parents[2]).stdout

    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks", ":!benchmarks/claims/results"
    )
    return (git("describe", "--always").strip() or "unknown") + ("-dirty" if changed.strip() else "")


def _auc(positive: np.ndarray, negative: np.ndarray) -> float:
    return float(mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


def _votes(dataset, name: str) -> dict[str, str]:
    rows = dataset.votes(columns=["pair_id", "annotator_id", "choice"]).to_pylist()
    return {row["pair_id"]: row["choice"] for row in rows if row["annotator_id"] == name}


def _tidy(out: Path) -> None:
    """Weights and checkpoints are not needed again, and would be gigabytes: pictures, metrics and settings stay."""
    for path in [*out.glob("checkpoints/**/*"), *out.glob("model/**/*")]:
        if path.is_file():
            path.unlink()
    write_text(out / "tidied", "weights were deleted after measuring\n")
