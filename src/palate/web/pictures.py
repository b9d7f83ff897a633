"""The pictures of a dataset by pair, for a browser: nothing but a picture ever leaves, whatever a path in a pair
says."""

import threading
from collections import OrderedDict
from typing import Any

import pyarrow.compute as pc

from palate.data.dataset import PreferenceDataset
from palate.data.images import decode_image, encode_image, image_bytes
from palate.data.schema import IMAGE_COLUMNS, PAIRS
from palate.data.shards import open_shard, shard_paths
from palate.errors import PalateError
from palate.pictures import media_type

KEPT_BYTES = 256 * 2**20
KEPT_PAIRS = 512


class Pictures:
    """Finds a pair's prompt and pictures; the last ones read are kept in memory."""

    def __init__(self, dataset: PreferenceDataset, wanted: set[str]):
        """Notes where the pairs `wanted` are: shard, row group, row. Reads no image."""
        self.dataset, self._lock = dataset, threading.Lock()
        self._kept: OrderedDict[str, tuple[bytes | None, bytes | None]] = OrderedDict()
        self._size = 0
        self.prompts: dict[str, str] = {}
        self._places = {}
        for shard in shard_paths(dataset.path / "pairs"):
            with open_shard(shard, PAIRS) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, columns=["pair_id", "prompt"])
                    for pair_id, prompt in zip(*(table[n].to_pylist() for n in ("pair_id", "prompt")), strict=True):
                        if pair_id in wanted:
                            self._places[pair_id], self.prompts[pair_id] = (shard, group), prompt

    def picture(self, pair_id: str, side: str) -> tuple[bytes, str]:
        """The encoded picture of image "0" or "1" and its media type. Raises PalateError when it is no picture."""
        data = self._pair(pair_id)[int(side)]
        if data is None:
            raise PalateError(f"pair '{pair_id}': image_{side} is missing or cannot be read.")
        return _for_browsers(data, f"image_{side} of pair '{pair_id}'")

    def _pair(self, pair_id: str) -> tuple[bytes | None, bytes | None]:
        with self._lock:
            if pair_id in self._kept:
                self._kept.move_to_end(pair_id)
                return self._kept[pair_id]
        if pair_id not in self._places:
            raise PalateError(f"pair '{pair_id}' is not in {self.dataset.path}.")
        shard, group = self._places[pair_id]
        with open_shard(shard, PAIRS) as file:
            table = file.read_row_group(group, columns=["pair_id", *IMAGE_COLUMNS])
        row = table.slice(pc.index(table["pair_id"], pair_id).as_py(), 1).to_pylist()[0]
        first, second = (self._bytes(row[name]) for name in IMAGE_COLUMNS)
        images = first, second
        with self._lock:
            if pair_id not in self._kept:
                self._kept[pair_id] = images
                self._size += _size(images)
            while len(self._kept) > KEPT_PAIRS or (self._size > KEPT_BYTES and len(self._kept) > 1):
                self._size -= _size(self._kept.popitem(last=False)[1])
        return images

    def _bytes(self, image: dict[str, Any] | None) -> bytes | None:
        try:
            return image_bytes(image, self.dataset.path)
        except PalateError:
            return None


def _size(images: tuple[bytes | None, bytes | None]) -> int:
    return sum(len(image or b"") for image in images)


def _for_browsers(data: bytes, name: str) -> tuple[bytes, str]:
    """The picture as it is stored where a browser shows it as the decoder does, and what the decoder sees otherwise."""
    if kind := media_type(data):
        return data, kind
    return encode_image(decode_image({"bytes": data}, ".", name))["bytes"], "image/png"
