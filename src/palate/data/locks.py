"""One writer of a dataset at a time, among all processes of a machine (and of others, where the disk allows it)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from palate.errors import PalateError

FILE = ".lock"
WAIT = 600.0  # seconds; a writer holds the lock for one shard, or for one append of votes


@contextmanager
def locked(dataset: Path) -> Iterator[None]:
    """Hold the dataset in this folder for writing; the folder is made where it is not there. The same thread may hold
    it several times. A process that is killed lets go of it.

    Raises PalateError when another process does not let go, and where the folder cannot be written.
    """
    try:
        dataset.mkdir(parents=True, exist_ok=True)
        lock = FileLock(dataset.resolve() / FILE, timeout=WAIT, is_singleton=True)
        lock.acquire()
    except Timeout as error:
        raise PalateError(
            f"{dataset}: another process has been writing for {WAIT:g} s. Run this again later."
        ) from error
    except OSError as error:
        told = f"{dataset}: not writable ({error.strerror}). Choose another folder or its permissions."
        raise PalateError(told) from error
    try:
        yield
    finally:
        lock.release()
