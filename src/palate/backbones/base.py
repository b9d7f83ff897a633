"""What training, sampling and judging ask of a family of diffusers models."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, ModelMixin
from torch import Tensor

from palate.backbones.conditioning import Conditioning
from palate.errors import PalateError

Denoiser = Callable[..., Any]  # a denoiser, or what is called like one; gives a tuple, the prediction first


class Backbone(ABC):
    """One pipeline folder of one family. Components load on first use; `device` holds for all of them.

    Latents are always [B, C, h, w], whatever form the family's network wants them in. A timestep is what the family's
    diffusers network is called with: 0 to num_timesteps, large is noisy, an integer or not.

    The rest of palate uses what is named here and nothing else of a family.
    """

    family: str  # for people: "Stable Diffusion XL"
    denoiser: str  # the component that is trained: "unet" or "transformer"
    encoders: tuple[str, ...]  # the components that the cache of encoded pairs depends on
    optional: tuple[str, ...] = ()  # those of them that a folder may lack
    is_flow: bool  # flow matching: x_t = (1 - sigma)·x_0 + sigma·noise; otherwise there is a `noise_schedule`
    overflows_in_fp16: bool = False  # then fp16 is refused
    pipeline_class: type[DiffusionPipeline]  # the stock pipeline
    network_class: type[ModelMixin]  # of the denoiser: diffusers' own, or a class of it
    stock: tuple[int, float]  # steps and guidance of `palate sample` where it is told none; guidance 1 is none
    kept: tuple[str, ...]  # attributes that hold autoencoder and text encoders once they are loaded

    # How a draw becomes a timestep where `is_flow`; the configuration's keys of these names set them
    weighting_scheme: str = "logit_normal"
    logit_mean: float = 0.0
    logit_std: float = 1.0

    zeros_for_empty: bool | None = (
        None  # zeros stand for the empty prompt; None where no pipeline of the family knows it
    )
    guidance: float = 1.0  # that `predict` tells a network which was distilled to be told one; others ignore it

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        self.folder, self.device = folder, device

    # --- components --------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def network(self) -> ModelMixin:
        """The denoiser of the folder, in fp32."""

    @property
    def noise_schedule(self) -> DDPMScheduler:
        """The schedule of training: `alphas_cumprod` [T] fp32, and `config.prediction_type`, "epsilon" or
        "v_prediction". Raises PalateError for a family of flow matching, which has none."""
        raise PalateError(f"{self.folder}: {self.family} has no noise schedule.")

    def free_encoders(self) -> bool:
        """Let go of autoencoder and text encoders; whether there was one. Where one is asked for again, it loads
        again."""
        freed = [vars(self).pop(name, None) is not None for name in self.kept]  # all of them, before any is looked at
        return any(freed)

    # --- sizes -------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def num_timesteps(self) -> int:
        """T: draws are integers in [0, T)."""

    @property
    @abstractmethod
    def vae_factor(self) -> int:
        """Pixels that the resolution must be a multiple of: the VAE's factor times the network's patch, where it has
        one."""

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """C of a latent [C, h, w]."""

    @property
    @abstractmethod
    def resolution(self) -> int:
        """Pixels, along one side, that the model was made for."""

    @abstractmethod
    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """[C, h, w] of an image of this many pixels along each side."""

    # --- encoding ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def encode_images(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] to latents [B, C, h, w], as the network takes them (scaled, shifted), fp32."""

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, H, W], about [-1, 1], of latents [B, C, h, w]. Raises PalateError for a family without a
        UNet: what decodes by itself (step pairs) is for a UNet."""
        raise PalateError(f"{self.folder}: palate does not decode latents of {self.family} outside its pipeline.")

    @abstractmethod
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """What the network is told of prompts: `embeddings` [B, L, D] and what else the family has, one row per
        prompt."""

    def image_conditioning(self, width: int, height: int, resolution: int) -> Conditioning:
        """What the network is told of an image that was width x height pixels before it was fitted to resolution x
        resolution from its middle: one row; nothing for most families."""
        return {}

    # --- diffusion ---------------------------------------------------------------------------------------------------

    def timestep(self, drawn: Tensor) -> Tensor:
        """The timestep [B] of a draw, integers in [0, num_timesteps) [B], each equally likely: itself, or another
        distribution's quantile."""
        return drawn

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_t [B, C, h, w], fp32."""

    @abstractmethod
    def regression_target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the network is asked to predict [B, C, h, w], fp32: noise, v, or the flow's velocity noise - x_0."""

    @abstractmethod
    def predict(self, network: Denoiser, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's prediction [B, C, h, w] for noised latents [B, C, h, w], timestep [B]."""

    # --- sampling ----------------------------------------------------------------------------------------------------

    def pipeline(self, network: Denoiser, scheduler_class: type[Any]) -> DiffusionPipeline:
        """The stock pipeline of this folder with `network` and a scheduler of another class in place of its own.
        Raises PalateError for a family without a UNet: self-play by sampling is for a UNet."""
        raise PalateError(f"{self.folder}: {self.family} is sampled with schedulers of its own.")

    @abstractmethod
    def sample(
        self, network: torch.nn.Module, prompts: list[str], noise: Tensor, steps: int, guidance: float, sampler: str
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] from initial noise [B, C, h, w] (unit variance), by the family's stock
        pipeline. Raises PalateError for a sampler that the family does not have; every one has "default"."""
