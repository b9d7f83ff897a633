"""Families of diffusers models behind one interface: encode images and prompts, noise, regression target, predict,
sample.

`Backbone` says what a family does. Components load on first use, so that training on a full cache never loads the
autoencoder.
"""

from importlib import import_module
from pathlib import Path

from palate.backbones.base import Backbone
from palate.backbones.components import component_config
from palate.backbones.configs import read_json
from palate.backbones.folders import component_class, require_safetensors, resolve_folder
from palate.backbones.stable_diffusion import StableDiffusion
from palate.errors import PalateError
from palate.world import SHIPPED

__all__ = ["Backbone", "StableDiffusion", "load_backbone"]


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


def load_backbone(
    name_or_path: str, revision: str | None = None, variant: str | None = None, vae: str | None = None
) -> Backbone:
    """The backbone for a diffusers pipeline folder, a .safetensors file of a whole model, a hub name, or "world" or
    "emoji" (the pipelines inside the package). `variant` names the copy of the weights to read (fp16); `vae` is another
    autoencoder: a folder, file or hub name.

    Raises PalateError when the folder is not a pipeline, lacks a component, has a denoiser with pickled weights, or is
    of a family that palate does not know.
    """
    if name_or_path in SHIPPED:
        name_or_path = str(SHIPPED[name_or_path])
    folder = resolve_folder(name_or_path, revision, variant, vae)
    pipeline = pipeline_class(folder)
    if pipeline is None or pipeline not in FAMILIES:
        raise PalateError(
            f"{folder}: palate cannot train pipelines of the class {pipeline}. It knows {', '.join(FAMILIES)}."
        )
    module, name = FAMILIES[pipeline]
    family: type[Backbone] = getattr(import_module(module), name)
    for component in (*family.encoders, "scheduler", family.denoiser):
        if component in family.optional and component_class(folder, component) is None:
            continue
        if component_class(folder, component) is None or not (folder / component).is_dir():
            lacks = "has no UNet" if component == "unet" else f"lacks the component {component!r}"
            raise PalateError(f"{folder}: this pipeline {lacks}. Download the whole pipeline folder again.")
    for component in family.encoders:
        other = component.replace("tokenizer", "text_encoder")
        if other in family.encoders and (component_class(folder, component) is None) != (
            component_class(folder, other) is None
        ):
            raise PalateError(
                f"{folder}: model_index.json names one of {component} and {other} alone. Download that folder again."
            )
    for component in ("scheduler", family.denoiser, *family.encoders):
        if (folder / component).is_dir() and not component.startswith("tokenizer"):
            component_config(folder, component)  # refuses a damaged or impossible configuration
    require_safetensors(folder / family.denoiser)
    return family(folder)


def pipeline_class(folder: Path) -> str | None:
    """The name of the pipeline's class in model_index.json."""
    name = read_json(folder / "model_index.json").get("_class_name")
    return name if isinstance(name, str) else None
