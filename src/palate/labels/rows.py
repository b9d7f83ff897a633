"""The rows that a run trains on: one, two or more images of one prompt, each row with a target and a weight.

Pairs with votes come from votes.py; the sources that need other rows are here.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.arrays import Bools, Floats, Ints, Objects
from palate.data.dataset import PreferenceDataset
from palate.data.views import liked_images, ranked_lists, single_images
from palate.encoding.encoded import EncodedPairs
from palate.errors import PalateError
from palate.labels.people import VotesOfPeople

Image = tuple[str, int]  # pair_id and side
PART = 65_536  # ids that are joined at a time


class BothImages(Sequence[tuple[Image, ...]]):
    """The two images of each of N pairs, made on demand: stored as tuples, a million pairs would take a quarter of a
    GB."""

    def __init__(self, pair_ids: Objects):
        self.pair_ids = pair_ids  # [N]

    def __len__(self) -> int:
        return len(self.pair_ids)

    @overload
    def __getitem__(self, row: int) -> tuple[Image, ...]: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[tuple[Image, ...]]: ...
    def __getitem__(self, row: int | slice) -> tuple[Image, ...] | Sequence[tuple[Image, ...]]:
        if isinstance(row, slice):
            return BothImages(self.pair_ids[row])
        pair_id = self.pair_ids[row]
        return (pair_id, 0), (pair_id, 1)


@dataclass
class Rows:
    """Arrays over the N rows of a run."""

    id: Objects  # the address of the row's draws; a pair's is its pair_id
    images: Sequence[tuple[Image, ...]]
    prompt: list[str]
    target: Floats
    weight: Floats  # mean 1 over the rows
    labelled: Bools  # bool: a human voted
    account: dict[str, Any]  # counts and figures for the report
    labelled_per_batch: int | None = None
    human: Floats | None = None  # mean human vote, NaN without; with propensity what the model's own votes need
    propensity: Floats | None = None
    pseudo: Floats | None = None  # the target before any correction, at which a ramp begins
    judge_margin: Floats | None = None  # the judge's logit for image 0
    uncertainty: Floats | None = None  # how far several judges disagree
    confidence: Floats | None = None  # of single images: distance of the judge's score from its median, in deviations
    rank: Floats | None = None  # [N, K] of a list's images, 0 the best
    present: Bools | None = None  # [N, K] bool
    people: VotesOfPeople | None = None  # who gave which vote, where it matters
    held_out: "Rows | None" = None  # pairs with human votes to validate on
    votes_used: frozenset[str] = frozenset()  # pair_ids of all human votes that have a part in the run

    def __len__(self) -> int:
        return len(self.id)

    def take(self, rows: Bools | Ints) -> "Rows":
        """The rows of a mask or an index, with unchanged weights."""
        index = np.arange(len(self))[rows]
        changed: dict[str, Any] = {
            f.name: _taken(getattr(self, f.name), index)
            for f in fields(self)
            if f.name not in ("account", "labelled_per_batch", "held_out", "votes_used", "people")
            and getattr(self, f.name) is not None
        }
        if self.people is not None:
            of_people = replace(self.people, voter=self.people.voter[index], vote=self.people.vote[index])
            changed["people"] = of_people
        return replace(self, **changed)

    def fingerprint(self) -> str:
        """A hash of the rows and the votes of people on them: another hash means other steps."""
        told = hashlib.blake2b(digest_size=16)
        for part in filter(None, (self, self.held_out)):
            for start in range(0, len(part), PART):
                told.update("\n".join(map(str, part.id[start : start + PART])).encode())
            if part.human is not None:
                told.update(np.nan_to_num(part.human, nan=-1.0).tobytes())
        return told.hexdigest()

    def require(self, encoded: EncodedPairs) -> "Rows":
        """The rows whose images could all be encoded. Raises PalateError when none is left."""
        there = self._encoded_in(encoded)
        if not there.any():
            raise PalateError(
                "none of the pairs with votes has images that can be read; `palate info` counts what is lacking. Put"
                " the files where the pairs name them, or import the pairs with their pictures."
            )
        held_out = self.held_out.require(encoded) if self.held_out is not None else None
        if there.all():
            return replace(self, held_out=held_out)
        self.account["pairs without readable images"] = int((~there).sum())
        kept = self.take(there)
        return replace(kept, weight=kept.weight / kept.weight.mean(), held_out=held_out)

    def _encoded_in(self, encoded: EncodedPairs) -> Bools:
        """Whether all images of a row are encoded, [N] bool."""
        if isinstance(self.images, BothImages):
            return encoded.holds(self.images.pair_ids.tolist())
        counts = np.array([len(images) for images in self.images], dtype=int)
        held = encoded.holds([pair_id for images in self.images for pair_id, _ in images])
        lacking = np.bincount(np.repeat(np.arange(len(counts)), counts), weights=~held, minlength=len(counts))
        return np.asarray(lacking == 0)


def _taken(values: Any, index: Ints) -> Any:
    """The entries of an array, a list or the images of pairs, in the same type."""
    if isinstance(values, BothImages):
        return BothImages(values.pair_ids[index])
    return [values[i] for i in index] if isinstance(values, list) else values[index]


def pairs_of_two(dataset: PreferenceDataset) -> pa.Table:
    """The pairs table without single images: pair_id, prompt and propensity."""
    pairs, singles = dataset.pairs(columns=["pair_id", "prompt", "propensity"]), single_images(dataset)
    if not singles:
        return pairs
    return pairs.filter(pc.invert(pc.is_in(pairs["pair_id"], pa.array(sorted(singles), pa.string()))))


def texts(column: pa.ChunkedArray) -> list[str]:
    """A column of strings [N] as a list in which equal strings are one object: prompts repeat often."""
    coded = column.dictionary_encode().combine_chunks()
    values = coded.dictionary.to_pylist()
    return [values[code] for code in coded.indices.to_pylist()]


def rows_of_images(dataset: PreferenceDataset, pairs: pa.Table, human: Floats) -> Rows:
    """Single images with the share of votes that liked them (Diffusion-KTO)."""
    liked, counts = liked_images(dataset, human)
    if not len(liked.image):
        raise PalateError(f"{dataset.path}: no image was liked or disliked by a human vote. Add votes first.")
    return Rows(
        id=_ids(liked.image),
        images=[(image,) for image in liked.image],
        prompt=list(liked.prompt),
        target=np.asarray(liked.liked, float),
        weight=np.ones(len(liked.image)),
        labelled=np.ones(len(liked.image), bool),
        account=counts,
    )


def rows_of_preferred(dataset: PreferenceDataset, pairs: pa.Table, human: Floats) -> Rows:
    """The preferred images, each a row of one image to compare with another one (SUDO, SPIN); without any vote, all
    images."""
    if np.isnan(human).all():
        rows = rows_of_every_image(dataset, pairs)
        rows.account["images taken as preferred, for want of votes"] = len(rows)
        return rows
    rows = rows_of_images(dataset, pairs, human)
    preferred = rows.take(rows.target > 0.5)
    return replace(
        preferred, target=np.ones(len(preferred)), account=rows.account | {"preferred images": len(preferred)}
    )


def rows_of_every_image(dataset: PreferenceDataset, pairs: pa.Table) -> Rows:
    """Every image with its prompt; no votes are needed (Self-NPO)."""
    singles = single_images(dataset)
    images, prompts = [], []
    for pair_id, prompt in zip(pairs["pair_id"].to_pylist(), pairs["prompt"].to_pylist(), strict=True):
        sides = (0,) if pair_id in singles else (0, 1)
        images += [((pair_id, side),) for side in sides]
        prompts += [prompt] * len(sides)
    n = len(images)
    return Rows(
        id=_ids([image for (image,) in images]), images=images, prompt=prompts, target=np.ones(n), weight=np.ones(n),
        labelled=np.ones(n, bool), account={"images": n},
    )  # fmt: skip


def rows_of_prompts(pairs: pa.Table) -> Rows:
    """Every prompt once, without an image, for a model that makes its own pairs (SPO, TailorPO)."""
    prompts = sorted(set(pairs["prompt"].to_pylist()))
    n = len(prompts)
    return Rows(
        id=np.array(prompts, dtype=object),
        images=[()] * n,
        prompt=prompts,
        target=np.ones(n),
        weight=np.ones(n),
        labelled=np.ones(n, bool),
        account={"prompts": n},
    )


def rows_of_lists(dataset: PreferenceDataset, pairs: pa.Table, human: Floats, length: int) -> Rows:
    """Ranked lists of at most `length` images, shorter ones padded with their first image (Diffusion-LPO)."""
    lists, counts = ranked_lists(dataset, human, length)
    if not lists.images:
        raise PalateError(
            f"{dataset.path}: no list of images with a decided human vote. Add votes, or use source: pairs."
        )
    width = max(len(images) for images in lists.images)
    rank, present = np.zeros((len(lists.images), width)), np.zeros((len(lists.images), width), bool)
    images: list[tuple[Image, ...]] = []
    for i, (members, ranks) in enumerate(zip(lists.images, lists.rank, strict=True)):
        rank[i, : len(ranks)], present[i, : len(ranks)] = ranks, True
        images.append(tuple(members) + (members[0],) * (width - len(members)))
    n = len(images)
    return Rows(
        id=np.array(list(lists.list_id), dtype=object),
        images=images,
        prompt=list(lists.prompt),
        target=np.ones(n),
        weight=np.ones(n),
        labelled=np.ones(n, bool),
        account=counts,
        rank=rank,
        present=present,
    )


def _ids(images: Sequence[Image]) -> Objects:
    return np.array([f"{pair_id}/{side}" for pair_id, side in images], dtype=object)
