"""Pipeline folders of Stable Diffusion and Stable Diffusion XL in miniature: true formats, random weights."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from tiny import make_pipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from palate.demos.pretrain import make_tokenizer

WIDTHS = (24, 40)  # of the two text encoders of SDXL


def make_sd(folder: Path) -> Path:
    """Stable Diffusion 1.5 scaled down."""
    return make_pipeline(folder)


def make_sd_v(folder: Path) -> Path:
    """The same, predicting velocity as 2.1 does."""
    return make_pipeline(folder, prediction_type="v_prediction")


def make_sdxl(folder: Path, prediction_type: str = "epsilon", **options) -> Path:
    """Stable Diffusion XL scaled down; `options` go into the pipeline's index."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        attention_head_dim=(2, 4), use_linear_projection=True, transformer_layers_per_block=(1, 2), cross_attention_dim=sum(WIDTHS),
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + WIDTHS[1],
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), latent_channels=4, norm_num_groups=4, layers_per_block=1, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.13025, force_upcast=True,
    )  # fmt: skip
    tokenizer, tokenizer_2 = make_tokenizer(), make_tokenizer()
    tokenizer_2.pad_token = "!"
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    pipeline = StableDiffusionXLPipeline(
        vae=vae, unet=unet, tokenizer=tokenizer, tokenizer_2=tokenizer_2, text_encoder=_clip(CLIPTextModel, tokenizer, WIDTHS[0]),
        text_encoder_2=_clip(CLIPTextModelWithProjection, tokenizer_2, WIDTHS[1]), add_watermarker=False,
        scheduler=EulerDiscreteScheduler(**schedule, prediction_type=prediction_type), **options,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def make_sdxl_v(folder: Path) -> Path:
    """The same, predicting velocity."""
    return make_sdxl(folder, prediction_type="v_prediction")


def _clip(kind: type, tokenizer, width: int):
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, projection_dim=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=8, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return kind(config)
