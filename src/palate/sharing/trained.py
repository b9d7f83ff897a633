"""What a finished run holds that can be shared: adapters or a whole denoiser, and the pipeline that it belongs to."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor

from palate.backbones import Backbone, load_backbone, pipeline_class
from palate.errors import PalateError, first_line
from palate.files import refuse_damaged
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
    def denoiser_config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((self.base / self.denoiser / "config.json").read_text(encoding="utf-8"))
        return config


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
    cannot be read, for one with entries that the network does not take, and for one that does not say its alpha where
    that is not the rank.
    """
    assert trained.adapter is not None  # callers ask only for runs that have one
    found = read_adapters(trained.adapter, trained.denoiser)
    require_alpha(found, trained.config.lora.alpha if trained.config.lora else None)
    require_modules(meta_network(trained.backbone), found)
    return {f"{trained.denoiser}.{name}": tensor for name, tensor in found.layers.items()}, found.alpha


def has_factors(trained: Trained) -> bool:
    """Whether adapters were trained and saved inside the weights for one reason alone, that the family's pipeline loads
    none: then the difference to the base model is nothing but them."""
    lora, start = trained.config.lora, trained.config.start_from
    return lora is not None and start is None and not hasattr(trained.backbone.pipeline_class, "save_lora_weights")


def factored(trained: Trained) -> tuple[dict[str, Tensor], float]:
    """The adapters of a run that holds them in its weights, by peft's names, and their alpha, which is the rank: the
    factors of the trained weights' difference to the base model's. They draw what the run draws, to rounding.

    Raises PalateError where a difference is of higher rank than the adapters were: the base model is another one now.
    """
    rank = trained.config.lora.rank if trained.config.lora else 0
    before, after = trained.backbone.network.state_dict(), merged_network(trained).state_dict()
    layers = {}
    for name, weight in after.items():
        change = weight.double() - before[name].double()
        if not change.any():
            continue
        matrix = change.flatten(1) if change.ndim > 1 else change[:, None]
        left, sizes, right = torch.svd_lowrank(matrix, q=min(rank + 8, *matrix.shape), niter=4)
        left, right = left[:, :rank] * sizes[:rank].sqrt(), right[:, :rank].T * sizes[:rank, None].sqrt()
        if (left @ right - matrix).abs().max() > 1e-3 * matrix.abs().max():
            raise PalateError(
                f"{trained.run}: {name} differs from the base model by more than adapters of rank {rank}. Is"
                f" {trained.base} still the model that the run started from?"
            )
        module, shape = name.removesuffix(".weight"), change.shape
        first = right.unflatten(1, shape[1:]) if len(shape) > 2 else right
        second = left[..., None, None] if len(shape) == 4 else left
        layers[f"{trained.denoiser}.{module}.lora_A.weight"] = first.float().contiguous()
        layers[f"{trained.denoiser}.{module}.lora_B.weight"] = second.float().contiguous()
    return layers, float(rank)


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
