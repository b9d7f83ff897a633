"""Import foreign files into a dataset: read, check every image, write the missing rows, count everything."""

import io
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from palate.data.dataset import BYTES_PER_SHARD, ROWS_PER_SHARD, PreferenceDataset
from palate.data.identity import stored_contents
from palate.data.images import bytes_of_pair
from palate.data.importers import folders, jsonl, pickapic, rankings, samples, trl
from palate.data.importers.common import ImportReport, Reading, Row
from palate.data.importers.tables import is_hub
from palate.data.schema import IMAGE_COLUMNS, content_id, pair_row, vote_row
from palate.errors import PalateError, did_you_mean
from palate.pictures import decode, size
from palate.progress import progress_bar
from palate.reading import read_plain, shown

Format = Literal["pickapic", "folders", "jsonl", "rankings", "trl", "samples"]
READERS = {
    "pickapic": pickapic.read,
    "folders": folders.read,
    "jsonl": jsonl.read,
    "rankings": rankings.read,
    "trl": trl.read,
}
ROWS_AT_ONCE = 32
BYTES_AT_ONCE = 64 * 2**20  # of encoded pictures that are checked together
LARGE = 16_000_000  # pixels: larger pictures are decoded one at a time, to save memory
_large = threading.Lock()
REMEDY = "rerun with the file repaired to add the rest"
MISSING = "no such file or folder."
PARTS = 10_000  # of a source, in which its progress is told


def import_pairs(
    format: Format,
    sources: Sequence[str | Path],
    to: str | Path,
    name: str | None = None,
    annotator: str = "unknown",
    source: Literal["human", "judge"] = "human",
    allow_outside: bool = False,
    split: str | None = None,
    config: str | None = None,
    question: str | None = None,
) -> ImportReport:
    """Add the pairs and votes of `sources` to the dataset in folder `to`, which is made if it does not exist.

    `annotator` and `source` say who voted where the files do not, `question` what the votes answer. A pair's id is made
    of its content, so running again adds only what is missing. Rows that cannot be used are counted in the report with
    file and row, and do not stop the import. `allow_outside` lets the paths of a source leave the source's folder.
    `split` and `config` choose a part of a dataset of the `datasets` library: a folder of `save_to_disk`, or
    `hf:owner/name` on the hub. Raises PalateError when a source is missing or damaged, or nothing could be imported;
    all good rows are written first.
    """
    if not sources:
        raise PalateError("nothing to import: no sources given. Name the files or folders to read.")
    if format not in get_args(Format):
        known = get_args(Format)
        raise PalateError(f"format {format!r} is not one of {', '.join(known)}{did_you_mean(format, known)}")
    told = {name: value for name, value in (("split", split), ("config", config), ("question", question)) if value}
    provenance = {"format": format, "sources": [str(path) for path in sources], **told}
    target = _Target(Path(to), name, annotator, source, question, provenance)
    report, how = ImportReport(), Reading(allow_outside, split, config, question, source)
    _file.cache_clear()  # files may have changed since an earlier import
    whole, seen = PARTS * (1 if format == "samples" else len(sources)), 0
    with progress_bar("importing", whole, counted=False) as advance:
        for number, path in enumerate(map(Path, sources)):
            if format == "samples" and number:
                break  # the first source reads the others with it
            try:
                if not is_hub(path) and not os.path.lexists(path):
                    raise PalateError(f"{path}: {MISSING}")
                rows = (
                    samples.read(list(map(Path, sources)), report)
                    if format == "samples"
                    else READERS[format](path, report, replace(how, allow_outside=allow_outside and not is_hub(path)))
                )
                for row in _write_while_reading(rows, target, report):
                    now = int(PARTS * (number + row.done))
                    advance(max(now - seen, 0), f"{report.pairs_added:,} pairs")
                    seen = max(seen, now)
            except (PalateError, OSError, ValueError) as error:
                if target.failed:
                    raise
                line = str(error) if isinstance(error, PalateError) else f"{path}: cannot be read ({shown(error)})."
                report.broken_sources.append(line)
    _conclude(report)
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
    if report.animated:
        lines.append(f"Of {report.animated:,} pictures with several frames or pages the first counts.")
    return lines + report.notes


