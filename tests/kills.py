"""Work that is killed (SIGKILL) at random moments and started again, until it is done, in processes that share nothing.

The processes are forked from one that has imported palate and done nothing else, so that starting again takes no seconds.
"""

import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from safetensors import safe_open

from palate.backbones import load_backbone
from palate.data.dataset import open_dataset
from palate.data.samples import Sampling
from palate.encoding import cache
from palate.sampling.samples import sample
from palate.training.train import train

STEPS = 8


# --- the work: (pipeline, dataset, folder) -> the folder is filled --------------------------------------------------------


def train_a_little(pipeline: Path, dataset: Path, folder: Path) -> None:
    """Adapters with momentum, averages and shared draws; a checkpoint at every second step."""
    train({
        "pretrained_model_name_or_path": str(pipeline), "dataset": str(dataset), "output_dir": str(folder), "lora": {"rank": 4},
        "beta": 500.0, "learning_rate": 1e-3, "train_batch_size": 2, "max_train_steps": STEPS, "checkpointing_steps": 2,
        "lr_scheduler": "linear", "adaptive": True, "prompt_dropout": 0.3,
    })  # fmt: skip


def encode(pipeline: Path, dataset: Path, folder: Path) -> None:
    """A cache of its own, a few pairs to a shard."""
    cache.SHARD = 2
    cache.encode_pairs(open_dataset(dataset), load_backbone(str(pipeline)), place=folder)


def sample_pictures(pipeline: Path, dataset: Path, folder: Path) -> None:
    """Pictures in batches of three."""
    sample(pipeline, ["a red circle", "a blue square"], folder, Sampling(steps=3, repetitions=10), batch_size=3)


# --- what is compared: name -> bytes ---------------------------------------------------------------------------------


def of_training(folder: Path) -> dict[str, bytes]:
    """The model, every checkpoint's weights, and all lines of the log."""
    files = [*folder.glob("model/**/*.safetensors"), *folder.glob("checkpoints/*/*.safetensors"), folder / "metrics.jsonl"]  # fmt: skip
    return contents(folder, files)


def of_encoding(folder: Path) -> dict[str, bytes]:
    """All tensors and names in the shards of the one cache there is (the order of names in a header is not fixed)."""
    found = {}
    for path in sorted(folder.glob("*/[!.]*.safetensors")):
        with safe_open(path, "np") as shard:
            found |= {f"{path.name} {name}": shard.get_tensor(name).tobytes() for name in shard.keys()}
            found |= {f"{path.name} {name}": text.encode() for name, text in shard.metadata().items()}
    return found


def of_sampling(folder: Path) -> dict[str, bytes]:
    return contents(folder, folder.glob("*.png"))


def contents(folder: Path, files) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.startswith(".")}
    return dict(sorted(found.items()))


def _different(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


# --- killing ---------------------------------------------------------------------------------------------------------


def survives(
    work: Callable, results: Callable, pipeline: Path, dataset: Path, folder: Path, kills: int, seed: int
) -> tuple[int, int]:
    """Kill `work` that many times at random moments, each time starting it again as it was; returns the kills and the runs
    that came to their end in spite of them. Asserts that each of these equals one that nobody disturbed."""
    chance = random.Random(seed)
    code, span = _run(work, pipeline, dataset, folder / "whole")
    assert code == 0
    expected = results(folder / "whole")
    assert len(expected) > 3
    killed = finished = 0
    while killed < kills or not finished:
        place = folder / f"run-{finished}"
        # No more kills at the end than were asked for: the last run comes to its end undisturbed.
        code, _ = _run(work, pipeline, dataset, place, chance.uniform(0, span) if killed < kills else None)
        if code == 0:
            assert _different(results(place), expected) == []
            finished += 1
        else:
            assert code == -9, f"failed by itself with {code}"
            killed += 1
    if (folder / f"run-{finished}").exists():  # the last kill left one in its middle
        assert _run(work, pipeline, dataset, folder / f"run-{finished}")[0] == 0
        assert _different(results(folder / f"run-{finished}"), expected) == []
        finished += 1
    return killed, finished


def start(work: Callable, *arguments: Path) -> tuple:
    """A new process that does the work, and an event that says when it begins."""
    context = multiprocessing.get_context("forkserver")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # where the fork server finds this module
    context.set_forkserver_preload(["kills", "kills_of_verbs"])
    begun = context.Event()
    child = context.Process(target=_work, args=(begun, work, *arguments))
    child.start()
    return begun, child


def _run(
    work: Callable, pipeline: Path, dataset: Path, folder: Path, kill_after: float | None = None
) -> tuple[int, float]:
    """The exit code of the work in a new process, -9 where it was killed in time, and its seconds."""
    begun, child = start(work, pipeline, dataset, folder)
    assert begun.wait(120)
    started = time.monotonic()
    child.join(kill_after)
    child.kill()
    child.join()
    return child.exitcode, time.monotonic() - started


def _work(begun, work: Callable, *arguments: Path) -> None:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        begun.set()
        work(*arguments)
