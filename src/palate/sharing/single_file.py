"""A whole model in one file with the original names, for the checkpoints folder of ComfyUI and A1111."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from palate.backbones.single_file import TOKENIZER_FILES, TOLD
from palate.backbones.stock import COMPONENTS, config_file, is_stock_tokenizer
from palate.errors import PalateError, first_line
from palate.sharing.adapters import SD, SDXL
from palate.sharing.original import original_clip, original_open_clip, original_unet, original_vae
from palate.sharing.trained import Trained, merged_network


def single_file(trained: Trained) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All weights of the pipeline, fp32, with what was trained in them: UNet, VAE, text encoders. And the entry of the
    file's header that says what weights do not, so that palate can start from the file: configurations, and tokenizers
    that are not CLIP's own.

    Raises PalateError for families other than Stable Diffusion 1.x and XL, and for models that predict v, which such a
    file cannot say.
    """
    why = _why_not(trained)
    if why:
        raise PalateError(
            f"{trained.run}: no single file for this model: {why}. Export it as fused, with --whole-pipeline."
        )
    network = merged_network(trained)
    vae = _load(AutoencoderKL, trained, "vae", torch_dtype=torch.float32, use_safetensors=True)
    out = original_unet(network.state_dict(), network.config) | original_vae(vae.state_dict(), vae.config)
    encoder = _load(CLIPTextModel, trained, "text_encoder", dtype=torch.float32).state_dict()
    if trained.pipeline == SD:
        return out | original_clip(encoder, "cond_stage_model."), _told(trained)
    second = _load(CLIPTextModelWithProjection, trained, "text_encoder_2", dtype=torch.float32).state_dict()
    first = original_clip(encoder, "conditioner.embedders.0.")
    return out | first | original_open_clip(second, "conditioner.embedders.1."), _told(trained)


def _told(trained: Trained) -> dict[str, str]:
    files: dict[str, Path] = {}
    for part in (*COMPONENTS[trained.pipeline or ""], "scheduler"):
        folder = trained.base / part
        if part.startswith("tokenizer"):
            if not is_stock_tokenizer(folder):
                files |= {f"{part}/{name}": folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}
        else:
            files[f"{part}/{config_file(part)}"] = folder / config_file(part)
    texts = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    for name in [name for name in texts if name.endswith("config.json") and not name.startswith("tokenizer")]:
        config = json.loads(texts[name])
        config.pop("_name_or_path", None)  # a place on this machine
        texts[name] = json.dumps(config)
    return {TOLD: json.dumps({"pipeline": trained.pipeline, "files": texts})}


def _why_not(trained: Trained) -> str:
    """Why there is no such file for this model; "" where there is."""
    if trained.pipeline not in (SD, SDXL):
        return f"only those of Stable Diffusion 1.x and XL are verified, and this is a {trained.pipeline}"
    if trained.pipeline == SD and trained.denoiser_config.get("use_linear_projection"):
        return "diffusers' folders of Stable Diffusion 2.x lack the last layer of the original text encoder"
    prediction = DDPMScheduler.load_config(trained.base, subfolder="scheduler").get("prediction_type", "epsilon")
    if prediction != "epsilon":
        return f"it predicts {prediction}, and readers of such a file would take it for one that predicts the noise"
    return ""


def _load(kind: Any, trained: Trained, component: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(trained.base, subfolder=component, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise PalateError(f"{trained.base / component}: could not be loaded ({first_line(error)}).") from error
