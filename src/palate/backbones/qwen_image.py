"""Qwen-Image: flow matching in the latents of a video autoencoder, in 2x2 patches, told of the prompt by Qwen2.5-VL."""

from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from palate.backbones.components import (
    component_config,
    load_frozen,
    load_model,
    load_texts,
    longest,
    make_scheduler,
    run_pipeline,
)
from palate.backbones.conditioning import Conditioning
from palate.backbones.flow import FlowMatching

TEXTS = {"text_encoder": Qwen2_5_VLForConditionalGeneration, "tokenizer": Qwen2Tokenizer}
SAMPLERS = {"euler": FlowMatchEulerDiscreteScheduler}
PATCH = 2  # latents along one side of a token


class QwenImage(FlowMatching):
    """One pipeline folder. The Protocol `Backbone` says what each method gives; latents are packed inside `predict`."""

    family = "Qwen-Image"
    denoiser = "transformer"
    encoders = ("vae", *TEXTS)
    pipeline_class = QwenImagePipeline
    stock = (50, 4.0)
    resolution = 1024  # the stock pipeline's; no configuration names one

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        self.folder, self.device = folder, device
        self.config, self.vae_config = component_config(folder, "transformer"), component_config(folder, "vae")
        self.scheduler_config = component_config(folder, "scheduler")

    @cached_property
    def network(self) -> QwenImageTransformer2DModel:
        return load_model(QwenImageTransformer2DModel, self.folder, "transformer", self.device)

    @cached_property
    def vae(self) -> AutoencoderKLQwenImage:
        return load_frozen(AutoencoderKLQwenImage, self.folder, "vae", self.device)

    @cached_property
    def texts(self) -> dict[str, object | None]:
        return load_texts(TEXTS, self.folder, self.device)

    @cached_property
    def max_sequence_length(self) -> int:
        """Tokens of a prompt that the network is told of: the stock pipeline's default."""
        return longest(self.texts["tokenizer"], 512)

    @property
    def pixels(self) -> int:
        """Pixels per latent along one side."""
        return 2 ** len(self.vae_config["temperal_downsample"])

    @property
    def vae_factor(self) -> int:
        return self.pixels * PATCH

    @property
    def latent_channels(self) -> int:
        return self.vae_config["z_dim"]

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        return self.latent_channels, resolution // self.pixels, resolution // self.pixels

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        mean = self.vae.encode(images.to(self.device).unsqueeze(2)).latent_dist.mode().squeeze(2)  # a film of one frame
        centre, spread = (mean.new_tensor(self.vae_config[name]) for name in ("latents_mean", "latents_std"))
        return (mean - centre.view(1, -1, 1, 1)) / spread.view(1, -1, 1, 1)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """`embeddings` [B, L, D], and `mask` [B, L]: 1 where a token belongs to the prompt, at the same L for every
        batch."""
        pipeline = QwenImagePipeline(transformer=None, vae=None, scheduler=None, **self.texts)
        embeddings, mask = pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.max_sequence_length
        )
        mask = torch.ones_like(embeddings[..., 0], dtype=torch.int64) if mask is None else mask
        missing = self.max_sequence_length - mask.shape[1]
        return {"embeddings": F.pad(embeddings, (0, 0, 0, missing)), "mask": F.pad(mask, (0, missing))}

    def predict(self, network: torch.nn.Module, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        batch, _, height, width = noisy.shape
        velocities = network(
            hidden_states=pack(noisy), timestep=timestep / 1000, encoder_hidden_states=conditioning["embeddings"],
            encoder_hidden_states_mask=conditioning["mask"], guidance=None, return_dict=False,
            img_shapes=[[(1, height // PATCH, width // PATCH)]] * batch,
        )[0]  # fmt: skip
        return QwenImagePipeline._unpack_latents(velocities, height, width, 1).squeeze(2)

    def sample(
        self, network: torch.nn.Module, prompts: list[str], noise: Tensor, steps: int, guidance: float, sampler: str
    ) -> Tensor:
        """`guidance` is diffusers' `true_cfg_scale`, against the empty prompt. Samplers: "default" and "euler", the
        same."""
        scheduler = make_scheduler(self.folder, sampler, SAMPLERS, self.family)
        pipeline = QwenImagePipeline(transformer=network, vae=self.vae, scheduler=scheduler, **self.texts)
        return run_pipeline(
            pipeline, prompts, noise, self.pixels, latents=pack(noise.to(self.device)), num_inference_steps=steps,
            true_cfg_scale=guidance, negative_prompt=[""] * len(prompts), max_sequence_length=self.max_sequence_length,
        )  # fmt: skip


def pack(latents: Tensor) -> Tensor:
    """Latents [B, C, h, w] as tokens [B, h/2 * w/2, 4C]."""
    return QwenImagePipeline._pack_latents(latents, *latents.shape)
