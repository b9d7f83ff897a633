"""A whole model in one .safetensors file, converted once into a pipeline folder in the user's cache."""

import hashlib
import json
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import (
    DIFFUSERS_DEFAULT_PIPELINE_PATHS,
    SingleFileComponentError,
    infer_diffusers_model_type,
)
from safetensors import SafetensorError, safe_open

from palate.backbones.assembled import made_once, user_cache
from palate.backbones.configs import read_json
from palate.backbones.quiet import quiet_loading
from palate.backbones.stock import COMPONENTS, SD, SDXL, config_file, write_index, write_stock, write_tokenizer
from palate.errors import PalateError, first_line
from palate.foreign import one_line

FORM = "1"  # version of the converted folder; files are converted again when it changes
TOLD = "palate.pipeline"  # the header entry in which an export stores everything but the weights
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json",
                   "added_tokens.json")  # fmt: skip
STOCK = {"v1": SD, "xl_base": SDXL}  # kinds of diffusers whose configurations come with palate
CLASSES = STOCK | {
    "v2": SD, "playground-v2-5": SDXL, "sana": "SanaPipeline",
    **dict.fromkeys(("sd3", "sd35_large", "sd35_medium"), "StableDiffusion3Pipeline"),
    **dict.fromkeys(("flux-dev", "flux-schnell"), "FluxPipeline"),
}  # fmt: skip
UNETS = ("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.", "conditioner.embedders.")


def is_single_file(name: str | Path) -> bool:
    """Whether this names a file of weights, the form in which people share whole models."""
    return Path(name).suffix == ".safetensors"


def converted(file: Path) -> Path:
    """The pipeline folder made of a file, in the user's cache under the hash of its content; made when first needed.

    Raises PalateError for a file that is not safetensors, holds no whole model that palate trains, or needs
    configurations that are neither in the file, nor in palate, nor on the hub.
    """
    shapes, told = _header(file)
    _refuse_parts(file, shapes)
    place = user_cache() / "single-files" / _hash(file)
    return made_once(place, lambda folder: _convert(file, shapes, told, folder))


