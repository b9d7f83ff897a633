"""What runs where judges run: rows of encoded pictures to answers, and pictures to embeddings."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from palate.data.images import decode_image
from palate.errors import PalateError
from palate.judges.ask import ask
from palate.judges.base import Answer, Judge, Pair
from palate.judges.embeddings import embedded

UNREADABLE = "unreadable: "  # how the failure of a pair begins whose pictures cannot be read


class Voting:
    """Rows of encoded images to answers, each with the embeddings [2, D] of both pictures where these are wanted."""

    def __init__(self, name: str, judge: Judge, beside: bool):
        self.name, self.judge, self.beside = name, judge, beside

    def __call__(self, rows: list[dict[str, Any]]) -> list[tuple[Answer, np.ndarray | None]]:
        answers: list[tuple[Answer, np.ndarray | None]] = [(Answer(), None)] * len(rows)
        pairs: list[Pair] = []
        places: list[int] = []
        for i, row in enumerate(rows):
            try:
                images = [decode_image({"bytes": row[f"image_{k}"]}, ".", f"image_{k}") for k in (0, 1)]
            except PalateError as error:
                answers[i] = (Answer(failure=f"{UNREADABLE}{error}"), None)
                continue
            pairs.append(Pair(row["pair_id"], row["prompt"], *images))
            places.append(i)
        if not pairs:
            return answers
        vectors = self._embedded(pairs) if self.beside else None
        said = ask(self.name, self.judge, pairs, embeddings=vectors)
        sides = [None] * len(pairs) if vectors is None else vectors.reshape(2, len(pairs), -1).swapaxes(0, 1)
        for i, answer, both in zip(places, said, sides, strict=True):
            answers[i] = (answer, both)
        return answers

    def _embedded(self, pairs: list[Pair]) -> np.ndarray:
        return embedded(self.name, self.judge, [pair.image_0 for pair in pairs] + [pair.image_1 for pair in pairs])


class Embedding:
    """Encoded images to embeddings [D], None for one that cannot be read."""

    def __init__(self, name: str, judge: Judge):
        self.name, self.judge = name, judge

    def __call__(self, images: list[bytes]) -> list[np.ndarray | None]:
        found: list[np.ndarray | None] = [None] * len(images)
        readable = {}
        for i, image in enumerate(images):
            try:
                readable[i] = decode_image({"bytes": image}, ".")
            except PalateError:
                continue  # such a pair has no vote either
        if not readable:
            return found
        vectors = embedded(self.name, self.judge, list(readable.values()))
        for i, vector in zip(readable, vectors, strict=True):
            found[i] = vector
        return found


def maker(
    kind: type, engine: str, load: Callable[..., Judge], name: str, judge: Judge, settings: dict[str, Any], *more: Any
) -> partial[Any]:
    """What builds a worker: around this judge, or, on other machines, around one that `load` finds by the same name."""
    return partial(kind, name, judge, *more) if engine == "local" else partial(_made, kind, load, name, settings, *more)


def _made(kind: type, load: Callable[..., Judge], name: str, settings: dict[str, Any], *more: Any) -> Any:
    return kind(name, load(name, **settings), *more)
