"""A folder with the preferred images in `win` (or `w`), the others under the same names in `lose` (or `l`), or with
single images in `liked` and `disliked`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from palate.data.importers.common import (
    ImportReport,
    Reading,
    Record,
    Refused,
    Row,
    build_rows,
    embedded_image,
    parse_line,
    prompt_of,
    shuffled_pair,
    single_image,
)
from palate.errors import PalateError
from palate.reading import inside, read_text, shown, text_lines

FOLDERS = (("win", "lose"), ("w", "l"))
LARGEST_PROMPT = 2**20
SINGLES = {"liked": "0", "disliked": "1"}  # folder -> choice


@dataclass(frozen=True)
class Folder:
    """The folder that is imported, and whether links may lead out of it."""

    path: Path
    outside: bool


def read(source: Path, report: ImportReport, how: Reading) -> Iterator[Row]:
    """The pairs and the single images of one folder.

    A pair is two images of equal name without extension, at any depth of `win` and `lose`; the order of the two is
    drawn by the pair's id. Single images are those in `liked` and in `disliked`; either may be absent. The prompt is in
    NAME.txt beside the image (of a pair, the preferred one), or in captions.jsonl (in the folder, in `win`, in `liked`
    or in `disliked`) with the fields `file` (a name, with or without extension, or for single images liked/NAME or
    disliked/NAME) and `caption`.
    """
    sides = _folders(source)
    singles = [source / name for name in SINGLES if (source / name).is_dir()]
    if not sides and not singles:
        raise PalateError(
            f"{source}: no folders win/ and lose/ (or w/ and l/), liked/ or disliked/ in it. "
            "Give the folder that holds them."
        )
    one = Folder(source, how.allow_outside)
    parts = [partial(_pairs, *sides)] if sides else []
    parts += [partial(_single_images, folder) for folder in singles]
    for number, part in enumerate(parts):
        for row in part(one, report):
            row.done = (number + row.done) / len(parts)
            yield row


def _pairs(winners: Path, losers: Path, source: Folder, report: ImportReport) -> Iterator[Row]:
    captions = _captions([source.path / "captions.jsonl", winners / "captions.jsonl"], source, report)
    chosen, others = _pictures(winners, report), _pictures(losers, report)
    for name in sorted(others.keys() - chosen.keys()):
        report.read += 1
        report.refuse(str(others[name]), "no partner", f"no picture of that name in {winners}")
    yield from build_rows(_by_name(chosen), partial(_build_pair, source, chosen, others, captions, losers), report)


def _single_images(folder: Path, source: Folder, report: ImportReport) -> Iterator[Row]:
    captions = _captions([source.path / "captions.jsonl", folder / "captions.jsonl"], source, report)
    pictures = _pictures(folder, report)
    yield from build_rows(_by_name(pictures), partial(_build_single, source, folder, pictures, captions), report)


def _by_name(pictures: dict[str, Path]) -> Iterator[Record]:
    return ((str(pictures[n]), (i + 1) / len(pictures), n) for i, n in enumerate(sorted(pictures)))


def _build_single(
    source: Folder,
    folder: Path,
    pictures: dict[str, Path],
    captions: dict[str, str],
    where: str,
    done: float,
    name: str,
) -> Iterator[Row]:
    path = pictures[name]
    prompt = _prompt(source, path, captions.get(f"{folder.name}/{name}") or captions.get(name))
    image = _image(source, path)
    yield Row(where, done, single_image(prompt, image), [{"choice": SINGLES[folder.name]}])


def _build_pair(
    source: Folder,
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
    text = _prompt(source, chosen[name], captions.get(name))
    images = [_image(source, path) for path in (chosen[name], others[name])]
    pair, swapped = shuffled_pair(text, *images)
    yield Row(where, done, pair, [{"choice": "1" if swapped else "0"}])


def _image(source: Folder, picture: Path) -> dict[str, Any]:
    return embedded_image(str(picture.relative_to(source.path)), source.path, str(picture), source.outside)


def _prompt(source: Folder, picture: Path, caption: str | None) -> str:
    """The text of NAME.txt beside `picture`, else its caption; refuses the row where there is neither, or where the
    text is in another encoding than UTF-8 or UTF-16 with a mark."""
    beside = picture.with_suffix(".txt")
    text = caption
    if os.path.lexists(beside):
        try:
            text = read_text(
                inside(source.path, beside.relative_to(source.path), source.outside), LARGEST_PROMPT
            ).strip()
        except PalateError as error:
            raise Refused("prompt cannot be read", str(error).removesuffix(".")) from error
    if not text:
        raise Refused("no prompt", f"no prompt: neither {beside.name} beside it nor a line in captions.jsonl")
    return text


def _folders(source: Path) -> tuple[Path, Path] | None:
    for names in FOLDERS:
        win, lose = (source / name for name in names)
        if win.is_dir() and lose.is_dir():
            return win, lose
    return None


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


def _captions(files: list[Path], source: Folder, report: ImportReport) -> dict[str, str]:
    """Captions by picture; lines that are none are noted, and their pictures then have no prompt."""
    captions: dict[str, str] = {}
    for file in files:
        if not os.path.lexists(file):
            continue
        bad: list[str] = []
        for number, _, line in text_lines(inside(source.path, file.relative_to(source.path), source.outside)):
            if isinstance(line, str) and not line.strip():
                continue
            try:
                content = parse_line(line)
                name = content.get("file") or content["file_name"]
                captions[_without_extension(name)] = prompt_of(content, "caption", "prompt", "text")
            except (ValueError, KeyError, AttributeError, TypeError, Refused) as error:
                told = error.detail if isinstance(error, Refused) and error.detail else "another form"
                bad.append(f'{file} line {number}: not of the form {{"file": …, "caption": …}} ({shown(told)}).')
        if bad and bad[0] not in report.notes:
            report.notes += [bad[0], *[f"… and {len(bad) - 1:,} more such lines of {file.name}."] * (len(bad) > 1)]
    return captions


def _without_extension(name: str) -> str:
    path = Path(name)
    return (path.with_suffix("") if path.suffix.lower() in Image.registered_extensions() else path).as_posix()
