"""Writes that a kill, a crash or a full disk cannot leave half done: temporary file, fsync, rename."""

import errno
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from palate.errors import PalateError, first_line

CHUNK = 1 << 24  # bytes read at a time while hashing
CHECKSUMS = "sha256.json"
_FULL = ("no space left on device", "os error 28)", "disk quota exceeded", "os error 122)", "database or disk is full")
_TORCH_STOPPED = ("iostream error", "unexpected pos", "pytorchstreamwriter failed", "file write failed")


@contextmanager
def atomic_path(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; on a clean exit it is synced and renamed to `path`, otherwise removed.

    Works for a file or for a folder that the caller fills. An existing folder of that name is replaced. `durable` off
    leaves out the sync: safe against kills, not against a power cut, for many small files that can be made again.
    Raises PalateError when the disk is full or the place is not writable; whatever stood at `path` is then untouched.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise _full(path) from error
        raise PalateError(
            f"{path}: its folder cannot be made ({error.strerror}). Choose another place, or its permissions."
        ) from error
    try:
        yield temporary
        if durable:
            _sync(temporary)
        if temporary.is_dir() and path.exists():
            shutil.rmtree(path)
        elif path.is_dir():
            raise PalateError(f"{path}: is a folder, where a file is to be written. Move it away, then run again.")
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except PalateError:
        _remove(temporary)
        raise
    except BaseException as error:
        _remove(temporary)
        if is_disk_full(error):
            raise _full(path) from error
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise PalateError(
                f"{path}: not writable ({error.strerror}). Choose another folder or its permissions."
            ) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether a library's error means that the disk is full: by the system's error number, by the words of safetensors
    and databases, or by torch's, which name the place where writing stopped and not the reason."""
    one: BaseException | None = error
    while one is not None:
        text = str(one).lower()
        if getattr(one, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(word in text for word in _FULL):
            return True
        if isinstance(one, RuntimeError) and any(word in text for word in _TORCH_STOPPED):
            return True
        one = one.__cause__ or one.__context__
    return False


def _full(path: Path) -> PalateError:
    return PalateError(f"{path}: the disk is full. Nothing was changed there; free some space and run again.")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` atomically (utf-8)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove leftovers of killed writers of `name` (a glob) in `folder`; only for names that nobody can be writing
    now."""
    for temporary in folder.glob(f".{name}.*.tmp"):
        _remove(temporary)


def read_object(path: Path, remedy: str, largest: int = 1 << 30) -> dict[str, Any]:
    """A JSON file that holds one mapping. Raises PalateError, one line that ends in `remedy`, for everything else."""
    try:
        if path.stat().st_size > largest:
            raise ValueError(f"{path.stat().st_size:,} bytes, which no such file has")
        told = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(told, dict):
            raise ValueError(f"a {type(told).__name__}, not a mapping")
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise PalateError(f"{path}: missing or not readable ({(reason or 'damaged')[:120]}). {remedy}") from error
    return told


def write_checksums(folder: Path) -> None:
    """Write sha256.json into `folder`: the SHA-256 of every file in it, so that a later reader notices damage."""
    sums = {name: sha256_of(folder / name) for name in _files(folder)}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")


def damaged_file(folder: Path) -> str | None:
    """The first file of `folder` that is missing or differs from what `write_checksums` saw; None when all are intact.

    A folder without sha256.json cannot be checked, and passes.
    """
    if not (folder / CHECKSUMS).is_file():
        return None
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        return next((n for n, s in sums.items() if not (folder / n).is_file() or sha256_of(folder / n) != s), None)
    except (ValueError, AttributeError, RecursionError):
        return CHECKSUMS


def refuse_damaged(folder: Path, remedy: str) -> None:
    """Raise PalateError, with the remedy, for a file of `folder` that is missing or damaged."""
    if name := damaged_file(folder):
        raise PalateError(f"{folder / name}: missing, or not what was written there (another SHA-256). {remedy}")


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def short_hash(text: str, digits: int = 16) -> str:
    """A name for a text: the first digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def add_file(digest: "hashlib._Hash", path: Path) -> None:
    """Feed the bytes of a file of any size to a digest."""
    with open(path, "rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sync(path: Path) -> None:
    for file in [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)  # so that the rename itself survives a power cut
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: paths as text, arrays as lists, NaN and infinity as null."""
    import numpy as np  # those who only write text, such as the command line's help, do not wait for it

    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer | np.bool_):
        return value.item()
    return str(value) if isinstance(value, Path) else value
