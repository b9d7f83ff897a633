"""A cache of encoded pairs, opened for reading: any row of many shards, in memory that does not grow with their number.

Shards are memory-mapped safetensors files. Each kind of shard has an index of its rows, made from the shards' own
metadata and named by the shards, so that an outdated index is never used.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open

from palate.addresses import hashes
from palate.arrays import Bools, Hashes, Ints
from palate.backbones.conditioning import Conditioning
from palate.encoding.storage import Storage
from palate.errors import PalateError, first_line
from palate.files import short_hash

MAPPED = 256 * 2**20  # bytes read before memory maps are released: pages that were read count as resident
AROUND = 2**16  # bytes that are mapped with the first byte of a read: the system maps the pages around it too
PAIRS, PROMPTS = "pairs", "prompts"  # the kinds of shards
NAMES = {PAIRS: "pair_ids", PROMPTS: "prompts"}  # the list in a shard's metadata that names its rows
IMAGE = "image."  # prefix of an image's own conditioning in a shard of pairs


@dataclass(frozen=True)
class Index:
    """The N rows of all shards of one kind, in the order of their hashes; of a repeated name the first row."""

    shards: list[tuple[str, int]]  # name and bytes
    hash: Hashes  # [N] uint64 of the name, ascending
    name: pa.ChunkedArray  # [N] the pair_id or the prompt
    shard: Ints  # [N] int32
    row: Ints  # [N] int32
    prompt: Hashes  # [N] uint64: the hash of a pair's prompt
    single: Bools  # [N] bool: the pair is a single image

    def find(self, names: list[str]) -> Ints:
        """The places of these names, [len(names)] int; -1 for those that are absent."""
        return self.find_hashes(hashes(names))

    def find_hashes(self, wanted: Hashes) -> Ints:
        """The places of these hashes, -1 for those that are absent."""
        if not len(self.hash):
            return np.full(len(wanted), -1)
        place = np.searchsorted(self.hash, wanted).clip(max=len(self.hash) - 1)
        return np.where(self.hash[place] == wanted, place, -1)


class EncodedPairs:
    """A cache, opened for reading; `folder` is its folder on this machine. Unreadable shards are left out, each with a
    line that names it."""

    def __init__(self, place: Path | str | Storage):
        self.storage = place if isinstance(place, Storage) else Storage(place)
        self.folder = self.storage.folder
        self.damaged: list[str] = []  # names of shards that cannot be read
        sizes = self.storage.sizes()
        self._pairs, self._prompts = (self._index(kind, sizes) for kind in (PAIRS, PROMPTS))
        self._open: dict[str, safe_open] = {}
        self._mapped = 0  # bytes read through the maps in _open

    # --- contents ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._pairs.hash)

    def __contains__(self, pair_id: str) -> bool:
        return bool(self.holds([pair_id])[0])

    def holds(self, pair_ids: list[str]) -> Bools:
        """Which of these pairs are encoded, [len(pair_ids)] bool."""
        return self._pairs.find(pair_ids) >= 0

    def holds_prompts(self, prompts: list[str]) -> Bools:
        """Which of these prompts are encoded, [len(prompts)] bool."""
        return self._prompts.find(prompts) >= 0

    def pairs_of_two(self) -> list[str]:
        """The pair_ids of all pairs that are no single images."""
        names: list[str] = self._pairs.name.filter(pa.array(~self._pairs.single)).to_pylist()
        return names

    def prompts_of(self, pair_ids: list[str]) -> list[str]:
        """The prompts of these pairs, which are encoded."""
        places = self._prompts.find_hashes(self._pairs.prompt[self._pairs.find(pair_ids)])
        prompts: list[str] = self._prompts.name.take(pa.array(places)).to_pylist()
        return prompts

    @property
    def prompt(self) -> "PromptOf":
        """pair_id -> prompt."""
        return PromptOf(self)

    @property
    def single(self) -> set[str]:
        """The pair_ids of single images."""
        return set(self._pairs.name.filter(pa.array(self._pairs.single)).to_pylist())

    def lost_prompts(self) -> list[str]:
        """Prompts of encoded pairs, and the empty prompt, that are not encoded themselves: their shard was damaged or
        deleted."""
        lost = np.unique(self._pairs.prompt[self._prompts.find_hashes(self._pairs.prompt) < 0])
        texts = {""} if len(self) else set()
        for shard in np.unique(self._pairs.shard[np.isin(self._pairs.prompt, lost)]):
            texts.update(json.loads(self._shard(*self._pairs.shards[shard]).metadata()["prompts"]))
        return sorted(text for text, there in zip(texts, self.holds_prompts(list(texts)), strict=True) if not there)

    # --- tensors -----------------------------------------------------------------------------------------------------

    def latents(self, pair_ids: list[str]) -> torch.Tensor:
        """Latents [B, 2, C, h, w] of both images of these pairs, fp32. Raises PalateError for a single image."""
        return self._rows(self._pairs, "latents", self._pair_places(pair_ids, [1] * len(pair_ids)))

    def image_latents(self, images: list[tuple[str, int]]) -> torch.Tensor:
        """Latents [M, C, h, w] of these images, each a pair_id and a side (0 or 1), fp32.

        Raises PalateError for side 1 of a single image.
        """
        pair_ids, sides = [pair_id for pair_id, _ in images], [side for _, side in images]
        return self._rows(self._pairs, "latents", self._pair_places(pair_ids, sides), sides)

    def prompt_conditioning(self, prompts: list[str]) -> Conditioning:
        """The conditioning of prompts of the dataset, or of the empty prompt: one row each, floats in fp32."""
        places = self._prompts.find(prompts)
        if (places < 0).any():
            missing = prompts[int(np.flatnonzero(places < 0)[0])]
            raise PalateError(
                f"{self.storage.place}: prompt {missing!r} is not encoded. Run the same command again; it encodes what"
                " is missing."
            )
        names = self._shard(*self._prompts.shards[self._prompts.shard[places[0]]]).keys()
        return {name: self._rows(self._prompts, name, places) for name in names}

    def image_conditioning(self, images: list[tuple[str, int]]) -> Conditioning:
        """The conditioning of these images beside their prompt (true size and crop), one row each; {} for families
        without it."""
        pair_ids, sides = [pair_id for pair_id, _ in images], [side for _, side in images]
        places = self._pair_places(pair_ids, sides)
        if not len(places):
            return {}
        keys = self._shard(*self._pairs.shards[self._pairs.shard[places[0]]]).keys()
        names = [name for name in keys if name.startswith(IMAGE)]
        return {name.removeprefix(IMAGE): self._rows(self._pairs, name, places, sides) for name in names}

    def _rows(self, index: Index, name: str, places: Ints, sides: list[int] | None = None) -> torch.Tensor:
        """The rows of a tensor at these places of an index, limited to one side where one is given; floats in fp32."""
        if self._mapped > MAPPED:
            self._open.clear()
            self._mapped = 0
        shards, rows = index.shard[places].tolist(), index.row[places].tolist()
        slices = [self._shard(*index.shards[shard]).get_slice(name) for shard in shards]
        if sides is None:
            found = [one[row] for one, row in zip(slices, rows, strict=True)]
        else:
            found = [one[row, side] for one, row, side in zip(slices, rows, sides, strict=True)]
        stacked = torch.stack(found)
        self._mapped += len(found) * max(AROUND, found[0].nbytes)
        return stacked.float() if stacked.is_floating_point() else stacked

    def _shard(self, name: str, size: int) -> Any:  # a safe_open, whose stubs have no types
        if name not in self._open:
            path = self.storage.get(name, size)
            try:
                self._open[name] = safe_open(path, "pt")
            except (SafetensorError, OSError) as error:
                raise PalateError(
                    f"{path}: damaged ({first_line(error)}). Delete it and run again; its rows, and nothing else,"
                    " are encoded anew."
                ) from error
        return self._open[name]

    def _pair_places(self, pair_ids: list[str], sides: list[int]) -> Ints:
        places = self._pairs.find(pair_ids)
        for pair_id, side, place in zip(pair_ids, sides, places.tolist(), strict=True):
            if place < 0:
                raise PalateError(f"pair '{pair_id}' is not encoded in {self.storage.place}.")
            if side not in (0, 1):  # a slice would take -1 for the last
                raise PalateError(f"pair '{pair_id}': no image {side}. The images of a pair are 0 and 1.")
            if side == 1 and self._pairs.single[place]:
                raise PalateError(
                    f"pair '{pair_id}' is a single image and has no image 1. Leave it out of training on pairs."
                )
        return places

    # --- the index ---------------------------------------------------------------------------------------------------

    def write_index(self) -> None:
        """Store the index for the next time; older indices are deleted."""
        before = self.storage.sizes()
        for kind, index in ((PAIRS, self._pairs), (PROMPTS, self._prompts)):
            name = _index_name(kind, index.shards)
            if name not in before:
                self.storage.put(name, partial(_save_index, index))
            for old in before:
                if old.startswith(f"{kind}.index-") and old != name:
                    self.storage.remove(old)

    def _index(self, kind: str, sizes: dict[str, int]) -> Index:
        shards = [(n, size) for n, size in sizes.items() if n.startswith(f"{kind}-") and n.endswith(".safetensors")]
        stored = _index_name(kind, shards)
        if stored in sizes:
            try:
                return _load_index(self.storage.get(stored, sizes[stored]), shards)
            except (pa.ArrowException, OSError, KeyError):
                pass  # made again
        return self._read_shards(kind, shards)

    def _read_shards(self, kind: str, shards: list[tuple[str, int]]) -> Index:
        """An index from the metadata of the shards themselves."""
        good: list[tuple[str, int]] = []
        parts: list[dict[str, Any]] = []
        for name, size in shards:
            path = self.storage.get(name, size)
            try:
                with safe_open(path, "pt") as handle:
                    metadata = {key: json.loads(value) for key, value in handle.metadata().items()}
                names = metadata[NAMES[kind]]
            except (SafetensorError, OSError, ValueError, KeyError, AttributeError, RecursionError) as error:
                print(f"encode: {path} is damaged ({first_line(error)}) and left out")
                self.damaged.append(name)
                continue
            single = set(metadata.get("single", []))  # caches of older versions hold pairs only
            own = hashes(names)
            parts.append(
                {
                    "hash": own,
                    "name": pa.array(names, pa.large_string()),
                    "shard": np.full(len(names), len(good), np.int32),
                    "row": np.arange(len(names), dtype=np.int32),
                    "prompt": own if kind == PROMPTS else hashes(metadata["prompts"]),
                    "single": np.array([one in single for one in names], bool),
                }
            )
            good.append((name, size))
        if not parts:
            empty = np.zeros(0, np.int32)
            return Index(
                [],
                empty.astype(np.uint64),
                pa.chunked_array([], pa.large_string()),
                empty,
                empty,
                empty.astype(np.uint64),
                empty.astype(bool),
            )
        columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0] if key != "name"}
        names = pa.concat_arrays([part["name"] for part in parts])
        first = np.unique(columns["hash"], return_index=True)[1]  # ascending; of equal hashes the first
        return Index(
            good,
            name=pa.chunked_array([names.take(pa.array(first))]),
            **{key: values[first] for key, values in columns.items()},
        )


class PromptOf:
    """pair_id -> prompt, read on demand."""

    def __init__(self, encoded: EncodedPairs):
        self._encoded = encoded

    def __getitem__(self, pair_id: str) -> str:
        pairs, prompts = self._encoded._pairs, self._encoded._prompts
        (place,) = self._encoded._pair_places([pair_id], [0])
        (found,) = prompts.find_hashes(pairs.prompt[[place]])
        if found < 0:
            raise PalateError(
                f"{self._encoded.storage.place}: the prompt of pair '{pair_id}' is not encoded. Run the same command"
                " again."
            )
        prompt: str = prompts.name[int(found)].as_py()
        return prompt


def _index_name(kind: str, shards: list[tuple[str, int]]) -> str:
    return f"{kind}.index-{short_hash(json.dumps(shards))}.arrow"


def _save_index(index: Index, path: Path) -> None:
    columns = {"hash": index.hash, "name": index.name, "shard": index.shard, "row": index.row}
    columns |= {"prompt": index.prompt, "single": index.single}
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _load_index(path: Path, shards: list[tuple[str, int]]) -> Index:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    columns = {name: table[name].to_numpy() for name in ("hash", "shard", "row", "prompt", "single")}
    return Index(shards, name=table["name"], **columns)
