"""Pairs, voters and measurements of the emoji runs.

A pool of pictures, a few of every name in every style, is sampled once. The pairs of a seed are drawn from it, two
pictures of one name in two styles, so that a vote is about what taste can choose. A seed has pairs and votes of its own.
"""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from palate.addresses import numbers
from palate.backbones import Backbone, load_backbone
from palate.data.dataset import PreferenceDataset
from palate.data.images import encode_image
from palate.data.samples import Sampling
from palate.demos.pairs import vote_rows
from palate.files import atomic_path
from palate.sampling.samples import generate, initial_noise
from palate.training.draws import draws
from palate.world import EMOJI
from palate.world.emoji_measure import EmojiMeasurement, measure_emoji
from palate.world.emoji_pictures import GROUP_OF, GROUPS, STYLES, caption
from palate.world.emoji_voters import (
    EMOJI_VOTERS,
    MAJORITY,
    EmojiVoter,
    by_group,
    departures,
    true_emoji_utility,
    turned,
)

NAMES = tuple(name for names in GROUPS.values() for name in names[:8:2])  # four of each group
IN_POOL = 8  # pictures of each name in each style
PAIRS = 1024
SAMPLING = Sampling(steps=8, guidance=2.5, sampler="dpm++")
REPETITIONS = 3  # pictures per name by which a model is judged, in noise that no pair had
AT_ONCE = 64
FLIPS = 30  # per cent of the votes turned around, and of the pairs that the minority votes on

WRONG_IN = ("food", "places", "tools")
VOTERS = {
    "majority": EMOJI_VOTERS["majority"],
    "minority": EMOJI_VOTERS["minority"],
    "wrong-in-3": EmojiVoter("wrong-in-3", "judge", turned(by_group(MAJORITY), WRONG_IN), temperature=0.2),
    "own-errors": EmojiVoter("own-errors", "judge", by_group(MAJORITY) + departures("own-errors", 1.0), temperature=0.2),
}  # fmt: skip


def pool(folder: Path, backbone: Backbone) -> tuple[list[str], np.ndarray]:
    """Names [P] and pictures uint8 [P, H, W, 3] of the pool: names in order, for each the styles, for each IN_POOL."""
    items = [(name, style, k) for name in NAMES for style in STYLES for k in range(IN_POOL)]
    path = folder / "pool.npz"
    if not path.exists():
        made = []
        for start in range(0, len(items), AT_ONCE):
            part = items[start : start + AT_ONCE]
            noise = torch.stack([initial_noise(backbone, 1, caption(name, style), k) for name, style, k in part])
            asked = [caption(name, style) for name, style, _ in part]
            made.append(generate(backbone, backbone.network, asked, noise, SAMPLING))
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, pictures=np.concatenate(made))
    return [name for name, _, _ in items], np.load(path)["pictures"]


def pairs_of(seed: int, count: int) -> list[tuple[int, int]]:
    """Places in the pool of the two pictures of every pair: one name, two styles, no pair twice."""
    rng, found = np.random.default_rng([seed, 3]), []
    seen: set[tuple[int, int]] = set()
    while len(found) < count:
        name = len(found) % len(NAMES)
        styles = rng.choice(len(STYLES), 2, replace=False)
        first, second = (
            int((name * len(STYLES) + style) * IN_POOL + k)
            for style, k in zip(styles, rng.integers(IN_POOL, size=2), strict=True)
        )
        if (first, second) in seen or (second, first) in seen:
            continue
        seen.add((first, second))
        found.append((first, second))
    return found


def prepare(folder: Path, seed: int, count: int = PAIRS) -> Path:
    """The dataset of a seed, made where it is not there; returns where it is."""
    path = folder / "data" / f"seed-{seed}-pairs-{count}"
    if (path / "dataset.json").exists() and len(PreferenceDataset.open(path).votes(["vote_id"])):
        return path
    names, pictures = pool(folder, load_backbone(EMOJI))
    chosen, ids = pairs_of(seed, count), [f"{seed}-{i:05}" for i in range(count)]
    dataset = PreferenceDataset.open(path) if (path / "dataset.json").exists() else PreferenceDataset.create(path, name="emoji runs")  # fmt: skip
    dataset.add_pairs(
        (
            {"pair_id": pair_id, "prompt": names[first]}
            | {f"image_{side}": encode_image(Image.fromarray(pictures[k])) for side, k in ((0, first), (1, second))}
            for pair_id, (first, second) in zip(ids, chosen, strict=True)
        ),
        skip_known=True,
    )
    shown = measure_emoji(pictures, names)
    first, second = (taken(shown, [pair[side] for pair in chosen]) for side in (0, 1))
    cast = votes(first, second, ids, seed)
    dataset.append_votes(
        row
        for name, (source, prefers_0, probability) in cast.items()
        for row in vote_rows(name, source, ids, prefers_0, probability)
    )
    return path


