"""Runs of several configurations in the same two processes, because starting processes takes longer than the runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

import palate
from palate.distributed import rank, together
from palate.encoding.cache import EncodedPairs
from palate.run.checkpoint import checkpoints


def environment() -> dict:
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run_in_two(folder: Path, configs: list[tuple[dict, str | None]]) -> None:
    """All of these runs, one after another; with the name of a pair, its pictures are spoilt, and both processes write down
    how they refuse."""
    (folder / "runs.json").write_text(json.dumps(configs))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, __file__, str(folder / "runs.json")], env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]


def farthest(run: Path, other: Path) -> float:
    """The largest difference between the last weights of two runs."""
    one, two = (load_file(checkpoints(path)[-1] / "weights.safetensors") for path in (run, other))
    assert one.keys() == two.keys()
    return max((one[name] - two[name]).abs().max().item() for name in one)


def spoilt(image_latents, pair: str):
    def latents(self, images: list[tuple[str, int]]) -> torch.Tensor:
        bad = torch.tensor([pair_id == pair for pair_id, _ in images])
        return torch.where(bad.view(-1, 1, 1, 1), torch.nan, image_latents(self, images))

    return latents


def main(path: str) -> None:
    image_latents = EncodedPairs.image_latents
    for config, pair in json.loads(Path(path).read_text()):
        EncodedPairs.image_latents = spoilt(image_latents, pair) if pair else image_latents
        try:
            palate.train(config)
        except palate.PalateError as error:
            if not pair:
                raise
            Path(f"{config['output_dir']}-refused-{rank()}").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with together():
        main(sys.argv[1])
