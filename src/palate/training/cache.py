"""Pairs encoded once: latents and prompt embeddings on disk, so that training never loads an autoencoder or a text encoder.

A single image is encoded once too; its pair of latents has zeros in place of the second image, and is never handed out.

A cache is a folder of shards under the dataset, named by a hash of everything its content depends on. Each shard is
complete or absent; encoding goes on from where it was interrupted, and pairs that are added later are added here.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import save_file

from palate.backbones import Backbone
from palate.backbones.conditioning import Conditioning, concatenate
from palate.backbones.folders import fingerprint
from palate.data.dataset import PreferenceDataset
from palate.data.images import decode_image
from palate.errors import PalateError
from palate.files import atomic_path, write_text
from palate.progress import progress_bar

SHARD = 512  # pairs per shard
OF_IMAGES = "image."  # begins the names of what a network is told of an image
IMAGES_AT_ONCE = 16


class EncodedPairs:
    """A cache, opened for reading. Shards are memory-mapped; nothing stays in memory but the index."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._where: dict[str, tuple[int, int]] = {}  # pair_id -> shard, row
        self._prompt_where: dict[str, tuple[int, int]] = {}
        self.prompt: dict[str, str] = {}  # pair_id -> prompt
        self.single: set[str] = set()  # pair_ids of single images
        self._pairs, self._prompts = [], []
        for handle in _shards(folder, "prompts"):
            for row, prompt in enumerate(json.loads(handle.metadata()["prompts"])):
                self._prompt_where[prompt] = (len(self._prompts), row)
            self._prompts.append(handle)
        for handle in _shards(folder, "pairs"):
            metadata = handle.metadata()
            for row, (pair_id, prompt) in enumerate(
                zip(json.loads(metadata["pair_ids"]), json.loads(metadata["prompts"]), strict=True)
            ):
                self._where[pair_id] = (len(self._pairs), row)
                self.prompt[pair_id] = prompt
            self.single.update(json.loads(metadata.get("single", "[]")))  # caches of older versions hold pairs only
            self._pairs.append(handle)

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, pair_id: str) -> bool:
        return pair_id in self._where

    def latents(self, pair_ids: list[str]) -> torch.Tensor:
        """Latents [B, 2, C, h, w] of both images of these pairs, fp32. Raises PalateError for a single image."""
        for pair_id in pair_ids:
            self._require(pair_id, 1)
        places = [self._where[pair_id] for pair_id in pair_ids]
        return torch.stack([self._pairs[shard].get_slice("latents")[row] for shard, row in places]).float()

    def image_latents(self, images: list[tuple[str, int]]) -> torch.Tensor:
        """Latents [M, C, h, w] of these images, each a pair_id and a side (0 or 1), fp32.

        Raises PalateError for side 1 of a single image.
        """
        for pair_id, side in images:
            self._require(pair_id, side)
        places = [(*self._where[pair_id], side) for pair_id, side in images]
        return torch.stack([self._pairs[shard].get_slice("latents")[row, side] for shard, row, side in places]).float()

    def prompt_conditioning(self, prompts: list[str]) -> Conditioning:
        """B rows, of prompts that occur in the dataset, or of the empty one; what is not counted in integers is fp32."""
        places = [self._prompt_where[prompt] for prompt in prompts]
        return {
            name: _single(torch.stack([self._prompts[shard].get_slice(name)[row] for shard, row in places]))
            for name in self._prompts[0].keys()
        }

    def image_conditioning(self, images: list[tuple[str, int]]) -> Conditioning:
        """M rows, of images as in `image_latents`; nothing for families whose network is told nothing of its images."""
        for pair_id, side in images:
            self._require(pair_id, side)
        places = [(*self._where[pair_id], side) for pair_id, side in images]
        return {
            name.removeprefix(OF_IMAGES): _single(
                torch.stack([self._pairs[shard].get_slice(name)[row, side] for shard, row, side in places])
            )
            for name in self._pairs[0].keys()
            if name.startswith(OF_IMAGES)
        }

    def _require(self, pair_id: str, side: int) -> None:
        if side not in (0, 1):  # a slice would take -1 for the last
            raise PalateError(f"pair '{pair_id}': no image {side}. The images of a pair are 0 and 1.")
        if side == 1 and pair_id in self.single:
            raise PalateError(
                f"pair '{pair_id}' is a single image and has no image 1. Leave it out of training on pairs."
            )


def encode_pairs(
    dataset: PreferenceDataset,
    backbone: Backbone,
    resolution: int | None = None,
    dtype: torch.dtype = torch.float16,
) -> EncodedPairs:
    """The cache of this dataset for this model, made or completed first where needed.

    Images are resized on their short side and cropped in the middle to `resolution` pixels. Pairs whose images are missing
    or do not decode are counted and left out; PalateError when none is left, or when the VAE cannot take the resolution.
    """
    resolution = resolution or backbone.resolution
    folder, settings = cache_folder(dataset, backbone, resolution, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "settings.json", json.dumps(settings, indent=1))

    encoded = EncodedPairs(folder)
    missing = len(dataset) - len(encoded)
    if missing:
        _encode_missing(dataset, backbone, encoded, resolution, dtype, missing)
        encoded = EncodedPairs(folder)
    if not len(encoded):
        raise PalateError(
            f"{dataset.path}: no pair has images that can be read. `palate info {dataset.path}` says what is there."
        )
    return encoded


