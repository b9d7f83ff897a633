"""The contents of a dataset, as one record for scripts and as tables for people."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from palate.arithmetic import HALF_95
from palate.data.dataset import PreferenceDataset
from palate.data.identity import single_images, without_pictures
from palate.data.images import image_size
from palate.data.questions import questions_of
from palate.data.schema import CHOICES, IMAGE_COLUMNS, OVERALL, PAIRS
from palate.data.shards import open_shard, shard_paths
from palate.progress import progress_bar

SIZES_FROM = 4096  # pairs whose image sizes are read: enough for a histogram, and quick
SIZES_FROM_SHARDS = 64
SIZES_SHOWN = 8


class Agreement(TypedDict):
    """How far two people agree on a pair, a tie being a coin: the mean over so many pairs, with its 95 % interval."""

    pairs: int
    mean: float | None
    low: float | None
    high: float | None


class Propensity(TypedDict):
    """Over the pairs that have one."""

    given: int
    mean: float | None
    min: float | None
    max: float | None


class ImageSize(TypedDict):
    width: int
    height: int
    images: int


class SingleImages(TypedDict):
    """Counts of single images and of the votes on them."""

    images: int
    without_votes: int
    lacking: int
    votes: int
    choices: dict[str, dict[str, int]]
    annotators: list[dict[str, Any]]
    human_agreement: Agreement


class Summary(TypedDict):
    """What a dataset holds. `choices` has a count per source and answer, `annotators` an entry per person or program:
    source, annotator_id, votes, and a count per answer."""

    name: str
    path: str
    pairs: int
    prompts: int
    groups: int
    pairs_without_votes: int
    pairs_with_human_votes: int
    pairs_lacking_images: int
    pairs_without_pictures: int
    votes: int
    choices: dict[str, dict[str, int]]
    annotators: list[dict[str, Any]]
    human_agreement: Agreement
    questions: dict[str, int]
    single_images: SingleImages
    propensity: Propensity
    image_sizes: list[ImageSize]
    image_sizes_other: int
    image_sizes_from_pairs: int


def summarise(dataset: PreferenceDataset) -> Summary:
    """Counts of pairs and votes, image sizes, agreement between humans and propensities, ready for JSON.

    Single images and the votes on them are counted apart, under "single_images", where choice 0 is liked.
    """
    rows = dataset.pairs(["pair_id", "prompt", "group_id", "propensity"])
    every_vote = dataset.votes(["pair_id", "annotator_id", "source", "choice", "question"], question=None)
    lacking = _lacking_images(dataset)
    sizes, looked_at = _image_sizes(dataset)
    single = pa.array(sorted(single_images(dataset)), pa.string())
    pairs, singles = _split(rows, single)
    votes, single_votes = _split(every_vote, single)
    return {
        "name": dataset.name,
        "path": str(dataset.path),
        "pairs": len(pairs),
        "prompts": pc.count_distinct(rows["prompt"]).as_py(),
        "groups": pc.count_distinct(pairs["group_id"]).as_py(),
        "pairs_without_votes": len(pairs) - _with_votes(pairs, votes),
        "pairs_with_human_votes": _with_votes(pairs, votes, "human"),
        "pairs_lacking_images": len(lacking - set(single.to_pylist())),
        "pairs_without_pictures": len(without_pictures(dataset)),
        "votes": len(votes),
        "choices": _choices(votes),
        "annotators": _annotators(votes),
        "human_agreement": human_agreement(_by_question(votes)),
        "questions": questions_of(dataset),
        "single_images": {
            "images": len(singles),
            "without_votes": len(singles) - _with_votes(singles, single_votes),
            "lacking": len(lacking & set(single.to_pylist())),
            "votes": len(single_votes),
            "choices": _choices(single_votes),
            "annotators": _annotators(single_votes),
            "human_agreement": human_agreement(_by_question(single_votes)),
        },
        "propensity": _propensity(rows["propensity"]),
        "image_sizes": [{"width": w, "height": h, "images": n} for (w, h), n in sizes.most_common(SIZES_SHOWN)],
        "image_sizes_other": sum(sizes.values()) - sum(n for _, n in sizes.most_common(SIZES_SHOWN)),
        "image_sizes_from_pairs": looked_at,
    }


def human_agreement(votes: pa.Table) -> Agreement:
    """How far two humans who voted on the same pair agree, of `votes` (skips are left out).

    Per pair, the mean over all couples of its annotators of 1 for the same image, 0 for opposite ones and 1/2 where
    either is a tie, as `palate audit` measures judges; then the mean over pairs with a 95 % interval from the spread
    between pairs. Of several votes of one person on a pair the first counts.
    Values are None without such pairs, the interval also with only one.
    """
    kept = votes.filter(pc.and_(pc.equal(votes["source"], "human"), pc.not_equal(votes["choice"], "skip")))
    people = kept.group_by(["pair_id", "annotator_id"], use_threads=False).aggregate([("choice", "first")])
    for_0, for_1 = (pc.equal(people["choice_first"], choice).cast("int64") for choice in ("0", "1"))
    side = pc.subtract(for_0, for_1)
    people = people.append_column("side", side).append_column("decided", pc.abs(side))  # 1 image 0, -1 image 1, 0 a tie
    totals = people.group_by("pair_id").aggregate([("side", "count"), ("side", "sum"), ("decided", "sum")])
    voters, sided, decided = (totals[name].to_numpy() for name in ("side_count", "side_sum", "decided_sum"))
    several = voters > 1
    couples = (voters * (voters - 1))[several]
    shares = 0.5 + (sided**2 - decided)[several] / (2 * couples)  # [pairs with several voters]
    if not len(shares):
        return {"pairs": 0, "mean": None, "low": None, "high": None}
    mean = float(shares.mean())
    low = high = None
    if len(shares) > 1:
        # add one agreeing and one disagreeing pair to the spread, so that few equal shares do not claim certainty
        half = HALF_95 * float(np.std([*shares, 0.0, 1.0], ddof=1)) / math.sqrt(len(shares))
        low, high = max(0.0, mean - half), min(1.0, mean + half)
    return {"pairs": len(shares), "mean": mean, "low": low, "high": high}


def _by_question(votes: pa.Table) -> pa.Table:
    """The votes with the question in the pair's id: people who answered different questions neither agree nor not."""
    asked = votes["question"]
    if asked.null_count == len(asked):
        return votes
    own = pc.binary_join_element_wise(votes["pair_id"], pc.fill_null(asked, OVERALL), "\n")
    return votes.set_column(votes.schema.get_field_index("pair_id"), "pair_id", own)


