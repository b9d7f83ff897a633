"""Families of diffusers models behind one interface: encode images and prompts, noise, regression target, predict, sample.

A backbone loads each component when it is first used, so that training on a full cache never loads the autoencoder.
"""

from pathlib import Path

from palate.backbones.folders import component_class, resolve_folder
from palate.backbones.stable_diffusion import StableDiffusion
from palate.errors import PalateError

__all__ = ["StableDiffusion", "load_backbone"]

WORLD = "world"  # the name of the pipeline that comes with palate


def load_backbone(name_or_path: str, revision: str | None = None) -> StableDiffusion:
    """The backbone for a diffusers pipeline folder, a hub name, or "world" (the pipeline inside the package).

    Raises PalateError when the folder is not a pipeline, lacks a UNet, or is of a family that palate does not know.
    """
    if name_or_path == WORLD:
        name_or_path = str(Path(__file__).parent.parent / "world" / "pipeline")
    folder = resolve_folder(name_or_path, revision)
    if component_class(folder, "unet") is None:
        raise PalateError(
            f"{folder}: this pipeline has no UNet. palate trains the Stable Diffusion family (unet, vae, text_encoder)."
        )
    if component_class(folder, "text_encoder_2") is not None:
        raise PalateError(
            f"{folder}: a pipeline with two text encoders (SDXL) is not supported yet; Stable Diffusion 1.x and 2.x are."
        )
    for component in ("vae", "text_encoder", "tokenizer", "scheduler", "unet"):
        if component_class(folder, component) is None or not (folder / component).is_dir():
            raise PalateError(
                f"{folder}: the component {component!r} is missing. Download the whole pipeline folder again."
            )
    return StableDiffusion(folder)
