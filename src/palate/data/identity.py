"""Which rows of the pairs are single images, and which images are the same."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from palate.data.dataset import PreferenceDataset
from palate.data.schema import IMAGE_COLUMNS, PAIRS, content_id
from palate.data.shards import open_shard, read_table, shard_paths, write_table
from palate.progress import progress_bar

Image = tuple[str, int]  # pair_id, side


def single_images(dataset: PreferenceDataset) -> set[str]:
    """The pair_ids of all single images: rows whose image_1 alone is null. Reads no image."""
    found = _without(dataset, "image_1")
    return found - _without(dataset, "image_0") if found else found


def without_pictures(dataset: PreferenceDataset) -> set[str]:
    """The pair_ids of all pairs whose pictures are not known, neither their bytes nor a path. Reads no image."""
    found = _without(dataset, "image_0")
    return found & _without(dataset, "image_1") if found else found


def _without(dataset: PreferenceDataset, name: str) -> set[str]:
    found: set[str] = set()
    for path in shard_paths(dataset.path / "pairs"):
        with open_shard(path, PAIRS) as file:
            table = file.read(columns=["pair_id", f"{name}.path"])  # either field shows whether the struct is null
        found.update(table["pair_id"].filter(pc.is_null(table[name])).to_pylist())
    return found


def image_ids(dataset: PreferenceDataset) -> dict[Image, str]:
    """The identity of every image: equal names are equal images.

    An image stored as bytes is named by a hash of them, one stored by path by a hash of that path, so that images which
    do not exist yet have a name too; the file itself is not read. Paths that lead to one file are one name, and a path
    in the dataset's folder, or one relative to it, is named as seen from there: moving the folder changes no name. The
    hashes of a shard are computed once and kept in the dataset's folder cache/images; shards that are added later are
    added there.
    """
    by_path: dict[Image, str] = {}
    ids: dict[Image, str] = {}
    with progress_bar("identifying images", len(dataset)) as advance:
        for shard in shard_paths(dataset.path / "pairs"):
            hashes = _hashes(dataset, shard)
            with open_shard(shard, PAIRS) as file:
                stored = file.read(columns=["pair_id", *(f"{name}.path" for name in IMAGE_COLUMNS)])
            pair_ids = stored["pair_id"].to_pylist()
            for side, name in enumerate(IMAGE_COLUMNS):
                paths = pc.struct_field(stored[name], "path").to_pylist()
                for pair_id, path, content in zip(pair_ids, paths, hashes[name].to_pylist(), strict=True):
                    if content or path:
                        ids[pair_id, side] = content  # keeps the order of the dataset; paths are filled in below
                        by_path |= {} if content else {(pair_id, side): path}
            advance(len(pair_ids))
    names = _names(dataset.path, set(by_path.values()))
    return ids | {image: names[path] for image, path in by_path.items()}


def _names(root: Path, paths: set[str]) -> dict[str, str]:
    """The name of each path: the same for all that lead to one file, made of the one that says most about where it is
    from the dataset's folder (relative before absolute)."""
    here = root.resolve()
    spellings: dict[Path, list[tuple[bool, str]]] = {}
    leads = {path: Path(here, path).resolve() for path in paths}
    for path, file in leads.items():
        near = Path(path)
        if near.is_absolute() and file.is_relative_to(here):
            near = file.relative_to(here)
        spellings.setdefault(file, []).append((near.is_absolute(), os.path.normpath(near)))
    return {path: content_id("path", min(spellings[file])[1]) for path, file in leads.items()}


def stored_contents(dataset: PreferenceDataset, shard: Path) -> dict[str, str]:
    """pair_id -> a hash of the prompt and the images' bytes, for one shard; without pairs whose images are stored by
    path."""
    hashes = _hashes(dataset, shard)
    with open_shard(shard, PAIRS) as file:
        table = file.read(columns=["pair_id", "prompt"])
    images = zip(*(hashes[name].to_pylist() for name in IMAGE_COLUMNS), strict=True)
    rows = zip(table["pair_id"].to_pylist(), table["prompt"].to_pylist(), images, strict=True)
    return {pair_id: content_id(prompt, *filter(None, both)) for pair_id, prompt, both in rows if any(both)}


def _hashes(dataset: PreferenceDataset, shard: Path) -> pa.Table:
    """Hashes of the images of one shard, row by row, null where there are no bytes; computed on first use.

    A shard never changes, so neither does this file, and a kill loses one shard's hashes at most.
    """
    kept = dataset.path / "cache" / "images" / shard.name
    if not kept.exists():
        rows = []
        with open_shard(shard, PAIRS) as file:
            for batch in file.iter_batches(batch_size=64, columns=["pair_id", *IMAGE_COLUMNS]):
                for row in batch.to_pylist():
                    images = [(row[name] or {}).get("bytes") for name in IMAGE_COLUMNS]
                    rows.append([row["pair_id"], *(content_id(image) if image else None for image in images)])
        columns = zip(*rows, strict=True) if rows else ([], [], [])
        arrays = [pa.array(column, pa.string()) for column in columns]
        write_table(kept, pa.table(arrays, names=["pair_id", *IMAGE_COLUMNS]))
    return read_table(kept)
