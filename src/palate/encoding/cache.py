"""Pairs encoded once: latents and conditioning on disk, so that training never loads an autoencoder or a text encoder.

A single image is encoded once too; its pair of latents has zeros in place of the second image, and is never handed out.

A cache is a folder of shards under the dataset, or at a URL, named by a hash of everything its content depends on. Each
shard is complete or absent; encoding resumes where it was interrupted, and pairs that are added to the dataset later
are added here. Pairs are always encoded in the same batches, interrupted or not, so the tensors are the same to the
last bit; and a shard is named by its content, so processes that encode at the same time write the same files and never
overwrite each other's.
"""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file

from palate.arrays import Bools
from palate.backbones import Backbone
from palate.backbones.conditioning import Conditioning, concatenate
from palate.backbones.folders import cumulative_fingerprints
from palate.data.dataset import PreferenceDataset
from palate.data.images import decode_image
from palate.data.schema import PAIRS as PAIRS_SCHEMA
from palate.data.shards import open_shard, shard_paths
from palate.encoding.encoded import IMAGE, NAMES, PAIRS, PROMPTS, EncodedPairs
from palate.encoding.storage import Storage
from palate.errors import PalateError
from palate.files import read_object, short_hash
from palate.progress import progress_bar

__all__ = ["EncodedPairs", "encode_pairs", "planned_cache", "prepare_image"]

SHARD = 512  # pairs per shard
DECODER = "sRGB on white"  # an older decoder dropped alpha and colour profiles, so its caches hold other pictures
IMAGES_AT_ONCE = 16  # of 512 pixels along each side; fewer larger ones, for the same memory
Settings = dict[str, Any]  # the settings that a cache was made with, as in its settings.json
Row = dict[str, Any]  # of the pairs

COLUMNS = ["pair_id", "prompt", "image_0", "image_1"]


def encode_pairs(
    dataset: PreferenceDataset,
    backbone: Backbone,
    resolution: int | None = None,
    dtype: torch.dtype = torch.float16,
    place: str | Path | None = None,
) -> EncodedPairs:
    """The cache of this dataset for this model, made or completed first where needed.

    Images are resized on their short side and cropped in the middle to `resolution` pixels. Pairs whose images are
    missing or do not decode are counted and left out; PalateError when none is left, or when the VAE cannot take the
    resolution. `place` is a folder or URL that holds caches (None: the dataset's folder `cache`) or one cache itself:
    then PalateError when that cache was made by another model or with other settings.
    """
    resolution = resolution or backbone.resolution
    storage, settings, other = planned_cache(dataset, backbone, resolution, dtype, place)
    if other:
        print(f"encode: {other}")
    if not _settings(storage):
        storage.put("settings.json", lambda path: path.write_text(json.dumps(settings, indent=1), encoding="utf-8"))
    encoded = EncodedPairs(storage)
    for name in encoded.damaged:
        storage.remove(name)
    if _encode_missing(dataset, backbone, encoded, resolution, dtype):
        encoded = EncodedPairs(storage)
    if not len(encoded):
        raise PalateError(
            f"{dataset.path}: no pair has images that can be read. `palate info {dataset.path}` says what is there."
        )
    encoded.write_index()
    return encoded


def encode_more_prompts(
    encoded: EncodedPairs, backbone: Backbone, prompts: list[str], dtype: torch.dtype = torch.float16
) -> EncodedPairs:
    """The cache with these prompts, too, which no pair of the dataset has."""
    new = [text for text, known in zip(prompts, encoded.holds_prompts(prompts), strict=True) if not known]
    if not new:
        return encoded
    _write_prompts(encoded.storage, 0, new, backbone, dtype)
    again = EncodedPairs(encoded.storage)
    again.write_index()
    return again


def planned_cache(
    dataset: PreferenceDataset,
    backbone: Backbone,
    resolution: int | None = None,
    dtype: torch.dtype = torch.float16,
    place: str | Path | None = None,
) -> tuple[Storage, Settings, str]:
    """Where the cache of `encode_pairs` is or will be, its settings, and why another cache found there does not fit
    (empty where the right one, or none, is there). Writes nothing; raises what `encode_pairs` raises before it encodes.
    """
    resolution = resolution or backbone.resolution
    if resolution % backbone.vae_factor:
        raise PalateError(
            f"resolution {resolution}: the autoencoder works in blocks of {backbone.vae_factor} pixels; use a multiple"
            " of it."
        )
    prints = cumulative_fingerprints(backbone.folder, backbone.encoders)
    settings = {"encoders": prints[-1], "resolution": resolution, "crop": "centre", "dtype": str(dtype)}
    settings["decoder"] = DECODER
    settings |= _told(backbone, resolution)
    key = short_hash(json.dumps(settings, sort_keys=True))
    settings["components"] = dict(zip(backbone.encoders, prints, strict=True))  # each of itself and those before it
    caches = Storage(place or dataset.path / "cache")
    if found := _settings(caches):
        if reason := _difference(found, settings):
            raise PalateError(f"cache: {caches.place} {reason}. Choose another place, and pairs are encoded there.")
        return caches, settings, ""
    storage = caches.within(key)
    if not _settings(storage):
        for other in sorted(caches.folder.glob("*/settings.json"))[:1]:
            reason = _difference(read_object(other, "Delete that folder."), settings)
            return storage, settings, f"{other.parent} {reason}; pairs are encoded anew into {key} beside it"
    return storage, settings, ""


