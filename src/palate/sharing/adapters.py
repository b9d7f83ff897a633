"""Adapters (LoRA) under the names that other tools read."""

import re
from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_kohya
from torch import Tensor

from palate.errors import PalateError
from palate.sharing.original import unet_module
from palate.sharing.trained import Trained, factored, read_adapter

SD, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
# Pipelines whose adapters ComfyUI reads by diffusers' names, "transformer.(module)", and the modules that it knows;
# None for all. Read in comfy/lora.py, model_lora_keys_unet (Qwen-Image: the names of its own modules are diffusers')
# and comfy/utils.py: mmdit_to_diffusers, flux_to_diffusers, pixart_to_diffusers (github.com/comfyanonymous/ComfyUI,
# and its copy pollockjj/ComfyUI at 04ece9b). Its z_image_to_diffusers is for a family that palate does not train.
BLOCKS = r"transformer_blocks\.\d+\..+"
COMFY_TRANSFORMERS = {
    "StableDiffusion3Pipeline": None,
    "FluxPipeline": None,
    "Flux2KleinPipeline": rf"(single_)?{BLOCKS}|x_embedder|context_embedder|norm_out\.linear|proj_out",
    "PixArtAlphaPipeline": None,  # also adaln_single, caption_projection, pos_embed.proj and proj_out
    "PixArtSigmaPipeline": None,
    "QwenImagePipeline": None,
}


def kohya(trained: Trained) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The adapters as kohya's trainer writes them, and the file's header.

    Keys: lora_unet_(module).lora_down.weight, .lora_up.weight and .alpha. A module is named as in diffusers for Stable
    Diffusion 1.x and 2.x, and by its original name for Stable Diffusion XL; A1111 reads no other names. Raises
    PalateError for pipelines of other families.
    """
    if trained.pipeline not in (SD, SDXL):
        raise PalateError(
            f"{trained.run}: kohya's keys are for Stable Diffusion 1.x, 2.x and XL, and this is a {trained.pipeline}. "
            "Export it as comfyui, diffusers or fused."
        )
    layers, alpha = read_adapter(trained)
    if trained.pipeline == SDXL:
        layers = {_with_original_name(name, trained.denoiser_config): tensor for name, tensor in layers.items()}
    named = convert_state_dict_to_kohya(layers)
    named = {name: torch.tensor(alpha) if name.endswith(".alpha") else tensor for name, tensor in named.items()}
    rank = next(len(tensor) for name, tensor in named.items() if name.endswith(".lora_down.weight"))
    version = "sdxl_base_v1-0" if trained.pipeline == SDXL else "sd_v2" if _is_second(trained) else "sd_v1"
    header = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": f"{alpha:g}"}
    return named, header | {"ss_base_model_version": version}


def comfyui(trained: Trained) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The adapters for ComfyUI's `models/loras`: kohya's keys for UNets, diffusers' own names for transformers.

    The scale alpha/rank is multiplied into the second factor of transformers' adapters, because not every reader of
    those names finds it. Raises PalateError for families whose adapters ComfyUI cannot read.
    """
    if trained.pipeline in (SD, SDXL):
        return kohya(trained)
    if trained.pipeline not in COMFY_TRANSFORMERS:
        raise PalateError(
            f"{trained.run}: ComfyUI reads no adapters of a {trained.pipeline}. Export it as diffusers or fused."
        )
    layers, alpha = read_adapter(trained) if trained.adapter else factored(trained)
    known = COMFY_TRANSFORMERS[trained.pipeline]
    modules = dict.fromkeys(name.partition(".")[2].rsplit(".lora_", 1)[0] for name in layers)
    unknown = [module for module in modules if known and not re.fullmatch(known, module)]
    if unknown:
        raise PalateError(
            f"{trained.run}: ComfyUI reads no adapters of {unknown[0]} and {len(unknown) - 1} other modules of a"
            f" {trained.pipeline}, and would leave them out. Export it as diffusers or fused."
        )
    return scaled(layers, alpha), {}


def scaled(layers: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Adapters with alpha/r multiplied into lora_B [out, r, ...]; their alpha is then their rank, and need not be
    stored."""
    return {name: t * (alpha / t.shape[1]) if ".lora_B." in name else t for name, t in layers.items()}


def _with_original_name(name: str, config: dict[str, Any]) -> str:
    """ "unet.(module).lora_A.weight" with the original name of the module."""
    prefix, rest = name.split(".", 1)
    module, _, ending = rest.partition(".lora_")
    return f"{prefix}.{unet_module(module, config)}.lora_{ending}"


def _is_second(trained: Trained) -> bool:
    """Whether the UNet is one of Stable Diffusion 2.x, the first with linear projections around its attention."""
    return bool(trained.denoiser_config.get("use_linear_projection"))
