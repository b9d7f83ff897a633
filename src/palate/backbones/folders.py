"""Pipeline folders: where they are, what they hold, and a fingerprint of their weights."""

import hashlib
import json
from pathlib import Path

from palate.errors import PalateError
from palate.files import add_file

PARTS, PART = 64, 1 << 20  # of a large file of weights, those that tell whether it is another one
HASHED = (".json", ".safetensors", ".txt", ".model", ".jinja")  # weights, configurations, vocabularies, chat templates
PICKLED = (".bin", ".pt", ".ckpt", ".msgpack")  # weights that are refused
TRAINED_ON = "trained_on.json"  # what `palate export` leaves beside a model, that knows its run no more
OTHER_COPIES = ("*.fp16*", "*.bf16*", "*non_ema*")  # other copies of the same weights, which are never loaded


def resolve_folder(name_or_path: str, revision: str | None = None) -> Path:
    """The local folder of a pipeline; a name that is no folder is taken for a hub repository (or its local copy)."""
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise PalateError(
                f"{folder}: not a diffusers pipeline folder (no model_index.json). Save one with"
                " pipeline.save_pretrained."
            )
        return folder
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") != 1:
        raise PalateError(
            f"{name_or_path}: no such folder. Give a diffusers pipeline folder, a hub name (owner/model), or 'world'."
        )
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        index = json.loads(Path(hf_hub_download(name_or_path, "model_index.json", revision=revision)).read_text())
        parts = [name for name, entry in index.items() if isinstance(entry, list)]
        wanted = [
            "model_index.json",
            "README.md",
            "LICENSE*",
            TRAINED_ON,
            *(f"{part}/*{end}" for part in parts for end in HASHED),
        ]
        return Path(
            snapshot_download(
                name_or_path, revision=revision, allow_patterns=wanted, ignore_patterns=list(OTHER_COPIES)
            )
        )
    except Exception as error:  # the hub client raises a family of network, authentication and not-found errors
        raise PalateError(f"{name_or_path}: neither a local folder nor reachable on the hub ({type(error).__name__}). "
                          "Give the path of a downloaded pipeline folder.") from error  # fmt: skip


def component_class(folder: Path, component: str) -> str | None:
    """The class name of a component as the pipeline's index has it, or None where there is none."""
    entry = json.loads((folder / "model_index.json").read_text()).get(component)
    return entry[1] if isinstance(entry, list) else None


def require_safetensors(component: Path) -> None:
    """Raises PalateError for a component whose weights are pickled: they can execute code, and no fingerprint holds
    them."""
    suffixes = {file.suffix for file in component.rglob("*")}
    if suffixes & set(PICKLED) and ".safetensors" not in suffixes:
        raise PalateError(
            f"{component}: its weights are pickled, which can execute code. Save the base model anew with safetensors: "
            "pipeline.save_pretrained(FOLDER, safe_serialization=True)."
        )


def fingerprint(folder: Path, components: tuple[str, ...]) -> str:
    """A hash of everything that the named components are made of (configuration and weights)."""
    return cumulative_fingerprints(folder, components)[-1]


def cumulative_fingerprints(folder: Path, components: tuple[str, ...]) -> list[str]:
    """For each component the fingerprint of it and those named before it: the first that differs tells what has
    changed.

    Raises PalateError for pickled weights.
    """
    digest, found = hashlib.sha256(), []
    for component in components:
        require_safetensors(folder / component)
        for file in sorted((folder / component).rglob("*")):
            if file.suffix in HASHED:
                digest.update(f"{component}/{file.name}".encode())
                add_file(digest, file)
        found.append(digest.hexdigest())
    return found


def weights_hash(folders: list[Path]) -> str | None:
    """A short hash of the safetensors in these folders, None where there are none: it changes when a model is trained
    further.

    Of a file above 64 MiB only its header, its size and 64 parts spread over it are read, because training moves
    weights everywhere. The same tensors written again have the same hash, though their header may be in another order.
    """
    files = [file for folder in folders for file in sorted(folder.rglob("*.safetensors"))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        _add_weights(digest, file)
    return digest.hexdigest()[:16] if files else None


def _add_weights(digest: "hashlib._Hash", file: Path) -> None:
    size = file.stat().st_size
    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        start = 8 + length if 8 + length <= size else 0
        try:
            header = json.loads(handle.read(length)) if start else None
        except ValueError:  # not what its name says: its bytes as they are
            start, header = 0, None
        digest.update(f"{json.dumps(header, sort_keys=True)} {size - start}".encode())
        parts = 1 if size - start <= PARTS * PART else PARTS
        for k in range(parts):
            handle.seek(start + k * (size - start - PART) // (PARTS - 1) if parts > 1 else start)
            digest.update(handle.read(PART if parts > 1 else -1))
