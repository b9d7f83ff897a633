"""PixArt-Alpha and PixArt-Sigma: a transformer that predicts noise in a VAE's latent space, told of the prompt by
T5."""

from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDPMScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline
from diffusers.loaders import PeftAdapterMixin
from torch import Tensor
from transformers import T5EncoderModel, T5TokenizerFast

from palate.backbones.base import Denoiser
from palate.backbones.components import load_component, pipeline_index, quiet
from palate.backbones.conditioning import Conditioning
from palate.backbones.stable_diffusion import SAMPLERS
from palate.backbones.trajectories import signal_and_spread
from palate.backbones.transformer import Transformer
from palate.errors import PalateError

TEXTS = {"text_encoder": T5EncoderModel, "tokenizer": T5TokenizerFast}


class PixArtTransformer2DModel(diffusers.PixArtTransformer2DModel, PeftAdapterMixin):
    """The stock network with adapters, which diffusers gives every transformer that palate knows but this one."""


class PixArt(Transformer):
    """One pipeline folder. `Backbone` says what each method gives."""

    family = "PixArt"
    encoders = ("vae", *TEXTS)
    is_flow = False
    network_class, vae_class, texts_of = PixArtTransformer2DModel, AutoencoderKL, TEXTS
    samplers = SAMPLERS
    stock = (20, 4.5)

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        super().__init__(folder, device)
        alpha = pipeline_index(folder)["_class_name"] == "PixArtAlphaPipeline"
        self.pipeline_class, self.longest_prompt = (PixArtAlphaPipeline, 120) if alpha else (PixArtSigmaPipeline, 300)
        self.is_told_sizes = alpha and self.config["sample_size"] == 128  # the rule of the stock pipeline
        self.patch = self.config["patch_size"]

    @cached_property
    def noise_schedule(self) -> DDPMScheduler:
        schedule = load_component(DDPMScheduler, self.folder, "scheduler")
        if schedule.config.prediction_type != "epsilon":
            raise PalateError(
                f"{self.folder / 'scheduler'}: PixArt predicts 'epsilon', not {schedule.config.prediction_type!r}."
            )
        return schedule

    @property
    def num_timesteps(self) -> int:
        return int(self.noise_schedule.config.num_train_timesteps)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """`embeddings` [B, L, D], and `mask` [B, L]: 1 where a token belongs to the prompt."""
        with quiet():
            embeddings, mask, _, _ = self.text_pipeline.encode_prompt(
                prompts, False, device=self.device, max_sequence_length=self.max_sequence_length
            )
        return {"embeddings": embeddings, "mask": mask}

    def image_conditioning(self, width: int, height: int, resolution: int) -> Conditioning:
        """The size it was fitted to, as in sampling; Alpha at 1024 pixels asks for it."""
        if not self.is_told_sizes:
            return {}
        return {"resolution": torch.full((1, 2), float(resolution)), "aspect_ratio": torch.ones(1, 1)}

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        signal, spread = signal_and_spread(timestep, self.noise_schedule.alphas_cumprod)
        return signal * latents.float() + spread * noise.float()

    def regression_target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return noise.float()

    def predict(self, network: Denoiser, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        prediction: Tensor = network(
            noisy, timestep=timestep, encoder_hidden_states=conditioning["embeddings"],
            encoder_attention_mask=conditioning["mask"], return_dict=False,
            added_cond_kwargs={name: conditioning.get(name) for name in ("resolution", "aspect_ratio")},
        )[0]  # fmt: skip
        return prediction[:, : self.latent_channels]  # what follows is the learned variance

    def told_while_sampling(self, guidance: float, rows: int) -> dict[str, Any]:
        # Prompts are encoded as they are in training
        return {"guidance_scale": guidance, "use_resolution_binning": False, "clean_caption": False}
