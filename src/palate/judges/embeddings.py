"""Embeddings of pictures that judges make while they vote: what the corrected judge can look at beyond what has a name.

judges/NAME/embeddings.sqlite holds one vector of float16 numbers per picture, by its content, and the two pictures of
each pair. A batch is one transaction, so an interrupted run goes on.
"""

import inspect
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.linalg import eigh

from palate.data.dataset import PreferenceDataset
from palate.data.images import image_bytes
from palate.data.schema import content_id
from palate.errors import PalateError
from palate.judges.answers import connect, kept
from palate.judges.base import Judge
from palate.progress import progress_bar

FILE = "embeddings.sqlite"
MOST_DIRECTIONS = 16
_ROWS = 8192  # pairs whose embeddings are held as float64 at a time
_MOST_PAIRS = 20_000  # that principal directions are computed from
_TABLES = (
    "about (judge TEXT PRIMARY KEY)",
    "pictures (picture TEXT PRIMARY KEY, vector BLOB) WITHOUT ROWID",
    "pairs (pair_id TEXT PRIMARY KEY, picture_0 TEXT, picture_1 TEXT) WITHOUT ROWID",
)


def can_embed(judge: Judge, freely: bool = False) -> bool:
    """Whether a judge has a method embed(images) -> [N, D]; with `freely`, whether its vote takes what that gives, so
    that embeddings cost nothing beside a vote."""
    if not callable(getattr(judge, "embed", None)):
        return False
    return not freely or "embeddings" in inspect.signature(judge.vote).parameters


class EmbeddingStore:
    """The file embeddings.sqlite of one annotator. A context manager; every `put` is one durable transaction.

    `judge` names the judge as it is (`judge_key`): what another one left behind is removed. Raises PalateError where
    the file cannot be read or written.
    """

    def __init__(self, path: str | Path, judge: str):
        self.path, self._judge = Path(path), judge

    def __enter__(self) -> "EmbeddingStore":
        self._database = connect(self.path, *_TABLES)
        with kept(self.path, self._database):
            if self._database.execute("SELECT judge FROM about").fetchall() not in ([], [(self._judge,)]):
                for table in ("about", "pictures", "pairs"):
                    self._database.execute(f"DELETE FROM {table}")
            self._database.execute("INSERT OR IGNORE INTO about VALUES (?)", (self._judge,))
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def pair_ids(self) -> set[str]:
        """Pairs whose two pictures are embedded."""
        return {row[0] for row in self._database.execute("SELECT pair_id FROM pairs")}

    def lacking(self, pictures: Iterable[str]) -> list[str]:
        """Those of these pictures that have no vector yet, once each, in their order."""
        one = "SELECT 1 FROM pictures WHERE picture = ?"
        return [p for p in dict.fromkeys(pictures) if not self._database.execute(one, (p,)).fetchone()]

    def put(self, vectors: Mapping[str, np.ndarray], pairs: Mapping[str, Sequence[str]]) -> int:
        """Keep vectors [D] by picture, and which two pictures pairs have; all of it or, where that fails, nothing.
        Returns the number of pictures that are new; a known one is left as it is."""
        rows = [(picture, np.asarray(vector, np.float16).tobytes()) for picture, vector in vectors.items()]
        linked = [(pair_id, *pictures) for pair_id, pictures in pairs.items()]
        with kept(self.path, self._database):
            before = self._database.total_changes
            self._database.executemany("INSERT OR IGNORE INTO pictures VALUES (?, ?)", rows)
            new = self._database.total_changes - before
            self._database.executemany("INSERT OR REPLACE INTO pairs VALUES (?, ?, ?)", linked)
        return new


def embedded(name: str, judge: Any, images: list[Image.Image]) -> np.ndarray:
    """The judge's embeddings [N, D] of N pictures. Raises PalateError where they are not N vectors of finite
    numbers."""
    vectors = np.asarray(judge.embed(images))
    with np.errstate(over="ignore"):
        usable = vectors.ndim == 2 and len(vectors) == len(images) and np.isfinite(vectors.astype(np.float16)).all()
    if not usable:
        raise PalateError(
            f"judge {name!r}: embed gave an array {vectors.shape} for {len(images)} pictures, or numbers beyond 65,504."
            " It must give one vector of finite numbers for each; --embeddings none does without."
        )
    return vectors


def picture_content(image: bytes) -> str:
    """A name for an encoded picture."""
    return content_id("picture", image)