def votes(
    first: EmojiMeasurement, second: EmojiMeasurement, ids: list[str], seed: int
) -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    """voter -> source, whether it prefers image 0 [N], its probability [N] (NaN for people)."""
    cast = {name: (voter.source, *voter.vote(first, second, seed)) for name, voter in VOTERS.items()}
    nobody, turned_around = np.full(len(ids), np.nan), numbers("flip", seed, ids) < FLIPS / 100
    cast["flipped"] = ("human", cast["majority"][1] ^ turned_around, nobody)
    cast["crowd"] = ("human", np.where(turned_around, cast["minority"][1], cast["majority"][1]), nobody)
    return cast


def taken(shown: EmojiMeasurement, places: list[int]) -> EmojiMeasurement:
    """The measurement of some of its pictures."""
    columns = {field.name: getattr(shown, field.name) for field in fields(shown) if field.name != "asked"}
    return replace(
        shown, asked=[shown.asked[i] for i in places], **{name: column[places] for name, column in columns.items()}
    )


def judged(backbone: Backbone, network: torch.nn.Module) -> tuple[dict, np.ndarray]:
    """What a model's pictures are worth, over REPETITIONS of every name: means, and their utility by group; the
    pictures."""
    prompts = [name for name in NAMES for _ in range(REPETITIONS)]
    noise = torch.stack([initial_noise(backbone, 0, name, i % REPETITIONS) for i, name in enumerate(prompts)])
    made = np.concatenate(
        [
            generate(backbone, network, prompts[start : start + AT_ONCE], noise[start : start + AT_ONCE], SAMPLING)
            for start in range(0, len(prompts), AT_ONCE)
        ]
    )
    shown = measure_emoji(made, prompts)
    utility, groups = true_emoji_utility(shown), np.array([GROUP_OF[name] for name in prompts])
    told = {
        "utility": float(utility.mean()), "right": float(shown.right.mean()), "recognised": float(shown.recognised.mean()),
        "style": [round(float(share), 4) for share in shown.style.mean(axis=0)],
        "groups": {group: round(float(utility[groups == group].mean()), 4) for group in GROUPS},
    }  # fmt: skip
    return told, made


class Drift:
    """How far a model moved from the base: the rise of its denoising error on the base's own pictures, and the mean
    square of the change of its predictions there, which is a relative entropy but for the noise level's factor."""

    def __init__(self, backbone: Backbone, pictures: np.ndarray):
        prompts = [name for name in NAMES for _ in range(REPETITIONS)]
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        self.backbone = backbone
        with torch.no_grad():
            latents = torch.cat([backbone.encode_images(part) for part in images.split(AT_ONCE)])
            self.conditioning = backbone.encode_prompts(prompts)
        drawn = draws(0, [f"drift-{i}" for i in range(len(prompts))], [0] * len(prompts), tuple(latents.shape[1:]), backbone.num_timesteps)  # fmt: skip
        self.timestep = backbone.timestep(drawn.timestep)
        self.noisy = backbone.add_noise(latents, drawn.noise, self.timestep)
        self.target = backbone.regression_target(latents, drawn.noise, self.timestep)
        self.base = self._predict(backbone.network)

    def of(self, network: torch.nn.Module) -> dict[str, float]:
        prediction = self._predict(network)
        rise = (prediction - self.target).square().mean() - (self.base - self.target).square().mean()
        return {"rise": float(rise), "shift": float((prediction - self.base).square().mean())}

    @torch.no_grad()
    def _predict(self, network: torch.nn.Module) -> torch.Tensor:
        return self.backbone.predict(network, self.noisy, self.timestep, self.conditioning)
