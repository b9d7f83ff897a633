"""What training, sampling and judging ask of a family of diffusers models."""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from palate.backbones.conditioning import Conditioning


class Backbone(Protocol):
    """One pipeline folder of one family. Components load on first use; `device` holds for all of them.

    Latents are always [B, C, h, w], whatever form the family's network wants them in. A timestep is what the family's
    diffusers network is called with: 0 to num_timesteps, large is noisy, an integer or not.
    """

    folder: Path
    device: str | torch.device
    family: str  # for people: "Stable Diffusion XL"
    denoiser: str  # the component that is trained: "unet" or "transformer"
    encoders: tuple[str, ...]  # the components that the cache of encoded pairs depends on
    is_flow: bool  # flow matching: x_t = (1 - sigma)·x_0 + sigma·noise; otherwise `noise_schedule` has alphas_cumprod
    pipeline_class: type  # the stock diffusers pipeline
    stock: tuple[int, float]  # steps and guidance of `palate sample` where it is told none; guidance 1 is none

    @property
    def network(self) -> torch.nn.Module:
        """The denoiser of the folder, in fp32."""

    @property
    def num_timesteps(self) -> int: ...

    @property
    def vae_factor(self) -> int:
        """Pixels that the resolution must be a multiple of: the VAE's factor times the network's patch, where it has
        one."""

    @property
    def latent_channels(self) -> int: ...

    @property
    def resolution(self) -> int:
        """Pixels, along one side, that the model was made for."""

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """[C, h, w] of an image of this many pixels along each side."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] to latents [B, C, h, w], as the network takes them (scaled, shifted), fp32."""

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """What the network is told of prompts: `embeddings` [B, L, D] and what else the family has, one row per
        prompt."""

    def image_conditioning(self, width: int, height: int, resolution: int) -> Conditioning:
        """What the network is told of an image that was width x height pixels before it was fitted to resolution x
        resolution from its middle: one row; nothing for most families."""

    def timestep(self, drawn: Tensor) -> Tensor:
        """The timestep [B] of a draw, integers in [0, num_timesteps) [B], each equally likely: itself, or another
        distribution's quantile."""

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_t [B, C, h, w], fp32."""

    def regression_target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the network is asked to predict [B, C, h, w], fp32: noise, v, or the flow's velocity noise - x_0."""

    def predict(self, network: torch.nn.Module, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's prediction [B, C, h, w] for noised latents [B, C, h, w], timestep [B]."""

    def sample(
        self, network: torch.nn.Module, prompts: list[str], noise: Tensor, steps: int, guidance: float, sampler: str
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] from initial noise [B, C, h, w] (unit variance), by the family's stock
        pipeline."""
