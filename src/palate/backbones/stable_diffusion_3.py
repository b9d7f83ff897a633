"""Stable Diffusion 3 and 3.5: flow matching, 16 latent channels, two CLIP encoders and, if not left out, T5."""

from functools import cached_property
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

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
from palate.errors import PalateError

TEXTS = {
    "text_encoder": CLIPTextModelWithProjection, "tokenizer": CLIPTokenizer,
    "text_encoder_2": CLIPTextModelWithProjection, "tokenizer_2": CLIPTokenizer,
    "text_encoder_3": T5EncoderModel, "tokenizer_3": T5TokenizerFast,
}  # fmt: skip
SAMPLERS = {"euler": FlowMatchEulerDiscreteScheduler}


class StableDiffusion3(FlowMatching):
    """One pipeline folder. The Protocol `Backbone` says what each method gives."""

    family = "Stable Diffusion 3"
    denoiser = "transformer"
    encoders = ("vae", *TEXTS)
    optional = ("text_encoder_3", "tokenizer_3")  # a folder may be saved without T5
    pipeline_class = StableDiffusion3Pipeline
    stock = (28, 7.0)

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        self.folder, self.device = folder, device
        self.config, self.vae_config = component_config(folder, "transformer"), component_config(folder, "vae")
        self.scheduler_config = component_config(folder, "scheduler")

    @cached_property
    def network(self) -> SD3Transformer2DModel:
        return load_model(SD3Transformer2DModel, self.folder, "transformer", self.device)

    @cached_property
    def vae(self) -> AutoencoderKL:
        return load_frozen(AutoencoderKL, self.folder, "vae", self.device)

    @cached_property
    def texts(self) -> dict[str, object | None]:
        return load_texts(TEXTS, self.folder, self.device)

    @cached_property
    def text_pipeline(self) -> StableDiffusion3Pipeline:
        """The stock pipeline with its text parts alone; it asks its transformer how wide the zeros in place of T5
        are."""
        with init_empty_weights():
            transformer = SD3Transformer2DModel.from_config(self.config)
        return StableDiffusion3Pipeline(transformer=transformer, vae=None, scheduler=None, **self.texts)

    @cached_property
    def max_sequence_length(self) -> int:
        """Tokens that T5 reads."""
        return longest(self.texts["tokenizer_3"], 256)

    @property
    def vae_factor(self) -> int:
        return kl_factor(self.vae_config) * self.config.get("patch_size", 2)

    @property
    def latent_channels(self) -> int:
        return self.config.get("in_channels", 16)

    @property
    def resolution(self) -> int:
        return self.config["sample_size"] * kl_factor(self.vae_config)

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """[C, h, w]. Raises PalateError for more than the transformer has positions for."""
        side = resolution // kl_factor(self.vae_config)
        largest = self.config["pos_embed_max_size"] * self.config.get("patch_size", 2)
        if side > largest:
            raise PalateError(
                f"resolution {resolution}: this transformer has positions for {largest * kl_factor(self.vae_config)}"
                " pixels at most."
            )
        return self.latent_channels, side, side

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        return kl_latents(self.vae, images)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """`embeddings` [B, L, D] of all encoders, and CLIP's `pooled` [B, D']."""
        with quiet():
            embeddings, _, pooled, _ = self.text_pipeline.encode_prompt(
                prompts, None, None, device=self.device, do_classifier_free_guidance=False,
                max_sequence_length=self.max_sequence_length,
            )  # fmt: skip
        return {"embeddings": embeddings, "pooled": pooled}

    def predict(self, network: torch.nn.Module, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return network(
            hidden_states=noisy, timestep=timestep, encoder_hidden_states=conditioning["embeddings"],
            pooled_projections=conditioning["pooled"], return_dict=False,
        )[0]  # fmt: skip

    def sample(
        self, network: torch.nn.Module, prompts: list[str], noise: Tensor, steps: int, guidance: float, sampler: str
    ) -> Tensor:
        """Samplers: "default" and "euler", the same thing here."""
        scheduler = make_scheduler(self.folder, sampler, SAMPLERS, self.family)
        pipeline = StableDiffusion3Pipeline(transformer=network, vae=self.vae, scheduler=scheduler, **self.texts)
        return run_pipeline(
            pipeline, prompts, noise.to(self.device), kl_factor(self.vae_config), num_inference_steps=steps,
            guidance_scale=guidance, max_sequence_length=self.max_sequence_length,
        )  # fmt: skip