def print_summary(summary: Summary, console: Console) -> None:
    """`summary` as rich tables on `console`."""
    console.print(f"[bold]{escape(summary['name'])}[/bold]  {escape(summary['path'])}")
    facts = Table(box=None, show_header=False, padding=(0, 2))
    facts.add_column()
    facts.add_column(justify="right")
    facts.add_column()
    groups = f"in {summary['groups']:,} ranked lists" if summary["groups"] else ""
    facts.add_row("pairs", f"{summary['pairs']:,}", groups)
    singles = summary["single_images"]
    if singles["images"]:
        votes = f"{singles['votes']:,} votes, {singles['without_votes']:,} without, {singles['lacking']:,} lacking"
        facts.add_row("single images", f"{singles['images']:,}", votes)
    facts.add_row("prompts", f"{summary['prompts']:,}")
    unseen = summary["pairs_without_pictures"]
    told = f"pairs, {unseen:,} of them imported without pictures" if unseen else "pairs"
    facts.add_row("lacking images", f"{summary['pairs_lacking_images']:,}", told)
    facts.add_row("without votes", f"{summary['pairs_without_votes']:,}", "pairs")
    facts.add_row("with human votes", f"{summary['pairs_with_human_votes']:,}", "pairs")
    facts.add_row("votes", f"{summary['votes']:,}")
    if set(summary["questions"]) - {OVERALL}:
        facts.add_row("questions", "", escape(", ".join(f"{q} {n:,}" for q, n in summary["questions"].items())))
    agreement, propensity = summary["human_agreement"], summary["propensity"]
    if agreement["pairs"]:
        interval = "" if agreement["low"] is None else f"[{agreement['low']:.2f}, {agreement['high']:.2f}] 95 %, "
        facts.add_row("humans agree", f"{agreement['mean']:.2f}", escape(f"{interval}n {agreement['pairs']:,} pairs"))
    if propensity["given"]:
        spread = f"{propensity['min']:.3g} to {propensity['max']:.3g}, n {propensity['given']:,} pairs"
        facts.add_row("propensity", f"{propensity['mean']:.3g}", spread)
    console.print(facts)
    if summary["votes"]:
        console.print(_votes_table(summary["annotators"], ("votes", "image 0", "image 1", "ties", "skips")))
    if singles["votes"]:
        console.print(_votes_table(singles["annotators"], ("on single images", "liked", "disliked", "ties", "skips")))
    if summary["image_sizes"]:
        console.print(_sizes_table(summary))


def _votes_table(annotators: list[dict[str, Any]], columns: tuple[str, ...], shown: int = 20) -> Table:
    table = Table(box=None, padding=(0, 2), title_justify="left", header_style="")
    for name in ("source", "annotator"):
        table.add_column(name)
    for name in columns:
        table.add_column(name, justify="right")
    for entry in annotators[:shown]:
        counts = [f"{entry[name]:,}" for name in ("votes", *CHOICES)]
        table.add_row(entry["source"], escape(entry["annotator_id"]), *counts)
    if len(annotators) > shown:
        rest = annotators[shown:]
        counts = [f"{sum(entry[name] for entry in rest):,}" for name in ("votes", *CHOICES)]
        table.add_row("", f"{len(rest):,} more", *counts)
    return table


