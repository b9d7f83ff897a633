"""FLUX.1 dev and schnell: flow matching on latents in 2x2 patches, T5 and CLIP's pooled embedding, distilled
guidance."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from palate.backbones.base import Denoiser
from palate.backbones.components import quiet
from palate.backbones.conditioning import Conditioning
from palate.backbones.flow import FlowMatching

TEXTS = {
    "text_encoder": CLIPTextModel, "tokenizer": CLIPTokenizer,
    "text_encoder_2": T5EncoderModel, "tokenizer_2": T5TokenizerFast,
}  # fmt: skip


class Flux(FlowMatching):
    """One pipeline folder. `Backbone` says what each method gives; latents are packed inside `predict`.

    The guidance of `sample` is the distilled one; schnell has none. "default" and "euler" are one sampler.
    """

    family = "FLUX.1"
    encoders = ("vae", *TEXTS)
    pipeline_class, network_class, vae_class, texts_of = FluxPipeline, FluxTransformer2DModel, AutoencoderKL, TEXTS
    reader, longest_prompt = "tokenizer_2", 512  # T5's
    patch = 2

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        super().__init__(folder, device)
        self.stock = (28, 3.5) if self.config.get("guidance_embeds") else (4, 1.0)  # schnell

    @property
    def latent_channels(self) -> int:
        return int(self.vae_config["latent_channels"])

    @property
    def resolution(self) -> int:
        return int(self.vae_config["sample_size"])  # the transformer's configuration names none

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """T5's `embeddings` [B, L, D] and CLIP's `pooled` [B, D']."""
        with quiet():
            embeddings, pooled, _ = self.text_pipeline.encode_prompt(
                prompts, device=self.device, max_sequence_length=self.max_sequence_length
            )
        return {"embeddings": embeddings, "pooled": pooled}

    def predict(self, network: Denoiser, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        batch, _, height, width = noisy.shape
        device, dtype, embeddings = noisy.device, noisy.dtype, conditioning["embeddings"]
        velocities = network(
            hidden_states=self.as_tokens(noisy), timestep=timestep / 1000, encoder_hidden_states=embeddings,
            pooled_projections=conditioning["pooled"],
            txt_ids=torch.zeros(embeddings.shape[1], 3, device=device, dtype=dtype),
            img_ids=FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, device, dtype),
            guidance=noisy.new_full((batch,), self.guidance) if self.config.get("guidance_embeds") else None,
            return_dict=False,
        )[0]  # fmt: skip
        unpacked: Tensor = FluxPipeline._unpack_latents(velocities, height, width, 1)
        return unpacked

    def as_tokens(self, latents: Tensor) -> Tensor:
        """[B, C, h, w] to [B, h/2 * w/2, 4C]."""
        packed: Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
        return packed
