"""Shared by the reward models: finding their files, loading them safely, and preparing pictures."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from palate.errors import PalateError, did_you_mean
from palate.files import add_file
from palate.hub import fetch, why_no_repository

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP, BLIP and their heirs
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TOKENIZER = ("*.json", "*.txt")


def find_model(address: str, patterns: Sequence[str]) -> Path:
    """The path of a local file or folder, or of a hub model, whose files that match `patterns` are fetched once.

    Raises PalateError if there is neither.
    """
    path = Path(address).expanduser()
    if path.exists():
        return path
    if (why := why_no_repository(address)) is not None:
        raise PalateError(
            f"{address}: no such file or folder{why}. Give the model's files, or a hub name (owner/model)."
        )
    return fetch(address, patterns)


def find_file(folder: Path, patterns: Sequence[str], what: str) -> Path:
    """The one file in `folder` that matches, or `folder` itself if it is a file. Raises PalateError for none or
    several."""
    if folder.is_file():
        return folder
    found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise PalateError(f"{folder}: {what} must be one file ({' or '.join(patterns)}); found {names}. Give its path.")
    return found[0]


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, .safetensors or pickled; from a pickle nothing but tensors is unpacked."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    except Exception as error:  # unpickling, zip and safetensors each have errors of their own
        raise PalateError(
            f"{path}: not a checkpoint of plain tensors ({type(error).__name__}). Download it again; "
            "a file that needs more than tensors to load is not opened."
        ) from error


def fit(model: torch.nn.Module, state: dict[str, torch.Tensor], path: Path, what: str) -> torch.nn.Module:
    """`model` with these weights. Raises PalateError, naming a tensor, if they belong to another model."""
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    strange = [name for name in state if name not in own]
    other = [name for name in own if name in state and own[name].shape != state[name].shape]
    for names, says in ((missing, "is missing"), (other, "has another shape"), (strange, "is not part of it")):
        if names:
            raise PalateError(f"{path}: not the weights of {what}: {names[0]} {says}. Give the folder of that model.")
    model.load_state_dict(state)
    return model


def renamed(name: str, table: Sequence[tuple[str, str]]) -> str:
    """The name after applying every replacement (pattern, text) of the table in turn."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def count_layers(state: dict[str, torch.Tensor], pattern: str) -> int:
    """How many layers a checkpoint has: one more than the largest number that `pattern` captures in a name."""
    return 1 + max((int(found[1]) for name in state if (found := re.match(pattern, name))), default=-1)


def find_tokenizer(
    given: str | None, model: str | None, path: Path, needs: Sequence[tuple[str, ...]], source: str
) -> Path:
    """The folder of a tokenizer: the one given, else beside the weights at `path` if `model` is local, else `source` on
    the hub. Raises PalateError, saying where to find the files, unless one of the sets in `needs` is complete."""
    local = model is not None and Path(model).expanduser().exists()
    folder = find_model(given or (str(path) if local else source), TOKENIZER)
    folder = folder if folder.is_dir() else folder.parent
    if not any(all((folder / name).is_file() for name in names) for names in needs):
        wanted = " or ".join(" and ".join(names) for names in needs)
        raise PalateError(f"{folder}: no tokenizer ({wanted}). Put the tokenizer files of {source} there.")
    return folder


def content_hash(*paths: Path) -> str:
    """A hash of the content of these files; for a folder, of the weights and configurations in it."""
    digest = hashlib.sha256()
    for path in paths:
        inside = [f for f in path.rglob("*") if f.suffix in (".json", ".txt", ".safetensors", ".bin", ".pt", ".pth")]
        for file in sorted(inside) if path.is_dir() else [path]:
            digest.update(file.name.encode())
            add_file(digest, file)
    return digest.hexdigest()[:16]


def choose_device(device: str | None) -> str:
    """The device asked for, else the GPU if there is one."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def choose_dtype(dtype: str | None, device: str) -> str:
    """fp32, fp16 or bf16 as asked for; else fp16 on a GPU, fp32 elsewhere. Raises PalateError for another name."""
    if dtype is not None and dtype not in DTYPES:
        raise PalateError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}{did_you_mean(dtype, DTYPES)}")
    return dtype or ("fp16" if device.startswith("cuda") else "fp32")


def pictures(images: Sequence[Image.Image], size: int) -> torch.Tensor:
    """Pictures as CLIP and BLIP take them, fp32 [N, 3, size, size]: the shorter side is resized to `size` (bicubic),
    then the centre is cropped and standardised."""
    prepared = torch.from_numpy(np.stack([_cut(image, size) for image in images]))  # [N, size, size, 3] in [0, 1]
    return ((prepared - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2).contiguous()


def _cut(image: Image.Image, size: int) -> np.ndarray:
    width, height = image.size
    scale = size / min(width, height)
    across, down = (size if side == min(width, height) else int(side * scale) for side in (width, height))
    resized = image.convert("RGB").resize((across, down), Image.Resampling.BICUBIC)
    left, top = (across - size) // 2, (down - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)), np.float32) / 255
