"""How fast a large dataset opens and is read, and in how much memory: a million pairs with tiny latents, on this machine.

    python benchmarks/loader.py                     # a million pairs, about 3 minutes and 1 GB of disk
    python benchmarks/loader.py --pairs 50000

Everything is measured in a fresh process, which prepares a run as training does and then reads batch after batch in the
order of training. Then the true sizes of some families of models, at fewer pairs: what a step waits for its batch. Last, the
part of a training step that reading takes where steps are shortest: of the small world's model, 4.2 million parameters.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import tyro

from palate.data.dataset import PreferenceDataset, open_dataset
from palate.data.schema import IMAGE_COLUMNS, PAIRS, VOTES
from palate.data.shards import write_shard
from palate.demos.dataset import make_dataset
from palate.encoding import cache
from palate.encoding.encoded import EncodedPairs
from palate.encoding.storage import Storage
from palate.labels.votes import prepare_rows
from palate.run.config import TrainConfig
from palate.training.batches import Batches
from palate.training.draws import draws
from palate.training.step import Stepper
from palate.training.train import train

ROWS = 1024  # of a shard of the dataset
# Of one image and one prompt, as the families' networks take them at the resolution that they were made for.
SIZES = {
    "tiny": ((4, 4, 4), {"embeddings": (2, 8)}),
    "Stable Diffusion 1.5, 512 px": ((4, 64, 64), {"embeddings": (77, 768)}),
    "Stable Diffusion XL, 1024 px": ((4, 128, 128), {"embeddings": (77, 2048), "pooled": (1280,)}),
    "FLUX.1, 1024 px": ((16, 128, 128), {"embeddings": (512, 4096), "pooled": (768,)}),
}


@dataclass
class Options:
    """Seconds to open, resident memory and pairs per second of reading a large dataset."""

    pairs: int = 1_000_000
    """Pairs with tiny latents."""
    batch: int = 8
    """Pairs per batch."""
    seconds: float = 20
    """How long batches are read."""
    true_sizes: int = 512
    """Pairs of each family's true size; 0 leaves these out."""
    json: Path | None = None
    """Where to write every number."""