def embed_pairs(
    dataset: PreferenceDataset,
    wanted: Set[str],
    store: EmbeddingStore,
    run: Callable[[Iterator[list[bytes]]], Iterator[tuple[list[bytes], list[np.ndarray | None]]]],
    batch_size: int,
) -> int:
    """Embed the pictures of these pairs that have no embedding yet, each picture once; returns how many were embedded.

    `run` maps batches of encoded images and gives (batch, embeddings [D], None for a picture that cannot be read).
    Pairs with such a picture stay without.
    """
    wanted = wanted - store.pair_ids()
    pictures: dict[str, list[str]] = {}
    new = 0

    def batches() -> Iterator[list[bytes]]:
        waiting: dict[str, bytes] = {}
        for batch in dataset.iter_pairs(columns=["pair_id", "image_0", "image_1"], batch_size=64):
            if wanted.isdisjoint(batch["pair_id"].to_pylist()):
                continue  # without reading an image
            for row in batch.to_pylist():
                if row["pair_id"] not in wanted:
                    continue
                try:
                    images = [image_bytes(row[f"image_{k}"], dataset.path) for k in (0, 1)]
                except PalateError:
                    continue  # such a pair has no vote either
                names = [picture_content(image) for image in images]
                pictures[row["pair_id"]] = names
                lacking = store.lacking(names)
                waiting |= {name: image for name, image in zip(names, images, strict=True) if name in lacking}
                if len(waiting) >= batch_size:
                    yield list(waiting.values())
                    waiting = {}
        if waiting:
            yield list(waiting.values())

    with progress_bar("embeddings", len(wanted)) as advance:
        for batch, vectors in run(batches()):
            found = {picture_content(i): v for i, v in zip(batch, vectors, strict=True) if v is not None}
            new += store.put(found, {})
            advance(len(batch))
    store.put({}, {pair_id: both for pair_id, both in pictures.items() if not store.lacking(both)})
    return new


def embedding_directions(
    dataset: PreferenceDataset, pair_ids: Sequence[str], most: int = MOST_DIRECTIONS
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Differences of picture embeddings, image 0 minus image 1, along their leading principal directions [N, C], and
    the annotators whose embeddings these are; C = 0 where there are none.

    The embeddings of all judges together, each brought to the same mean square. Principal directions of all pairs (of
    20,000 drawn at random where there are more), of which no vote is known here; not centred, because the sign of a
    difference is that of an arbitrary order. A pair without embeddings has difference 0.
    """
    files = sorted((dataset.path / "judges").glob(f"*/{FILE}"))
    sources = {file.parent.name: found for file in files if (found := _read(file, pair_ids)) is not None}
    if not sources:
        return np.zeros((len(pair_ids), 0)), ()

    def differences(rows: np.ndarray) -> Iterator[np.ndarray]:
        for part in np.split(rows, range(_ROWS, len(rows), _ROWS)):
            yield np.hstack([_differences(*found, part) for found in sources.values()])

    rows = np.arange(len(pair_ids))
    some = np.random.default_rng(0).choice(rows, _MOST_PAIRS, replace=False) if len(rows) > _MOST_PAIRS else rows
    gram = sum(block.T @ block for block in differences(some))
    widths = [vectors.shape[1] for vectors, _ in sources.values()]
    ends = np.cumsum(widths)
    traces = [np.trace(gram[end - width : end, end - width : end]) for end, width in zip(ends, widths, strict=True)]
    scale = np.repeat([1 / np.sqrt(trace) if trace > 0 else 0.0 for trace in traces], widths)
    count = min(most, len(gram))
    variance, directions = eigh(gram * np.outer(scale, scale), subset_by_index=[len(gram) - count, len(gram) - 1])
    leading = (directions * scale[:, None])[:, variance > 1e-9][:, ::-1]
    return np.vstack([block @ leading for block in differences(rows)]), tuple(sources)


def _differences(vectors: np.ndarray, places: np.ndarray, rows: np.ndarray) -> np.ndarray:
    first, second = places[rows].T
    known = (first >= 0) & (second >= 0)
    difference = vectors[first].astype(np.float64) - vectors[second]
    return np.where(known[:, None], difference, 0.0)


def _read(path: Path, pair_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Vectors [P, D] of a file, and the positions [N, 2] among them of the pictures of each pair, -1 where there is
    none; None where no pair has any."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            pictures = database.execute("SELECT picture, vector FROM pictures").fetchall()
            pairs = {k: (a, b) for k, a, b in database.execute("SELECT pair_id, picture_0, picture_1 FROM pairs")}
        vectors = np.stack([np.frombuffer(vector, np.float16) for _, vector in pictures]) if pictures else None
    except (sqlite3.Error, ValueError) as error:
        raise PalateError(
            f"{path}: the embeddings of pictures cannot be read ({error}). Delete the file and let the judge embed"
            " again (palate annotate --embeddings all), or set covariates: statistics."
        ) from error
    place = {picture: k for k, (picture, _) in enumerate(pictures)}
    none = (None, None)
    places = np.array([[place.get(p, -1) for p in pairs.get(pair_id, none)] for pair_id in pair_ids], dtype=np.int64)
    return (vectors, places) if vectors is not None and (places >= 0).all(axis=1).any() else None