def _sizes_table(summary: Summary) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="")
    table.add_column("image size")
    table.add_column("images", justify="right")
    for entry in summary["image_sizes"]:
        table.add_row(f"{entry['width']} × {entry['height']}", f"{entry['images']:,}")
    if summary["image_sizes_other"]:
        table.add_row("others", f"{summary['image_sizes_other']:,}")
    if summary["image_sizes_from_pairs"] < summary["pairs"] + summary["single_images"]["images"]:
        table.add_row(f"(of {summary['image_sizes_from_pairs']:,} pairs looked at)", "")
    return table


def _split(table: pa.Table, single: pa.Array) -> tuple[pa.Table, pa.Table]:
    """The rows about pairs, and those about the single images with these ids."""
    about_single = pc.is_in(table["pair_id"], single)
    return table.filter(pc.invert(about_single)), table.filter(about_single)


def _with_votes(pairs: pa.Table, votes: pa.Table, source: str | None = None) -> int:
    """How many of `pairs` have a vote, of one source where `source` is given."""
    kept = votes.filter(pc.equal(votes["source"], source)) if source else votes
    return pc.sum(pc.is_in(pairs["pair_id"], pc.unique(kept["pair_id"]))).as_py() or 0


def _choices(votes: pa.Table) -> dict[str, dict[str, int]]:
    counts = votes.group_by(["source", "choice"]).aggregate([("pair_id", "count")]).to_pylist()
    found = {(c["source"], c["choice"]): c["pair_id_count"] for c in counts}
    return {s: {c: found.get((s, c), 0) for c in CHOICES} for s in sorted({s for s, _ in found})}


def _annotators(votes: pa.Table) -> list[dict[str, Any]]:
    """Votes by source and annotator, the busiest first within each source."""
    counts = votes.group_by(["source", "annotator_id", "choice"]).aggregate([("pair_id", "count")]).to_pylist()
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for c in counts:
        key = (c["source"], c["annotator_id"])
        start = {"source": key[0], "annotator_id": key[1], "votes": 0} | dict.fromkeys(CHOICES, 0)
        entry = found.setdefault(key, start)
        entry[c["choice"]] = c["pair_id_count"]
        entry["votes"] += c["pair_id_count"]
    return sorted(found.values(), key=lambda e: (e["source"], -e["votes"], e["annotator_id"]))


def _propensity(values: pa.ChunkedArray) -> Propensity:
    given = len(values) - values.null_count
    bounds = pc.min_max(values).as_py()
    return {"given": given, "mean": pc.mean(values).as_py(), "min": bounds["min"], "max": bounds["max"]}


def _lacking_images(dataset: PreferenceDataset) -> set[str]:
    """Ids of pairs without pictures, or with one stored by path whose file is missing; reads the paths only, no
    bytes."""
    lacking = without_pictures(dataset)
    there: dict[str, bool] = {}
    for path in _tracked(shard_paths(dataset.path / "pairs"), "looking for images"):
        with open_shard(path, PAIRS) as file:
            table = file.read(columns=["pair_id", *(f"{name}.path" for name in IMAGE_COLUMNS)])
        paths = [pc.struct_field(table[name], "path").to_pylist() for name in IMAGE_COLUMNS]
        for pair_id, *pair in zip(table["pair_id"].to_pylist(), *paths, strict=True):
            for p in pair:
                if p and p not in there:
                    there[p] = Path(dataset.path, p).is_file()
            if not all(there[p] for p in pair if p):
                lacking.add(pair_id)
    return lacking


def _image_sizes(dataset: PreferenceDataset) -> tuple[Counter[tuple[int, int]], int]:
    """Counts of images by (width, height), from the headers of about SIZES_FROM pairs spread over the shards."""
    every = shard_paths(dataset.path / "pairs")
    shards = every[:: math.ceil(len(every) / SIZES_FROM_SHARDS) or 1]
    each = math.ceil(SIZES_FROM / max(len(shards), 1))
    sizes: Counter[tuple[int, int]] = Counter()
    looked_at = 0
    for path in _tracked(shards, "reading image sizes"):
        with open_shard(path, PAIRS) as file:
            left = each
            for batch in file.iter_batches(batch_size=64, columns=list(IMAGE_COLUMNS)):
                rows = batch.slice(0, left).to_pylist()
                images = (row[name] for row in rows for name in IMAGE_COLUMNS if row[name])
                found = (image_size(image, dataset.path) for image in images)
                sizes.update(size for size in found if size)
                looked_at += len(rows)
                left -= len(rows)
                if left <= 0:
                    break
    return sizes, looked_at


def _tracked(paths: list[Path], what: str) -> Iterator[Path]:
    with progress_bar(what, len(paths)) as advance:
        for path in paths:
            yield path
            advance(1)
