"""Runs of several configurations in the same processes, because starting processes takes longer than the runs:
`torchrun many_runs.py FILE` with a JSON list of (configuration, pair whose images are spoilt or null)."""

import json
import sys
from pathlib import Path

import torch

import palate
from palate.training.cache import EncodedPairs
from palate.training.distributed import rank, together

image_latents = EncodedPairs.image_latents


def spoilt(pair: str):
    def latents(self, images: list[tuple[str, int]]) -> torch.Tensor:
        bad = torch.tensor([pair_id == pair for pair_id, _ in images])
        return torch.where(bad.view(-1, 1, 1, 1), torch.nan, image_latents(self, images))

    return latents


if __name__ == "__main__":
    torch.set_num_threads(1)
    with together():
        for config, pair in json.loads(Path(sys.argv[1]).read_text()):
            EncodedPairs.image_latents = spoilt(pair) if pair else image_latents
            try:
                palate.train(config)
            except palate.PalateError as error:
                Path(f"{config['output_dir']}-refused-{rank()}").write_text(str(error))
