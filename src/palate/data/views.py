"""Views of the pairs and the votes for methods that do not train on pairs: liked images, and ranked lists.

No new tables: both are computed from pairs and votes. An image is named by (pair_id, side), side 0 or 1, and two images
are the same where their content is (`image_ids`).
"""

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from palate.arrays import Floats, Ints
from palate.data.dataset import PreferenceDataset
from palate.data.identity import Image, image_ids, single_images
from palate.data.schema import content_id
from palate.errors import PalateError

__all__ = [
    "Image",
    "LikedImages",
    "Lists",
    "copeland_ranks",
    "image_ids",
    "liked_images",
    "ranked_lists",
    "single_images",
]

TIE = 1e-9  # a mean of votes this close to one half is a tie


@dataclass(frozen=True)
class LikedImages:
    """M different images with their prompts and the share of people's votes that liked them, in the order of the
    dataset."""

    image: list[Image]  # [M]
    prompt: list[str]  # [M]
    liked: Floats  # [M] float64 in [0, 1]: 1 liked, 0 disliked


@dataclass(frozen=True)
class Lists:
    """L ranked lists. `rank` counts from 0, the best; images of one rank are tied, and no rank is left out."""

    list_id: list[str]  # [L]; a list of one pair has the pair's id
    prompt: list[str]  # [L]
    images: list[list[Image]]  # [L][n], the best first
    rank: list[list[int]]  # [L][n]


class _Row(NamedTuple):
    """A pair, or a single image, with its human vote."""

    pair_id: str
    prompt: str
    group_id: str | None
    ids: tuple[str, ...]  # of its images, two or one; "" for one that has neither bytes nor a path
    human: float  # mean vote, NaN where there is none


def liked_images(
    dataset: PreferenceDataset, human: Floats, readable: Container[str] | None = None
) -> tuple[LikedImages, Counter[str]]:
    """Every image that people judged, once per prompt, and whether they liked it: the data of Diffusion-KTO.

    human [N]: the mean human vote of each row of the dataset, in its order; NaN where there is none. Of a pair the
    winner is liked (1) and the loser disliked (0); a single image has the share of its voters who liked it. Rows of
    exactly one half are left out. An image that was judged several times keeps the best judgement: one that both won
    and lost counts as liked, as in the data of the released code (arXiv 2404.04465), since losing to a better image is
    no dislike. That a single image keeps the share of its voters, where the code knows only 0 and 1, is our addition.
    `readable`: the pair_ids whose images can be used (e.g. those that are encoded). An image is then named by a row
    among them, and left out where there is none; votes on the others still count.

    Returns the images, and counts of what was used, and of what was left out and why. Raises PalateError when `human`
    does not fit the dataset.
    """
    counts: Counter[str] = Counter()
    rows = _rows(dataset, human)
    liked: dict[tuple[str, str], float] = {}  # (prompt, image id)
    won, lost = set(), set()
    for row in _decided(rows, counts):
        keys = [(row.prompt, name) for name in row.ids]
        if len(keys) == 1:
            judged = {keys[0]: row.human}
        else:
            winner, loser = keys if row.human > 0.5 else keys[::-1]
            won.add(winner)
            lost.add(loser)
            judged = {winner: 1.0, loser: 0.0}
        counts["images judged more than once"] += sum(key in liked for key in judged)
        for key, value in judged.items():
            liked[key] = max(value, liked.get(key, 0.0))
    places = _places(rows, readable)
    kept = [key for key in liked if key in places]
    values = np.array([liked[key] for key in kept], dtype=np.float64)
    counts["images that won and lost"] = len(won & lost)
    counts["images that cannot be read"] = len(liked) - len(kept)
    counts["images"] = len(kept)
    counts["images liked"] = int((values > 0.5).sum())
    counts["images disliked"] = int((values < 0.5).sum())
    return LikedImages([places[key] for key in kept], [prompt for prompt, _ in kept], values), +counts


