"""What the importers share: the row they yield, the report they fill, and how they read tables, lines and images."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palate.data.schema import content_id
from palate.errors import PalateError
from palate.reading import inside, parse_json, quoted, read_plain, shown, text_lines

MESSAGES_KEPT = 5


@dataclass
class Row:
    """One pair of a source with the votes on it; `done` is the share of the source that has been read."""

    where: str  # file and row, for messages
    done: float
    pair: dict[str, Any]
    votes: list[dict[str, Any]]  # pair_id is filled when the vote is written
    other_ids: dict[str, bool] = field(default_factory=dict)
    """Further pair_ids under which the same two images may be there, and whether they are in the other order then."""
    same_allowed: bool = False  # two equal images are no mistake: what two models made of one prompt and noise
    named: bool = False  # the pair_id is the source's own: it may stand for other content elsewhere


@dataclass
class ImportReport:
    """Counts of one import. Every row that was read is in `pairs_added`, `pairs_known` or `skipped`.

    Single images count as pairs there, and once more in `single_images`.
    Of ranked lists `read` counts the lists, each of which gives several pairs; `skipped` counts lists, pairs whose
    image does not decode, and rankings of single annotators.
    """

    read: int = 0
    pairs_added: int = 0
    pairs_known: int = 0  # in the dataset already, or named again by a later row
    single_images: int = 0  # of the pairs added
    without_vote: int = 0
    without_images: int = 0
    votes_added: int = 0
    votes_known: int = 0
    ties: int = 0
    skips: int = 0
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> rows
    messages: list[str] = field(default_factory=list)  # the first few refusals, with file and row
    notes: list[str] = field(default_factory=list)
    broken_sources: list[str] = field(default_factory=list)
    animated: int = 0  # pictures of several frames or pages, of which the first counts

    def refuse(self, where: str, reason: str, detail: str = "") -> None:
        """Count a row that is not imported, and keep the first few as a line each."""
        self.skipped[reason] += 1
        if len(self.messages) < MESSAGES_KEPT:
            self.messages.append(f"{shown(where, most=1000)}: {shown(detail or reason)}.")


@dataclass(frozen=True)
class Reading:
    """How sources are read, where the defaults do not fit."""

    allow_outside: bool = False  # paths may leave the folder of the source that names them
    split: str | None = None  # of a dataset with several splits
    config: str | None = None  # of a dataset on the hub with several configurations
    question: str | None = None  # what the votes answer, where the source does not say
    source: str = "human"  # who voted, where the source does not say


class Refused(Exception):
    """A row that is left out: `reason` is counted, `detail` is shown. Never leaves the importers."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason, self.detail = reason, detail


Record = tuple[str, float, Any]  # where, share of the source read, content


def build_rows(
    records: Iterable[Record], build: Callable[[str, float, Any], Iterable[Row]], report: ImportReport
) -> Iterator[Row]:
    """The rows that `build` makes of each record; a record that it refuses, or that it fails on, is counted and left
    out."""
    for where, done, content in records:
        report.read += 1
        rows = iter(build(where, done, content))
        while True:
            try:
                row = next(rows, None)
            except Refused as refusal:
                report.refuse(where, refusal.reason, refusal.detail)
                break
            except Exception as error:  # foreign content: whatever a row does, the other rows are read
                report.refuse(where, "cannot be used", f"cannot be used ({type(error).__name__}: {error})")
                break
            if row is None:
                break
            yield row


def line_records(source: Path) -> Iterator[Record]:
    """Lines of a JSONL file that are not blank, counted from 1, as text (or what is wrong with it) for `parse_line`."""
    for number, done, line in text_lines(source):
        if isinstance(line, PalateError) or line.strip():
            yield f"{source} line {number}", done, line


def parse_line(line: str | PalateError) -> dict[str, Any]:
    """A JSON object from one line; refuses the row otherwise."""
    if isinstance(line, PalateError):
        raise Refused("not text in UTF-8 or UTF-16", str(line))
    try:
        content = parse_json(line)
    except ValueError as error:
        raise Refused("not JSON", f"not JSON ({error})") from error
    if not isinstance(content, dict):
        raise Refused("not a JSON object")
    return content


def prompt_of(content: Mapping[str, Any], *names: str) -> str:
    """The first non-blank text under one of `names`; refuses the row otherwise."""
    for name in names:
        value = content.get(name)
        if isinstance(value, str) and value.strip():
            if any("\ud800" <= c <= "\udfff" for c in value):
                raise Refused("half a character", f"{name} {quoted(value)} holds half a character (a lone surrogate)")
            return value
    raise Refused("no prompt", f"no prompt ({' or '.join(names)} is missing or blank)")


