"""FLUX.2-klein: flow matching on a VAE's latents that are already 2x2 patches, told of the prompt by Qwen3."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
from torch import Tensor
from transformers import Qwen2TokenizerFast, Qwen3ForCausalLM

from palate.backbones.base import Denoiser
from palate.backbones.components import kl_factor, pipeline_index
from palate.backbones.conditioning import Conditioning
from palate.backbones.flow import FlowMatching

TEXTS = {"text_encoder": Qwen3ForCausalLM, "tokenizer": Qwen2TokenizerFast}


class Flux2Klein(FlowMatching):
    """One pipeline folder. `Backbone` says what each method gives.

    Latents are what the network sees: 2x2 patches of the VAE's, normalised by the VAE's running statistics. A folder
    distilled in steps ignores the guidance of `sample`. "default" and "euler" are one sampler.
    """

    family = "FLUX.2-klein"
    encoders = ("vae", *TEXTS)
    pipeline_class, network_class, texts_of = Flux2KleinPipeline, Flux2Transformer2DModel, TEXTS
    vae_class = AutoencoderKLFlux2
    longest_prompt = 512

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        super().__init__(folder, device)
        self.is_distilled = pipeline_index(folder).get("is_distilled", False)  # in steps: then it has no guidance
        self.stock = (4, 1.0) if self.is_distilled else (50, 4.0)

    @property
    def pixels(self) -> int:
        return kl_factor(self.vae_config) * 2

    @property
    def latent_channels(self) -> int:
        return int(self.vae_config["latent_channels"]) * 4

    @property
    def resolution(self) -> int:
        return int(self.vae_config["sample_size"])  # the transformer's configuration names none

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        mean = Flux2KleinPipeline._patchify_latents(self.vae.encode(images.to(self.device)).latent_dist.mode())
        running = self.vae.bn
        spread = (running.running_var + self.vae.config.batch_norm_eps).sqrt()
        latents: Tensor = (mean - running.running_mean.view(1, -1, 1, 1)) / spread.view(1, -1, 1, 1)
        return latents

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """`embeddings` [B, L, D] of three of Qwen3's layers, side by side."""
        embeddings, _ = self.text_pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.max_sequence_length
        )
        return {"embeddings": embeddings}

    def predict(self, network: Denoiser, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        embeddings = conditioning["embeddings"]
        velocities: Tensor = network(
            hidden_states=Flux2KleinPipeline._pack_latents(noisy), timestep=timestep / 1000,
            encoder_hidden_states=embeddings, guidance=None, return_dict=False,
            txt_ids=Flux2KleinPipeline._prepare_text_ids(embeddings).to(noisy.device),
            img_ids=Flux2KleinPipeline._prepare_latent_ids(noisy).to(noisy.device),
        )[0]  # fmt: skip
        return velocities.transpose(1, 2).reshape(noisy.shape)

    def pipeline_settings(self) -> dict[str, Any]:
        return {"is_distilled": self.is_distilled}
