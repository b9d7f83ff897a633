"""Stable Diffusion 1.x and 2.x: a UNet that predicts noise (epsilon) or velocity (v) in a VAE's latent space."""

from functools import cached_property
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from palate.backbones.base import Backbone, Denoiser
from palate.backbones.components import (
    built_scheduler,
    component_config,
    kl_factor,
    load_component,
    load_frozen,
    load_model,
    load_tokenizer,
)
from palate.backbones.conditioning import Conditioning
from palate.backbones.folders import component_class
from palate.backbones.trajectories import signal_and_spread
from palate.errors import PalateError

PREDICTIONS = ("epsilon", "v_prediction")
SAMPLERS = {"ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler}


class StableDiffusion(Backbone):
    """One pipeline folder. `Backbone` says what each method gives; the frozen encoders are held in fp32, too."""

    family = "Stable Diffusion"
    denoiser = "unet"
    encoders: tuple[str, ...] = ("vae", "text_encoder", "tokenizer")
    kept: tuple[str, ...] = ("vae", "text_encoder")
    is_flow = False
    pipeline_class = StableDiffusionPipeline
    network_class = UNet2DConditionModel
    stock = (25, 7.5)

    # --- components --------------------------------------------------------------------------------------------------

    @cached_property
    def network(self) -> UNet2DConditionModel:
        return load_model(UNet2DConditionModel, self.folder, "unet", self.device)

    @cached_property
    def vae(self) -> AutoencoderKL:
        return load_frozen(AutoencoderKL, self.folder, "vae", self.device)

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return load_tokenizer(CLIPTokenizer, self.folder, "tokenizer")

    @cached_property
    def text_encoder(self) -> CLIPTextModel:
        return load_frozen(CLIPTextModel, self.folder, "text_encoder", self.device)

    @cached_property
    def noise_schedule(self) -> DDPMScheduler:
        kind = component_class(self.folder, "scheduler")
        if str(kind).startswith("EDM"):  # scales what the network sees and says, which no `prediction_type` tells
            raise PalateError(
                f"{self.folder / 'scheduler'}: palate cannot train with {kind}, whose noise has no timesteps."
            )
        schedule = load_component(DDPMScheduler, self.folder, "scheduler")
        if schedule.config.prediction_type not in PREDICTIONS:
            raise PalateError(
                f"{self.folder / 'scheduler'}: prediction_type {schedule.config.prediction_type!r} is not one of"
                f" {PREDICTIONS}."
            )
        if tuple(schedule.alphas_cumprod.shape) != (schedule.config.num_train_timesteps,):
            raise PalateError(
                f"{self.folder / 'scheduler'}: its noise schedule has {schedule.alphas_cumprod.numel()} steps, and"
                f" num_train_timesteps is {schedule.config.num_train_timesteps}. Download that folder again."
            )
        return schedule

    # --- sizes -------------------------------------------------------------------------------------------------------

    @property
    def num_timesteps(self) -> int:
        return int(self.noise_schedule.config.num_train_timesteps)

    @cached_property
    def vae_factor(self) -> int:
        return kl_factor(component_config(self.folder, "vae"))

    @cached_property
    def latent_channels(self) -> int:
        return int(component_config(self.folder, "vae")["latent_channels"])

    @cached_property
    def resolution(self) -> int:
        return int(component_config(self.folder, "unet")["sample_size"]) * self.vae_factor

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        side = resolution // self.vae_factor
        return self.latent_channels, side, side

    # --- encoding ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """The posterior's mean, scaled; always in fp32, because the VAE of SDXL overflows in fp16."""
        with torch.autocast(torch.device(self.device).type, enabled=False):
            posterior = self.vae.encode(images.to(self.device, torch.float32)).latent_dist
            latents: Tensor = posterior.mode() * self.vae.config.scaling_factor
            return latents

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        pictures: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return pictures

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """`embeddings` [B, L, D]; longer prompts are cut at the tokenizer's length, as in the stock pipeline."""
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        mask = (
            tokens.attention_mask.to(self.device)
            if getattr(self.text_encoder.config, "use_attention_mask", False)
            else None
        )
        encoded = self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask)
        return {"embeddings": encoded.last_hidden_state}

    # --- diffusion ---------------------------------------------------------------------------------------------------

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_t = sqrt(abar_t)·x_0 + sqrt(1 - abar_t)·noise."""
        signal, spread = signal_and_spread(timestep, self.noise_schedule.alphas_cumprod)
        return signal * latents.float() + spread * noise.float()

    def regression_target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """The noise, or v = sqrt(abar)·noise - sqrt(1 - abar)·x_0."""
        if self.noise_schedule.config.prediction_type == "epsilon":
            return noise.float()
        signal, spread = signal_and_spread(timestep, self.noise_schedule.alphas_cumprod)
        return signal * noise.float() - spread * latents.float()

    def predict(self, network: Denoiser, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        prediction: Tensor = network(noisy, timestep, conditioning["embeddings"], return_dict=False)[0]
        return prediction

    # --- sampling ----------------------------------------------------------------------------------------------------

    def pipeline(self, network: Denoiser, scheduler_class: type[Any]) -> DiffusionPipeline:
        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=network,
            scheduler=self._scheduler(scheduler_class),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _scheduler(self, scheduler_class: type[Any]) -> Any:
        options = {"clip_sample": False} if scheduler_class is DDIMScheduler else {}  # latents leave [-1, 1]
        return built_scheduler(scheduler_class, component_config(self.folder, "scheduler"), self.folder, **options)

    @torch.no_grad()
    def sample(
        self, network: torch.nn.Module, prompts: list[str], noise: Tensor, steps: int, guidance: float, sampler: str
    ) -> Tensor:
        """Samplers: "ddim", "dpm++" (also "default"), "euler". Raises PalateError for another one."""
        if sampler not in ("default", *SAMPLERS):
            raise PalateError(f"{self.family} cannot be sampled with {sampler!r}; choose one of {', '.join(SAMPLERS)}.")
        pipeline = self.pipeline(network, SAMPLERS["dpm++" if sampler == "default" else sampler])
        height, width = (side * self.vae_factor for side in noise.shape[-2:])
        pictures: Tensor = pipeline(
            prompts,
            latents=noise.to(self.device),
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="pt",
            height=height,
            width=width,
        ).images
        return pictures
