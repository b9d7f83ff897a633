"""The model hub: which names may be asked for there, and one quiet way to fetch files."""

import difflib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from palate.errors import PalateError

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".msgpack")  # weights that a pipeline may not bring
FILES = (".safetensors", *PICKLED, ".gguf", ".json", ".yaml", ".yml", ".zip", ".tar", ".gz")  # ends of files' names


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Silence the hub client's lines about retries; palate reports the outcome in one line."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def fetch(
    name: str, wanted: Sequence[str], revision: str | None = None, ignored: Sequence[str] = (), remedy: str = ""
) -> Path:
    """The local copy of a hub repository's files that match `wanted` and none of `ignored`, fetched once.

    Raises PalateError, which ends in `remedy`, if it can't be fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        with quiet_hub():
            return Path(
                snapshot_download(
                    name, revision=revision, allow_patterns=list(wanted), ignore_patterns=list(ignored) or None
                )
            )
    except Exception as error:  # the hub client raises a family of network, authentication and not-found errors
        told = f"{name}: neither a local folder nor reachable on the hub ({type(error).__name__})."
        raise PalateError(f"{told} {remedy or 'Give the path of a downloaded folder.'}") from error


def why_no_repository(name: str) -> str | None:
    """Why the name of something that is not here must be a path and no repository of the hub; "" where its form shows
    that; None where it can be a repository."""
    owner, slash, model = name.partition("/")
    if name.startswith((".", "/", "~")) or not slash or "/" in model or "." in owner or not model:
        return _nearest(Path(name))
    if Path(name).suffix.lower() in FILES or "\\" in name:
        return _nearest(Path(name))
    return (_nearest(Path(name)) or f" in {owner}/") if Path(owner).is_dir() else _nearest(Path(name)) or None


def _nearest(path: Path) -> str:
    """ "; did you mean X?" where something with a similar name exists, else ""."""
    found: list[Path] = [Path(path.anchor or ".")]
    for part in path.expanduser().parts[1 if path.anchor else 0 :]:
        found = [
            folder / name for folder in found if folder.is_dir()
            for name in difflib.get_close_matches(part, _names(folder), n=2, cutoff=0.8)
        ]  # fmt: skip
    return f"; did you mean {found[0]}?" if found and found[0] != Path(path.anchor or ".") else ""


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in islice(folder.iterdir(), 10_000)]
    except OSError:
        return []
