"""Families of diffusers models behind one interface: encode images and prompts, noise, regression target, predict, sample.

`Backbone` says what a family does. Each loads a component when it is first used, so that training on a full cache never
loads the autoencoder.
"""

import json
from importlib import import_module
from pathlib import Path

from palate.backbones.base import Backbone
from palate.backbones.folders import component_class, require_safetensors, resolve_folder
from palate.backbones.stable_diffusion import StableDiffusion
from palate.errors import PalateError
from palate.world import SHIPPED, WORLD

__all__ = ["WORLD", "Backbone", "StableDiffusion", "load_backbone"]

# Class of the stock pipeline, as model_index.json has it -> module and class of the family
FAMILIES = {
    "StableDiffusionPipeline": ("palate.backbones.stable_diffusion", "StableDiffusion"),
    "StableDiffusionXLPipeline": ("palate.backbones.stable_diffusion_xl", "StableDiffusionXL"),
    "StableDiffusion3Pipeline": ("palate.backbones.stable_diffusion_3", "StableDiffusion3"),
    "FluxPipeline": ("palate.backbones.flux", "Flux"),
    "Flux2KleinPipeline": ("palate.backbones.flux2", "Flux2Klein"),
    "PixArtAlphaPipeline": ("palate.backbones.pixart", "PixArt"),
    "PixArtSigmaPipeline": ("palate.backbones.pixart", "PixArt"),
    "QwenImagePipeline": ("palate.backbones.qwen_image", "QwenImage"),
    "SanaPipeline": ("palate.backbones.sana", "Sana"),
}


def load_backbone(name_or_path: str, revision: str | None = None) -> Backbone:
    """The backbone for a diffusers pipeline folder, a hub name, or "world" or "emoji" (the pipelines inside the package).

    Raises PalateError when the folder is not a pipeline, lacks a component, has a denoiser with pickled weights, or is of a family that palate
    does not know.
    """
    if name_or_path in SHIPPED:
        name_or_path = str(SHIPPED[name_or_path])
    folder = resolve_folder(name_or_path, revision)
    pipeline = pipeline_class(folder)
    if pipeline not in FAMILIES:
        raise PalateError(
            f"{folder}: palate cannot train pipelines of the class {pipeline}. It knows {', '.join(FAMILIES)}."
        )
    module, name = FAMILIES[pipeline]
    family = getattr(import_module(module), name)
    optional = getattr(family, "optional", ())
    for component in (*family.encoders, "scheduler", family.denoiser):
        if component in optional and component_class(folder, component) is None:
            continue
        if component_class(folder, component) is None or not (folder / component).is_dir():
            name = "has no UNet" if component == "unet" else f"lacks the component {component!r}"
            raise PalateError(f"{folder}: this pipeline {name}. Download the whole pipeline folder again.")
    require_safetensors(folder / family.denoiser)
    return family(folder)


def pipeline_class(folder: Path) -> str | None:
    """The name of the pipeline's class as its index has it."""
    return json.loads((folder / "model_index.json").read_text()).get("_class_name")
