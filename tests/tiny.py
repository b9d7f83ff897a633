"""What tests share: a Stable Diffusion pipeline with random weights, pictures, a labelled dataset, how a call is refused."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from palate.data.dataset import PreferenceDataset
from palate.errors import PalateError

PROMPTS = ("a red circle", "a blue square", "a green star")


def make_pipeline(folder: Path, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """The architecture of Stable Diffusion 1.5 scaled down, random weights, saved as a stock pipeline folder."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from palate.demos.pretrain import make_tokenizer

    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=8,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=32,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), latent_channels=4, norm_num_groups=4, layers_per_block=1, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def picture_bytes(
    rng: np.random.Generator, width: int = 64, height: int = 64, format: str = "JPEG", brightness: float | None = None
) -> bytes:
    """A smooth random picture, encoded."""
    small = (
        rng.uniform(0, 1, (4, 4, 3)) if brightness is None else np.clip(rng.normal(brightness, 0.1, (4, 4, 3)), 0, 1)
    )
    picture = Image.fromarray((small * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


def make_labelled_dataset(folder: Path, pairs: int = 24, labelled: int = 8, seed: int = 0) -> PreferenceDataset:
    """Pairs that differ in brightness; "ana" prefers the darker picture on the first `labelled`, judge "bright" always the brighter."""
    rng = np.random.default_rng(seed)
    dataset = PreferenceDataset.create(folder, name="tests")
    brightness = rng.uniform(0.1, 0.9, (pairs, 2))

    def image(i: int, side: int) -> dict:
        return {"bytes": picture_bytes(rng, brightness=brightness[i, side], format="PNG"), "path": None}

    dataset.add_pairs(
        {"pair_id": f"p{i:03}", "prompt": PROMPTS[i % 3], "image_0": image(i, 0), "image_1": image(i, 1)}
        for i in range(pairs)
    )
    votes = []
    for i in range(pairs):
        darker = "0" if brightness[i, 0] < brightness[i, 1] else "1"
        if i < labelled:
            votes.append(
                {
                    "vote_id": f"ana-{i}",
                    "pair_id": f"p{i:03}",
                    "annotator_id": "ana",
                    "source": "human",
                    "choice": darker,
                }
            )
        choice, probability = ("1", 0.2) if darker == "0" else ("0", 0.8)
        votes.append(
            {
                "vote_id": f"j-{i}",
                "pair_id": f"p{i:03}",
                "annotator_id": "bright",
                "source": "judge",
                "choice": choice,
                "probability": probability,
            }
        )
    dataset.append_votes(votes)
    return dataset


def refusal(call: Callable[[], object]) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(PalateError) as refused:
        call()
    line = str(refused.value)
    assert "\n" not in line and len(line) < 500
    return line