class _Target:
    """The dataset to write: made at the first write, so that an import of nothing leaves nothing behind."""

    def __init__(
        self,
        path: Path,
        name: str | None,
        annotator: str,
        source: str,
        question: str | None,
        provenance: dict[str, Any],
    ):
        self.path, self.name, self.annotator, self.source = path, name, annotator, source
        self.question = question
        self.provenance = provenance
        self.dataset = PreferenceDataset.open(path) if (path / "dataset.json").exists() else None
        self.known = self.dataset.pair_ids() if self.dataset is not None else {}
        self.pairs: dict[str, dict[str, Any]] = {}
        self.votes: list[dict[str, Any]] = []
        self.bytes = 0
        self.contents: dict[str, str] = {}  # pair_id -> a hash of its prompt and pictures, where one was needed
        self.prompts: dict[str, str] = {}  # pair_id -> prompt, those on disk once one was needed
        self.failed = False  # a write failed: the next source would fail the same way

    def has(self, pair_id: str) -> bool:
        """Whether the pair is on disk, or is waiting to be written."""
        return pair_id in self.pairs or pair_id in self.known

    def other_content(self, pair_id: str, content: str) -> bool:
        """Whether this pair_id already belongs to another prompt or other pictures."""
        if pair_id not in self.contents and self.dataset is not None and pair_id in self.known:
            self.contents |= stored_contents(self.dataset, self.path / self.known[pair_id])
        return self.contents.get(pair_id, content) != content

    def other_prompt(self, pair_id: str, prompt: str) -> bool:
        """Whether this pair_id already belongs to another prompt."""
        if pair_id not in self.prompts and self.dataset is not None and pair_id in self.known:
            rows = self.dataset.pairs(["pair_id", "prompt"])
            self.prompts |= dict(zip(rows["pair_id"].to_pylist(), rows["prompt"].to_pylist(), strict=True))
        return self.prompts.get(pair_id, prompt) != prompt

    def write(self, report: ImportReport) -> None:
        """Write the waiting rows: pairs before the votes on them."""
        if not self.pairs and not self.votes:
            return
        pairs, votes = self.pairs, self.votes
        self.pairs, self.votes, self.bytes = {}, [], 0
        self.failed = True
        if self.dataset is None:  # not `not self.dataset`: an empty dataset is falsy
            self.dataset = PreferenceDataset.open_or_create(self.path, self.name or self.path.resolve().name)
        if pairs or any(vote["vote_id"] not in self.dataset.vote_ids() for vote in votes):
            self.dataset.add_provenance(self.provenance)  # first: a kill leaves no pairs without an origin
        report.pairs_added += self.dataset.add_pairs(pairs.values(), skip_known=True)
        appended = self.dataset.append_votes(votes)
        self.known = self.dataset.pair_ids()
        self.failed = False
        report.votes_added += appended.added
        report.votes_known += appended.already_there


