"""Ranked lists: HPDv2 (Wu et al. 2023, arXiv:2306.09341), HPDv3 (arXiv:2508.03789) and ImageRewardDB (Xu et al. 2023,
arXiv:2304.05977)."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, TypeGuard

from palate.data.importers.common import (
    ImportReport,
    Reading,
    Record,
    Refused,
    Row,
    build_rows,
    path_inside,
    prompt_of,
    shuffled_pair,
    text_id,
)
from palate.data.schema import content_id
from palate.errors import PalateError
from palate.reading import parse_json, read_text

RATINGS = {"image_text_alignment_rating": "alignment", "fidelity_rating": "fidelity"}  # of ImageRewardDB: question


def read(source: Path, report: ImportReport, how: Reading) -> Iterator[Row]:
    """The pairs of one JSON file, a list of entries; all pairs of an entry share one group_id.

    HPDv2 test: prompt, image_path[], rank[] and raw_annotations[{rank[], user_hash}], one vote per annotator and pair.
    HPDv2 train: prompt, file_path[], human_preference[] (1 for the preferred image). ImageRewardDB: prompt,
    generations[], ranking[]; or one entry per image with image_path, prompt_id and rank. HPDv3: prompt, path1 (the
    preferred image), path2, model1, model2. In each a lower rank is better and equal ranks are ties. (`rank` of HPDv2
    averages the annotators, who are therefore checked against it: a note says so when they mostly contradict it.)

    ImageRewardDB's ratings of alignment and fidelity (image_text_alignment_rating, fidelity_rating; more is better) are
    votes on these questions; lists of them beside a ranking, too.

    Images stay where they are, and pairs hold their paths: k images make k(k - 1)/2 pairs, and embedding each of them
    would store it k - 1 times. Images that are not there yet may be put there later.
    """
    try:
        entries = parse_json(read_text(source))
    except ValueError as error:
        raise PalateError(f"{source}: not a complete JSON file ({error}). Replace it by a good copy.") from error
    if not isinstance(entries, list):
        raise PalateError(f"{source}: not a list of entries. Check the format given to `palate import`.")
    entries = _by_prompt(entries)
    records: Iterator[Record] = ((f"{source} entry {i}", (i + 1) / len(entries), e) for i, e in enumerate(entries))
    agreement: list[int] = [0, 0]  # ordered pairs on which an annotator agrees with, contradicts, the averaged rank
    folder = source.parent.resolve()
    yield from build_rows(records, partial(_build, folder, how.allow_outside, report, agreement), report)
    if agreement[1] >= agreement[0] and any(agreement):
        report.notes.append(
            f"{source}: annotators contradict `rank` on {agreement[1]:,} of {sum(agreement):,} pairs. "
            "Check that in raw_annotations a lower rank is better and that ranks are in the order of image_path."
        )


def _build(
    folder: Path, outside: bool, report: ImportReport, agreement: list[int], where: str, done: float, entry: Any
) -> Iterator[Row]:
    if not isinstance(entry, dict):
        raise Refused("not a JSON object")
    prompt = prompt_of(entry, "prompt")
    paths, ranks = _list(entry)
    if len(paths) < 2 or len(paths) != len(ranks):
        raise Refused("ranks do not fit", f"{len(paths)} images and {len(ranks)} ranks")
    for path in paths:
        path_inside(path, folder, "image", outside)
    rankings = _annotators(entry, len(paths), where, report) or [(None, ranks)]
    if entry.get("raw_annotations"):
        _compare(ranks, rankings, agreement)
    rated = _rated(entry, len(paths))
    group_id = content_id("group", prompt, *paths)
    for a, b in combinations(range(len(paths)), 2):
        pair, swapped = shuffled_pair(prompt, {"path": paths[a]}, {"path": paths[b]})
        pair["group_id"] = group_id
        for name in ("image_0", "image_1"):  # the id above is made of the paths as the file has them
            pair[name] = {"bytes": None, "path": str(folder / pair[name]["path"])}
        first, second = (b, a) if swapped else (a, b)
        for side, place in (("0", first), ("1", second)):
            if isinstance(model := entry.get(f"model{place + 1}"), str) and "path1" in entry:
                pair[f"generator_{side}"] = {"model": model}
        votes: list[dict[str, Any]] = [
            {"annotator_id": who, "choice": _choice(r[first], r[second])} for who, r in rankings
        ]
        votes += [{"choice": _choice(-r[first], -r[second]), "question": name} for name, r in rated.items()]
        yield Row(where, done, pair, votes)


def _by_prompt(entries: list[Any]) -> list[Any]:
    """Entries of single images (image_path is one text) as one entry per prompt_id, in order; others as they are."""
    made: list[Any] = []
    by_prompt: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("image_path"), str):
            made.append(entry)
            continue
        key = (str(entry.get("prompt_id")), str(entry.get("prompt")))
        if key not in by_prompt:
            by_prompt[key] = {"prompt": entry.get("prompt"), "generations": [], "ranking": []}
            by_prompt[key] |= {field: [] for field in RATINGS if field in entry}
            made.append(by_prompt[key])
        for name, value in {"generations": entry["image_path"], "ranking": entry.get("rank")}.items():
            by_prompt[key][name].append(value)
        for field in RATINGS:
            by_prompt[key].get(field, []).append(entry.get(field))
    return made


def _rated(entry: Mapping[str, Any], count: int) -> dict[str, list[float]]:
    """The ratings of a list's images by question; refuses a list that does not fit its images."""
    found = {name: entry[field] for field, name in RATINGS.items() if entry.get(field) is not None}
    for name, ratings in found.items():
        if not _numbers(ratings) or len(ratings) != count:
            raise Refused("ratings do not fit", f"the ratings of {name} are not {count} finite numbers")
    return found