def build(folder: Path, pairs: int, size: str = "tiny") -> None:
    """A dataset whose images are paths to nowhere, one judge's vote on each pair and a person's on every tenth, and its cache."""
    dataset = PreferenceDataset.create(folder / "data", name="loader")
    pair_ids = np.array([f"pair-{i:012}-{i * 2654435761 % 2**32:08x}" for i in range(pairs)])
    texts = np.array(
        [f"a picture of thing number {i} in the style of somebody or other" for i in range(max(3, pairs // 20))]
    )
    prompts = texts[np.arange(pairs) * 7919 % len(texts)]
    for start in range(0, pairs, ROWS):
        some = slice(start, start + ROWS)
        write_shard(dataset.path / "pairs", _pairs_table(pair_ids[some], prompts[some]), IMAGE_COLUMNS)
    write_shard(dataset.path / "votes", _votes_table(pair_ids, "judge"))
    write_shard(dataset.path / "votes", _votes_table(pair_ids[::10], "human"))
    _write_cache(Storage(folder / "cache"), pair_ids, prompts, texts, *SIZES[size])
    EncodedPairs(folder / "cache").write_index()


def _pairs_table(pair_ids: np.ndarray, prompts: np.ndarray) -> pa.Table:
    image = pa.array([{"path": "nowhere.png"}] * len(pair_ids), PAIRS.field("image_0").type)
    columns = {"pair_id": pa.array(pair_ids), "prompt": pa.array(prompts), "image_0": image, "image_1": image}
    return pa.table([columns.get(f.name, pa.nulls(len(pair_ids), f.type)) for f in PAIRS], schema=PAIRS)


def _votes_table(pair_ids: np.ndarray, source: str) -> pa.Table:
    choice = np.random.default_rng(0).integers(0, 2, len(pair_ids))
    columns = {
        "vote_id": pa.array(np.char.add(f"{source}-", pair_ids)), "pair_id": pa.array(pair_ids), "choice": pa.array(choice.astype(str)),
        "annotator_id": pa.array([source] * len(pair_ids)), "source": pa.array([source] * len(pair_ids)),
        "created_at": pa.array(np.zeros(len(pair_ids), np.int64)).cast(VOTES.field("created_at").type),
    }  # fmt: skip
    return pa.table([columns.get(f.name, pa.nulls(len(pair_ids), f.type)) for f in VOTES], schema=VOTES)


def _write_cache(storage: Storage, pair_ids, prompts, texts, latents: tuple, conditioning: dict[str, tuple]) -> None:
    for block, start in enumerate(range(0, len(texts), cache.SHARD)):
        some = texts[start : start + cache.SHARD].tolist()
        tensors = {name: torch.randn(len(some), *shape).half() for name, shape in conditioning.items()}
        cache._write(storage, cache.PROMPTS, block, tensors, prompts=some)
    for block, start in enumerate(range(0, len(pair_ids), cache.SHARD)):
        some = slice(start, start + cache.SHARD)
        tensors = {"latents": torch.randn(len(pair_ids[some]), 2, *latents).half()}
        cache._write(
            storage, cache.PAIRS, block, tensors, pair_ids=pair_ids[some].tolist(), prompts=prompts[some].tolist(), single=[]
        )  # fmt: skip


def measure(folder: Path, batch: int, seconds: float) -> dict:
    """In this process: seconds and megabytes after each stage, and pairs per second; opens and prepares as training does."""
    found = {"MB imported": _resident()}
    started = time.perf_counter()
    encoded, dataset = EncodedPairs(folder / "cache"), open_dataset(folder / "data")
    found |= {"pairs": len(encoded), "seconds to open": time.perf_counter() - started, "MB opened": _resident()}
    config = TrainConfig("world", str(folder / "data"), str(folder / "run"), target="dedpo", judge="judge", correction="none")  # fmt: skip
    started = time.perf_counter()
    rows = prepare_rows(dataset, config).require(encoded)
    batches = Batches(rows.labelled, batch, rows.labelled_per_batch, seed=0)
    found |= {"seconds to prepare": time.perf_counter() - started, "MB prepared": _resident()}
    started, read, drawing = time.perf_counter(), 0, 0.0
    while time.perf_counter() < started + seconds:
        chosen = batches.at(read)
        latents = encoded.image_latents([rows.images[i][side] for side in (0, 1) for i in chosen.row])
        encoded.prompt_conditioning([rows.prompt[i] for i in chosen.row])
        before = time.perf_counter()
        draws(0, rows.id[chosen.row].tolist(), chosen.draw.tolist(), tuple(latents.shape[1:]), 1000)
        drawing += time.perf_counter() - before
        read += 1
    spent = time.perf_counter() - started
    found |= {"batches": read, "pairs per second": read * batch / spent, "milliseconds per batch": 1000 * spent / read}
    return found | {"of these drawing noise": 1000 * drawing / read, "MB at most": _resident()}


def _resident() -> float:
    """The most MB that this process ever had resident; its own, where getrusage counts what the parent had at the fork."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def share_of_a_step(folder: Path, batch: int, steps: int = 12) -> float:
    """What part of its steps the smallest model there is, the small world's, spends on reading the cache."""
    dataset = make_dataset(folder / "world", pairs=64, seed=0)
    spent = {"reading": 0.0, "stepping": 0.0}

    def timed(owner: type, name: str, where: str) -> None:
        call = getattr(owner, name)

        def measured(*given, **options):
            started = time.perf_counter()
            try:
                return call(*given, **options)
            finally:
                spent[where] += time.perf_counter() - started

        setattr(owner, name, measured)

    for name in ("image_latents", "prompt_conditioning", "image_conditioning"):
        timed(EncodedPairs, name, "reading")
    timed(Stepper, "accumulate", "stepping")
    config = {"pretrained_model_name_or_path": "world", "dataset": str(dataset.path), "output_dir": str(folder / "run")}
    train(config, train_batch_size=batch, max_train_steps=steps, human_annotators=("majority",), report_to="none")
    return spent["reading"] / spent["stepping"]


def in_a_fresh_process(folder: Path, batch: int, seconds: float) -> dict:
    """`measure`, with nothing else in memory."""
    child = [sys.executable, __file__, "--measure", str(folder), str(batch), str(seconds)]
    told = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(told.splitlines()[-1])


def main(options: Options) -> None:
    """Build, measure, print."""
    found = {}
    sizes = {"tiny": options.pairs} | {name: options.true_sizes for name in list(SIZES)[1:] if options.true_sizes}
    for size, pairs in sizes.items():
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder), pairs, size)
            found[size] = in_a_fresh_process(Path(folder), options.batch, options.seconds)
        print(f"\n{size}: {pairs:,} pairs")
        for name, value in found[size].items():
            print(f"  {name:<24} {value:,.2f}" if isinstance(value, float) else f"  {name:<24} {value:,}")
    with tempfile.TemporaryDirectory() as folder:
        found["share of a step"] = share_of_a_step(Path(folder), options.batch)
    print(f"\nthe small world's model spends {found['share of a step']:.2%} of its steps on reading")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))))
    else:
        main(tyro.cli(Options))
