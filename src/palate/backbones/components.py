"""Components of a pipeline folder for every family's file: configurations, models, tokenizers and samplers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.utils import logging
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from palate.backbones.configs import read_json, require_sane
from palate.backbones.folders import component_class, require_safetensors
from palate.errors import PalateError, first_line

Config = dict[str, Any]  # the JSON of a component or a pipeline

_READ_BY_TOKENIZERS = ("tokenizer.json", "vocab.json")
VOCABULARIES = (*_READ_BY_TOKENIZERS, "spiece.model", "tokenizer.model")


def component_config(folder: Path, name: str) -> Config:
    """The configuration of a component in its folder. Raises PalateError when it is missing or not JSON, and for
    numbers that no model has."""
    path = folder / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
    config = read_json(path)
    require_sane(path, config)
    return Settings(path, config)


class Settings(dict[str, Any]):
    """A configuration, which refuses to be asked for what it lacks."""

    def __init__(self, path: Path, config: Config):
        super().__init__(config)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise PalateError(f"{self.path}: has no {key}. Download that folder again.")


def pipeline_index(folder: Path) -> Config:
    """The model_index.json of a pipeline folder: `_class_name`, the components, and settings of the pipeline."""
    return read_json(folder / "model_index.json")


WORDS: dict[str, tuple[object, ...]] = {
    "timestep_spacing": ("linspace", "leading", "trailing"), "final_sigmas_type": ("zero", "sigma_min"),
}  # fmt: skip


def require_types(kind: type[Any], config: Config, where: Path) -> None:
    """Raises PalateError for a setting that a class of diffusers takes as a number (or no) and is text or a mapping, or
    none of the words it knows: some are used only when the network runs, and would then end in anything. Of classes of
    transformers, whose settings are of many forms, the epsilons alone are looked at."""
    own = getattr(kind, "config_class", None)
    usuals = vars(own()) if own else {name: one.default for name, one in signature(kind.__init__).parameters.items()}
    for name, usual in usuals.items():
        if name not in config or (own and not name.endswith("eps")):
            continue
        value = config[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        wrong = isinstance(usual, float) and not number and (value is not None or name.endswith("eps"))
        wrong |= isinstance(usual, int | float) and isinstance(value, str | dict)
        wrong |= name in WORDS and value not in WORDS[name]
        if name == "trained_betas" and value is not None:
            wrong |= not isinstance(value, list) or not all(isinstance(one, int | float) for one in value)
        if wrong:
            told = f"{name} is {str(value)[:20]!r}, which {kind.__name__} cannot use"
            raise PalateError(f"{where}: {told}. Download that folder again.")


def load_component(kind: type[Any], folder: Path, name: str, **options: Any) -> Any:
    """A component of this class (a model, a tokenizer). Raises PalateError when its folder cannot be loaded."""
    disable_progress_bar()  # transformers draws a bar even for a file of a kilobyte
    logging.disable_progress_bar()  # and diffusers for shards
    if name == "scheduler":
        require_types(kind, component_config(folder, name), folder / name)
    try:
        return kind.from_pretrained(folder, subfolder=name, **options)
    except MemoryError:
        raise
    except Exception as error:  # a damaged configuration makes the libraries raise anything
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise PalateError(
            f"{folder / name}: could not be loaded ({first_line(error)}). Download that folder again."
        ) from error


def require_whole(folder: Path, told: dict[str, Any]) -> None:
    """Raises PalateError when a trained network is incomplete: `from_pretrained` fills missing weights with noise, and
    ignores unknown ones. `told` is its report with `output_loading_info`."""
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
    config = component_config(folder, name)  # refuses what no model has, before it is built
    require_types(kind, config, folder / name)
    dtype = "torch_dtype" if issubclass(kind, ModelMixin) else "dtype"  # diffusers and transformers differ
    options = {dtype: torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, told = load_component(kind, folder, name, **options)
    lacking = [str(key) for kind in ("missing_keys", "mismatched_keys", "error_msgs") for key in told.get(kind) or ()]
    unused = [str(key) for key in told.get("unexpected_keys") or ()]
    if lacking or len(unused) > len(model.state_dict()) / 10:  # a few extra entries of another version are harmless
        what = f"{len(lacking)} weights are missing" if lacking else f"{len(unused)} weights have no place in it"
        raise PalateError(
            f"{folder / name}: its weights and its config.json do not belong together: {what}"
            f" ({(lacking or unused)[0][:100]}). Download that folder again."
        )
    return model.to(device)


def load_frozen(kind: type[Any], folder: Path, name: str, device: str | torch.device) -> Any:
    """An encoder, in fp32 on this device: evaluated, never trained."""
    return load_model(kind, folder, name, device).eval().requires_grad_(False)


def load_tokenizer(kind: type[Any], folder: Path, name: str) -> Any:
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
    for file in (folder / name).glob("*.json"):
        if file.name in ("tokenizer_config.json", "special_tokens_map.json"):
            read_json(file)
    tokenizer = load_component(kind, folder, name)
    _require_fit(tokenizer, folder, name)
    return tokenizer


def _require_fit(tokenizer: Any, folder: Path, name: str) -> None:
    """Raises PalateError for a tokenizer that does not fit its encoder: it has more tokens, or allows prompts longer
    than the encoder's positions."""
    encoder = name.replace("tokenizer", "text_encoder")
    config = component_config(folder, encoder) if (folder / encoder / "config.json").is_file() else {}
    inner = config.get("text_config")
    config = config | inner if isinstance(inner, dict) else config
    words, places = config.get("vocab_size"), config.get("max_position_embeddings")
    highest = max(tokenizer.get_vocab().values(), default=0)
    wrong = ""
    if not isinstance(tokenizer.model_max_length, int | float) or tokenizer.model_max_length < 1:
        wrong = f"its model_max_length is {str(tokenizer.model_max_length)[:20]!r}, no number of tokens"
    elif isinstance(words, int) and highest >= words:
        wrong = f"it has {highest + 1:,} tokens, and {encoder} knows {words:,}"
    elif str(config.get("model_type")).startswith("clip") and isinstance(places, int):
        if tokenizer.model_max_length > places:
            most = str(tokenizer.model_max_length)[:20]
            wrong = f"it gives up to {most} tokens of a prompt, and {encoder} reads {places}"
        elif tokenizer.pad_token is None:
            wrong = "it has no token to fill up prompts with (pad_token)"
    if wrong:
        raise PalateError(f"{folder / name}: {wrong}. Download that folder again.")


