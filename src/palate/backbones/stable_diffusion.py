"""Stable Diffusion 1.x and 2.x: a UNet that predicts noise (epsilon) or velocity (v) in a VAE's latent space."""

from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from palate.errors import PalateError

PREDICTIONS = ("epsilon", "v_prediction")


class StableDiffusion:
    """One pipeline folder; components load on first use, in fp32. `device` and `dtype` hold for the frozen encoders."""

    encoders = ("vae", "text_encoder", "tokenizer")  # what the cache of encoded pairs depends on

    def __init__(self, folder: Path, device: str = "cpu"):
        self.folder = folder
        self.device = device

    def _load(self, kind: type, name: str, **options):
        disable_progress_bar()  # transformers draws one even for a file of a kilobyte
        try:
            return kind.from_pretrained(self.folder, subfolder=name, **options)
        except (OSError, ValueError, RuntimeError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise PalateError(
                f"{self.folder / name}: could not be loaded ({first_line}). Download that folder again."
            ) from error

    # --- components --------------------------------------------------------------------------------------------------

    @cached_property
    def unet(self) -> UNet2DConditionModel:
        return self._load(UNet2DConditionModel, "unet", torch_dtype=torch.float32).to(self.device)

    @cached_property
    def vae(self) -> AutoencoderKL:
        return self._load(AutoencoderKL, "vae", torch_dtype=torch.float32).to(self.device).eval().requires_grad_(False)

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return self._load(CLIPTokenizer, "tokenizer")

    @cached_property
    def text_encoder(self) -> CLIPTextModel:
        return (
            self._load(CLIPTextModel, "text_encoder", dtype=torch.float32).to(self.device).eval().requires_grad_(False)
        )

    @cached_property
    def noise_schedule(self) -> DDPMScheduler:
        schedule = self._load(DDPMScheduler, "scheduler")
        if schedule.config.prediction_type not in PREDICTIONS:
            raise PalateError(
                f"{self.folder / 'scheduler'}: prediction_type {schedule.config.prediction_type!r} is not one of {PREDICTIONS}."
            )
        return schedule

    # --- sizes -------------------------------------------------------------------------------------------------------

    @property
    def num_timesteps(self) -> int:
        return self.noise_schedule.config.num_train_timesteps

    @cached_property
    def vae_factor(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(AutoencoderKL.load_config(self.folder, subfolder="vae")["block_out_channels"]) - 1)

    @cached_property
    def latent_channels(self) -> int:
        return AutoencoderKL.load_config(self.folder, subfolder="vae")["latent_channels"]

    @cached_property
    def resolution(self) -> int:
        """Pixels, along one side, that the model was made for."""
        return UNet2DConditionModel.load_config(self.folder, subfolder="unet")["sample_size"] * self.vae_factor

    # --- encoding ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] in [-1, 1] to latents [B, C, h, w]: the posterior's mean, scaled, fp32."""
        return self.vae.encode(images.to(self.device)).latent_dist.mode() * self.vae.config.scaling_factor

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        """Prompts to embeddings [B, L, D]; longer ones are cut at the tokenizer's length, as in the stock pipeline."""
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
        return self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask).last_hidden_state

    # --- diffusion ---------------------------------------------------------------------------------------------------

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(abar_t)·x_0 + sqrt(1 - abar_t)·noise, all in fp32; latents, noise [B, C, h, w], timestep [B]."""
        signal, spread = self._schedule_at(timestep)
        return signal * latents.float() + spread * noise.float()

    def regression_target(self, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """What the network is asked to predict [B, C, h, w], fp32: the noise, or v = sqrt(abar)·noise - sqrt(1 - abar)·x_0."""
        if self.noise_schedule.config.prediction_type == "epsilon":
            return noise.float()
        signal, spread = self._schedule_at(timestep)
        return signal * noise.float() - spread * latents.float()

    def predict(
        self, unet: torch.nn.Module, noisy: torch.Tensor, timestep: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        """The network's prediction [B, C, h, w] for noised latents [B, C, h, w], timestep [B], embeddings [B, L, D]."""
        return unet(noisy, timestep, embeddings, return_dict=False)[0]

    def _schedule_at(self, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alphas_cumprod = self.noise_schedule.alphas_cumprod.to(timestep.device, torch.float32)[timestep].view(
            -1, 1, 1, 1
        )
        return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()

    # --- sampling ----------------------------------------------------------------------------------------------------

    def pipeline(self, unet: torch.nn.Module, scheduler_class: type) -> StableDiffusionPipeline:
        """The stock diffusers pipeline of this folder with `unet` and a scheduler of another class in place of its own."""
        scheduler = scheduler_class.from_config(scheduler_class.load_config(self.folder, subfolder="scheduler"))
        pipeline = StableDiffusionPipeline(
            vae=self.vae, text_encoder=self.text_encoder, tokenizer=self.tokenizer, unet=unet, scheduler=scheduler,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
