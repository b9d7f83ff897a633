"""Pipeline folders: a copy of one around another denoiser."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import ModelMixin

from palate.backbones.folders import require_safetensors

KEPT = (".json", ".txt", ".model", ".safetensors", ".jinja")  # no pickled weights, and no preview pictures


def copy_pipeline(base: Path, folder: Path, leave_out: str) -> None:
    """Copy the files of a pipeline folder into another, without one component. Raises PalateError for weights that are
    no safetensors."""
    index = json.loads((base / "model_index.json").read_text(encoding="utf-8"))
    components = [name for name in index if name != leave_out and (base / name).is_dir()]
    for name in components:
        require_safetensors(base / name)
    shutil.copyfile(base / "model_index.json", folder / "model_index.json")
    for file in base.glob("LICENSE*"):
        shutil.copyfile(file, folder / file.name)
    for name in components:
        for file in (base / name).rglob("*"):
            if file.is_file() and file.suffix in KEPT:
                target = folder / file.relative_to(base)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)  # follows links: those of the hub's cache lead out of the folder


def save_network(network: ModelMixin, folder: Path, dtype: torch.dtype | None) -> None:
    """Write a network as diffusers does, in another type where one is given."""
    (network.to(dtype) if dtype else network).save_pretrained(folder, safe_serialization=True)


def forget_places(folder: Path) -> None:
    """Take out of every configuration in a folder where on this machine its weights were loaded from."""
    for path in folder.rglob("*.json"):
        told = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(told, dict) and told.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