def cache_folder(
    dataset: PreferenceDataset,
    backbone: Backbone,
    resolution: int | None = None,
    dtype: torch.dtype = torch.float16,
) -> tuple[Path, dict]:
    """Where the cache of this dataset for this model is or will be, and all that its content depends on. Makes nothing.

    Raises PalateError when the VAE cannot take the resolution.
    """
    resolution = resolution or backbone.resolution
    if resolution % backbone.vae_factor:
        raise PalateError(
            f"resolution {resolution}: the autoencoder works in blocks of {backbone.vae_factor} pixels; use a multiple of it."
        )
    settings = {
        "encoders": fingerprint(backbone.folder, backbone.encoders),
        "resolution": resolution,
        "crop": "centre",
        "dtype": str(dtype),
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return dataset.path / "cache" / key, settings


def _encode_missing(
    dataset, backbone, encoded: EncodedPairs, resolution: int, dtype: torch.dtype, missing: int
) -> None:
    known_prompts = set(encoded._prompt_where)
    pair_shard, prompt_shard = len(encoded._pairs), len(encoded._prompts)
    unreadable, first_problem = 0, ""
    with progress_bar("encoding pairs", missing) as advance:
        for rows in _in_shards(dataset, encoded):
            readable, images, of_images = [], [], []
            for row in rows:
                try:
                    decoded = [decode_image(image, dataset.path) for image in _images(row)]
                    images.append([prepare_image(image, resolution) for image in decoded])
                    of_images.append([backbone.image_conditioning(*image.size, resolution) for image in decoded])
                    readable.append(row)
                except PalateError as problem:
                    unreadable, first_problem = unreadable + 1, first_problem or f"{row['pair_id']}: {problem}"
            prompts = sorted(({row["prompt"] for row in readable} | {""}) - known_prompts)
            if prompts:  # before the pairs, so that a pair in the cache always finds its prompt
                conditioning = concatenate(
                    [
                        backbone.encode_prompts(prompts[i : i + IMAGES_AT_ONCE])
                        for i in range(0, len(prompts), IMAGES_AT_ONCE)
                    ]
                )
                _write(
                    encoded.folder / f"prompts-{prompt_shard:05}.safetensors",
                    {name: t.to(dtype) if t.is_floating_point() else t for name, t in conditioning.items()},
                    prompts=prompts,
                )
                known_prompts |= set(prompts)
                prompt_shard += 1
            if readable:
                _write(
                    encoded.folder / f"pairs-{pair_shard:05}.safetensors",
                    {"latents": _encode(backbone, images).to(dtype)} | _of_images(of_images),
                    pair_ids=[row["pair_id"] for row in readable], prompts=[row["prompt"] for row in readable],
                    single=[row["pair_id"] for row in readable if row["image_1"] is None],
                )  # fmt: skip
                pair_shard += 1
            advance(len(rows))
    if unreadable:
        print(
            f"encode: {unreadable} pairs left out because an image could not be read, the first being {first_problem}"
        )


def _in_shards(dataset: PreferenceDataset, encoded: EncodedPairs) -> Iterator[list[dict]]:
    """The pairs that are not encoded yet, at most SHARD at a time."""
    waiting: list[dict] = []
    for batch in dataset.iter_pairs(columns=["pair_id", "prompt", "image_0", "image_1"]):
        waiting += [row for row in batch.to_pylist() if row["pair_id"] not in encoded]
        while len(waiting) >= SHARD:
            yield waiting[:SHARD]
            waiting = waiting[SHARD:]
    if waiting:
        yield waiting


def _images(row: dict) -> list[dict]:
    """The images of a row of the pairs: two, or one of a single image."""
    return [row["image_0"]] if row["image_1"] is None else [row["image_0"], row["image_1"]]


def _encode(backbone: Backbone, images: list[list[torch.Tensor]]) -> torch.Tensor:
    """Latents [n, 2, C, h, w] of n rows of one or two images [3, H, W]; zeros where there is no second one."""
    flat = [image for row in images for image in row]
    encoded = [
        backbone.encode_images(torch.stack(flat[i : i + IMAGES_AT_ONCE])) for i in range(0, len(flat), IMAGES_AT_ONCE)
    ]
    latents = torch.cat(encoded)
    pairs = latents.new_zeros(len(images), 2, *latents.shape[1:])
    places = [(row, side) for row, these in enumerate(images) for side in range(len(these))]
    rows, sides = zip(*places, strict=True)
    pairs[list(rows), list(sides)] = latents
    return pairs


def _of_images(rows: list[list[Conditioning]]) -> dict[str, torch.Tensor]:
    """What the network is told of n rows of one or two images, each [n, 2, ...]; a single image's is there twice."""
    both = [concatenate([row[0], row[-1]]) for row in rows]
    return {f"{OF_IMAGES}{name}": torch.stack([row[name] for row in both]) for name in both[0]}


def _single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def prepare_image(image: Image.Image, resolution: int) -> torch.Tensor:
    """An image of any size to [3, resolution, resolution] in [-1, 1]."""
    fitted = ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(fitted, np.float32) / 127.5 - 1).permute(2, 0, 1)


def _write(path: Path, tensors: dict[str, torch.Tensor], **metadata: list[str]) -> None:
    with atomic_path(path) as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary,
                  metadata={name: json.dumps(value) for name, value in metadata.items()})  # fmt: skip


def _shards(folder: Path, kind: str) -> list:
    return [safe_open(path, "pt") for path in sorted(folder.glob(f"{kind}-*.safetensors"))]
