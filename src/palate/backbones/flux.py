"""FLUX.1 dev and schnell: flow matching on latents in 2x2 patches, T5 and CLIP's pooled embedding, distilled
guidance."""

from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from palate.backbones.components import (
    component_config,
    kl_factor,
    kl_latents,
    load_frozen,
    load_model,
    load_texts,
    longest,
    make_scheduler,
    quiet,
    run_pipeline,
)
from palate.backbones.conditioning import Conditioning
from palate.backbones.flow import FlowMatching

TEXTS = {
    "text_encoder": CLIPTextModel, "tokenizer": CLIPTokenizer,
    "text_encoder_2": T5EncoderModel, "tokenizer_2": T5TokenizerFast,
}  # fmt: skip
SAMPLERS = {"euler": FlowMatchEulerDiscreteScheduler}
PATCH = 2  # latents along one side of a token


class Flux(FlowMatching):
    """One pipeline folder. The Protocol `Backbone` says what each method gives; latents are packed inside `predict`."""

    family = "FLUX.1"
    denoiser = "transformer"
    encoders = ("vae", *TEXTS)
    pipeline_class = FluxPipeline

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        self.folder, self.device = folder, device
        self.config, self.vae_config = component_config(folder, "transformer"), component_config(folder, "vae")
        self.scheduler_config = component_config(folder, "scheduler")
        self.stock = (28, 3.5) if self.config.get("guidance_embeds") else (4, 1.0)  # schnell
        self.guidance = 1.0  # that `predict` tells a guidance-distilled network

    @cached_property
    def network(self) -> FluxTransformer2DModel:
        return load_model(FluxTransformer2DModel, self.folder, "transformer", self.device)

    @cached_property
    def vae(self) -> AutoencoderKL:
        return load_frozen(AutoencoderKL, self.folder, "vae", self.device)

    @cached_property
    def texts(self) -> dict[str, object | None]:
        return load_texts(TEXTS, self.folder, self.device)

    @cached_property
    def max_sequence_length(self) -> int:
        """Tokens that T5 reads."""
        return longest(self.texts["tokenizer_2"], 512)

    @property
    def vae_factor(self) -> int:
        return kl_factor(self.vae_config) * PATCH

    @property
    def latent_channels(self) -> int:
        return self.vae_config["latent_channels"]

    @property
    def resolution(self) -> int:
        return self.vae_config["sample_size"]  # the transformer's configuration names none

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        side = resolution // kl_factor(self.vae_config)
        return self.latent_channels, side, side

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        return kl_latents(self.vae, images)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """T5's `embeddings` [B, L, D] and CLIP's `pooled` [B, D']."""
        pipeline = FluxPipeline(transformer=None, vae=None, scheduler=None, **self.texts)
        with quiet():
            embeddings, pooled, _ = pipeline.encode_prompt(
                prompts, device=self.device, max_sequence_length=self.max_sequence_length
            )
        return {"embeddings": embeddings, "pooled": pooled}

    def predict(self, network: torch.nn.Module, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        batch, _, height, width = noisy.shape
        told = {"device": noisy.device, "dtype": noisy.dtype}
        embeddings = conditioning["embeddings"]
        velocities = network(
            hidden_states=pack(noisy), timestep=timestep / 1000, encoder_hidden_states=embeddings,
            pooled_projections=conditioning["pooled"], txt_ids=torch.zeros(embeddings.shape[1], 3, **told),
            img_ids=FluxPipeline._prepare_latent_image_ids(batch, height // PATCH, width // PATCH, **told),
            guidance=noisy.new_full((batch,), self.guidance) if self.config.get("guidance_embeds") else None,
            return_dict=False,
        )[0]  # fmt: skip
        return FluxPipeline._unpack_latents(velocities, height, width, 1)

    def sample(
        self, network: torch.nn.Module, prompts: list[str], noise: Tensor, steps: int, guidance: float, sampler: str
    ) -> Tensor:
        """`guidance` is the distilled one; schnell has none. Samplers: "default" and "euler", the same thing here."""
        scheduler = make_scheduler(self.folder, sampler, SAMPLERS, self.family)
        pipeline = FluxPipeline(transformer=network, vae=self.vae, scheduler=scheduler, **self.texts)
        return run_pipeline(
            pipeline, prompts, noise, kl_factor(self.vae_config), latents=pack(noise.to(self.device)),
            num_inference_steps=steps, guidance_scale=guidance, max_sequence_length=self.max_sequence_length,
        )  # fmt: skip


def pack(latents: Tensor) -> Tensor:
    """Latents [B, C, h, w] as tokens [B, h/2 * w/2, 4C]."""
    return FluxPipeline._pack_latents(latents, *latents.shape)
