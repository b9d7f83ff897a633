"""Stable Diffusion 3 and 3.5: flow matching, 16 latent channels, two CLIP encoders and, if not left out, T5."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from palate.backbones.base import Denoiser
from palate.backbones.components import quiet
from palate.backbones.conditioning import Conditioning
from palate.backbones.flow import FlowMatching
from palate.errors import PalateError

TEXTS = {
    "text_encoder": CLIPTextModelWithProjection, "tokenizer": CLIPTokenizer,
    "text_encoder_2": CLIPTextModelWithProjection, "tokenizer_2": CLIPTokenizer,
    "text_encoder_3": T5EncoderModel, "tokenizer_3": T5TokenizerFast,
}  # fmt: skip


class StableDiffusion3(FlowMatching):
    """One pipeline folder. `Backbone` says what each method gives. "default" and "euler" are one sampler."""

    family = "Stable Diffusion 3"
    encoders = ("vae", *TEXTS)
    optional = ("text_encoder_3", "tokenizer_3")  # a folder may be saved without T5
    pipeline_class, network_class, texts_of = StableDiffusion3Pipeline, SD3Transformer2DModel, TEXTS
    vae_class = AutoencoderKL
    stock = (28, 7.0)
    reader, longest_prompt = "tokenizer_3", 256  # T5's

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        super().__init__(folder, device)
        self.patch = self.config.get("patch_size", 2)

    @cached_property
    def text_pipeline(self) -> Any:
        """It asks its transformer how wide the zeros in place of T5 are."""
        with init_empty_weights():
            transformer = SD3Transformer2DModel.from_config(self.config)
        return StableDiffusion3Pipeline(transformer=transformer, vae=None, scheduler=None, **self.texts)

    @property
    def latent_channels(self) -> int:
        return int(self.config.get("in_channels", 16))

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """[C, h, w]. Raises PalateError for more than the transformer has positions for."""
        largest = self.config["pos_embed_max_size"] * self.vae_factor
        if resolution // self.pixels > largest // self.pixels:
            raise PalateError(f"resolution {resolution}: this transformer has positions for {largest} pixels at most.")
        return super().latent_shape(resolution)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """`embeddings` [B, L, D] of all encoders, and CLIP's `pooled` [B, D']."""
        with quiet():
            embeddings, _, pooled, _ = self.text_pipeline.encode_prompt(
                prompts, None, None, device=self.device, do_classifier_free_guidance=False,
                max_sequence_length=self.max_sequence_length,
            )  # fmt: skip
        return {"embeddings": embeddings, "pooled": pooled}

    def predict(self, network: Denoiser, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        velocities: Tensor = network(
            hidden_states=noisy, timestep=timestep, encoder_hidden_states=conditioning["embeddings"],
            pooled_projections=conditioning["pooled"], return_dict=False,
        )[0]  # fmt: skip
        return velocities
