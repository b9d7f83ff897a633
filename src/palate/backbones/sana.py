"""Sana: flow matching with linear attention in the latents of a DC-AE (32 pixels each), told of the prompt by Gemma."""

import inspect
from functools import cached_property
from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
)
from torch import Tensor
from transformers import Gemma2Model, GemmaTokenizerFast

from palate.backbones.components import (
    component_config,
    load_frozen,
    load_model,
    load_texts,
    longest,
    make_scheduler,
    quiet,
    run_pipeline,
)
from palate.backbones.conditioning import Conditioning
from palate.backbones.flow import FlowMatching, scheduler_settings

TEXTS = {"text_encoder": Gemma2Model, "tokenizer": GemmaTokenizerFast}
SAMPLERS = {"euler": FlowMatchEulerDiscreteScheduler, "dpm++": DPMSolverMultistepScheduler}


class Sana(FlowMatching):
    """One pipeline folder. The Protocol `Backbone` says what each method gives."""

    family = "Sana"
    denoiser = "transformer"
    encoders = ("vae", *TEXTS)
    pipeline_class = SanaPipeline
    stock = (20, 4.5)

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        self.folder, self.device = folder, device
        self.config, self.vae_config = component_config(folder, "transformer"), component_config(folder, "vae")
        self.scheduler_config = component_config(folder, "scheduler")
        # What the stock pipeline says to Gemma before every prompt, but not before the empty one of guidance
        self.instruction = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default

    @cached_property
    def network(self) -> SanaTransformer2DModel:
        return load_model(SanaTransformer2DModel, self.folder, "transformer", self.device)

    @cached_property
    def vae(self) -> AutoencoderDC:
        return load_frozen(AutoencoderDC, self.folder, "vae", self.device)

    @cached_property
    def texts(self) -> dict[str, object | None]:
        return load_texts(TEXTS, self.folder, self.device)

    @cached_property
    def max_sequence_length(self) -> int:
        """Tokens that the network is told of."""
        return longest(self.texts["tokenizer"], 300)

    @property
    def pixels(self) -> int:
        """Pixels per latent along one side."""
        return 2 ** (len(self.vae_config["encoder_block_out_channels"]) - 1)

    @property
    def vae_factor(self) -> int:
        return self.pixels * self.config["patch_size"]

    @property
    def latent_channels(self) -> int:
        return self.config["in_channels"]

    @property
    def resolution(self) -> int:
        return self.config["sample_size"] * self.pixels

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        return self.latent_channels, resolution // self.pixels, resolution // self.pixels

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        return self.vae.encode(images.to(self.device)).latent * self.vae.config.scaling_factor

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """`embeddings` [B, L, D], and `mask` [B, L]: 1 where a token belongs to the prompt."""
        embeddings, mask = self._encode(prompts, self.instruction)
        empty = [row for row, prompt in enumerate(prompts) if not prompt]
        if empty:
            embeddings[empty], mask[empty] = self._encode([""], None)
        return {"embeddings": embeddings, "mask": mask}

    def _encode(self, prompts: list[str], instruction: list[str] | None) -> tuple[Tensor, Tensor]:
        pipeline = SanaPipeline(transformer=None, vae=None, scheduler=None, **self.texts)
        with quiet():
            embeddings, mask, _, _ = pipeline.encode_prompt(
                prompts, False, device=self.device, max_sequence_length=self.max_sequence_length,
                complex_human_instruction=instruction,
            )  # fmt: skip
        return embeddings, mask

    def predict(self, network: torch.nn.Module, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return network(
            noisy, encoder_hidden_states=conditioning["embeddings"], encoder_attention_mask=conditioning["mask"],
            timestep=timestep * self.config.get("timestep_scale", 1.0), return_dict=False,
        )[0]  # fmt: skip

    def sample(
        self, network: torch.nn.Module, prompts: list[str], noise: Tensor, steps: int, guidance: float, sampler: str
    ) -> Tensor:
        settings = scheduler_settings(self.scheduler_config)
        scheduler = make_scheduler(self.folder, sampler, SAMPLERS, self.family, **settings)
        pipeline = SanaPipeline(transformer=network, vae=self.vae, scheduler=scheduler, **self.texts)
        return run_pipeline(
            pipeline, prompts, noise.to(self.device), self.pixels, num_inference_steps=steps, guidance_scale=guidance,
            max_sequence_length=self.max_sequence_length, complex_human_instruction=self.instruction,
            use_resolution_binning=False,
        )  # fmt: skip
