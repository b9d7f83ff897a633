"""What a finished run holds that can be shared: adapters or a whole denoiser, and the pipeline that it belongs to."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers import ModelMixin
from torch import Tensor

from palate.backbones import Backbone, load_backbone, pipeline_class
from palate.errors import PalateError, first_line
from palate.network.model import load_trained, meta_network
from palate.network.saved import ADAPTER, read_adapters, require_alpha, require_modules
from palate.run.config import TrainConfig
from palate.run.load import base_model, load_config

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
        return load_backbone(**base_model(self.config))

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
    adapter = model / ADAPTER
    component = next((model / name for name in DENOISERS if (model / name / "config.json").is_file()), None)
    if not adapter.is_file() and component is None:
        raise PalateError(f"{run}: has no model yet. Finish the training: its `palate train` command goes on.")
    return Trained(run, config, None if component else adapter, component)


def read_adapter(trained: Trained) -> tuple[dict[str, Tensor], float]:
    """The adapters by peft's names, "unet.(module).lora_A.weight" and "….lora_B.weight", and their alpha.

    An adapter of rank r adds alpha/r · lora_B · lora_A to its module's weight. Raises PalateError for a file that
    cannot be read, for one with entries that the network does not take, and for one that does not say its alpha where
    that is not the rank.
    """
    found = read_adapters(trained.adapter, trained.denoiser)
    require_alpha(found, trained.config.lora.alpha if trained.config.lora else None)
    require_modules(meta_network(trained.backbone), found)
    return {f"{trained.denoiser}.{name}": tensor for name, tensor in found.layers.items()}, found.alpha


def merged_network(trained: Trained) -> ModelMixin:
    """The denoiser, fp32, with what was trained in its weights and no adapters. PalateError when it cannot be
    loaded."""
    try:
        network = load_trained(trained.backbone, trained.run / "model")
    except (OSError, ValueError, RuntimeError) as error:
        raise PalateError(f"{trained.run / 'model'}: could not be loaded ({first_line(error)}).") from error
    if trained.adapter:
        network.fuse_lora()
        network.unload_lora()
    return network
