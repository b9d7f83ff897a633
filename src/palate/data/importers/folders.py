"""A folder with the preferred images in `win` (or `w`), the others under the same names in `lose` (or `l`), or with
single images in `liked` and `disliked`."""

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
    single_image,
)
from palate.errors import PalateError

FOLDERS = (("win", "lose"), ("w", "l"))
SINGLES = {"liked": "0", "disliked": "1"}  # folder -> choice


def read(source: Path, report: ImportReport) -> Iterator[Row]:
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
    parts = [partial(_pairs, *sides)] if sides else []
    parts += [partial(_single_images, folder) for folder in singles]
    for number, part in enumerate(parts):
        for row in part(source, report):
            row.done = (number + row.done) / len(parts)
            yield row


def _pairs(winners: Path, losers: Path, source: Path, report: ImportReport) -> Iterator[Row]:
    captions = _captions([source / "captions.jsonl", winners / "captions.jsonl"])
    chosen, others = _pictures(winners, report), _pictures(losers, report)
    for name in sorted(others.keys() - chosen.keys()):
        report.read += 1
        report.refuse(str(others[name]), "no partner", f"no picture of that name in {winners}")
    yield from build_rows(_by_name(chosen), partial(_build_pair, chosen, others, captions, losers), report)


def _single_images(folder: Path, source: Path, report: ImportReport) -> Iterator[Row]:
    captions = _captions([source / "captions.jsonl", folder / "captions.jsonl"])
    pictures = _pictures(folder, report)
    yield from build_rows(_by_name(pictures), partial(_build_single, folder, pictures, captions), report)


def _by_name(pictures: dict[str, Path]) -> Iterator[Record]:
    return ((str(pictures[n]), (i + 1) / len(pictures), n) for i, n in enumerate(sorted(pictures)))


def _build_single(
    folder: Path, pictures: dict[str, Path], captions: dict[str, str], where: str, done: float, name: str
) -> Iterator[Row]:
    path = pictures[name]
    prompt = _prompt(path, captions.get(f"{folder.name}/{name}") or captions.get(name))
    image = embedded_image(path.name, path.parent, str(path))
    yield Row(where, done, single_image(prompt, image), [{"choice": SINGLES[folder.name]}])


def _build_pair(
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
    text = _prompt(chosen[name], captions.get(name))
    images = [embedded_image(path.name, path.parent, str(path)) for path in (chosen[name], others[name])]
    pair, swapped = shuffled_pair(text, *images)
    yield Row(where, done, pair, [{"choice": "1" if swapped else "0"}])


def _prompt(picture: Path, caption: str | None) -> str:
    """The text of NAME.txt beside `picture`, else its caption; refuses the row where there is neither."""
    beside = picture.with_suffix(".txt")
    text = beside.read_text(encoding="utf-8", errors="replace").strip() if beside.is_file() else caption
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