def ranked_lists(
    dataset: PreferenceDataset, human: Floats, length: int | None = None, readable: Container[str] | None = None
) -> tuple[Lists, Counter[str]]:
    """The images that people compared, as ranked lists: the data of Diffusion-LPO (arXiv 2510.01540).

    human [N] and `readable` are as in `liked_images`. The pairs of one group_id, and those without one that have a
    prompt in common, form lists: images belong to one list where decided votes connect them, directly or through
    others, because nothing is known about the order of images that are not connected. So a pair that shares no image is
    a list of 2. Images are ordered by `copeland_ranks`. Ties and contradictions that leave no order, images without a
    decided vote and single images are left out and counted. A list longer than `length` is split into parts that each
    go from the best to the worst (every k-th image); an image that is left over, alone or with its equals only, is left
    out and counted.

    How the paper makes its lists of Pick-a-Pic votes was not visible: derived.
    Returns the lists, and counts of what was used and of what was left out and why.
    Raises PalateError when `human` does not fit the dataset, or for a length below 2.
    """
    if length is not None and length < 2:
        raise PalateError(f"a ranked list of at most {length} images: a list needs two. Give a length of 2 or more.")
    counts: Counter[str] = Counter()
    rows = _rows(dataset, human)
    pairs = [row for row in rows if len(row.ids) == 2]
    counts["single images left out"] = len(rows) - len(pairs)
    decided = list(_decided(pairs, counts))
    shown, voted = ({(row.prompt, row.group_id, name) for row in some for name in row.ids} for some in (pairs, decided))
    counts["images without a decided vote"] = len(shown - voted)
    everywhere = _places(rows, readable)
    found = Lists([], [], [], [])
    for members in _connected(decided):
        names, net = _net_wins(members)
        rank = copeland_ranks(net)
        counts["comparisons that contradict the order"] += int(((net > 0) & (rank[:, None] >= rank)).sum())
        if not rank.any():
            counts["lists without an order"] += 1
            continue
        prompt, own = members[0].prompt, _places(members, readable)  # a list is made of its own pairs where that can be
        image = [own.get((prompt, name)) or everywhere.get((prompt, name)) for name in names]
        there = [i for i in np.argsort(rank, kind="stable") if image[i] is not None]  # the best first
        counts["images that cannot be read"] += len(names) - len(there)
        _add(found, counts, _list_id(members), prompt, [image[i] for i in there], rank[there], length)
    counts["lists"] = len(found.list_id)
    counts["images"] = sum(map(len, found.images))
    counts["lists of two"] = sum(len(images) == 2 for images in found.images)
    return found, +counts


def copeland_ranks(net: Floats) -> Ints:
    """Ranks [n] from 0, the best, of n images with net wins [n, n]: entry (i, j) is above 0 where i was preferred to j.

    Copeland score, the images that one beats minus those that beat it, where an image also beats whatever the images it
    beat have beaten. So missing comparisons are filled in along chains, and a decided comparison always keeps its order
    unless it is part of a cycle; the images of a cycle cancel out, and are then ordered by the direct comparisons among
    images of equal score. Equal images share a rank. For complete comparisons this is the plain Copeland order. Images
    that no chain connects are ordered by their scores too, although nobody compared them.
    """
    beats = net > TIE
    further = beats | ((beats.astype(np.float32) @ beats) > 0)
    while (further != beats).any():
        beats, further = further, further | ((further.astype(np.float32) @ further) > 0)
    score = beats.sum(axis=1) - beats.sum(axis=0)
    decided = (net > TIE).astype(int) - (net < -TIE)
    among_equals = (decided * (score[:, None] == score)).sum(axis=1)
    return np.unique(np.stack([-score, -among_equals]), axis=1, return_inverse=True)[1].reshape(-1)


