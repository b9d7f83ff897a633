"""What the slow tests share: datasets of the small world, and how far a run's model agrees with the truth on pairs it never saw."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from palate.arithmetic import flushed_denormals
from palate.backbones import load_backbone
from palate.data.dataset import PreferenceDataset
from palate.demos.dataset import make_dataset, measure_pairs
from palate.encoding.cache import encode_pairs
from palate.objectives.logit import denoising_error
from palate.sampling.samples import load_model
from palate.training.draws import draws
from palate.world.measure import Measurement
from palate.world.voters import VOTERS, true_utility

DRAWS = 4
BETA = 2000.0


@dataclass(frozen=True)
class HeldOut:
    """Pairs of another seed, with the truth about them."""

    dataset: PreferenceDataset

    @cached_property
    def shown(self) -> tuple[Measurement, Measurement, list[str]]:
        return measure_pairs(self.dataset)

    @cached_property
    def utility(self) -> np.ndarray:
        """True utility of image 0 minus that of image 1, [N]."""
        return true_utility(self.shown[0]) - true_utility(self.shown[1])

    @cached_property
    def brightness(self) -> np.ndarray:
        return self.shown[0].brightness - self.shown[1].brightness

    @cached_property
    def reference_errors(self) -> torch.Tensor:
        return self.errors(load_backbone("world").network)

    @flushed_denormals()
    @torch.no_grad()
    def errors(self, network) -> torch.Tensor:
        """Denoising errors [N, 2] averaged over draws that no run takes."""
        backbone, ids = load_backbone("world"), self.shown[2]
        encoded = encode_pairs(self.dataset, backbone)
        latents, told = encoded.latents(ids), encoded.prompt_conditioning([encoded.prompt[i] for i in ids])
        total = torch.zeros(len(ids), 2)
        for k in range(DRAWS):
            drawn = draws("held out", ids, [k] * len(ids), tuple(latents.shape[2:]), backbone.num_timesteps)
            for side in (0, 1):
                noisy = backbone.add_noise(latents[:, side], drawn.noise, drawn.timestep)
                goal = backbone.regression_target(latents[:, side], drawn.noise, drawn.timestep)
                total[:, side] += denoising_error(backbone.predict(network, noisy, drawn.timestep, told), goal)
        return total / DRAWS

    def gains(self, run: Path) -> np.ndarray:
        """Reference error minus error of the run's model, [N, 2]."""
        return (self.reference_errors - self.errors(load_model(run)[1].eval())).numpy()

    def logits(self, run: Path) -> np.ndarray:
        gains = self.gains(run)
        return BETA / 2 * (gains[:, 0] - gains[:, 1])


def correlation(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Correlation and its standard error where there is none."""
    return float(np.corrcoef(a, b)[0, 1]), 1 / np.sqrt(len(a) - 1)


def mean(values: np.ndarray) -> tuple[float, float]:
    values = np.asarray(values, dtype=float)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def make_lists(folder: Path, source: PreferenceDataset) -> PreferenceDataset:
    """Ranked lists of four pictures of one prompt, all six pairs of them voted on by the majority."""
    by_prompt: dict[str, list[dict]] = {}
    for batch in source.iter_pairs(columns=["prompt", "image_0", "image_1"]):
        for row in batch.to_pylist():
            by_prompt.setdefault(row["prompt"], []).extend([row["image_0"], row["image_1"]])
    pairs = [
        {"pair_id": f"{prompt}-{k}-{i}{j}", "prompt": prompt, "group_id": f"{prompt}-{k}", "image_0": images[4 * k + i], "image_1": images[4 * k + j]}
        for prompt, images in by_prompt.items()
        for k in range(len(images) // 4)
        for i in range(4)
        for j in range(i + 1, 4)
    ]  # fmt: skip
    dataset = PreferenceDataset.create(folder, name="lists")
    dataset.add_pairs(iter(pairs))
    shown_0, shown_1, ids = measure_pairs(dataset)
    prefers_0, _ = VOTERS["majority"].vote(shown_0, shown_1, 0)
    dataset.append_votes(
        {"vote_id": i, "pair_id": i, "annotator_id": "majority", "source": "human", "choice": "0" if first else "1"}
        for i, first in zip(ids, prefers_0, strict=True)
    )
    return dataset


def make_crowd(folder: Path, source: PreferenceDataset, share: float = 0.3) -> tuple[PreferenceDataset, set[str]]:
    """The same pairs where a share of the votes is turned around, all by one annotator; also which."""
    rng = np.random.default_rng(0)
    dataset = PreferenceDataset.create(folder, name="crowd")
    dataset.add_pairs(row for batch in source.iter_pairs() for row in batch.to_pylist())
    votes = [row for row in source.votes().to_pylist() if row["annotator_id"] == "majority"]
    turned = {row["pair_id"] for row in votes if rng.random() < share}
    dataset.append_votes(
        {"vote_id": row["pair_id"], "pair_id": row["pair_id"], "annotator_id": "crowd", "source": "human",
         "choice": str(1 - int(row["choice"])) if row["pair_id"] in turned else row["choice"]}
        for row in votes
    )  # fmt: skip
    return dataset, turned


def make_world(folder: Path) -> tuple[PreferenceDataset, HeldOut]:
    return make_dataset(folder / "data", pairs=384, seed=0), HeldOut(make_dataset(folder / "held", pairs=192, seed=1))
