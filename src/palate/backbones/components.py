"""Components of a pipeline folder: their configurations, models, tokenizers and samplers, as every family's file needs
them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.utils import logging
from safetensors import SafetensorError
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from palate.backbones.configs import read_json, require_sane
from palate.backbones.folders import component_class, require_safetensors
from palate.errors import PalateError, first_line

Config = dict[str, Any]  # of a component or a pipeline, as its JSON has it

VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")


def component_config(folder: Path, name: str) -> Config:
    """The configuration of a component as its folder has it. Raises PalateError when it is missing or no JSON, and when
    it has numbers that no model has."""
    path = folder / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
    config = read_json(path)
    require_sane(path, config)
    return config


def pipeline_index(folder: Path) -> Config:
    """What a pipeline folder says of itself: `_class_name`, the components, and settings of the pipeline."""
    return read_json(folder / "model_index.json")


def load_component(kind: type[Any], folder: Path, name: str, **options: Any) -> Any:
    """A component of this class (a model, a tokenizer). Raises PalateError when its folder cannot be loaded."""
    disable_progress_bar()  # transformers draws one even for a file of a kilobyte
    logging.disable_progress_bar()  # and diffusers one for shards
    try:
        return kind.from_pretrained(folder, subfolder=name, **options)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise PalateError(
            f"{folder / name}: could not be loaded ({first_line(error)}). Download that folder again."
        ) from error


def require_whole(folder: Path, told: dict[str, Any]) -> None:
    """Raises PalateError when a trained network is not whole: `from_pretrained` fills weights that are missing with
    noise, and leaves out those that it does not know. `told` is what it says with `output_loading_info`."""
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    wrong = [str(name) for kind in kinds for name in told.get(kind) or ()]
    if wrong:
        raise PalateError(
            f"{folder}: {len(wrong)} weights are missing, too many or of another shape ({wrong[0][:100]}). The run's "
            "`palate train` "
            "command writes them again; nothing is trained anew."
        )


def load_model(kind: type[Any], folder: Path, name: str, device: str | torch.device) -> Any:
    """A model in fp32 on this device, with its gradients on. Raises PalateError also where its weights are pickled
    alone."""
    require_safetensors(folder / name)
    dtype = "torch_dtype" if issubclass(kind, ModelMixin) else "dtype"  # diffusers and transformers differ
    return load_component(kind, folder, name, **{dtype: torch.float32}, use_safetensors=True).to(device)


def load_frozen(kind: type[Any], folder: Path, name: str, device: str | torch.device) -> Any:
    """An encoder, in fp32 on this device: evaluated, never trained."""
    return load_model(kind, folder, name, device).eval().requires_grad_(False)


def load_tokenizer(kind: type[Any], folder: Path, name: str) -> Any:
    """A tokenizer. Raises PalateError when its vocabulary is missing, without which transformers makes an empty one."""
    if not any((folder / name / file).is_file() for file in VOCABULARIES):
        raise PalateError(
            f"{folder / name}: no vocabulary (none of {', '.join(VOCABULARIES)}). Download that folder again."
        )
    return load_component(kind, folder, name)


def load_texts(kinds: Mapping[str, type[Any]], folder: Path, device: str | torch.device) -> dict[str, Any]:
    """Tokenizers and text encoders by name, as a pipeline takes them; None where the folder was saved without one."""

    def load(name: str, kind: type[Any]) -> Any:
        if component_class(folder, name) is None:
            return None
        if name.startswith("tokenizer"):
            return load_tokenizer(kind, folder, name)
        return load_frozen(kind, folder, name, device)

    return {name: load(name, kind) for name, kind in kinds.items()}


def longest(tokenizer: Any, stock: int) -> int:
    """Tokens of a prompt: those of the stock pipeline, or the tokenizer's own limit where it is lower."""
    return stock if tokenizer is None else min(stock, tokenizer.model_max_length)


def kl_factor(vae_config: Config) -> int:
    """Pixels per latent along one side of an AutoencoderKL; 8 for Stable Diffusion's."""
    return 1 << (len(vae_config["block_out_channels"]) - 1)


def kl_latents(vae: ModelMixin, images: Tensor) -> Tensor:
    """Images [B, 3, H, W] in [-1, 1] to latents [B, C, h, w]: the mean of the posterior, shifted and scaled, fp32."""
    mean: Tensor = vae.encode(images.to(vae.device)).latent_dist.mode()
    latents: Tensor = (mean - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    return latents


def make_scheduler(folder: Path, sampler: str, samplers: Mapping[str, type[Any]], family: str, **settings: Any) -> Any:
    """The scheduler of a sampler with the folder's settings; "default" is the folder's own.

    `settings` stand where the folder has none: what another class calls otherwise. Raises PalateError for a sampler
    that the family does not have.
    """
    own = component_class(folder, "scheduler")
    by_class = (kind for kind in samplers.values() if kind.__name__ == own)
    kind = next(by_class, None) if sampler == "default" else samplers.get(sampler)
    if kind is None:
        told = "the folder's own scheduler" if sampler == "default" else f"sampler {sampler!r}"
        names = ", ".join(("default", *samplers))
        raise PalateError(f"{folder}: {family} cannot be sampled with {told}; choose one of {names}.")
    with quiet():
        return kind.from_config({**settings, **component_config(folder, "scheduler")})


@torch.no_grad()
def run_pipeline(pipeline: Any, prompts: list[str], noise: Tensor, factor: int, **options: Any) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] by a stock pipeline, as high and wide as the noise [B, C, h, w] times `factor`.

    `options` are the pipeline's own; `latents` among them takes the place of the noise where it must be packed first.
    """
    pipeline.set_progress_bar_config(disable=True)
    height, width = noise.shape[-2] * factor, noise.shape[-1] * factor
    options = {"latents": noise, **options}
    with quiet():
        images: Tensor = pipeline(prompt=prompts, height=height, width=width, output_type="pt", **options).images
    return images


@contextmanager
def quiet() -> Iterator[None]:
    """Without what diffusers says about every prompt that is longer than an encoder reads."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
