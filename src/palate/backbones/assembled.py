"""A pipeline folder put together from parts that lie elsewhere: weights in half precision under their own names
(`*.fp16.safetensors`), and another autoencoder. It consists of links, in the user's cache, so that everything else sees
one folder as diffusers writes them."""

import hashlib
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path

from palate.backbones.configs import read_json
from palate.errors import PalateError
from palate.files import atomic_path

# Weights: model.safetensors, model-00001-of-00002.safetensors, model.fp16.safetensors, model.fp16-00001-of-00002.…,
# model-00001-of-00002.fp16.safetensors; and the list of shards: model.safetensors.index.json, ….index.fp16.json
_SHARD = r"(?:-\d{5}-of-\d{5})?"
_WEIGHTS = re.compile(rf"(\w+?){_SHARD}(?:\.([A-Za-z]\w*))?{_SHARD}\.safetensors")
_LIST = re.compile(r"(\w+)\.safetensors\.index(?:\.(\w+))?\.json")


def user_cache() -> Path:
    """Where what is made of base models lies: $PALATE_CACHE, else palate/ in the user's cache folder."""
    own = os.environ.get("PALATE_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palate"


def made_once(place: Path, make: Callable[[Path], None], holds: str = "model_index.json") -> Path:
    """The folder at `place`, filled by `make` where it is not there yet (without `holds`). Of several processes that
    make it at once the first one to finish is taken."""
    if (place / holds).is_file():
        return place
    own = place.with_name(f"{place.name}-{uuid.uuid4().hex[:8]}")
    try:
        with atomic_path(own) as folder:
            folder.mkdir(parents=True)
            make(folder)
        try:
            os.rename(own, place)
        except OSError:
            if not (place / holds).is_file():
                raise
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return place


def assembled(folder: Path, variant: str | None, vae: Path | None) -> Path:
    """The folder itself where its parts can be read as they are; else one of links to the parts that are wanted.

    A part whose only weights are another copy (`*.fp16.*`) is read from that copy, in fp32, and this is said; with
    `variant` every part is that has such a copy. `vae` is the folder of another autoencoder. Raises PalateError where
    no part has the variant, where a part has several copies and none is named, and for an autoencoder of another form.
    """
    parts = {name: folder / name for name, entry in read_json(folder / "model_index.json").items()
             if isinstance(entry, list) and (folder / name).is_dir()}  # fmt: skip
    if vae is not None:
        _require_same_form(vae, parts.get("vae"), folder)
        parts["vae"] = vae
    chosen = {name: _chosen(part, variant) for name, part in parts.items()}
    if variant is not None and variant not in chosen.values():
        found = sorted({kind for part in parts.values() for kind in _variants(part) if kind})
        has = f"it has {', '.join(found)}" if found else "it has weights under their plain names alone"
        raise PalateError(f"{folder}: variant: {variant}, but no part of the model has such weights; {has}.")
    if vae is None and not any(chosen.values()):
        return folder
    if variant is None and any(chosen.values()):
        _say_variant(folder, tuple(sorted({kind for kind in chosen.values() if kind})))
    links: dict[str, Path] = {}
    for name, part in parts.items():
        links |= {f"{name}/{own}": target for own, target in _links(part, chosen[name]).items()}
    told = json.dumps({own: str(target) for own, target in links.items()}, sort_keys=True)
    index = (folder / "model_index.json").read_bytes()
    key = hashlib.sha256(told.encode() + index).hexdigest()[:32]

    def make(place: Path) -> None:
        (place / "model_index.json").write_bytes(index)
        for own, target in links.items():
            (place / own).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(target, place / own)

    return made_once(user_cache() / "assembled" / key, make)


def _variants(part: Path) -> set[str | None]:
    """The copies that a part's weights are there in: None is the plain one."""
    return {found.group(2) for file in part.iterdir() if (found := _WEIGHTS.fullmatch(file.name))}


def _chosen(part: Path, variant: str | None) -> str | None:
    """The copy of a part's weights to read; None for the plain one, and for parts without weights."""
    found = _variants(part)
    if variant in found or None in found or not found:
        return variant if variant in found else None
    if len(found) > 1:
        names = ", ".join(sorted(name for name in found if name))
        raise PalateError(f"{part}: its weights are there as {names} alone. Say which with variant: NAME.")
    return found.pop()


def _links(part: Path, variant: str | None) -> dict[str, Path]:
    """Name in the folder to be made -> the file of a part, with this copy of its weights under the plain names."""
    links = {}
    for file in sorted(part.rglob("*")):
        if not file.is_file():
            continue
        own = file.relative_to(part).as_posix()
        weights, shards = _WEIGHTS.fullmatch(file.name), _LIST.fullmatch(file.name)
        if (found := weights or shards) and found.group(2) != variant:
            continue
        if shards:
            own = f"{shards.group(1)}.safetensors.index.json"
        elif weights and not re.search(r"-\d{5}-of-\d{5}", file.name):  # shards keep the names that the list has
            own = f"{weights.group(1)}.safetensors"
        links[own] = file.absolute()
    return links


def _require_same_form(vae: Path, before: Path | None, folder: Path) -> None:
    if before is None:
        raise PalateError(f"vae: {folder} has no autoencoder that could be replaced. Remove the key.")
    new, old = read_json(vae / "config.json"), read_json(before / "config.json")
    for key in ("_class_name", "latent_channels"):
        if new.get(key) != old.get(key):
            raise PalateError(
                f"vae: {vae} has {key} {new.get(key)!r}, and the model was made for {old.get(key)!r}. Give an"
                " autoencoder of the same latent space."
            )


@cache  # once in a process: every step of a verb opens the base model
def _say_variant(folder: Path, kinds: tuple[str, ...]) -> None:
    print(f"{folder}: only {', '.join(kinds)} weights are there; they are read, and held in fp32", file=sys.stderr)
