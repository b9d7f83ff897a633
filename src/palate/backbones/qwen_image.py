"""Qwen-Image: flow matching in the latents of a video autoencoder, in 2x2 patches, told of the prompt by Qwen2.5-VL."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from palate.backbones.base import Denoiser
from palate.backbones.conditioning import Conditioning
from palate.backbones.flow import FlowMatching

TEXTS = {"text_encoder": Qwen2_5_VLForConditionalGeneration, "tokenizer": Qwen2Tokenizer}


class QwenImage(FlowMatching):
    """One pipeline folder. `Backbone` says what each method gives; latents are packed inside `predict`.

    The guidance of `sample` is diffusers' `true_cfg_scale`, against the empty prompt. "default" and "euler" are one
    sampler.
    """

    family = "Qwen-Image"
    encoders = ("vae", *TEXTS)
    pipeline_class, network_class, texts_of = QwenImagePipeline, QwenImageTransformer2DModel, TEXTS
    vae_class = AutoencoderKLQwenImage
    stock = (50, 4.0)
    resolution = 1024  # the stock pipeline's; no configuration names one
    longest_prompt = 512
    patch = 2

    @property
    def pixels(self) -> int:
        return 1 << len(self.vae_config["temperal_downsample"])

    @property
    def latent_channels(self) -> int:
        return int(self.vae_config["z_dim"])

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        film = images.to(self.device).unsqueeze(2)  # of one frame
        mean: Tensor = self.vae.encode(film).latent_dist.mode().squeeze(2)
        centre, spread = (mean.new_tensor(self.vae_config[name]) for name in ("latents_mean", "latents_std"))
        return (mean - centre.view(1, -1, 1, 1)) / spread.view(1, -1, 1, 1)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """`embeddings` [B, L, D], and `mask` [B, L]: 1 where a token belongs to the prompt, at the same L for every
        batch."""
        embeddings, mask = self.text_pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.max_sequence_length
        )
        mask = torch.ones_like(embeddings[..., 0], dtype=torch.int64) if mask is None else mask
        missing = self.max_sequence_length - mask.shape[1]
        return {"embeddings": F.pad(embeddings, (0, 0, 0, missing)), "mask": F.pad(mask, (0, missing))}

    def predict(self, network: Denoiser, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        batch, _, height, width = noisy.shape
        velocities = network(
            hidden_states=self.as_tokens(noisy), timestep=timestep / 1000,
            encoder_hidden_states=conditioning["embeddings"], encoder_hidden_states_mask=conditioning["mask"],
            guidance=None, return_dict=False, img_shapes=[[(1, height // 2, width // 2)]] * batch,
        )[0]  # fmt: skip
        unpacked: Tensor = QwenImagePipeline._unpack_latents(velocities, height, width, 1)
        return unpacked.squeeze(2)

    def as_tokens(self, latents: Tensor) -> Tensor:
        """[B, C, h, w] to [B, h/2 * w/2, 4C]."""
        packed: Tensor = QwenImagePipeline._pack_latents(latents, *latents.shape)
        return packed

    def told_while_sampling(self, guidance: float, rows: int) -> dict[str, Any]:
        return {"true_cfg_scale": guidance, "negative_prompt": [""] * rows}
