"""A preference dataset of the emoji world: pairs of samples from several generators, and the votes of simulated voters.

As in real collections the two pictures of a pair come from different models and settings, and the columns generator_0
and generator_1 say which. A prompt is a name without a style; a generator may ask for a style all the same.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from palate.addresses import address
from palate.backbones import Backbone, load_backbone
from palate.data.dataset import PreferenceDataset
from palate.data.images import encode_image
from palate.data.importers.common import ImportReport
from palate.data.samples import Sampling
from palate.demos.pairs import pictures_of_pairs, vote_rows
from palate.errors import PalateError
from palate.progress import progress_bar
from palate.sampling.samples import generate
from palate.world import EMOJI
from palate.world.emoji_measure import EmojiMeasurement, measure_emoji
from palate.world.emoji_pictures import PROMPTS, STYLES, caption
from palate.world.emoji_voters import EMOJI_VOTERS

SAMPLING = Sampling(steps=10, guidance=2.5, sampler="dpm++")  # how the world's pictures are made, unless said otherwise
PAIRS_AT_ONCE = 128


@dataclass(frozen=True)
class Generator:
    """One way in which pictures of a pair are made."""

    name: str
    sampling: Sampling
    styled: bool = False  # the sampling prompt also names a style, drawn at random; the pair's prompt does not
    model: str = ""  # another pipeline than the pairs' own, an early checkpoint of the pretraining for one


GENERATORS = (
    Generator("base", SAMPLING),
    Generator("styled", SAMPLING, styled=True),
    Generator("hasty", Sampling(steps=4, guidance=2.5, sampler="dpm++")),
    Generator("loose", Sampling(steps=10, guidance=1.0, sampler="dpm++")),
    Generator("strict", Sampling(steps=10, guidance=5.0, sampler="dpm++")),
)


def make_emoji_dataset(
    folder: Path,
    pairs: int = 1536,
    seed: int = 0,
    model: str | Path = EMOJI,
    voters: tuple[str, ...] = tuple(EMOJI_VOTERS),
    name: str = "emoji world",
    generators: tuple[Generator, ...] = GENERATORS,
) -> PreferenceDataset:
    """Sample `pairs` pairs and let every voter vote on all of them. Goes on where it was interrupted."""
    dataset = PreferenceDataset.open(folder) if (folder / "dataset.json").exists() else PreferenceDataset.create(
        folder, name=name, provenance={"model": str(model), "seed": seed}
    )  # fmt: skip
    there = set(dataset.pairs(columns=["pair_id"])["pair_id"].to_pylist())
    missing = [i for i in range(pairs) if _pair_id(seed, i) not in there]
    if missing:
        dataset.add_pairs(_sampled_pairs(str(model), missing, seed, generators))
    cast = Counter(dataset.votes()["annotator_id"].to_pylist())
    if any(cast[name] < len(dataset) for name in voters):
        dataset.append_votes(_votes(dataset, voters, seed))
    return dataset


def import_emoji(
    folder: Path, pairs: int = 384, voters: tuple[str, ...] = (), name: str | None = None, seed: int = 0
) -> ImportReport:
    """`make_emoji_dataset` as an import. Raises PalateError for a voter who is none, or less than one pair."""
    for one in voters:
        if one not in EMOJI_VOTERS:
            raise PalateError(f"--voters: {one!r} is none of {', '.join(EMOJI_VOTERS)}.")
    if pairs < 1:
        raise PalateError(f"--pairs {pairs}: give the number of pairs to make, at least 1.")
    there = PreferenceDataset.open(folder) if (folder / "dataset.json").exists() else None
    before = (len(there), len(there.votes(["vote_id"]))) if there else (0, 0)
    dataset = make_emoji_dataset(folder, pairs, seed, voters=voters, name=name or folder.name)
    votes = dataset.votes(["pair_id"])
    added, cast = len(dataset) - before[0], len(votes) - before[1]
    without = len(set(dataset.pair_ids()) - set(votes["pair_id"].to_pylist()))
    return ImportReport(
        read=pairs, pairs_added=added, pairs_known=pairs - added, without_vote=without,
        votes_added=cast, votes_known=len(dataset) * len(voters) - cast,
    )  # fmt: skip


@dataclass(frozen=True)
class _Side:
    """One picture to make."""

    prompt: str  # what the generator is asked for
    noise: torch.Tensor  # [C, h, w]
    made_by: dict[str, str | float]


def _sampled_pairs(
    model: str, missing: list[int], seed: int, generators: tuple[Generator, ...]
) -> Iterator[dict[str, object]]:
    backbones = {name: load_backbone(name) for name in {generator.model or model for generator in generators}}
    with progress_bar("sampling pairs", len(missing)) as advance:
        for start in range(0, len(missing), PAIRS_AT_ONCE):
            index = missing[start : start + PAIRS_AT_ONCE]
            together: dict[Generator, list[tuple[int, int]]] = defaultdict(list)
            for i in index:
                for side in (0, 1):
                    together[generators[address("generator", seed, i, side) % len(generators)]].append((i, side))
            made: dict[tuple[int, int], tuple[np.ndarray, dict[str, str | float]]] = {}
            for generator, places in together.items():
                name = generator.model or model
                backbone = backbones[name]
                sides = [_side(backbone, name, generator, seed, i, side) for i, side in places]
                noise = torch.stack([side.noise for side in sides])
                pictures = generate(
                    backbone, backbone.network, [side.prompt for side in sides], noise, generator.sampling
                )
                made |= {place: (pictures[k], sides[k].made_by) for k, place in enumerate(places)}
            for i in index:
                (first, by_0), (second, by_1) = made[i, 0], made[i, 1]
                yield {
                    "pair_id": _pair_id(seed, i), "prompt": _name(seed, i),
                    "image_0": encode_image(Image.fromarray(first)), "image_1": encode_image(Image.fromarray(second)),
                    "generator_0": by_0, "generator_1": by_1,
                }  # fmt: skip
            advance(len(index))


def _side(backbone: Backbone, model: str, generator: Generator, seed: int, pair: int, side: int) -> _Side:
    random = torch.Generator().manual_seed(address("pair", seed, pair, side))
    noise = torch.randn(backbone.latent_shape(backbone.resolution), generator=random)
    style = STYLES[address("style", seed, pair, side) % len(STYLES)] if generator.styled else None
    prompt, how = caption(_name(seed, pair), style), generator.sampling
    made_by: dict[str, str | float] = {
        "name": generator.name, "model": model, "sampler": how.sampler, "steps": how.steps or 0,
        "guidance": how.guidance or 0.0, "prompt": prompt, "seed": f"{seed}/{pair}/{side}",
    }  # fmt: skip
    return _Side(prompt, noise, made_by)


def _name(seed: int, pair: int) -> str:
    return PROMPTS[address("prompt", seed, pair) % len(PROMPTS)]


def _votes(dataset: PreferenceDataset, voters: tuple[str, ...], seed: int) -> Iterator[dict[str, object]]:
    shown_0, shown_1, pair_ids = measure_emoji_pairs(dataset)
    for name in voters:
        voter = EMOJI_VOTERS[name]
        prefers_0, probability = voter.vote(shown_0, shown_1, seed)
        yield from vote_rows(name, voter.source, pair_ids, prefers_0, probability)


def measure_emoji_pairs(dataset: PreferenceDataset) -> tuple[EmojiMeasurement, EmojiMeasurement, list[str]]:
    """What both images of every pair show, and the pairs' ids, in the order of the dataset."""
    images_0, images_1, prompts, pair_ids = pictures_of_pairs(dataset, "emoji")
    return measure_emoji(images_0, prompts), measure_emoji(images_1, prompts), pair_ids


def _pair_id(seed: int, index: int) -> str:
    return f"emoji-{seed}-{index:05}"
