"""What a user brings, read with care: only plain files of bounded size, inside their folder, text in one policy."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from palate.errors import PalateError

LARGEST_TEXT = 2**30
LARGEST_UTF16 = 256 * 2**20
LARGEST_LINE = 64 * 2**20
LARGEST_PICTURE = 256 * 2**20
LONGEST_QUOTE = 240  # characters of a message that come from a file
_MARKS = ((b"\xff\xfe\x00\x00", ""), (b"\x00\x00\xfe\xff", ""), (b"\xef\xbb\xbf", "utf-8"),
          (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))  # fmt: skip


class LongLine(PalateError):
    """A line of more than LARGEST_LINE bytes; the lines after it can be read."""


def open_plain(path: str | Path, most: int | None = None) -> BinaryIO:
    """A plain file opened for reading, as bytes.

    Raises PalateError for what is none, before anything is read: devices, FIFOs, sockets, folders, files of the kernel
    (/proc, /sys), loops of links, files that are missing or not permitted, and those of more than `most` bytes.
    """
    try:
        _refuse_unusual(path, os.stat(path), most)  # before the file is opened, which for a device is an act
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a FIFO without a writer would wait
    except FileNotFoundError as error:
        raise PalateError(f"{shown(path)}: no such file.") from error
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise PalateError(f"{shown(path)}: cannot be read ({told}). Give a plain file.") from error
    try:
        _refuse_unusual(path, os.fstat(descriptor), most)
    except PalateError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _refuse_unusual(path: str | Path, found: os.stat_result, most: int | None) -> None:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in kinds if test(found.st_mode)), "a device")
        raise PalateError(f"{shown(path)}: {kind}, not a file. Give a plain file.")
    if found.st_dev in _kernel_devices():
        raise PalateError(f"{shown(path)}: a file of the kernel, not of a disk. Give a plain file.")
    if most is not None and found.st_size > most:
        raise PalateError(f"{shown(path)}: {found.st_size:,} bytes, more than the {most:,} that are read at once.")


def _kernel_devices() -> set[int]:
    return {os.stat(place).st_dev for place in ("/proc", "/sys") if os.path.ismount(place)}


def read_plain(path: str | Path, most: int = LARGEST_PICTURE) -> bytes:
    """The bytes of a plain file of at most `most` bytes; raises PalateError as `open_plain` does."""
    with open_plain(path, most) as file:
        try:
            data = file.read(min(os.fstat(file.fileno()).st_size, most) + 1)  # room for so many bytes is made first
        except OSError as error:
            raise PalateError(f"{shown(path)}: cannot be read ({error.strerror}).") from error
    if len(data) > most:  # it grew
        raise PalateError(f"{shown(path)}: more than {most:,} bytes, which are not read at once.")
    return data


def read_text(path: str | Path, most: int = LARGEST_TEXT) -> str:
    """The text of a plain file; see `decode_text` for its encoding. Line ends become \\n, as in Python's text files."""
    text = decode_text(read_plain(path, most), str(path))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str) -> Any:
    """The content of JSON `text`. Raises ValueError for what is none, or is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def decode_text(data: bytes, where: str) -> str:
    """`data` as text: UTF-8 with or without a mark, or UTF-16 with one; the mark is no part of the text.

    Raises PalateError, naming `where` and the byte, for every other encoding; a NUL shows one in what reads as UTF-8.
    """
    mark, encoding = next(((m, e) for m, e in _MARKS if data.startswith(m)), (b"", "utf-8"))
    if not encoding:
        raise PalateError(f"{shown(where)} byte 0: text in UTF-32. Save it as UTF-8.")
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.upper()[:6].rstrip("-")
        place = len(mark) + error.start
        raise PalateError(
            f"{shown(where)} byte {place}: not text in {name} ({data[place : place + 1].hex()}). Save it as UTF-8."
        ) from error
    if "\0" in text:
        place = len(mark) + len(text[: text.index("\0")].encode(encoding))
        raise PalateError(f"{shown(where)} byte {place}: a NUL, so it is no text in UTF-8. Save it as UTF-8.")
    return text


def text_lines(path: str | Path) -> Iterator[tuple[int, float, str | PalateError]]:
    """The lines of a plain file of any size: number from 1, share of the file read, and the text without its line end,
    or what is wrong with that line (its encoding, or its length above LARGEST_LINE).

    UTF-16 is read as a whole, and so only up to LARGEST_UTF16 bytes. Raises PalateError as `open_plain` does.
    """
    with open_plain(path) as file:
        total = max(os.fstat(file.fileno()).st_size, 1)
        head = file.read(4)
        if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
            lines = read_text(path, LARGEST_UTF16).split("\n")
            yield from ((number, number / len(lines), line) for number, line in enumerate(lines, start=1))
            return
        file.seek(3 if head.startswith(b"\xef\xbb\xbf") else 0)
        number = 0
        while line := file.readline(LARGEST_LINE):
            number += 1
            start = file.tell() - len(line)
            if len(line) == LARGEST_LINE and not line.endswith(b"\n"):
                while (rest := file.readline(LARGEST_LINE)) and not rest.endswith(b"\n"):
                    pass
                told = f"{shown(path)} line {number}: longer than {LARGEST_LINE:,} bytes"
                yield number, file.tell() / total, LongLine(told)
                continue
            yield number, file.tell() / total, _line(line.rstrip(b"\r\n"), start, str(path), number)


def _line(line: bytes, start: int, path: str, number: int) -> str | PalateError:
    try:
        text = line.decode()
        wrong = text.find("\0")
        place, what = (len(text[:wrong].encode()), "a NUL, so it is no text in UTF-8") if wrong >= 0 else (0, "")
    except UnicodeDecodeError as error:
        text, place, what = "", error.start, f"not text in UTF-8 ({line[error.start : error.start + 1].hex()})"
    if not what:
        return text
    return PalateError(f"{shown(path)} line {number} byte {start + place}: {what}. Save it as UTF-8")


def inside(folder: str | Path, path: Any, outside: bool = False) -> Path:
    """The file that `path` names, taken from `folder`. Raises PalateError for one that leaves the folder, by its parts,
    by being absolute or through links, unless `outside` allows it, and for what is no path."""
    try:
        root, file = Path(folder), Path(folder, path)
        leaves = not outside and not file.resolve().is_relative_to(root.resolve())
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise PalateError(f"{shown(path)} is no path of a file") from error
    if leaves:
        raise PalateError(f"{shown(path)} leaves the folder {shown(folder)} (--allow-outside reads it)")
    return file


def shown(value: Any, most: int = LONGEST_QUOTE) -> str:
    """`value` for a message: one line of printable characters, at most `most` of them."""
    text = value if isinstance(value, str) else str(value)
    short = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in short)


def quoted(value: Any, most: int = 60) -> str:
    """`value` as Python writes it, shortened: for messages that say what stood in a file."""
    try:
        return shown(repr(value[: most + 1] if isinstance(value, str | bytes) else value), most)
    except (ValueError, RecursionError):  # a number of too many digits, or a structure that is too deep
        return f"a {type(value).__name__}"
