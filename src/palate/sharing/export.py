"""`palate export`: what a run trained, in the formats that other tools load."""

import json
import shutil
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from palate.backbones.folders import TRAINED_ON
from palate.errors import PalateError, did_you_mean
from palate.files import atomic_path
from palate.network.saved import ADAPTER
from palate.reports.card import plain_card
from palate.reports.public import public
from palate.sampling.provenance import learned_from
from palate.sharing.adapters import comfyui, kohya, scaled
from palate.sharing.pipelines import copy_pipeline, forget_places, save_network
from palate.sharing.single_file import single_file
from palate.sharing.trained import (
    DTYPES,
    Trained,
    has_factors,
    merged_network,
    open_trained,
    read_adapter,
)

Format = Literal["diffusers", "kohya", "comfyui", "fused", "single-file"]
FILES = ("kohya", "comfyui", "single-file")  # the others are folders


def export(
    run: str | Path,
    format: Format = "diffusers",
    to: str | Path | None = None,
    dtype: str | None = None,
    whole_pipeline: bool = False,
) -> Path:
    """Write what a run trained in another tool's format; returns the file or folder (RUN/exports/FORMAT when `to` is
    absent).

    diffusers: the adapters, alpha/rank multiplied in, or the denoiser, with a model card. kohya, comfyui: one file of
    adapters. fused: the denoiser with the adapters in its weights; with `whole_pipeline` in a copy of the base model's
    folder. single-file: the whole model by Stable Diffusion's original names. `dtype` (fp16, bf16, fp32) is that of
    what was trained; as it is stored when absent.

    Raises PalateError, before anything is written, for a folder that is no finished run, what the format cannot hold,
    and a place where something stands already.
    """
    if format not in get_args(Format):
        raise PalateError(
            f"format {format!r} is not one of {', '.join(get_args(Format))}{did_you_mean(format, get_args(Format))}"
        )
    if dtype is not None and dtype not in DTYPES:
        raise PalateError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}{did_you_mean(dtype, DTYPES)}")
    if whole_pipeline and format != "fused":
        raise PalateError(f"a whole pipeline is written with format fused, not with {format}.")
    trained = open_trained(run)
    if (
        format in ("kohya", "comfyui")
        and trained.adapter is None
        and not (format == "comfyui" and has_factors(trained))
    ):
        why = "its adapters were merged into them" if trained.config.lora else "there are no adapters"
        raise PalateError(
            f"{run}: {format} is a format of adapters, and this run holds all weights ({why}). Export it as fused or"
            " single-file."
        )
    path, kind = _place(trained.run, format, to), None if dtype is None else DTYPES[dtype]
    if format in FILES:
        write = {"single-file": single_file, "kohya": kohya, "comfyui": comfyui}[format]
        tensors, header = write(trained)
        _save(tensors, header, path, kind)
    elif format == "diffusers":
        _save_folder(trained, path, kind)
    else:
        _save_fused(trained, path, kind, whole_pipeline)
    return path


def _place(run: Path, format: str, to: str | Path | None) -> Path:
    """Where it goes. Raises PalateError where something stands that was not written here."""
    own = to is None
    path = run / "exports" / format if to is None else Path(to)
    if format in FILES and path.suffix != ".safetensors":
        path = path / f"{run.resolve().name}.safetensors"
    elif format not in FILES and path.suffix == ".safetensors":
        raise PalateError(f"{path}: format {format} is a folder. Give the name of one.")
    if path.is_dir() and format in FILES:
        raise PalateError(f"{path}: is a folder. Give the name of a file.")
    if not own and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise PalateError(f"{path}: is there already, and is left alone. Choose another place, or delete it.")
    return path


def _save(tensors: dict[str, Tensor], header: dict[str, str], path: Path, dtype: torch.dtype | None) -> None:
    cast = {name: tensor.to(dtype).contiguous() if tensor.is_floating_point() and dtype and not name.endswith(".alpha")
            else tensor.contiguous() for name, tensor in tensors.items()}  # fmt: skip
    with atomic_path(path) as temporary:
        save_file(cast, temporary, metadata={"format": "pt", **header})


def _save_folder(trained: Trained, path: Path, dtype: torch.dtype | None) -> None:
    """The model as the run holds it, with its card; self-contained but for the base model."""
    layers = scaled(*read_adapter(trained)) if trained.adapter else {}  # refused before anything is written
    network = merged_network(trained) if trained.component and dtype else None
    card = trained.run / "model" / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else plain_card(trained.run)
    with atomic_path(path) as folder:
        folder.mkdir()
        (folder / "README.md").write_text(text, encoding="utf-8")
        if trained.adapter:
            _save(layers, {}, folder / ADAPTER, dtype)
        elif trained.component and network:
            save_network(network, folder / trained.component.name, dtype)
        elif trained.component:
            shutil.copytree(trained.component, folder / trained.component.name)
        forget_places(folder)


def _save_fused(trained: Trained, path: Path, dtype: torch.dtype | None, whole_pipeline: bool) -> None:
    network = merged_network(trained)
    text = plain_card(trained.run, "pipeline" if whole_pipeline else "component")
    with atomic_path(path) as folder:
        folder.mkdir()
        if whole_pipeline:
            copy_pipeline(trained.base, folder, leave_out=trained.denoiser)
        save_network(network, folder / trained.denoiser, dtype)
        forget_places(folder)
        (folder / "README.md").write_text(text, encoding="utf-8")
        (folder / TRAINED_ON).write_text(_learned(trained.run), encoding="utf-8")


def _learned(run: Path) -> str:
    """What the run was trained on, for whoever samples the model without the run; it names no place on this machine."""
    told = learned_from(run).as_dict()
    return json.dumps({key: [public(text) for text in texts] for key, texts in told.items()}, indent=1) + "\n"


def how_to_load(path: Path, format: Format, whole_pipeline: bool = False) -> str:
    """A sentence that says where the result belongs."""
    if format == "fused" and whole_pipeline:
        return f'load it with DiffusionPipeline.from_pretrained("{path}")'
    if format == "diffusers" and (path / ADAPTER).is_file():
        return "README.md in it says how diffusers loads it; for ComfyUI and A1111 there are --format comfyui and kohya"
    if format in ("diffusers", "fused"):
        return "README.md in it says how diffusers loads it"
    places = {"kohya": "A1111's models/Lora", "comfyui": "ComfyUI's models/loras"}
    return f"put it into {places.get(format, 'models/checkpoints of ComfyUI, or models/Stable-diffusion of A1111')}"


def size_of(path: Path) -> str:
    """The size of a file, or of all files in a folder, in words."""
    size = float(sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()))
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1000
    return f"{size:.3g} GB"
