"""What a finished run holds that can be shared: adapters or a whole denoiser, and the pipeline that it belongs to."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers import ModelMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from palate.backbones import Backbone, load_backbone, pipeline_class
from palate.errors import PalateError
from palate.files import refuse_damaged
from palate.network.model import load_trained
from palate.run.config import TrainConfig
from palate.run.load import load_config

ADAPTER = "pytorch_lora_weights.safetensors"
DENOISERS = ("unet", "transformer")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Trained:
    """The model of a finished run."""

    run: Path
    config: TrainConfig
    adapter: Path | None  # a file of adapters; None where all weights were trained
    component: Path | None  # a folder with the whole denoiser; None where adapters were trained

    @cached_property
    def backbone(self) -> Backbone:
        """The pipeline that the run started from. Raises PalateError when it is not there any more."""
        return load_backbone(self.config.pretrained_model_name_or_path, self.config.revision)

    @property
    def base(self) -> Path:
        return self.backbone.folder

    @cached_property
    def pipeline(self) -> str | None:
        """The class of the pipeline, as its folder names it."""
        return pipeline_class(self.base)

    @property
    def denoiser(self) -> str:
        """The component that was trained: "unet" or "transformer"."""
        return self.backbone.denoiser

    @cached_property
    def denoiser_config(self) -> dict:
        return json.loads((self.base / self.denoiser / "config.json").read_text(encoding="utf-8"))


def open_trained(run: str | Path) -> Trained:
    """The model of a run. Raises PalateError when it is no run, has not finished, or trained no denoiser."""
    run = Path(run)
    if not (run / "config.yaml").is_file():
        raise PalateError(f"{run}: not a run (no config.yaml). Give the output_dir of a training.")
    config, model = load_config(run / "config.yaml"), run / "model"
    if config.trains == "classifier":
        raise PalateError(
            f"{run}: trained a preference classifier, which guides the base model while `palate sample` draws; no other"
            " tool loads one."
        )
    refuse_damaged(model, "The same `palate train` command writes it again; nothing is trained anew.")
    adapter = model / ADAPTER
    component = next((model / name for name in DENOISERS if (model / name / "config.json").is_file()), None)
    if not adapter.is_file() and component is None:
        raise PalateError(f"{run}: has no model yet. Finish the training: its `palate train` command goes on.")
    return Trained(run, config, None if component else adapter, component)


def read_adapter(trained: Trained) -> tuple[dict[str, Tensor], float]:
    """The adapters by peft's names, "unet.(module).lora_A.weight" and "….lora_B.weight", and their alpha.

    An adapter of rank r adds alpha/r · lora_B · lora_A to its module's weight. Raises PalateError for a file that
    cannot be read, and for one that does not say its alpha where that is not the rank.
    """
    path = trained.adapter
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            layers = {_peft_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise PalateError(
            f"{path}: could not be read ({error}). The run's `palate train` command writes it again."
        ) from error
    rank = next(len(tensor) for name, tensor in layers.items() if name.endswith(".lora_A.weight"))
    told = json.loads(header.get(LORA_ADAPTER_METADATA_KEY, "{}"))
    alpha = float(next((value for name, value in told.items() if name.endswith(".lora_alpha")), rank))
    trained_with = (trained.config.lora.alpha if trained.config.lora else None) or rank
    if alpha != trained_with:
        raise PalateError(
            f"{path}: does not say that lora.alpha is {trained_with:g}, so its adapters would be scaled wrongly. "
            "The run's `palate train` command writes the file again; nothing is trained anew."
        )
    return layers, alpha


def merged_network(trained: Trained) -> ModelMixin:
    """The denoiser, fp32, with what was trained in its weights and no adapters. PalateError when it cannot be
    loaded."""
    if trained.adapter:
        read_adapter(trained)  # refuses what would be scaled wrongly
    try:
        network = load_trained(trained.backbone, trained.run / "model")
    except (OSError, ValueError, RuntimeError) as error:
        raise PalateError(
            f"{trained.run / 'model'}: could not be loaded ({str(error).strip().splitlines()[0]})."
        ) from error
    if trained.adapter:
        network.fuse_lora()
        network.unload_lora()
    return network


def save_adapter(trained: Trained, layers: dict[str, Tensor], path: Path) -> None:
    """Write adapters as the run's own file has them: its header says what scales them."""
    with safe_open(trained.adapter, "pt") as file:
        header = file.metadata()
    save_file(layers, path, metadata=header)


def _peft_name(name: str) -> str:
    return name.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B.")