def _told(backbone: Backbone, resolution: int) -> Settings:
    """Settings of the encoding that the encoders' files do not hold; empty for most families, whose cache keys
    therefore stay the same."""
    names = sorted(backbone.image_conditioning(resolution, resolution, resolution))
    zeros = backbone.zeros_for_empty
    return ({"told": names} if names else {}) | ({} if zeros is None else {"zeros_for_empty": zeros})


def _settings(storage: Storage) -> Settings | None:
    """The settings that a cache was made with; None where there is no cache."""
    size = storage.sizes().get("settings.json")
    return (
        None if size is None else read_object(storage.get("settings.json", size), "Delete it; pairs are encoded anew.")
    )


def _difference(found: Settings, wanted: Settings) -> str:
    """Why a cache of other settings does not fit; empty where it fits."""
    if found.get("encoders") != wanted["encoders"]:
        before, now = found.get("components", {}), wanted["components"]
        changed = next((name for name, own in now.items() if before.get(name) != own), "model")
        return f"was made with another {changed if before else 'autoencoder or text encoder'}"
    names = ("resolution", "crop", "dtype", "decoder", "told", "zeros_for_empty")
    changed = [name for name in names if found.get(name) != wanted.get(name)]
    return ", ".join(f"was made with {name} {found.get(name)} instead of {wanted.get(name)}" for name in changed)


def _encode_missing(
    dataset: PreferenceDataset, backbone: Backbone, encoded: EncodedPairs, resolution: int, dtype: torch.dtype
) -> bool:
    """Write the missing shards; returns whether there were any."""
    storage, wrote = encoded.storage, False
    if lost := encoded.lost_prompts():
        _write_prompts(storage, 0, lost, backbone, dtype)
        wrote = True
    missing = _missing(dataset, encoded)
    if not missing.any():
        return wrote
    seen: set[str] = set(lost)  # prompts that were encoded by this call
    unreadable, first_problem = 0, ""
    with progress_bar("encoding pairs", int(missing.sum())) as advance:
        for block, rows in _blocks(dataset, missing):
            batch, readable = _Batch(backbone, resolution, dtype), []
            for row in rows:
                try:
                    pictures = [decode_image(image, dataset.path) for image in _images(row)]
                except PalateError as problem:
                    unreadable, first_problem = unreadable + 1, first_problem or f"{row['pair_id']}: {problem}"
                else:
                    batch.add(pictures)
                    readable.append({name: row[name] for name in ("pair_id", "prompt")})
                advance(1)
            prompts = sorted({row["prompt"] for row in readable} | {""})
            there = encoded.holds_prompts(prompts)
            new = [text for text, known in zip(prompts, there, strict=True) if not known and text not in seen]
            if new:  # before the pairs, so that a pair in the cache always finds its prompt
                _write_prompts(storage, block, new, backbone, dtype)
                seen |= set(new)
            if readable:
                _write(
                    storage, PAIRS, block, batch.tensors(), pair_ids=[row["pair_id"] for row in readable],
                    prompts=[row["prompt"] for row in readable],
                    single=[row["pair_id"] for row, sides in zip(readable, batch.sides, strict=True) if sides == 1],
                )  # fmt: skip
    if unreadable:
        print(
            f"encode: {unreadable} pairs left out because an image could not be read, the first being {first_problem}"
        )
    return True


def _missing(dataset: PreferenceDataset, encoded: EncodedPairs) -> Bools:
    """Which rows of the dataset are not encoded yet, [N] bool in stored order. Reads no image."""
    found = [np.zeros(0, bool)]
    for path in shard_paths(dataset.path / "pairs"):
        with open_shard(path, PAIRS_SCHEMA) as file:
            found.append(~encoded.holds(file.read(columns=["pair_id"])["pair_id"].to_pylist()))
    return np.concatenate(found)


def _blocks(dataset: PreferenceDataset, missing: Bools) -> Iterator[tuple[int, Iterator[Row]]]:
    """The missing rows, by the block of SHARD dataset rows that they lie in: so which rows are encoded together does
    not depend on what was encoded before. Read each block to its end before the next."""
    for block, rows in groupby(_missing_rows(dataset, missing), key=lambda found: found[0]):
        yield block, (row for _, row in rows)


