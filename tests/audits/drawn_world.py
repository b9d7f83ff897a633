"""Datasets of a small world drawn by code, with simulated voters: what an audit should find is known."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from palate.data.dataset import PreferenceDataset
from palate.data.images import encode_image
from palate.judges.statistics import statistics_of_pairs
from palate.world.measure import Measurement
from palate.world.pictures import COLOURS, SIZE, Scene, draw, random_scene
from palate.world.voters import VOTERS

PAIRS, LABELLED, VOTED_AGAIN = 400, 160, 40


def draw_pairs(pairs: int, seed: int = 0) -> tuple[list[str], list[list[Scene]]]:
    """Prompts, and the scenes of both sides: one caption, two scenes, one in ten in a wrong colour."""
    rng = np.random.default_rng(seed)
    prompts, sides = [], [[], []]
    for _ in range(pairs):
        first = random_scene(rng)
        prompts.append(first.caption)
        for side in sides:
            other = random_scene(rng)
            colour = first.colour if rng.random() < 0.9 else str(rng.choice(list(COLOURS)))
            side.append(Scene(first.shape, colour, other.x, other.y, other.radius, other.angle, other.brightness))
    return prompts, sides


def show(prompts: list[str], scenes: list[Scene]) -> Measurement:
    """What the scenes show, without looking at the pictures."""
    off_centre = np.array([np.hypot(scene.x - SIZE / 2, scene.y - SIZE / 2) / (SIZE / 2) for scene in scenes])
    return Measurement(
        colour=np.array([scene.colour for scene in scenes]),
        colour_right=np.array([scene.caption == prompt for scene, prompt in zip(scenes, prompts, strict=True)]),
        iou=np.ones(len(scenes)), centring=np.maximum(0, 1 - off_centre),
        size=np.array([scene.radius for scene in scenes]) / (SIZE / 2), brightness=np.array([scene.brightness for scene in scenes]),
    )  # fmt: skip


def write_pairs(folder: Path, prompts: list[str], sides: list[list[Scene]]) -> PreferenceDataset:
    """The pairs without a vote, their picture statistics in the cache."""
    dataset = PreferenceDataset.create(folder, name="drawn world")
    images = [
        [encode_image(Image.fromarray((draw(scene) * 255).astype(np.uint8))) for scene in scenes] for scenes in sides
    ]
    dataset.add_pairs(
        {"pair_id": f"p{i:04}", "prompt": prompt, "image_0": images[0][i], "image_1": images[1][i]}
        for i, prompt in enumerate(prompts)
    )
    statistics_of_pairs(dataset)
    return dataset


def with_votes(unvoted: PreferenceDataset, folder: Path, votes: list[dict]) -> PreferenceDataset:
    """A copy of the pairs with these votes."""
    shutil.copytree(unvoted.path, folder)
    dataset = PreferenceDataset.open(folder)
    dataset.append_votes(votes)
    return dataset


def world_votes(
    name: str, shown: tuple[Measurement, Measurement], pairs: np.ndarray, *, alias: str | None = None, seed: int = 0,
    flips: np.ndarray | None = None, again: str = "",
) -> list[dict]:  # fmt: skip
    """Votes of a voter of the world on some pairs; `flips` [N] bool are turned round, `again` marks a repeat."""
    voter = VOTERS[name]
    prefers_0, probability = voter.vote(*shown, seed)
    order = np.random.default_rng(seed + 100).integers(0, 2, len(prefers_0))
    if flips is not None:
        prefers_0 = prefers_0 ^ flips
    return [
        {
            "vote_id": f"{alias or name}/{i}{again}", "pair_id": f"p{i:04}", "annotator_id": alias or name, "source": voter.source,
            "choice": "0" if prefers_0[i] else "1", "order_shown": ("01", "10")[order[i]] if voter.source == "human" else None,
            "probability": None if np.isnan(probability[i]) else float(probability[i]),
        }
        for i in pairs
    ]  # fmt: skip