def _write_while_reading(rows: Iterable[Row], target: _Target, report: ImportReport) -> Iterator[Row]:
    """Check and write `rows` in chunks; yields each row when it is done."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes outside the interpreter lock
        try:
            for chunk in _chunks(rows):
                checked = pool.map(lambda row: _look(row, target), chunk)
                for row, looked in zip(chunk, checked, strict=True):
                    _take(row, looked, target, report)
                    yield row
                if len(target.pairs) >= ROWS_PER_SHARD or target.bytes >= BYTES_PER_SHARD:
                    target.write(report)
        finally:
            if not target.failed:
                target.write(report)


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """A few rows at a time, fewer where their pictures are large; rows read before a failure come first."""
    chunk: list[Row] = []
    held = 0
    try:
        for row in rows:
            chunk.append(row)
            held += bytes_of_pair(row.pair)
            if len(chunk) >= ROWS_AT_ONCE or held >= BYTES_AT_ONCE:
                yield chunk
                chunk, held = [], 0
    except (PalateError, OSError, ValueError):
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


class _Looked(NamedTuple):
    """The result of checking the pictures of a row."""

    problem: str | None = None  # None when nothing is wrong
    reason: str = "image does not decode"
    lacking: bool = False  # a picture that is stored by path does not exist yet
    content: str = ""  # a hash of the bytes
    animated: int = 0


def _look(row: Row, target: _Target) -> _Looked:
    """Decode the pictures of `row`, unless the pair is known; compare them with one another."""
    if any(target.has(pair_id) for pair_id in (row.pair["pair_id"], *row.other_ids)):
        return _Looked()
    try:
        files = [(name, row.pair[name]) for name in IMAGE_COLUMNS if row.pair[name] is not None]
        seen = [_picture(file["bytes"], name) if file["bytes"] else _file(file["path"], name) for name, file in files]
    except Exception as error:  # foreign content: whatever it raises, the other rows are read
        return _Looked(f"cannot be used ({type(error).__name__}: {shown(error)})", "cannot be used")
    if wrong := next((found.problem for found in seen if found.problem), None):
        return _Looked(wrong)
    lacking = not seen or any(found.lacking for found in seen)
    if len(seen) == 2 and not lacking and seen[0].content == seen[1].content and not row.same_allowed:
        return _Looked("image_0 and image_1 are the same picture", "both images are the same")
    return _Looked(lacking=lacking, animated=sum(found.animated for found in seen))


def _picture(data: bytes, name: str) -> _Looked:
    try:
        width, height = size(io.BytesIO(data)) or (0, 0)
        with _large if width * height > LARGE else nullcontext():
            return _Looked(content=content_id(data), animated=decode(data, name).animated)
    except PalateError as error:
        return _Looked(str(error).removesuffix("."))


@lru_cache(maxsize=4096)  # an image of a ranked list is in several pairs
def _file(path: str, name: str) -> _Looked:
    if not os.path.lexists(path):
        return _Looked(lacking=True)
    try:
        return _picture(read_plain(path), name)
    except PalateError as error:
        return _Looked(str(error).removesuffix("."))


def _take(row: Row, looked: _Looked, target: _Target, report: ImportReport) -> None:
    if looked.problem:
        report.refuse(row.where, looked.reason, looked.problem)
        return
    pair_id, mirrored = row.pair["pair_id"], False
    if not target.has(pair_id):
        pair_id, mirrored = next(
            ((other, turned) for other, turned in row.other_ids.items() if target.has(other)), (pair_id, False)
        )
    unseen = row.pair["image_0"] is None
    if row.named and (
        target.other_prompt(pair_id, row.pair["prompt"])
        if unseen
        else target.other_content(pair_id, _content(row, mirrored))
    ):
        told = f"{shown(pair_id, 60)} stands for another prompt or other pictures already"
        report.refuse(row.where, "name of another pair", f"the pair of this name, {told}")
        return
    try:
        pair = pair_row(row.pair, row.where)
        votes = [_vote(_mirrored(vote) if mirrored else vote, pair_id, row.where, target) for vote in row.votes]
    except Exception as error:  # an error that the checks do not foresee ends this row alone
        told = str(error).removeprefix(f"{row.where}: ").removesuffix(".")
        kind = "" if isinstance(error, PalateError) else f"{type(error).__name__}: "
        report.refuse(row.where, "field of the wrong form", f"{kind}{told}")
        return
    if target.has(pair_id):
        report.pairs_known += 1
    else:
        target.pairs[pair_id] = pair
        target.prompts[pair_id] = pair["prompt"]
        if row.named and not unseen:
            target.contents[pair_id] = _content(row, False)
        target.bytes += bytes_of_pair(pair)
        report.animated += looked.animated
        report.single_images += pair["image_1"] is None and not unseen
        report.without_vote += not votes
        report.without_images += looked.lacking
    target.votes += votes
    report.ties += sum(vote["choice"] == "tie" for vote in votes)
    report.skips += sum(vote["choice"] == "skip" for vote in votes)


def _content(row: Row, mirrored: bool) -> str:
    """A hash of the prompt and the pictures of a row, in the dataset's order."""
    images = [row.pair[name] for name in (IMAGE_COLUMNS[::-1] if mirrored else IMAGE_COLUMNS)]
    return content_id(row.pair["prompt"], *(content_id(image["bytes"]) for image in images if image is not None))


def _vote(given: dict[str, Any], pair_id: str, where: str, target: _Target) -> dict[str, Any]:
    vote = {"annotator_id": target.annotator, "source": target.source, "pair_id": pair_id, "question": target.question}
    vote |= {name: value for name, value in given.items() if value is not None}
    if not (given.get("annotator_id") or given.get("vote_id")):
        # the voter is unknown: two different votes count as two people, two equal ones as one row read twice
        asked = vote_row(vote, where)["question"]
        own = [] if asked is None else ["question", asked]
        vote["vote_id"] = content_id("anonymous", target.annotator, pair_id, vote["choice"], *own)
    return vote_row(vote, where)


def _mirrored(vote: dict[str, Any]) -> dict[str, Any]:
    """`vote` on the same two images in the other order."""
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


def _conclude(report: ImportReport) -> None:
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
