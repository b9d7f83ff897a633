"""Pipeline folders: where they are, what they hold, and a fingerprint of their weights."""

import hashlib
import json
from pathlib import Path

from palate.backbones.assembled import assembled
from palate.backbones.configs import read_json
from palate.errors import PalateError
from palate.files import add_file
from palate.hub import PICKLED, fetch, why_no_repository

PARTS, PART = 64, 1 << 20  # how many parts, of how many bytes, of a large file are hashed
HASHED = (".json", ".safetensors", ".txt", ".model", ".jinja")  # weights, configurations, vocabularies, chat templates
TRAINED_ON = "trained_on.json"  # `palate export` writes it beside a model that is separate from its run
OTHER_COPIES = ("*.fp16*", "*.bf16*", "*non_ema*")  # other copies of the same weights, which are never loaded


def resolve_folder(
    name_or_path: str, revision: str | None = None, variant: str | None = None, vae: str | None = None
) -> Path:
    """The local folder of a pipeline: the folder itself, the folder converted from a single .safetensors file, or the
    hub repository's local copy. `variant` chooses a copy of the weights (fp16), `vae` another autoencoder: a folder, a
    file, or a hub name.

    Raises PalateError for anything that is neither a folder, nor a file of a whole model, nor on the hub.
    """
    folder = _folder(name_or_path, revision, variant)
    read_json(folder / "model_index.json")
    return assembled(folder, variant, None if vae is None else _autoencoder(vae, folder))


def _folder(name_or_path: str, revision: str | None, variant: str | None) -> Path:
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise PalateError(
                f"{folder}: not a diffusers pipeline folder (no model_index.json). Save one with"
                " pipeline.save_pretrained."
            )
        return folder
    if folder.is_file():
        return _one_file(folder)
    if (why := why_no_repository(name_or_path)) is not None:
        raise PalateError(
            f"{name_or_path}: no such folder{why}. Give a diffusers pipeline folder, a .safetensors file of a whole"
            " model, a hub name (owner/model), or 'world'."
        )
    return _from_hub(name_or_path, revision, variant)


def _one_file(file: Path) -> Path:
    from palate.backbones.single_file import converted

    if file.suffix in PICKLED:
        raise PalateError(f"{file}: its weights are pickled, which can execute code. Give a .safetensors file.")
    if file.suffix != ".safetensors":
        raise PalateError(f"{file}: a file, and no .safetensors. Give a diffusers pipeline folder or such a file.")
    return converted(file)


def _from_hub(name: str, revision: str | None, variant: str | None) -> Path:
    remedy = "Give the path of a downloaded pipeline folder."
    index = read_json(fetch(name, ["model_index.json"], revision, remedy=remedy) / "model_index.json")
    parts = [part for part, entry in index.items() if isinstance(entry, list)]
    wanted = ["model_index.json", "README.md", "LICENSE*", TRAINED_ON]
    wanted += [f"{part}/*{end}" for part in parts for end in HASHED]
    others = [pattern for pattern in OTHER_COPIES if variant is None or variant not in pattern]
    folder = fetch(name, wanted, revision, others, remedy)
    if variant is None and any(_lacks_weights(folder / part) for part in parts):
        folder = fetch(name, wanted, revision, remedy=remedy)  # it has only other copies
    return folder


def _lacks_weights(part: Path) -> bool:
    """Whether a part that is a network came without any weights."""
    return (part / "config.json").is_file() and not any(part.glob("*.safetensors"))


def _autoencoder(vae: str, folder: Path) -> Path:
    """The folder of an autoencoder: the folder itself, the vae of a pipeline folder, the folder converted from a file,
    or the hub's copy."""
    path = Path(vae).expanduser()
    if path.is_file():
        from palate.backbones.single_file import converted_autoencoder

        return converted_autoencoder(path, folder / "vae")
    found = next((place for place in (path, path / "vae") if (place / "config.json").is_file()), None)
    if found:
        return found
    if path.is_dir() or (why := why_no_repository(vae)) is not None:
        told = "a folder without config.json" if path.is_dir() else f"no such folder or file{why}"
        raise PalateError(f"vae: {vae} is {told}. Give an autoencoder's folder, a .safetensors file, or a hub name.")
    return fetch(vae, ["config.json", "*.safetensors"], remedy="vae: give an autoencoder's local folder.")


def component_class(folder: Path, component: str) -> str | None:
    """The class name of a component in the pipeline's index, or None where it has none."""
    entry = read_json(folder / "model_index.json").get(component)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str) else None


def require_safetensors(component: Path) -> None:
    """Raises PalateError for a component whose weights are pickled: they can execute code, and fingerprints do not
    cover them."""
    suffixes = {file.suffix for file in component.rglob("*")}
    if suffixes & set(PICKLED) and ".safetensors" not in suffixes:
        raise PalateError(
            f"{component}: its weights are pickled, which can execute code. Save the base model anew with safetensors: "
            "pipeline.save_pretrained(FOLDER, safe_serialization=True)."
        )


def fingerprint(folder: Path, components: tuple[str, ...]) -> str:
    """A hash of the configuration and weights of the named components."""
    return cumulative_fingerprints(folder, components)[-1]


def cumulative_fingerprints(folder: Path, components: tuple[str, ...]) -> list[str]:
    """For each component the fingerprint of it and of all components before it: the first difference shows which one
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
    """A short hash of the safetensors in these folders (or of such a file), None where there are none: it changes when
    a model is trained further.

    Of a file above 64 MiB only its header, its size and 64 parts spread over it are read, because training moves
    weights everywhere. The same tensors written again have the same hash, though their header may be in another order.
    """
    files = [file for folder in folders
             for file in ([folder] if folder.is_file() else sorted(folder.rglob("*.safetensors")))]  # fmt: skip
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
        except (ValueError, RecursionError):  # not a safetensors file despite its name: hash its bytes
            start, header = 0, None
        digest.update(f"{json.dumps(header, sort_keys=True)} {size - start}".encode())
        parts = 1 if size - start <= PARTS * PART else PARTS
        for k in range(parts):
            handle.seek(start + k * (size - start - PART) // (PARTS - 1) if parts > 1 else start)
            digest.update(handle.read(PART if parts > 1 else -1))
