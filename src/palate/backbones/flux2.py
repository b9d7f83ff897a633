"""FLUX.2-klein: flow matching on a VAE's latents that are already 2x2 patches, told of the prompt by Qwen3."""

from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from torch import Tensor
from transformers import Qwen2TokenizerFast, Qwen3ForCausalLM

from palate.backbones.components import (
    component_config,
    kl_factor,
    load_frozen,
    load_model,
    load_texts,
    longest,
    make_scheduler,
    pipeline_index,
    run_pipeline,
)
from palate.backbones.conditioning import Conditioning
from palate.backbones.flow import FlowMatching

TEXTS = {"text_encoder": Qwen3ForCausalLM, "tokenizer": Qwen2TokenizerFast}
SAMPLERS = {"euler": FlowMatchEulerDiscreteScheduler}


class Flux2Klein(FlowMatching):
    """One pipeline folder. The Protocol `Backbone` says what each method gives.

    Latents are what the network sees: 2x2 patches of the VAE's, normalised by the VAE's running statistics.
    """

    family = "FLUX.2-klein"
    denoiser = "transformer"
    encoders = ("vae", *TEXTS)
    pipeline_class = Flux2KleinPipeline

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        self.folder, self.device = folder, device
        self.config, self.vae_config = component_config(folder, "transformer"), component_config(folder, "vae")
        self.scheduler_config = component_config(folder, "scheduler")
        self.is_distilled = pipeline_index(folder).get("is_distilled", False)  # in steps: then it has no guidance
        self.stock = (4, 1.0) if self.is_distilled else (50, 4.0)

    @cached_property
    def network(self) -> Flux2Transformer2DModel:
        return load_model(Flux2Transformer2DModel, self.folder, "transformer", self.device)

    @cached_property
    def vae(self) -> AutoencoderKLFlux2:
        return load_frozen(AutoencoderKLFlux2, self.folder, "vae", self.device)

    @cached_property
    def texts(self) -> dict[str, object | None]:
        return load_texts(TEXTS, self.folder, self.device)

    @cached_property
    def max_sequence_length(self) -> int:
        """Tokens that Qwen3 reads."""
        return longest(self.texts["tokenizer"], 512)

    @property
    def vae_factor(self) -> int:
        return kl_factor(self.vae_config) * 2

    @property
    def latent_channels(self) -> int:
        return self.vae_config["latent_channels"] * 4

    @property
    def resolution(self) -> int:
        return self.vae_config["sample_size"]  # the transformer's configuration names none

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        return self.latent_channels, resolution // self.vae_factor, resolution // self.vae_factor

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        mean = Flux2KleinPipeline._patchify_latents(self.vae.encode(images.to(self.device)).latent_dist.mode())
        running = self.vae.bn
        spread = (running.running_var + self.vae.config.batch_norm_eps).sqrt()
        return (mean - running.running_mean.view(1, -1, 1, 1)) / spread.view(1, -1, 1, 1)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """`embeddings` [B, L, D] of three of Qwen3's layers, side by side."""
        pipeline = Flux2KleinPipeline(transformer=None, vae=None, scheduler=None, **self.texts)
        embeddings, _ = pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.max_sequence_length
        )
        return {"embeddings": embeddings}

    def predict(self, network: torch.nn.Module, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        embeddings = conditioning["embeddings"]
        velocities = network(
            hidden_states=Flux2KleinPipeline._pack_latents(noisy), timestep=timestep / 1000,
            encoder_hidden_states=embeddings, guidance=None, return_dict=False,
            txt_ids=Flux2KleinPipeline._prepare_text_ids(embeddings).to(noisy.device),
            img_ids=Flux2KleinPipeline._prepare_latent_ids(noisy).to(noisy.device),
        )[0]  # fmt: skip
        return velocities.transpose(1, 2).unflatten(2, noisy.shape[-2:])

    def sample(
        self, network: torch.nn.Module, prompts: list[str], noise: Tensor, steps: int, guidance: float, sampler: str
    ) -> Tensor:
        """Samplers: "default" and "euler", the same thing here. A folder distilled in steps ignores `guidance`."""
        scheduler = make_scheduler(self.folder, sampler, SAMPLERS, self.family)
        pipeline = Flux2KleinPipeline(
            transformer=network, vae=self.vae, scheduler=scheduler, is_distilled=self.is_distilled, **self.texts
        )
        return run_pipeline(
            pipeline, prompts, noise.to(self.device), self.vae_factor, num_inference_steps=steps,
            guidance_scale=guidance, max_sequence_length=self.max_sequence_length,
        )  # fmt: skip
