"""A folder of files that never change once written: on this machine, or behind any URL that fsspec knows.

Files of a remote folder are fetched whole on first use into a local mirror and stay there, so that they can be
memory-mapped.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from palate.errors import PalateError, first_line
from palate.files import atomic_path, short_hash
from palate.foreign import secrets_of, storable, without_secrets

T = TypeVar("T")


class Storage:
    """One folder. `folder` is the place of its files on this machine: the folder itself, or the mirror of a remote
    one."""

    def __init__(self, place: str | Path):
        """Raises PalateError for a URL whose file system is not installed, or that cannot be reached."""
        self.place = str(place)
        self._remote, path = _file_system(self.place)
        if self._remote is None:
            self.folder = Path(path)
        else:
            mirrors = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palate" / "mirrors"
            self.folder = mirrors / short_hash(storable(self.place))  # a new password is no new place
        self._path = path.rstrip("/")

    def within(self, name: str) -> "Storage":
        """The folder of this name in this one."""
        return Storage(f"{self.place.rstrip('/')}/{name}")

    def sizes(self) -> dict[str, int]:
        """The finished files by name, in order, with their bytes; none where the folder does not exist yet."""
        if self._remote is None:
            found: dict[str, int] = {}
            for entry in os.scandir(self.folder) if self.folder.is_dir() else ():
                with suppress(FileNotFoundError):  # another process may have renamed or deleted it by now
                    if entry.is_file():
                        found[entry.name] = entry.stat().st_size
        else:
            remote = self._remote
            found = self._reach(lambda: self._list(remote))
        return {name: found[name] for name in sorted(found) if not name.startswith(".")}

    def get(self, name: str, size: int | None = None) -> Path:
        """The file on this machine, fetched where it is missing here or has another size."""
        path = self.folder / name
        if self._remote is None or (path.is_file() and path.stat().st_size == size):
            return path
        with atomic_path(path) as temporary:
            remote = self._remote
            self._reach(lambda: remote.get_file(f"{self._path}/{name}", str(temporary)))
        return path

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """Let `write` fill a file, which appears under this name only when it is complete."""
        with atomic_path(self.folder / name) as temporary:
            write(temporary)
        if self._remote is not None:
            remote = self._remote
            self._reach(lambda: remote.makedirs(self._path, exist_ok=True))
            self._reach(lambda: remote.put_file(str(self.folder / name), f"{self._path}/{name}"))

    def remove(self, name: str) -> None:
        """Delete the file, here and there."""
        (self.folder / name).unlink(missing_ok=True)
        if self._remote is not None:
            remote = self._remote
            self._reach(lambda: remote.rm_file(f"{self._path}/{name}"))

    def _list(self, remote: fsspec.AbstractFileSystem) -> dict[str, int]:
        remote.invalidate_cache()
        if not remote.isdir(self._path):
            return {}
        entries = remote.ls(self._path, detail=True)
        return {Path(e["name"]).name: e["size"] for e in entries if e["type"] == "file"}

    def _reach(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except PalateError:
            raise
        except Exception as error:  # every kind of storage raises its own
            raise PalateError(_why(self.place, error)) from None


def _file_system(place: str) -> tuple[fsspec.AbstractFileSystem | None, str]:
    """The file system of a URL and the path in it; None for this machine's own."""
    try:
        system, path = fsspec.core.url_to_fs(place)
    except ImportError as error:
        raise PalateError(f"{place}: {error}. Install that package, or give a folder.") from error
    except ValueError as error:
        said = without_secrets(first_line(error), secrets_of(place))
        raise PalateError(f"{place}: no address that can be opened ({said}). Give a folder or a URL.") from None
    except Exception as error:  # some kinds connect here
        raise PalateError(_why(place, error)) from None
    return (None if isinstance(system, LocalFileSystem) else system), path


def _why(place: str, error: Exception) -> str:
    """What is told of a failure. Names nothing that the error may quote of the password."""
    said = without_secrets(first_line(error), secrets_of(place))
    line = f"{place}: could not be read or written ({said}). Look at the address and its access."
    kind = place.partition("://")[0].upper()
    if secrets_of(place):
        return line
    return f"{line} A password is in no file of palate: give it in the address again, or as FSSPEC_{kind}_PASSWORD."