def _missing_rows(dataset: PreferenceDataset, missing: Bools) -> Iterator[tuple[int, Row]]:
    """(block, row) of every missing row; row groups without a missing row are not read."""
    start = 0
    for path in shard_paths(dataset.path / "pairs"):
        with open_shard(path, PAIRS_SCHEMA) as file:
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if missing[start : start + size].any():
                    batches = file.iter_batches(batch_size=IMAGES_AT_ONCE, row_groups=[group], columns=COLUMNS)
                    place = start
                    for batch in batches:
                        wanted = np.flatnonzero(missing[place : place + len(batch)])
                        for row in wanted.tolist():
                            yield (place + row) // SHARD, batch.slice(row, 1).to_pylist()[0]
                        place += len(batch)
                start += size


def at_once(resolution: int) -> int:
    """How many images of this side length the autoencoder takes at a time."""
    return max(1, IMAGES_AT_ONCE * 512**2 // max(512, resolution) ** 2)


class _Batch:
    """The rows of an unfinished shard: pictures go in, and are encoded as soon as there are enough of them."""

    def __init__(self, backbone: Backbone, resolution: int, dtype: torch.dtype):
        self.backbone, self.resolution, self.dtype = backbone, resolution, dtype
        self.at_once = at_once(resolution)
        self.sides: list[int] = []  # images of each row
        self._waiting: list[torch.Tensor] = []  # [3, H, W] each
        self._latents: list[torch.Tensor] = []
        self._conditioning: list[Conditioning] = []  # of each image

    def add(self, pictures: list[Image.Image]) -> None:
        """One row, of one or two pictures."""
        self.sides.append(len(pictures))
        for picture in pictures:
            self._conditioning.append(self.backbone.image_conditioning(*picture.size, self.resolution))
            self._waiting.append(prepare_image(picture, self.resolution))
            if len(self._waiting) == self.at_once:
                self._encode()

    def tensors(self) -> dict[str, torch.Tensor]:
        """`latents` [n, 2, C, h, w] of the n rows, zeros where there is no second one; conditioning alike, in its own
        dtype."""
        self._encode()
        flat = {"latents": torch.cat(self._latents)}
        flat |= {IMAGE + name: tensor for name, tensor in concatenate(self._conditioning).items()}
        row = torch.repeat_interleave(torch.arange(len(self.sides)), torch.tensor(self.sides))
        side = torch.cat([torch.arange(sides) for sides in self.sides])
        paired = {name: tensor.new_zeros(len(self.sides), 2, *tensor.shape[1:]) for name, tensor in flat.items()}
        for name, tensor in flat.items():
            paired[name][row, side] = tensor
        return paired

    def _encode(self) -> None:
        if self._waiting:
            self._latents.append(_stored(self.backbone.encode_images(torch.stack(self._waiting)), self.dtype))
            self._waiting = []


def _write_prompts(storage: Storage, block: int, prompts: list[str], backbone: Backbone, dtype: torch.dtype) -> None:
    parts = []
    for start in range(0, len(prompts), IMAGES_AT_ONCE):
        encoded = backbone.encode_prompts(prompts[start : start + IMAGES_AT_ONCE])
        parts.append({name: _stored(tensor, dtype) for name, tensor in encoded.items()})
    _write(storage, PROMPTS, block, concatenate(parts), prompts=prompts)


def _stored(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor as it is stored: floats in `dtype` unless that cannot hold them, masks and integers unchanged."""
    if not tensor.is_floating_point():
        return tensor.cpu()
    small = tensor.to(dtype)
    return (tensor if (small.isinf() & ~tensor.isinf()).any() else small).cpu()


def _images(row: Row) -> list[Row]:
    """The images of a row of the pairs: two, or one of a single image; of a pair without pictures two that are none."""
    return (
        [row["image_0"]] if row["image_1"] is None and row["image_0"] is not None else [row["image_0"], row["image_1"]]
    )


def prepare_image(image: Image.Image, resolution: int) -> torch.Tensor:
    """An image of any size to [3, resolution, resolution] in [-1, 1]."""
    fitted = ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(fitted, np.float32) / 127.5 - 1).permute(2, 0, 1)


def _write(storage: Storage, kind: str, block: int, tensors: dict[str, torch.Tensor], **metadata: list[str]) -> None:
    told = {name: json.dumps(value) for name, value in metadata.items()}
    content = short_hash(json.dumps(metadata[NAMES[kind]]), 8)
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    storage.put(f"{kind}-{block:06}-{content}.safetensors", lambda path: save_file(plain, path, metadata=told))
