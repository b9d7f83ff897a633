"""Components of a pipeline folder: their configurations, models, tokenizers and samplers, as every family's file needs
them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch
from diffusers import ModelMixin
from diffusers.utils import logging
from safetensors import SafetensorError
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from palate.backbones.folders import component_class, require_safetensors
from palate.errors import PalateError

_READ_BY_TOKENIZERS = ("tokenizer.json", "vocab.json")
VOCABULARIES = (*_READ_BY_TOKENIZERS, "spiece.model", "tokenizer.model")


def component_config(folder: Path, name: str) -> dict:
    """The configuration of a component as its folder has it. Raises PalateError when it is missing or no JSON."""
    path = folder / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PalateError(f"{path}: missing or not readable. Download that folder again.") from error


def pipeline_index(folder: Path) -> dict:
    """What a pipeline folder says of itself: `_class_name`, the components, and settings of the pipeline."""
    return json.loads((folder / "model_index.json").read_text(encoding="utf-8"))


def load_component(kind: type, folder: Path, name: str, **options):
    """A component of this class (a model, a tokenizer). Raises PalateError when its folder cannot be loaded."""
    disable_progress_bar()  # transformers draws one even for a file of a kilobyte
    try:
        return kind.from_pretrained(folder, subfolder=name, **options)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise PalateError(
            f"{folder / name}: could not be loaded ({first_line}). Download that folder again."
        ) from error


def load_model(kind: type, folder: Path, name: str, device: str | torch.device) -> torch.nn.Module:
    """A model in fp32 on this device, with its gradients on. Raises PalateError also where its weights are pickled
    alone."""
    require_safetensors(folder / name)
    dtype = "torch_dtype" if issubclass(kind, ModelMixin) else "dtype"  # diffusers and transformers differ
    return load_component(kind, folder, name, **{dtype: torch.float32}, use_safetensors=True).to(device)


def load_frozen(kind: type, folder: Path, name: str, device: str | torch.device) -> torch.nn.Module:
    """An encoder, in fp32 on this device: evaluated, never trained."""
    return load_model(kind, folder, name, device).eval().requires_grad_(False)


def load_tokenizer(kind: type, folder: Path, name: str):
    """A tokenizer.

    Raises PalateError when its vocabulary is missing, without which transformers makes an empty one, and for an older
    folder whose vocabulary only sentencepiece can read, where that is not installed.
    """
    if not any((folder / name / file).is_file() for file in VOCABULARIES):
        raise PalateError(
            f"{folder / name}: no vocabulary (none of {', '.join(VOCABULARIES)}). Download that folder again."
        )
    if not any((folder / name / file).is_file() for file in _READ_BY_TOKENIZERS):
        _require_sentencepiece(folder / name)
    return load_component(kind, folder, name)


def _require_sentencepiece(tokenizer: Path) -> None:
    try:
        for module in ("sentencepiece", "google.protobuf"):
            import_module(module)
    except ImportError as error:
        raise PalateError(
            f"{tokenizer}: its vocabulary is a sentencepiece model, and {error.name} is not installed."
            " pip install 'palate[sentencepiece]'."
        ) from error


def load_texts(kinds: dict[str, type], folder: Path, device: str | torch.device) -> dict[str, object | None]:
    """Tokenizers and text encoders by name, as a pipeline takes them; None where the folder was saved without one."""

    def load(name: str, kind: type):
        if component_class(folder, name) is None:
            return None
        if name.startswith("tokenizer"):
            return load_tokenizer(kind, folder, name)
        return load_frozen(kind, folder, name, device)

    return {name: load(name, kind) for name, kind in kinds.items()}


def longest(tokenizer, stock: int) -> int:
    """Tokens of a prompt: those of the stock pipeline, or the tokenizer's own limit where it is lower."""
    return stock if tokenizer is None else min(stock, tokenizer.model_max_length)


def kl_factor(vae_config: dict) -> int:
    """Pixels per latent along one side of an AutoencoderKL; 8 for Stable Diffusion's."""
    return 2 ** (len(vae_config["block_out_channels"]) - 1)


def kl_latents(vae: torch.nn.Module, images: Tensor) -> Tensor:
    """Images [B, 3, H, W] in [-1, 1] to latents [B, C, h, w]: the mean of the posterior, shifted and scaled, fp32."""
    mean = vae.encode(images.to(vae.device)).latent_dist.mode()
    return (mean - (vae.config.shift_factor or 0)) * vae.config.scaling_factor


def make_scheduler(folder: Path, sampler: str, samplers: dict[str, type], family: str, **settings):
    """The scheduler of a sampler with the folder's settings; "default" is the folder's own.

    `settings` stand where the folder has none: what another class calls otherwise. Raises PalateError for a sampler
    that the family does not have.
    """
    known = {kind.__name__: kind for kind in samplers.values()}
    kind = known.get(component_class(folder, "scheduler")) if sampler == "default" else samplers.get(sampler)
    if kind is None:
        told = "the folder's own scheduler" if sampler == "default" else f"sampler {sampler!r}"
        names = ", ".join(("default", *samplers))
        raise PalateError(f"{folder}: {family} cannot be sampled with {told}; choose one of {names}.")
    with quiet():
        return kind.from_config({**settings, **component_config(folder, "scheduler")})


@torch.no_grad()
def run_pipeline(pipeline, prompts: list[str], noise: Tensor, factor: int, **options) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] by a stock pipeline, as high and wide as the noise [B, C, h, w] times `factor`.

    `options` are the pipeline's own; `latents` among them takes the place of the noise where it must be packed first.
    """
    pipeline.set_progress_bar_config(disable=True)
    height, width = noise.shape[-2] * factor, noise.shape[-1] * factor
    options = {"latents": noise, **options}
    with quiet():
        return pipeline(prompt=prompts, height=height, width=width, output_type="pt", **options).images


@contextmanager
def quiet() -> Iterator[None]:
    """Without what diffusers says about every prompt that is longer than an encoder reads."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
