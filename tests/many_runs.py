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

BETA = 500.0
# What the order of additions can change in float32. An error is a mean over 256 numbers near one (a latent [4, 8, 8]), off by up
# to sqrt(256) unit roundoffs; the logit is beta times a difference of such errors, and the gradient has its slope as a factor.
# It holds where Adam's epsilon is above the gradients (1e-2; they are clipped to norm 1 over 5,000 weights or more), because
# steps are then in proportion to gradients; with a small epsilon they are their signs, and a rounding around 0 is a whole step.
ROUNDING = (
    BETA * 256**0.5 * 2**-24
)  # 5e-4 of the way that the weights go; rows left out or weighed wrongly change all of it


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


def apart(run: Path, other: Path) -> float:
    """How far the last weights of two runs are from each other, over how far the first run's moved between its first
    checkpoint and its last (Euclidean norms over all weights)."""
    first, one, two = (_weights(*which) for which in ((run, 0), (run, -1), (other, -1)))
    return distance(one, two) / distance(one, first)


def distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one.keys() == two.keys()
    return sum((one[name].double() - two[name].double()).square().sum().item() for name in one) ** 0.5


def _weights(run: Path, which: int) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(run)[which] / "weights.safetensors")


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