def converted_autoencoder(file: Path, like: Path) -> Path:
    """The folder of an autoencoder from one file, with original or diffusers' names; `like` is the folder of the
    autoencoder that it replaces, whose configuration it must share. Raises PalateError for anything else."""
    if not is_single_file(file):
        raise PalateError(f"vae: {file} is no .safetensors file. Give an autoencoder's folder or such a file.")
    _header(file)
    config = read_json(like / "config.json")
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if kind is None or not hasattr(kind, "from_single_file"):
        raise PalateError(f"vae: a {config.get('_class_name')} is not read from one file. Give its folder.")
    form = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]

    def make(folder: Path) -> None:
        try:
            with quiet_loading():
                vae = kind.from_single_file(
                    str(file), config=str(like.parent), subfolder=like.name, local_files_only=True
                )
                require_whole_network(vae)
                vae.save_pretrained(folder, safe_serialization=True)
        except (OSError, ValueError, RuntimeError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise PalateError(
                f"vae: {file} could not be read as a {kind.__name__} like {like} ({_reason(error)})."
            ) from error

    return made_once(user_cache() / "autoencoders" / f"{_hash(file)}-{form}", make, holds="config.json")


class _Shape:
    """The part of a tensor that diffusers needs to recognise its model: the shape."""

    def __init__(self, shape: list[int]):
        self.shape = tuple(shape)


def _header(file: Path) -> tuple[dict[str, _Shape], dict[str, str]]:
    try:
        with safe_open(file, "pt") as handle:
            names = list(handle.keys())
            return {name: _Shape(handle.get_slice(name).get_shape()) for name in names}, handle.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise PalateError(f"{file}: not readable as safetensors ({first_line(error)}).") from error


def _refuse_parts(file: Path, shapes: dict[str, _Shape]) -> None:
    """Raises PalateError for files without a whole model: adapters, and files without any family's original names."""
    if any(".lora_" in name or name.startswith("lora_") for name in shapes):
        raise PalateError(f"{file}: holds adapters (LoRA), not a whole model. Give the base model they belong to.")
    if not shapes:
        raise PalateError(f"{file}: holds no weights.")


def _kind(file: Path, shapes: dict[str, _Shape]) -> str:
    """diffusers' name for the kind of model. It takes any unknown model for Stable Diffusion 1.x."""
    try:
        kind = str(infer_diffusers_model_type(shapes))
    except (KeyError, IndexError, AttributeError, TypeError, ValueError):
        kind = "unknown"
    if kind == "v1" and not (UNETS[0] in shapes and any(name.startswith(UNETS[1:]) for name in shapes)):
        kind = "unknown"
    if kind not in CLASSES:
        known = "Stable Diffusion 1.x, 2.x, XL, 3 and 3.5, FLUX.1, Sana"
        what = (
            f"a model that diffusers calls {kind}"
            if kind != "unknown"
            else "no whole model by the names of its weights"
        )
        raise PalateError(
            f"{file}: {what}. One file is read of {known}, with text encoders and autoencoder in it; give other models"
            " as a diffusers pipeline folder."
        )
    return kind


def _convert(file: Path, shapes: dict[str, _Shape], told: dict[str, str], folder: Path) -> None:
    config: Path | str
    if TOLD in told:
        name, config = _write_told(file, told[TOLD], folder), folder
    else:
        kind = _kind(file, shapes)
        name = CLASSES[kind]
        if kind in STOCK:
            write_stock(folder, name)
            config = folder
        else:
            config = DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
    pipeline_kind: type[DiffusionPipeline] = getattr(diffusers, name)
    options = {"local_files_only": True} if isinstance(config, Path) else {}
    try:
        with quiet_loading():
            pipeline = pipeline_kind.from_single_file(str(file), config=str(config), **options)
            for part in pipeline.components.values():
                require_whole_network(part)
            pipeline.save_pretrained(folder, safe_serialization=True)
    except SingleFileComponentError as error:
        missing = " ".join(str(error).split())[:160]
        raise PalateError(
            f"{file}: lacks parts of the model ({missing}). Give a diffusers pipeline folder, in which they are."
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, IndexError, TypeError, AttributeError) as error:
        needs = f", whose configurations are those of {config} on the hub" if isinstance(config, str) else ""
        raise PalateError(
            f"{file}: could not be read as a {name}{needs} ({_reason(error)}). Convert it where it loads:"
            f" {name}.from_single_file(FILE).save_pretrained(FOLDER)."
        ) from error
    _say_prediction(folder, shapes)


def _reason(error: Exception) -> str:
    line = first_line(error)
    return "weights are missing in it" if "meta tensor" in line else one_line(line, 120)


def require_whole_network(part: object) -> None:
    """Raises ValueError for a network of which some weights were not in the file."""
    if isinstance(part, torch.nn.Module):
        lacking = [name for name, weight in part.named_parameters() if weight.is_meta]
        if lacking:
            raise ValueError(f"{len(lacking)} weights of the {type(part).__name__} are missing, such as {lacking[0]}")


def _say_prediction(folder: Path, shapes: dict[str, _Shape]) -> None:
    """Stable Diffusion XL models that predict v mark this with entries that are no weights; models with zero terminal
    SNR likewise."""
    path = folder / "scheduler" / "scheduler_config.json"
    changes: dict[str, object] = {"prediction_type": "v_prediction"} if "v_pred" in shapes else {}
    changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in shapes else {}
    if changes:
        path.write_text(json.dumps(read_json(path) | changes, indent=2) + "\n", encoding="utf-8")


def _write_told(file: Path, text: str, folder: Path) -> str:
    """Write the configurations that a file of `palate export` carries; returns the class of its pipeline. Nothing but
    JSON and vocabularies of the known parts is taken from it."""
    try:
        told = json.loads(text)
        name, files = told["pipeline"], told["files"]
        parts = {*COMPONENTS[name], "scheduler"}
        wanted = {f"{part}/{config_file(part)}" for part in parts if not part.startswith("tokenizer")}
        allowed = wanted | {
            f"{part}/{own}" for part in parts if part.startswith("tokenizer") for own in TOKENIZER_FILES
        }
        if not (wanted <= set(files) <= allowed and all(isinstance(content, str) for content in files.values())):
            raise ValueError("other files than those of its parts")
        scheduler = json.loads(files["scheduler/scheduler_config.json"])["_class_name"]
        if not (
            str(scheduler).isidentifier() and str(scheduler).endswith("Scheduler") and hasattr(diffusers, scheduler)
        ):
            raise ValueError(f"no scheduler {scheduler!r}"[:80])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PalateError(
            f"{file}: what its header says of the pipeline is damaged ({error}). Export it again."
        ) from error
    write_index(folder, name, scheduler)
    for own, content in files.items():
        path = folder / own
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        if path.suffix == ".json":
            read_json(path)
    for part in COMPONENTS[name]:
        if part.startswith("tokenizer") and not (folder / part).is_dir():
            write_tokenizer(folder / part, padding="!" if part == "tokenizer_2" else "<|endoftext|>")
    return str(name)


def _hash(file: Path) -> str:
    with open(file, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256")
    digest.update(FORM.encode())
    return digest.hexdigest()[:32]
