"""Stable Diffusion XL: as Stable Diffusion, with two text encoders, and told the size and the crop of every image.

arXiv 2307.01952, sections 2.2 (size and crop) and 2.1 (text encoders).
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from palate.backbones.base import Denoiser
from palate.backbones.components import load_frozen, load_tokenizer, pipeline_index
from palate.backbones.conditioning import Conditioning
from palate.backbones.stable_diffusion import StableDiffusion


class StableDiffusionXL(StableDiffusion):
    """One pipeline folder. `Backbone` says what each method gives."""

    family = "Stable Diffusion XL"
    encoders = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    kept = ("vae", "text_encoder", "text_encoder_2")
    pipeline_class = StableDiffusionXLPipeline
    stock = (50, 5.0)

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        super().__init__(folder, device)
        self.zeros_for_empty = bool(pipeline_index(folder).get("force_zeros_for_empty_prompt", True))

    @cached_property
    def tokenizer_2(self) -> CLIPTokenizer:
        return load_tokenizer(CLIPTokenizer, self.folder, "tokenizer_2")

    @cached_property
    def text_encoder_2(self) -> CLIPTextModelWithProjection:
        return load_frozen(CLIPTextModelWithProjection, self.folder, "text_encoder_2", self.device)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """`embeddings` [B, L, D], the last hidden states but one of both encoders side by side, and `pooled` [B, D'] of
        the second. The empty prompt, which stands for none, is zeros where the stock pipeline guides away from
        zeros."""
        embeddings, _, pooled, _ = self._pipeline(None, None).encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False
        )
        if self.zeros_for_empty:
            empty = torch.tensor([prompt == "" for prompt in prompts], device=embeddings.device)
            embeddings, pooled = embeddings.masked_fill(empty[:, None, None], 0), pooled.masked_fill(empty[:, None], 0)
        return {"embeddings": embeddings, "pooled": pooled}

    def image_conditioning(self, width: int, height: int, resolution: int) -> Conditioning:
        """`time_ids` [1, 6], pixels: height and width as it was, top and left of the crop once its short side had
        become `resolution`, height and width that it has now."""
        short = min(width, height)
        top, left = ((resolution * side // short - resolution) // 2 for side in (height, width))
        return {"time_ids": torch.tensor([[height, width, top, left, resolution, resolution]], dtype=torch.float32)}

    def predict(self, network: Denoiser, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        told = {"text_embeds": conditioning["pooled"], "time_ids": conditioning["time_ids"]}
        prediction: Tensor = network(
            noisy, timestep, conditioning["embeddings"], added_cond_kwargs=told, return_dict=False
        )[0]
        return prediction

    def pipeline(self, network: Denoiser, scheduler_class: type[Any]) -> DiffusionPipeline:
        pipeline = self._pipeline(network, self._scheduler(scheduler_class))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _pipeline(self, network: Denoiser | None, scheduler: Any) -> StableDiffusionXLPipeline:
        return StableDiffusionXLPipeline(
            vae=None if network is None else self.vae,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer_2,
            unet=network,
            scheduler=scheduler,
            force_zeros_for_empty_prompt=self.zeros_for_empty,
            add_watermarker=False,
        )