def _list(entry: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    if "generations" in entry:
        paths, ranks = entry["generations"], entry.get("ranking")
    elif "image_path" in entry:
        paths, ranks = entry["image_path"], entry.get("rank")
    elif "file_path" in entry:
        paths, ranks = entry["file_path"], entry.get("human_preference")
        ranks = [1 - value for value in ranks] if _numbers(ranks) else None
    elif "path1" in entry:
        paths, ranks = [entry["path1"], entry.get("path2")], [1, 2]
    else:
        raise Refused("no images", "no list of images (generations, image_path, file_path or path1)")
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths) or not _numbers(ranks):
        raise Refused(
            "not a ranked list", "images must be a list of paths and ranks a list of finite numbers, one each"
        )
    return paths, ranks


def _annotators(
    entry: Mapping[str, Any], count: int, where: str, report: ImportReport
) -> list[tuple[str | None, list[float]]]:
    rankings: list[tuple[str | None, list[float]]] = []
    every = entry.get("raw_annotations") or []
    if not isinstance(every, list):
        raise Refused("not a ranked list", "raw_annotations must be a list")
    for number, raw in enumerate(every):
        ranks = raw.get("rank") if isinstance(raw, dict) else None
        if not _numbers(ranks) or len(ranks) != count:
            detail = f"raw_annotations[{number}] does not hold {count} finite ranks"
            report.refuse(where, "ranking of an annotator does not fit", detail)
            continue
        who = text_id(raw.get("user_hash"), "user_hash")
        rankings.append((f"annotator-{number}" if who is None else f"user-{who}", ranks))
    return rankings


def _compare(ranks: list[float], rankings: list[tuple[str | None, list[float]]], agreement: list[int]) -> None:
    for _, other in rankings:
        for a, b in combinations(range(len(ranks)), 2):
            product = (ranks[a] - ranks[b]) * (other[a] - other[b])
            agreement[0] += product > 0
            agreement[1] += product < 0


def _choice(rank_0: float, rank_1: float) -> str:
    return "tie" if rank_0 == rank_1 else "0" if rank_0 < rank_1 else "1"


def _numbers(values: object) -> TypeGuard[list[float]]:
    """Whether these are ranks: finite numbers, none of them missing."""
    return isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < math.inf for v in values
    )
