"""A folder with the preferred images in `win` (or `w`), the others under the same names in `lose` (or `l`)."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from palate.data.importers.common import (
    ImportReport,
    Record,
    Refused,
    Row,
    build_rows,
    embedded_image,
    prompt_of,
    shuffled_pair,
)
from palate.errors import PalateError

FOLDERS = (("win", "lose"), ("w", "l"))


def read(source: Path, report: ImportReport) -> Iterator[Row]:
    """The pairs of one folder: images of equal name without extension, at any depth.

    The prompt is in NAME.txt beside the preferred image, or in captions.jsonl (in the folder or in `win`) with the
    fields `file` (a name, with or without extension) and `caption`. The order of the two images in the pair is drawn by
    its id.
    """
    winners, losers = _folders(source)
    captions = _captions([source / "captions.jsonl", winners / "captions.jsonl"])
    chosen, others = _pictures(winners, report), _pictures(losers, report)
    for name in sorted(others.keys() - chosen.keys()):
        report.read += 1
        report.refuse(str(others[name]), "no partner", f"no picture of that name in {winners}")
    names = sorted(chosen)
    records: Iterator[Record] = ((str(chosen[n]), (i + 1) / len(names), n) for i, n in enumerate(names))
    yield from build_rows(records, partial(_build, chosen, others, captions, losers), report)


def _build(
    chosen: dict[str, Path],
    others: dict[str, Path],
    captions: dict[str, str],
    losers: Path,
    where: str,
    done: float,
    name: str,
) -> Iterator[Row]:
    if name not in others:
        raise Refused("no partner", f"no picture of that name in {losers}")
    beside = chosen[name].with_suffix(".txt")
    text = beside.read_text(encoding="utf-8", errors="replace").strip() if beside.is_file() else captions.get(name)
    if not text:
        raise Refused("no prompt", f"no prompt: neither {beside.name} beside it nor a line in captions.jsonl")
    images = [embedded_image(path.name, path.parent, str(path)) for path in (chosen[name], others[name])]
    pair, swapped = shuffled_pair(text, *images)
    yield Row(where, done, pair, [{"choice": "1" if swapped else "0"}])


def _folders(source: Path) -> tuple[Path, Path]:
    for names in FOLDERS:
        win, lose = (source / name for name in names)
        if win.is_dir() and lose.is_dir():
            return win, lose
    raise PalateError(f"{source}: no folders win/ and lose/ (or w/ and l/) in it. Give the folder that holds them.")


def _pictures(folder: Path, report: ImportReport) -> dict[str, Path]:
    """Picture files by their path in `folder` without extension."""
    found: dict[str, Path] = {}
    known = Image.registered_extensions()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in known or path.name.startswith("."):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            report.read += 1
            report.refuse(str(path), "name used twice", f"{found[name].name} has the same name; only that one is taken")
        else:
            found[name] = path
    return found


def _captions(files: list[Path]) -> dict[str, str]:
    captions = {}
    for file in files:
        if not file.is_file():
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                content = json.loads(line)
                name = content.get("file") or content["file_name"]
                captions[_without_extension(name)] = prompt_of(content, "caption", "prompt", "text")
            except (ValueError, KeyError, AttributeError, TypeError, Refused) as error:
                raise PalateError(f'{file} line {number}: not of the form {{"file": …, "caption": …}}.') from error
    return captions


def _without_extension(name: str) -> str:
    path = Path(name)
    return (path.with_suffix("") if path.suffix.lower() in Image.registered_extensions() else path).as_posix()
