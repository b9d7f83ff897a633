"""Seconds of a training step in one process and in two, one thread each: what several processes gain.

    python benchmarks/processes.py            about 3 minutes on 2 cores

The small Stable Diffusion of step_cost.py, the same batch in both. One and two processes take turns, each time anew; the
efficiency is the median step of one process over twice that of two: at best 1. Beside it the same from processor time, which
other programs on the machine hardly change; it counts what is done twice or only for the sake of sharing, but not waiting.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
import tyro
from accelerate import Accelerator
from step_data import Options as Sizes
from step_data import prepare

from palate.backbones import load_backbone
from palate.data.dataset import open_dataset
from palate.distributed import counts, is_first, together, total, wait
from palate.labels.votes import prepare_rows
from palate.network.sharding import number
from palate.run.load import load_config
from palate.training.assemble import assemble
from palate.training.readings import everywhere, join, summarise

WAYS = {"LoRA, ddp": {"lora": {"rank": 16}}, "full, ddp": {}, "full, fsdp2": {"parallel": "fsdp2"}}


@dataclass
class Options:
    """Seconds of a training step in one process and in two."""

    batch: int = 4
    """Pairs per step, of all processes together."""
    steps: int = 4
    """Measured in each turn, after one that is not."""
    turns: int = 2
    """Of one process and of two."""
    resolution: int = 128
    """Pixels along one side, a multiple of 64."""
    width: int = 80
    """Channels of the UNet's first level, a multiple of 40; Stable Diffusion 1.5 has 320."""


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, Sizes(batch=options.batch, resolution=options.resolution, width=options.width))
        seconds: dict[tuple[str, int], list[list[float]]] = {(way, n): [] for way in WAYS for n in (1, 2)}
        for _ in range(options.turns):
            for n in (1, 2):
                for way, measured in measure(folder, options, n).items():
                    seconds[way, n] += measured
    for way in WAYS:
        (one, one_busy), (two, two_busy) = (zip(*seconds[way, n], strict=True) for n in (1, 2))
        ranges = ", ".join(
            f"{n} process{'es' * (n > 1)} {min(s):.2f} to {max(s):.2f} s" for n, s in ((1, one), (2, two))
        )
        print(
            f"{way}: {median(one) / median(two):.2f} x as fast in two, efficiency {median(one) / median(two) / 2:.2f}, of processor time {median(one_busy) / median(two_busy):.2f} ({ranges}; n = {len(one)})"
        )


def measure(folder: Path, options: Options, n: int) -> dict[str, list[list[float]]]:
    """Seconds per step of every way, in n new processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(n)]
    work = [__file__, "--work", str(folder), str(options.batch), str(options.steps)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *launcher, *work], env=environment, check=True, stderr=subprocess.DEVNULL)
    return json.loads((folder / "seconds.json").read_text())


def work(folder: Path, batch: int, steps: int) -> None:
    torch.set_num_threads(1)
    with together(), contextlib.redirect_stdout(io.StringIO()):
        seconds = {way: time_steps(folder, batch, steps, changes) for way, changes in WAYS.items()}
        if is_first():
            (folder / "seconds.json").write_text(json.dumps(seconds))


def time_steps(folder: Path, batch: int, steps: int, changes: dict) -> list[list[float]]:
    """Seconds, and seconds of processor time of all processes, of each step but the first, as `palate train` takes it."""
    keys = {"pretrained_model_name_or_path": str(folder / "pipeline"), "dataset": str(folder / "data")}
    config = load_config(keys | {"output_dir": str(folder / "run"), "train_batch_size": batch} | changes)
    dataset, accelerator = open_dataset(config.dataset), Accelerator(cpu=True)
    backbone = load_backbone(config.pretrained_model_name_or_path)
    parts = assemble(config, dataset, backbone, prepare_rows(dataset, config, None), accelerator, folder / "run")
    optimizer = torch.optim.AdamW(parts.policy.parameters, lr=1e-6)
    seconds = []
    for step in range(steps + 1):
        wait()
        start, busy = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        readings = everywhere(join([parts.stepper.accumulate(step)]), counts(batch))
        parts.stepper.finish()
        number(torch.nn.utils.clip_grad_norm_(parts.policy.parameters, 1.0))
        optimizer.step()
        summarise(readings, config.beta, backbone.num_timesteps, None)
        seconds.append([time.perf_counter() - start, total(time.process_time() - busy)])
    return np.round(seconds[1:], 4).tolist()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    else:
        main(tyro.cli(Options))
