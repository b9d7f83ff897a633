"""Sana: flow matching with linear attention in the latents of a DC-AE (32 pixels each), told of the prompt by Gemma."""

import inspect
from pathlib import Path
from typing import Any

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

from palate.backbones.base import Denoiser
from palate.backbones.components import Config, quiet
from palate.backbones.conditioning import Conditioning
from palate.backbones.flow import FlowMatching, scheduler_settings

TEXTS = {"text_encoder": Gemma2Model, "tokenizer": GemmaTokenizerFast}


class Sana(FlowMatching):
    """One pipeline folder. `Backbone` says what each method gives."""

    family = "Sana"
    encoders = ("vae", *TEXTS)
    overflows_in_fp16 = True  # linear attention sums over all tokens: diffusers does it in fp32, autocast undoes that
    pipeline_class, network_class, vae_class, texts_of = SanaPipeline, SanaTransformer2DModel, AutoencoderDC, TEXTS
    samplers = {"euler": FlowMatchEulerDiscreteScheduler, "dpm++": DPMSolverMultistepScheduler}
    stock = (20, 4.5)
    longest_prompt = 300

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        super().__init__(folder, device)
        self.patch = self.config["patch_size"]
        # What the stock pipeline says to Gemma before every prompt, but not before the empty one of guidance
        self.instruction = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default

    @property
    def pixels(self) -> int:
        return 1 << (len(self.vae_config["encoder_block_out_channels"]) - 1)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        latents: Tensor = self.vae.encode(images.to(self.device)).latent * self.vae.config.scaling_factor
        return latents

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """`embeddings` [B, L, D], and `mask` [B, L]: 1 where a token belongs to the prompt."""
        embeddings, mask = self._encode(prompts, self.instruction)
        empty = [row for row, prompt in enumerate(prompts) if not prompt]
        if empty:
            embeddings[empty], mask[empty] = self._encode([""], None)
        return {"embeddings": embeddings, "mask": mask}

    def _encode(self, prompts: list[str], instruction: list[str] | None) -> tuple[Tensor, Tensor]:
        with quiet():
            embeddings, mask, _, _ = self.text_pipeline.encode_prompt(
                prompts, False, device=self.device, max_sequence_length=self.max_sequence_length,
                complex_human_instruction=instruction,
            )  # fmt: skip
        return embeddings, mask

    def predict(self, network: Denoiser, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        velocities: Tensor = network(
            noisy, encoder_hidden_states=conditioning["embeddings"], encoder_attention_mask=conditioning["mask"],
            timestep=timestep * self.config.get("timestep_scale", 1.0), return_dict=False,
        )[0]  # fmt: skip
        return velocities

    def scheduler_settings(self) -> Config:
        return scheduler_settings(self.scheduler_config)

    def told_while_sampling(self, guidance: float, rows: int) -> dict[str, Any]:
        told = {"complex_human_instruction": self.instruction, "use_resolution_binning": False}
        return {"guidance_scale": guidance, **told}
