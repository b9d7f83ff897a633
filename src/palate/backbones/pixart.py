"""PixArt-Alpha and PixArt-Sigma: a transformer that predicts noise in a VAE's latent space, told of the prompt by
T5."""

from functools import cached_property
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, DDPMScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline
from diffusers.loaders import PeftAdapterMixin
from torch import Tensor
from transformers import T5EncoderModel, T5TokenizerFast

from palate.backbones.components import (
    component_config,
    kl_factor,
    kl_latents,
    load_component,
    load_frozen,
    load_model,
    load_texts,
    longest,
    make_scheduler,
    pipeline_index,
    quiet,
    run_pipeline,
)
from palate.backbones.conditioning import Conditioning
from palate.backbones.stable_diffusion import SAMPLERS
from palate.errors import PalateError

TEXTS = {"text_encoder": T5EncoderModel, "tokenizer": T5TokenizerFast}


class PixArtTransformer2DModel(diffusers.PixArtTransformer2DModel, PeftAdapterMixin):
    """The stock network with adapters, which diffusers gives every transformer that palate knows but this one."""


class PixArt:
    """One pipeline folder. The Protocol `Backbone` says what each method gives."""

    family = "PixArt"
    denoiser = "transformer"
    encoders = ("vae", *TEXTS)
    is_flow = False
    stock = (20, 4.5)

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        self.folder, self.device = folder, device
        self.config, self.vae_config = component_config(folder, "transformer"), component_config(folder, "vae")
        alpha = pipeline_index(folder)["_class_name"] == "PixArtAlphaPipeline"
        self.pipeline_class, self.stock_length = (PixArtAlphaPipeline, 120) if alpha else (PixArtSigmaPipeline, 300)
        self.is_told_sizes = alpha and self.config["sample_size"] == 128  # the rule of the stock pipeline

    @cached_property
    def network(self) -> PixArtTransformer2DModel:
        return load_model(PixArtTransformer2DModel, self.folder, "transformer", self.device)

    @cached_property
    def vae(self) -> AutoencoderKL:
        return load_frozen(AutoencoderKL, self.folder, "vae", self.device)

    @cached_property
    def texts(self) -> dict[str, object | None]:
        return load_texts(TEXTS, self.folder, self.device)

    @cached_property
    def noise_schedule(self) -> DDPMScheduler:
        schedule = load_component(DDPMScheduler, self.folder, "scheduler")
        if schedule.config.prediction_type != "epsilon":
            raise PalateError(
                f"{self.folder / 'scheduler'}: PixArt predicts 'epsilon', not {schedule.config.prediction_type!r}."
            )
        return schedule

    @cached_property
    def max_sequence_length(self) -> int:
        """Tokens that T5 reads."""
        return longest(self.texts["tokenizer"], self.stock_length)

    @property
    def num_timesteps(self) -> int:
        return self.noise_schedule.config.num_train_timesteps

    @property
    def vae_factor(self) -> int:
        return kl_factor(self.vae_config) * self.config["patch_size"]

    @property
    def latent_channels(self) -> int:
        return self.config["in_channels"]

    @property
    def resolution(self) -> int:
        return self.config["sample_size"] * kl_factor(self.vae_config)

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        side = resolution // kl_factor(self.vae_config)
        return self.latent_channels, side, side

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        return kl_latents(self.vae, images)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """`embeddings` [B, L, D], and `mask` [B, L]: 1 where a token belongs to the prompt."""
        pipeline = self.pipeline_class(transformer=None, vae=None, scheduler=None, **self.texts)
        with quiet():
            embeddings, mask, _, _ = pipeline.encode_prompt(
                prompts, False, device=self.device, max_sequence_length=self.max_sequence_length
            )
        return {"embeddings": embeddings, "mask": mask}

    def image_conditioning(self, width: int, height: int, resolution: int) -> Conditioning:
        """The size it was fitted to, as in sampling; Alpha at 1024 pixels asks for it."""
        if not self.is_told_sizes:
            return {}
        return {"resolution": torch.full((1, 2), float(resolution)), "aspect_ratio": torch.ones(1, 1)}

    def timestep(self, drawn: Tensor) -> Tensor:
        return drawn

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        abar = self.noise_schedule.alphas_cumprod.to(timestep.device, torch.float32)[timestep].view(-1, 1, 1, 1)
        return abar.sqrt() * latents.float() + (1 - abar).sqrt() * noise.float()

    def regression_target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return noise.float()

    def predict(self, network: torch.nn.Module, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        prediction = network(
            noisy, timestep=timestep, encoder_hidden_states=conditioning["embeddings"],
            encoder_attention_mask=conditioning["mask"], return_dict=False,
            added_cond_kwargs={name: conditioning.get(name) for name in ("resolution", "aspect_ratio")},
        )[0]  # fmt: skip
        return prediction[:, : self.latent_channels]  # what follows is the learned variance

    def sample(
        self, network: torch.nn.Module, prompts: list[str], noise: Tensor, steps: int, guidance: float, sampler: str
    ) -> Tensor:
        scheduler = make_scheduler(self.folder, sampler, SAMPLERS, self.family)
        pipeline = self.pipeline_class(transformer=network, vae=self.vae, scheduler=scheduler, **self.texts)
        return run_pipeline(
            pipeline, prompts, noise.to(self.device), kl_factor(self.vae_config), num_inference_steps=steps,
            guidance_scale=guidance, max_sequence_length=self.max_sequence_length, use_resolution_binning=False,
            clean_caption=False,  # prompts are encoded as they are in training
        )  # fmt: skip
