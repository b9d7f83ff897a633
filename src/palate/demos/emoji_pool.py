"""Pairs of the emoji world that share their pictures: a few of each name in each style, sampled once.

The two pictures of a pair show one name in two styles, so that a vote is about what taste can choose, and a thousand
pairs cost no more pictures than a few hundred.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from palate.addresses import address
from palate.arrays import Pixels
from palate.backbones import load_backbone
from palate.data.dataset import PreferenceDataset
from palate.data.images import encode_image
from palate.data.samples import Sampling
from palate.demos.pairs import vote_rows
from palate.files import atomic_path
from palate.progress import progress_bar
from palate.sampling.samples import generate
from palate.world import EMOJI
from palate.world.emoji_measure import EmojiMeasurement, measure_emoji
from palate.world.emoji_pictures import STYLES, caption
from palate.world.emoji_voters import EMOJI_VOTERS

AT_ONCE = 64


def make_pool_dataset(
    folder: Path,
    names: tuple[str, ...],
    each: int,
    pairs: int,
    seed: int,
    voters: tuple[str, ...],
    sampling: Sampling,
) -> PreferenceDataset:
    """`pairs` pairs from a pool of `each` pictures of every name in every style, with votes of all `voters` on all of
    them. Goes on where it was interrupted."""
    dataset = PreferenceDataset.open(folder) if (folder / "dataset.json").exists() else PreferenceDataset.create(
        folder, name="emoji world", provenance={"model": EMOJI, "seed": seed}
    )  # fmt: skip
    cast = Counter(dataset.votes(["annotator_id"])["annotator_id"].to_pylist())
    missing = tuple(name for name in voters if cast[name] < pairs)
    if len(dataset) == pairs and not missing:
        return dataset
    items = [(name, style, k) for name in names for style in STYLES for k in range(each)]
    pictures = _pool(folder.with_name(f"{folder.name}-pool.npz"), items, seed, sampling)
    drawn = draw_pairs(len(names), each, pairs, seed)
    ids = [f"pool-{seed}-{i:05}" for i in range(pairs)]
    asked = [name for name, _, _ in items]
    dataset.add_pairs(_pairs(ids, drawn, items, pictures, sampling), skip_known=True)
    shown = measure_emoji(pictures, asked)
    shown_0, shown_1 = (taken(shown, [pair[side] for pair in drawn]) for side in (0, 1))
    dataset.append_votes(
        row
        for name in missing
        for row in vote_rows(name, EMOJI_VOTERS[name].source, ids, *EMOJI_VOTERS[name].vote(shown_0, shown_1, seed))
    )
    return PreferenceDataset.open(folder)


def draw_pairs(names: int, each: int, pairs: int, seed: int) -> list[tuple[int, int]]:
    """Places in the pool of both pictures of every pair: names in turn, two styles, no two pairs alike while there are
    others."""
    rng = np.random.default_rng([seed, 3])
    found: list[tuple[int, int]] = []
    tries, seen = 0, set()
    while len(found) < pairs:
        style_0, style_1 = rng.choice(len(STYLES), 2, replace=False)
        places = [int((len(found) % names * len(STYLES) + s) * each + rng.integers(each)) for s in (style_0, style_1)]
        tries += 1
        if frozenset(places) not in seen or tries > 20 * pairs:
            seen.add(frozenset(places))
            found.append((places[0], places[1]))
    return found


def taken(shown: EmojiMeasurement, places: list[int]) -> EmojiMeasurement:
    """The measurement of some of its pictures."""
    columns = {field.name: getattr(shown, field.name)[places] for field in fields(shown) if field.name != "asked"}
    return replace(shown, asked=[shown.asked[i] for i in places], **columns)


def _pool(path: Path, items: list[tuple[str, str, int]], seed: int, sampling: Sampling) -> Pixels:
    """The pool's pictures uint8 [P, H, W, 3], from the file or sampled now."""
    if path.exists():
        with np.load(path) as stored:
            if len(stored["pictures"]) == len(items):
                return np.asarray(stored["pictures"])
    backbone = load_backbone(EMOJI)
    made = []
    with progress_bar("sampling pictures", len(items)) as advance:
        for start in range(0, len(items), AT_ONCE):
            part = items[start : start + AT_ONCE]
            asked = [caption(name, style) for name, style, _ in part]
            noise = torch.stack([
                torch.randn(
                    backbone.latent_shape(backbone.resolution),
                    generator=torch.Generator().manual_seed(address("pool", seed, prompt, k)),
                )
                for prompt, (_, _, k) in zip(asked, part, strict=True)
            ])  # fmt: skip
            made.append(generate(backbone, backbone.network, asked, noise, sampling))
            advance(len(part))
    pictures = np.concatenate(made)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, pictures=pictures)
    return pictures


def _pairs(
    ids: list[str],
    drawn: list[tuple[int, int]],
    items: list[tuple[str, str, int]],
    pictures: Pixels,
    sampling: Sampling,
) -> Iterator[dict[str, object]]:
    encoded = [encode_image(Image.fromarray(picture)) for picture in pictures]
    for pair_id, pair in zip(ids, drawn, strict=True):
        made_by = [
            {"model": EMOJI, "sampler": sampling.sampler, "steps": sampling.steps, "guidance": sampling.guidance,
             "prompt": caption(*items[place][:2]), "seed": f"{items[place][2]}"}
            for place in pair
        ]  # fmt: skip
        yield {
            "pair_id": pair_id, "prompt": items[pair[0]][0], "image_0": encoded[pair[0]], "image_1": encoded[pair[1]],
            "generator_0": made_by[0], "generator_1": made_by[1],
        }  # fmt: skip
