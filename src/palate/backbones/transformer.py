"""What families whose denoiser is a transformer share: loading, sizes, encoding and sampling by the stock pipeline."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ModelMixin
from torch import Tensor

from palate.backbones.base import Backbone
from palate.backbones.components import (
    Config,
    component_config,
    kl_factor,
    kl_latents,
    load_frozen,
    load_model,
    load_texts,
    longest,
    make_scheduler,
    run_pipeline,
)


class Transformer(Backbone):
    """A family says what it is made of, what its network is told, and where it differs from what stands here."""

    denoiser = "transformer"
    kept = ("vae", "texts", "text_pipeline")
    vae_class: type[ModelMixin]
    texts_of: Mapping[str, type[Any]]  # tokenizers and text encoders by component
    samplers: Mapping[str, type[Any]] = {"euler": FlowMatchEulerDiscreteScheduler}
    longest_prompt: int  # tokens of a prompt, by default, in the stock pipeline
    reader: str = "tokenizer"  # the component that counts them
    patch = 1  # latents along one side of a token

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        super().__init__(folder, device)
        self.config, self.vae_config = component_config(folder, "transformer"), component_config(folder, "vae")
        self.scheduler_config = component_config(folder, "scheduler")

    # --- components --------------------------------------------------------------------------------------------------

    @cached_property
    def network(self) -> ModelMixin:
        return load_model(self.network_class, self.folder, "transformer", self.device)

    @cached_property
    def vae(self) -> ModelMixin:
        """The autoencoder, in fp32."""
        return load_frozen(self.vae_class, self.folder, "vae", self.device)

    @cached_property
    def texts(self) -> dict[str, Any]:
        """Tokenizers and text encoders by component; None for one that the folder lacks."""
        return load_texts(self.texts_of, self.folder, self.device)

    @cached_property
    def text_pipeline(self) -> Any:
        """The stock pipeline with its text parts alone, which encodes prompts."""
        return self.pipeline_class(transformer=None, vae=None, scheduler=None, **self.texts)

    # --- sizes -------------------------------------------------------------------------------------------------------

    @cached_property
    def max_sequence_length(self) -> int:
        """Tokens of a prompt that the network is told of: the stock pipeline's default, or what its tokenizer takes."""
        return longest(self.texts[self.reader], self.longest_prompt)

    @property
    def pixels(self) -> int:
        """Pixels per latent along one side."""
        return kl_factor(self.vae_config)

    @property
    def vae_factor(self) -> int:
        return self.pixels * self.patch

    @property
    def latent_channels(self) -> int:
        return int(self.config["in_channels"])

    @property
    def resolution(self) -> int:
        return int(self.config["sample_size"]) * self.pixels

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        side = resolution // self.pixels
        return self.latent_channels, side, side

    # --- encoding and sampling ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        return kl_latents(self.vae, images)

    def sample(
        self, network: torch.nn.Module, prompts: list[str], noise: Tensor, steps: int, guidance: float, sampler: str
    ) -> Tensor:
        scheduler = make_scheduler(self.folder, sampler, self.samplers, self.family, **self.scheduler_settings())
        pipeline = self.pipeline_class(
            transformer=network, vae=self.vae, scheduler=scheduler, **self.texts, **self.pipeline_settings()
        )
        return run_pipeline(
            pipeline, prompts, noise, self.pixels, latents=self.as_tokens(noise.to(self.device)),
            num_inference_steps=steps, max_sequence_length=self.max_sequence_length,
            **self.told_while_sampling(guidance, len(prompts)),
        )  # fmt: skip

    def scheduler_settings(self) -> Config:
        """Settings of the sampler where the folder's own scheduler has none of the name."""
        return {}

    def pipeline_settings(self) -> dict[str, Any]:
        """What the stock pipeline is made with beside its components."""
        return {}

    def as_tokens(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] in the form that the stock pipeline takes them in; most take them as they are."""
        return latents

    def told_while_sampling(self, guidance: float, rows: int) -> dict[str, Any]:
        """What the stock pipeline is called with beside prompts, latents, sizes and steps; `rows` prompts."""
        return {"guidance_scale": guidance}