def _rows(dataset: PreferenceDataset, human: Floats) -> list[_Row]:
    """The rows of the dataset in its order; raises PalateError when `human` does not fit them."""
    table = dataset.pairs(["pair_id", "prompt", "group_id"])
    human = np.asarray(human, dtype=np.float64)
    if human.shape != (len(table),) or ((human < 0) | (human > 1)).any():
        raise PalateError(
            f"human votes of shape {human.shape} for {len(table)} pairs: give one mean vote in [0, 1] per pair of the "
            "dataset, NaN where nobody voted."
        )
    ids, single = image_ids(dataset), single_images(dataset)
    rows = []
    columns = (table[name].to_pylist() for name in ("pair_id", "prompt", "group_id"))
    for pair_id, prompt, group_id, vote in zip(*columns, human.tolist(), strict=True):
        sides = (0,) if pair_id in single else (0, 1)
        shown = tuple(ids.get((pair_id, side), "") for side in sides)
        rows.append(_Row(pair_id, prompt, group_id, shown, vote))
    return rows


def _decided(rows: list[_Row], counts: Counter[str]) -> Iterator[_Row]:
    """The rows on which people came to a decision; counts them, and the others by reason."""
    for row in rows:
        what = "single images" if len(row.ids) == 1 else "pairs"
        if np.isnan(row.human):
            counts[f"{what} without a human vote"] += 1
        elif not all(row.ids):
            counts[f"{what} lacking an image"] += 1
        elif len(set(row.ids)) < len(row.ids):
            counts["pairs of one image twice"] += 1
        elif abs(row.human - 0.5) < TIE:
            counts[f"{what} tied"] += 1
        else:
            counts[what] += 1
            yield row


def _places(rows: list[_Row], readable: Container[str] | None) -> dict[tuple[str, str], Image]:
    """(prompt, image id) -> the first readable (pair_id, side) of that image with that prompt."""
    found: dict[tuple[str, str], Image] = {}
    for row in rows:
        if readable is None or row.pair_id in readable:
            for side, name in enumerate(row.ids):
                found.setdefault((row.prompt, name), (row.pair_id, side))
    return found


def _connected(rows: list[_Row]) -> list[list[_Row]]:
    """`rows` by list, in the order of their first ones."""
    nodes: dict[tuple[str, str | None, str], int] = {}
    edges = [[nodes.setdefault((row.prompt, row.group_id, name), len(nodes)) for name in row.ids] for row in rows]
    if not rows:
        return []
    first, second = np.array(edges).T
    graph = coo_array((np.ones(len(rows)), (first, second)), shape=(len(nodes), len(nodes)))
    label = connected_components(graph, directed=False)[1]
    lists: dict[int, list[_Row]] = {}
    for row, node in zip(rows, first, strict=True):
        lists.setdefault(int(label[node]), []).append(row)
    return list(lists.values())


def _net_wins(rows: list[_Row]) -> tuple[list[str], Floats]:
    """The images of a list in the order in which they appear, and their net wins [n, n]: the sum of 2 * vote - 1."""
    index: dict[str, int] = {}
    places = [[index.setdefault(name, len(index)) for name in row.ids] for row in rows]
    wins = np.zeros((len(index), len(index)))
    for (first, second), row in zip(places, rows, strict=True):
        wins[first, second] += 2 * row.human - 1
        wins[second, first] -= 2 * row.human - 1
    return list(index), np.where(np.abs(wins) > TIE, wins, 0.0)


def _list_id(rows: list[_Row]) -> str:
    """Made of its pairs and of no path, so that a folder which is moved keeps its draws."""
    if len(rows) == 1:
        return rows[0].pair_id  # so that a list of 2 has the draws of its pair
    return content_id("list", rows[0].prompt, rows[0].group_id, *sorted(row.pair_id for row in rows))


def _add(
    lists: Lists, counts: Counter[str], list_id: str, prompt: str, images: list[Image], rank: Ints, length: int | None
) -> None:
    """Append a list, the best image first, in as many parts as `length` requires."""
    parts = 1 if length is None else max(1, -(-len(images) // length))
    counts["lists split"] += parts > 1
    for part in range(parts):
        values = np.unique(rank[part::parts], return_inverse=True)[1].tolist()
        if any(values):
            lists.list_id.append(f"{list_id}/{part}" if parts > 1 else list_id)
            lists.prompt.append(prompt)
            lists.images.append(images[part::parts])
            lists.rank.append(values)
        elif parts > 1:  # an image alone, or with its equals
            counts["images left over"] += len(values)
        else:
            counts["lists without an order"] += 1