def embedded_image(value: Any, folder: Path, name: str, outside: bool = False) -> dict[str, Any]:
    """The encoded bytes of an image given as bytes, as {"bytes", "path"} or as a path in `folder`, as they are.

    Refuses a path that leaves the folder (unless `outside`), and whatever is no plain file of a picture's size.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bytes):
        value = {"bytes": value}
    elif isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, Mapping) or not (value.get("bytes") or value.get("path")):
        raise Refused("image missing", f"{name} is missing")
    if value.get("bytes"):
        if not isinstance(value["bytes"], bytes):
            raise Refused("image of the wrong type", f"{name}: bytes are {quoted(value['bytes'])}, which are none")
        return {"bytes": value["bytes"], "path": None}
    if not isinstance(value["path"], str):
        raise Refused("image of the wrong type", f"{name}: the path is {quoted(value['path'])}, which is no text")
    file = path_inside(value["path"], folder, name, outside)
    try:
        data = read_plain(file)
    except PalateError as error:
        told = str(error).removesuffix(".")
        raise Refused(
            "image missing", f"{name} is missing: no readable file {quoted(value['path'])} ({told})"
        ) from error
    if not data:
        raise Refused("image is empty", f"{name} is empty: {quoted(value['path'])} has 0 bytes")
    return {"bytes": data, "path": None}


def path_inside(path: str, folder: Path, name: str, outside: bool) -> Path:
    """The file at `path` in `folder`; refuses one that leaves the folder, unless `outside`."""
    try:
        return inside(folder, path, outside)
    except PalateError as error:
        raise Refused("path leaves the folder", f"{name}: {error}") from error


def text_id(value: Any, name: str) -> str | None:
    """A name that a source gives to something, as text: text, bytes, or a whole number. Refuses other things."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            value = value.hex()
    if isinstance(value, float) and value.is_integer():  # whole numbers in a column with gaps
        value = int(value)
    if value is None or value != value or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Refused("name of the wrong type", f"{name} is {quoted(value)}, neither text nor a whole number")
    return str(value)


def shuffled_pair(prompt: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """A pair of two images whose order means something (winner first, rank), stored in an order that means nothing.

    The order follows from the pair_id, and the pair_id from the prompt and the contents, whichever is called first; so
    a model cannot learn that image 0 is the better one. Returns the pair, and whether `first` became image 1.
    """
    keys = [content_id(image.get("bytes") or image["path"]) for image in (first, second)]
    pair_id = content_id(prompt, *sorted(keys))
    swapped = (keys[0] > keys[1]) ^ bool(int(pair_id[-1], 16) & 1)
    image_0, image_1 = (second, first) if swapped else (first, second)
    return {"pair_id": pair_id, "prompt": prompt, "image_0": dict(image_0), "image_1": dict(image_1)}, swapped


def single_image(prompt: str, image: Mapping[str, Any]) -> dict[str, Any]:
    """A single image as a row of the pairs, under an id made of the prompt and its content."""
    pair_id = content_id(prompt, content_id(image.get("bytes") or image["path"]))
    return {"pair_id": pair_id, "prompt": prompt, "image_0": dict(image), "image_1": None}


def choice_of_label(label: Any) -> str | None:
    """The choice on a single image, '0' (liked) or '1' (disliked), of its label; None where there is no label.

    A label is true or 1 for liked, false or 0 for disliked, "tie" or 0.5, or "skip", also as text; the row is refused
    otherwise. So that label 1 never meets choice 1, a single image has no field `choice`.
    """
    if label is None:
        return None
    value = number_of_label(label)
    if value is not None:
        return {1: "0", 0: "1", 0.5: "tie"}[value]
    if isinstance(label, str) and label.strip().lower() in ("tie", "skip"):
        return label.strip().lower()
    kind = "text " if isinstance(label, str) else ""
    raise Refused(
        "label outside the set",
        f"label of a single image is the {kind}{quoted(label)}, which is none of true, false, 1, 0, tie, skip"
        if kind
        else f"label {quoted(label)} of a single image is none of true, false, 1, 0, tie, skip",
    )


_WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


def number_of_label(label: Any) -> float | None:
    """A label as 0, 0.5 or 1: a number, true or false, or one of them as text; None for anything else."""
    if isinstance(label, bytes):
        label = label.decode(errors="replace")
    if isinstance(label, str):
        text = label.strip().lower()
        try:
            label = _WORDS[text] if text in _WORDS else float(text)
        except ValueError:
            return None
    try:
        return float(label) if label in (0, 0.5, 1) else None
    except (TypeError, ValueError, ArithmeticError):
        return None