def _require_sentencepiece(tokenizer: Path) -> None:
    try:
        for module in ("sentencepiece", "google.protobuf"):
            import_module(module)
    except ImportError as error:
        raise PalateError(
            f"{tokenizer}: its vocabulary is a sentencepiece model, and {error.name} is not installed."
            " pip install 'palate[sentencepiece]'."
        ) from error


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
    """The most tokens of a prompt: the stock pipeline's limit, or the tokenizer's own where it is lower."""
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

    `settings` apply where the folder has none, for settings that another class names differently. Raises PalateError
    for a sampler that the family does not have.
    """
    own = component_class(folder, "scheduler")
    by_class = (kind for kind in samplers.values() if kind.__name__ == own)
    kind = next(by_class, None) if sampler == "default" else samplers.get(sampler)
    if kind is None:
        told = "the folder's own scheduler" if sampler == "default" else f"sampler {sampler!r}"
        names = ", ".join(("default", *samplers))
        raise PalateError(f"{folder}: {family} cannot be sampled with {told}; choose one of {names}.")
    with quiet():
        return built_scheduler(kind, {**settings, **component_config(folder, "scheduler")}, folder)


def built_scheduler(kind: type[Any], config: Config, folder: Path, **options: Any) -> Any:
    """A scheduler of this class with a folder's settings. Raises PalateError where they do not fit the class."""
    require_types(kind, config, folder / "scheduler")
    try:
        return kind.from_config(config, **options)
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, NotImplementedError) as error:
        raise PalateError(
            f"{folder / 'scheduler'}: no {kind.__name__} can be built of its settings ({first_line(error)}). Download"
            " that folder again."
        ) from error


@torch.no_grad()
def run_pipeline(pipeline: Any, prompts: list[str], noise: Tensor, factor: int, **options: Any) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] by a stock pipeline, as high and wide as the noise [B, C, h, w] times `factor`.

    `options` are the pipeline's own; `latents` among them replaces the noise where it must be packed first.
    """
    pipeline.set_progress_bar_config(disable=True)
    height, width = noise.shape[-2] * factor, noise.shape[-1] * factor
    options = {"latents": noise, **options}
    with quiet():
        images: Tensor = pipeline(prompt=prompts, height=height, width=width, output_type="pt", **options).images
    return images


@contextmanager
def quiet() -> Iterator[None]:
    """Silence diffusers' warning about every prompt that is longer than an encoder reads."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
