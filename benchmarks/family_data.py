"""Pipelines of the other families for the step-cost benchmark: the tests' miniatures with a larger network and autoencoder.

The networks keep the published proportions (channels per head, layers of each kind) at some 50 to 160 M parameters. Text
encoders stay miniatures, which favours the usual recipe: it runs them in every step.
"""

import json
import sys
from pathlib import Path

import diffusers
import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import families_flow  # noqa: E402
import families_unet  # noqa: E402

TINY = {
    "sdxl": families_unet.make_sdxl, "sd3": families_flow.make_sd3, "flux": families_flow.make_flux,
    "pixart": families_flow.make_pixart, "sana": families_flow.make_sana,
}  # fmt: skip
# Where the published ones are: SDXL 320 channels, SD3 24 layers of 24 heads, FLUX 19 + 38 layers of 24 heads, PixArt 28 layers
# of 16 heads, Sana 20 layers of 36 heads; a quarter of the width, and half of FLUX's layers.
NETWORKS = {
    "sdxl": {"block_out_channels": (80, 160, 320), "attention_head_dim": (2, 4, 8), "layers_per_block": 2, "norm_num_groups": 8,
             "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2), "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"), "transformer_layers_per_block": (1, 2, 10)},
    "sd3": {"num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 6, "caption_projection_dim": 384, "pos_embed_max_size": 96},
    "flux": {"num_layers": 5, "num_single_layers": 10, "attention_head_dim": 128, "num_attention_heads": 4, "axes_dims_rope": (16, 56, 56)},
    "pixart": {"num_layers": 28, "attention_head_dim": 72, "num_attention_heads": 4, "cross_attention_dim": 288},
    "sana": {"num_layers": 20, "attention_head_dim": 32, "num_attention_heads": 12, "num_cross_attention_heads": 4, "cross_attention_head_dim": 96, "cross_attention_dim": 384},
}  # fmt: skip


def make_family(folder: Path, family: str, resolution: int) -> None:
    """A pipeline of this family with random weights, for pictures of this size."""
    TINY[family](folder)
    denoiser = "unet" if (folder / "unet").is_dir() else "transformer"
    vae = json.loads((folder / "vae" / "config.json").read_text())
    if vae["_class_name"] == "AutoencoderKL":  # a quarter of the published 128, 256, 512, 512
        enlarge(folder / "vae", block_out_channels=(32, 64, 128, 128), layers_per_block=2, sample_size=resolution)
        factor = 8
    else:
        factor = 32
    size = {} if family == "flux" else {"sample_size": resolution // factor}
    enlarge(folder / denoiser, **NETWORKS[family], **size)


def enlarge(component: Path, **changes) -> None:
    """Write the component anew with changes to its configuration."""
    config = json.loads((component / "config.json").read_text()) | changes
    torch.manual_seed(0)
    getattr(diffusers, config["_class_name"]).from_config(config).save_pretrained(component)
