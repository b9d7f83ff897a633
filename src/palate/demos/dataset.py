"""A preference dataset of the small world: pairs of samples of a model, and the votes of simulated people and
judges."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from palate.addresses import address, normal
from palate.data.dataset import PreferenceDataset
from palate.data.images import encode_image
from palate.data.importers.common import ImportReport
from palate.data.samples import Sampling
from palate.demos.pairs import pictures_of_pairs, vote_rows
from palate.errors import PalateError, did_you_mean
from palate.progress import progress_bar
from palate.sampling.samples import generate, load_model
from palate.world.measure import Measurement, measure
from palate.world.pictures import PROMPTS
from palate.world.voters import VOTERS

SAMPLING = Sampling(steps=6, guidance=2.0, sampler="dpm++")  # how the world's pictures are sampled by default
PAIRS_AT_ONCE = 32


def make_dataset(
    folder: Path,
    pairs: int = 1536,
    seed: int = 0,
    model: str = "world",
    voters: tuple[str, ...] = tuple(VOTERS),
    name: str = "small world",
) -> PreferenceDataset:
    """Sample `pairs` pairs from `model` and let every voter vote on all of them. Resumes after an interruption."""
    dataset = PreferenceDataset.open(folder) if (folder / "dataset.json").exists() else PreferenceDataset.create(
        folder, name=name, provenance={"model": str(model), "seed": seed}
    )  # fmt: skip
    there = set(dataset.pairs(columns=["pair_id"])["pair_id"].to_pylist())
    missing = [i for i in range(pairs) if _pair_id(seed, i) not in there]
    if missing:
        dataset.add_pairs(_sampled_pairs(model, missing, seed))
    cast = Counter(dataset.votes()["annotator_id"].to_pylist())
    if any(cast[name] < len(dataset) for name in voters):
        dataset.append_votes(_votes(dataset, voters, seed))
    return dataset


def import_world(
    folder: Path, pairs: int = 384, voters: tuple[str, ...] = (), name: str | None = None, seed: int = 0
) -> ImportReport:
    """`make_dataset` as an import: pairs of the small world, with votes of the simulated `voters` only.

    Raises PalateError for an unknown voter, and for less than one pair.
    """
    for one in voters:
        if one not in VOTERS:
            raise PalateError(f"--voters: {one!r} is none of {', '.join(VOTERS)}{did_you_mean(one, VOTERS)}")
    if pairs < 1:
        raise PalateError(f"--pairs {pairs}: give the number of pairs to make, at least 1.")
    there = PreferenceDataset.open(folder) if (folder / "dataset.json").exists() else None
    before = (len(there), len(there.votes(["vote_id"]))) if there else (0, 0)
    dataset = make_dataset(folder, pairs, seed, voters=voters, name=name or folder.name)
    votes = dataset.votes(["pair_id"])
    added, cast = len(dataset) - before[0], len(votes) - before[1]
    without = len(set(dataset.pair_ids()) - set(votes["pair_id"].to_pylist()))
    return ImportReport(
        read=pairs, pairs_added=added, pairs_known=pairs - added, without_vote=without,
        votes_added=cast, votes_known=len(dataset) * len(voters) - cast,
    )  # fmt: skip


def _sampled_pairs(model: str, missing: list[int], seed: int) -> Iterator[dict[str, Any]]:
    backbone, network = load_model(model)
    shape = backbone.latent_shape(backbone.resolution)
    with progress_bar("sampling pairs", len(missing)) as advance:
        for start in range(0, len(missing), PAIRS_AT_ONCE):
            index = missing[start : start + PAIRS_AT_ONCE]
            prompts = [PROMPTS[address("prompt", seed, i) % len(PROMPTS)] for i in index]
            noise = torch.stack([normal(shape, "pair", seed, i, side) for i in index for side in (0, 1)])
            pictures = generate(backbone, network, [prompt for prompt in prompts for _ in (0, 1)], noise, SAMPLING)
            for k, i in enumerate(index):
                made_by = {
                    "model": str(model),
                    "sampler": SAMPLING.sampler,
                    "steps": SAMPLING.steps,
                    "guidance": SAMPLING.guidance,
                }
                images = [encode_image(Image.fromarray(picture)) for picture in pictures[2 * k : 2 * k + 2]]
                yield {
                    "pair_id": _pair_id(seed, i),
                    "prompt": prompts[k],
                    "image_0": images[0],
                    "image_1": images[1],
                    "generator_0": made_by | {"seed": f"{seed}/{i}/0"},
                    "generator_1": made_by | {"seed": f"{seed}/{i}/1"},
                }
            advance(len(index))


def _votes(dataset: PreferenceDataset, voters: tuple[str, ...], seed: int) -> Iterator[dict[str, Any]]:
    shown_0, shown_1, pair_ids = measure_pairs(dataset)
    for name in voters:
        voter = VOTERS[name]
        prefers_0, probability = voter.vote(shown_0, shown_1, seed)
        yield from vote_rows(name, voter.source, pair_ids, prefers_0, probability)


def measure_pairs(dataset: PreferenceDataset) -> tuple[Measurement, Measurement, list[str]]:
    """Measurements of both images of every pair, and the pairs' ids, in the dataset's order."""
    images_0, images_1, prompts, pair_ids = pictures_of_pairs(dataset, "small")
    return measure(images_0, prompts), measure(images_1, prompts), pair_ids


def _pair_id(seed: int, index: int) -> str:
    return f"world-{seed}-{index:05}"
