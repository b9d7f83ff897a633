"""Import foreign files into a dataset: read, check every image, write what is missing, count everything."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from palate.data.dataset import BYTES_PER_SHARD, ROWS_PER_SHARD, PreferenceDataset
from palate.data.images import bytes_of_pair, decode_image
from palate.data.importers import folders, jsonl, pickapic, rankings, samples, trl
from palate.data.importers.common import ImportReport, Row
from palate.data.schema import IMAGE_COLUMNS, content_id, pair_row, vote_row
from palate.errors import PalateError, did_you_mean

Format = Literal["pickapic", "folders", "jsonl", "rankings", "trl", "samples"]
READERS = {
    "pickapic": pickapic.read,
    "folders": folders.read,
    "jsonl": jsonl.read,
    "rankings": rankings.read,
    "trl": trl.read,
}
ROWS_AT_ONCE = 32
REMEDY = "rerun with the file repaired to add the rest"
MISSING = "no such file or folder."


def import_pairs(
    format: Format,
    sources: Sequence[str | Path],
    to: str | Path,
    name: str | None = None,
    annotator: str = "unknown",
    source: Literal["human", "judge"] = "human",
    progress: bool = False,
) -> ImportReport:
    """Add the pairs and votes of `sources` to the dataset in folder `to`, which is made if it is not there.

    `annotator` and `source` say who voted where the files do not. A pair's id is made of its content, so running again
    adds only what is missing. Rows that cannot be used are counted in the report with file and row.
    Raises PalateError when a source is missing or damaged, or nothing could be imported; all that is good is written
    before.
    """
    if not sources:
        raise PalateError("nothing to import: no sources given. Name the files or folders to read.")
    if format not in get_args(Format):
        known = get_args(Format)
        raise PalateError(f"format {format!r} is not one of {', '.join(known)}{did_you_mean(format, known)}")
    target = _Target(Path(to), name, annotator, source)
    report = ImportReport()
    _file_decodes.cache_clear()  # files may have changed since an earlier import
    pairs = TextColumn("{task.fields[pairs]} pairs")
    columns = (TextColumn("{task.description}"), BarColumn(), pairs, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("importing", total=1 if format == "samples" else len(sources), pairs="0")
        for number, path in enumerate(map(Path, sources)):
            if format == "samples" and number:
                break  # the first is read with all the others beside it
            try:
                if not path.exists():
                    raise PalateError(f"{path}: {MISSING}")
                rows = (
                    samples.read(list(map(Path, sources)), report)
                    if format == "samples"
                    else READERS[format](path, report)
                )
                for row in _write_while_reading(rows, target, report):
                    bar.update(task, completed=number + row.done, pairs=f"{report.pairs_added:,}")
            except (PalateError, OSError, UnicodeDecodeError) as error:
                if target.failed:
                    raise
                line = str(error) if isinstance(error, PalateError) else f"{path}: cannot be read ({error})."
                report.broken_sources.append(line)
    _conclude(report, target, {"format": format, "sources": [str(path) for path in sources]})
    return report


def summary_lines(report: ImportReport) -> list[str]:
    """The report as lines for a terminal."""
    lines = [
        f"read     {report.read:,}",
        f"pairs    {report.pairs_added:,} added · {report.pairs_known:,} already there · "
        f"{report.without_vote:,} without a vote · {report.without_images:,} lacking images",
        *[f"         {report.single_images:,} of those added are single images"] * bool(report.single_images),
        f"votes    {report.votes_added:,} added · {report.votes_known:,} already there · "
        f"{report.ties:,} ties · {report.skips:,} skips",
        f"skipped  {report.skipped.total():,}",
    ]
    lines += [f"         {count:,} × {reason}" for reason, count in report.skipped.most_common()]
    lines += report.messages
    if report.skipped.total() > len(report.messages):
        lines.append(f"… and {report.skipped.total() - len(report.messages):,} more like these.")
    if report.skipped:
        lines.append(f"The other {_imported(report):,} pairs were imported; {REMEDY}.")
    return lines + report.notes


class _Target:
    """The dataset that is written to: made at the first write, so that an import of nothing leaves nothing behind."""

    def __init__(self, path: Path, name: str | None, annotator: str, source: str):
        self.path, self.name, self.annotator, self.source = path, name, annotator, source
        self.dataset = PreferenceDataset.open(path) if (path / "dataset.json").exists() else None
        self.known = self.dataset.pair_ids() if self.dataset else {}
        self.pairs: dict[str, dict[str, Any]] = {}
        self.votes: list[dict[str, Any]] = []
        self.bytes = 0
        self.failed = False  # a write failed: going on with the next source would fail the same way

    def has(self, pair_id: str | None) -> bool:
        """Whether the pair is on disk, or waits to be written."""
        return pair_id in self.pairs or pair_id in self.known

    def write(self, report: ImportReport) -> None:
        """Write what waits: pairs before the votes on them."""
        if not self.pairs and not self.votes:
            return
        pairs, votes = self.pairs, self.votes
        self.pairs, self.votes, self.bytes = {}, [], 0
        self.failed = True
        self.dataset = self.dataset or PreferenceDataset.create(self.path, self.name or self.path.resolve().name)
        report.pairs_added += self.dataset.add_pairs(pairs.values(), skip_known=True)
        appended = self.dataset.append_votes(votes)
        self.known = self.dataset.pair_ids()
        self.failed = False
        report.votes_added += appended.added
        report.votes_known += appended.already_there


def _write_while_reading(rows: Iterable[Row], target: _Target, report: ImportReport) -> Iterator[Row]:
    """Check and write `rows` in chunks; yields each row when it has been dealt with."""
    rows = iter(rows)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes outside the interpreter lock
        try:
            while chunk := list(islice(rows, ROWS_AT_ONCE)):
                checked = pool.map(lambda row: _image_problem(row, target), chunk)
                for row, problem in zip(chunk, checked, strict=True):
                    _take(row, problem, target, report)
                    yield row
                if len(target.pairs) >= ROWS_PER_SHARD or target.bytes >= BYTES_PER_SHARD:
                    target.write(report)
        finally:
            if not target.failed:
                target.write(report)


def _image_problem(row: Row, target: _Target) -> str | None:
    """What is wrong with the images of `row`, '' when they lack, None when all is well or the pair is known."""
    if target.has(row.pair["pair_id"]) or target.has(row.mirror_id):
        return None
    lacking = False
    for name in IMAGE_COLUMNS:
        image = row.pair[name]
        if image is None:  # a single image
            continue
        if image["bytes"]:
            problem = _decodes(image["bytes"], name)
        else:
            problem = _file_decodes(image["path"], name)
        if problem:
            return problem
        lacking = lacking or problem == ""
    return "" if lacking else None


def _decodes(data: bytes, name: str) -> str | None:
    try:
        decode_image({"bytes": data}, ".", name)
    except PalateError as error:
        return str(error)
    return None


@lru_cache(maxsize=4096)  # an image of a ranked list is in several pairs
def _file_decodes(path: str, name: str) -> str | None:
    return _decodes(Path(path).read_bytes(), name) if Path(path).is_file() else ""


def _take(row: Row, problem: str | None, target: _Target, report: ImportReport) -> None:
    if problem:
        report.refuse(row.where, "image does not decode", problem)
        return
    own: str = row.pair["pair_id"]
    mirrored = row.mirror_id is not None and row.mirror_id != own and target.has(row.mirror_id)
    pair_id = row.mirror_id if mirrored and row.mirror_id is not None else own
    try:
        pair = pair_row(row.pair, row.where)
        votes = [_vote(_mirrored(vote) if mirrored else vote, pair_id, row.where, target) for vote in row.votes]
    except PalateError as error:
        report.refuse(row.where, "field of the wrong form", str(error).removeprefix(f"{row.where}: ").removesuffix("."))
        return
    if target.has(pair_id):
        report.pairs_known += 1
    else:
        target.pairs[pair_id] = pair
        target.bytes += bytes_of_pair(pair)
        report.single_images += pair["image_1"] is None
        report.without_vote += not votes
        report.without_images += problem == ""
    target.votes += votes
    report.ties += sum(vote["choice"] == "tie" for vote in votes)
    report.skips += sum(vote["choice"] == "skip" for vote in votes)


def _vote(given: dict[str, Any], pair_id: str, where: str, target: _Target) -> dict[str, Any]:
    vote = {"annotator_id": target.annotator, "source": target.source, "pair_id": pair_id}
    vote |= {name: value for name, value in given.items() if value is not None}
    if not (given.get("annotator_id") or given.get("vote_id")):
        # nobody knows who voted: two such votes are two people when they differ, and one row read twice when not
        vote["vote_id"] = content_id("anonymous", target.annotator, pair_id, vote["choice"])
    return vote_row(vote, where)


def _mirrored(vote: dict[str, Any]) -> dict[str, Any]:
    """`vote` as it is about the same two images in the other order."""
    out = vote | {"choice": {"0": "1", "1": "0"}.get(vote["choice"], vote["choice"])}
    if vote.get("probability") is not None:
        out["probability"] = 1 - vote["probability"]
    if vote.get("order_shown"):
        out["order_shown"] = vote["order_shown"][::-1]
    for here, there in (("score_0", "score_1"), ("score_1", "score_0")):
        out[here] = vote.get(there)
    return out


def _imported(report: ImportReport) -> int:
    return report.pairs_added + report.pairs_known


def _conclude(report: ImportReport, target: _Target, provenance: dict[str, Any]) -> None:
    if target.dataset and report.pairs_added + report.votes_added:
        target.dataset.add_provenance(provenance)
    if report.broken_sources:
        first, others = report.broken_sources[0], len(report.broken_sources) - 1
        more = f" {others} more sources could not be read." if others else ""
        remedy = "rerun with the right name to add the rest" if first.endswith(MISSING) else REMEDY
        rest = f"The other {_imported(report):,} pairs were imported; {remedy}." if _imported(report) else ""
        raise PalateError(f"{first}{more} {rest}".rstrip())
    if not _imported(report):
        reason = report.messages[0] if report.messages else "the sources hold no pairs."
        more = f" {report.skipped.total() - 1:,} more rows were skipped." if report.skipped.total() > 1 else ""
        raise PalateError(f"nothing was imported: {reason}{more}")
