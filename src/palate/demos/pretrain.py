"""Train the world's base pipeline from scratch: `python -m palate.demos.pretrain --out FOLDER`.

`--world emoji` trains the other world's: see palate.demos.emoji_pretrain.

Two stages, each seeded; after an interruption the same command resumes:

1. an autoencoder, 64x64x3 pictures to 8x8x12 latents, `VAE_STEPS` steps of 32 (about 15 minutes on 2 cores);
2. the denoiser and its text encoder together, epsilon prediction, `UNET_STEPS` steps of 64 (about 30 minutes).

It stops while the model is still imperfect, on purpose: a base model that draws everything right would leave nothing to
align. The result is a stock diffusers `StableDiffusionPipeline` folder, autoencoder and denoiser in fp16. The folder
`palate/world/pipeline` was made by this script with its defaults.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from rich.progress import track
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from palate.demos.steps import log, optimizer_step, psnr, resume, save_state, set_rate
from palate.errors import PalateError
from palate.files import atomic_path
from palate.world.pictures import COLOURS, SHAPES, SIZE, draw, random_scene

VAE_STEPS, VAE_BATCH, VAE_RATE = 2400, 32, 2e-3
VAE_HORIZON = 4000  # steps of its cosine, stopped earlier: the last steps are not worth their time
UNET_STEPS, UNET_BATCH, UNET_RATE = 6000, 64, 1e-3
UNET_CYCLE = 3000  # steps of a cosine, then a warm restart (SGDR, arXiv 1608.03983)
PICTURES = 16_384  # distinct training pictures of the second stage, encoded once
SAVE_EVERY = 200  # steps between saved states


@dataclass
class Options:
    """Train the world's base pipeline from scratch."""

    out: Path
    """The pipeline folder to write."""
    world: Literal["shapes", "emoji"] = "shapes"
    """Which of the two small worlds; see palate.demos.emoji_pretrain for the second."""
    pictures: Path | None = None
    """With emoji: the file of pictures that `python -m palate.demos.emoji_collect` wrote."""
    work: Path = Path("pretrain-work")
    """Where states to resume from are stored."""
    seed: int = 0
    vae_steps: int = 0
    unet_steps: int = 0
    """Fewer or more steps than the shipped pipeline was trained for; 0 is as many."""


def main(options: Options) -> None:
    if options.world == "emoji":
        return _emoji(options)
    options = replace(options, vae_steps=options.vae_steps or VAE_STEPS, unet_steps=options.unet_steps or UNET_STEPS)
    torch.set_flush_denormal(True)  # denormals slow the small network down several times
    vae = train_vae(options)
    text_encoder, unet = train_unet(options, vae)
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=make_tokenizer(), unet=unet, scheduler=make_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    with atomic_path(options.out) as folder:
        vae.half()
        # the text encoder is small and stays fp32: stored in fp16 it would be loaded in fp16, the others in fp32
        unet.half()
        pipeline.save_pretrained(folder)


def _emoji(options: Options) -> None:
    from palate.demos import emoji_pretrain

    if options.pictures is None:
        raise PalateError(
            "--world emoji: name the file of pictures, --pictures FILE (palate.demos.emoji_collect makes it)."
        )
    given = emoji_pretrain.Options(options.pictures, options.out, options.work, options.seed)
    steps = (options.vae_steps or given.vae_steps, options.unet_steps or given.unet_steps)
    emoji_pretrain.main(replace(given, vae_steps=steps[0], unet_steps=steps[1]))


def pictures(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, list[str]]:
    """`count` random pictures [count, 3, SIZE, SIZE] in [-1, 1], and their captions."""
    scenes = [random_scene(rng) for _ in range(count)]
    stacked = torch.from_numpy(np.stack([draw(scene) for scene in scenes]))
    return stacked.permute(0, 3, 1, 2).contiguous() * 2 - 1, [scene.caption for scene in scenes]


# --- the parts -------------------------------------------------------------------------------------------------------


def make_vae() -> AutoencoderKL:
    levels = (16, 32, 64, 64)
    return AutoencoderKL(
        block_out_channels=levels, layers_per_block=1, latent_channels=12, norm_num_groups=8, sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * len(levels), up_block_types=("UpDecoderBlock2D",) * len(levels),
        mid_block_add_attention=False,
    )  # fmt: skip


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 8, in_channels=12, out_channels=12, block_out_channels=(64, 128), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=64, attention_head_dim=4, norm_num_groups=8,
    )  # fmt: skip


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer with merges for the words of the world; any other text falls back to letters."""
    letters = [chr(c) for c in range(33, 127)]
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in (*COLOURS, *SHAPES):
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            parts[:2] = ["".join(pair)]
            if pair not in merges:
                merges.append(pair)
                vocabulary.append(parts[0])
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    index = {token: i for i, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=index, merges=merges, model_max_length=8)


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, timestep_spacing="trailing",
    )  # fmt: skip


# --- stage 1 ---------------------------------------------------------------------------------------------------------


def train_vae(options: Options) -> AutoencoderKL:
    """L1 and squared error with a small KL; the posterior is sampled, so that close latents decode to similar
    pictures."""
    torch.manual_seed(options.seed)
    vae = make_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=VAE_RATE, weight_decay=1e-4)
    state = options.work / "vae.pt"
    start = resume(state, vae, optimizer)
    for step in track(range(start, options.vae_steps), "autoencoder"):
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        image, _ = pictures(np.random.default_rng([options.seed, 1, step]), VAE_BATCH)  # [B, 3, H, W]
        set_rate(optimizer, VAE_RATE, step, VAE_HORIZON)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(image).latent_dist
            decoded = vae.decode(posterior.sample(generator)).sample.float()
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        loss = F.l1_loss(decoded, image) + 4 * F.mse_loss(decoded, image) + 1e-4 * kl
        optimizer_step(loss, vae, optimizer)
        if step % 50 == 0 or step == options.vae_steps - 1:
            log(options.work, stage="vae", step=step, loss=loss.item(), psnr=psnr(decoded, image))
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == options.vae_steps:
            save_state(state, step + 1, vae, optimizer)
    return vae.eval()


# --- stage 2 ---------------------------------------------------------------------------------------------------------


def train_unet(options: Options, vae: AutoencoderKL) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """Noise prediction on latents encoded once; a tenth of the captions empty, for guidance; keeps averaged weights."""
    torch.manual_seed(options.seed + 1)
    tokenizer, unet, scheduler = make_tokenizer(), make_unet(), make_scheduler()
    text_encoder = make_text_encoder(tokenizer)
    latents, captions = encode_pictures(options, vae)
    tokens = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids  # [N, L]
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids  # [1, L]

    both = torch.nn.ModuleList([text_encoder, unet])
    optimizer = torch.optim.AdamW(both.parameters(), lr=UNET_RATE, weight_decay=1e-3)
    average = EMAModel(both.parameters(), decay=0.998)
    state = options.work / "unet.pt"
    start = resume(state, both, optimizer, average)
    for step in track(range(start, options.unet_steps), "denoiser"):
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        row = torch.randint(len(latents), (UNET_BATCH,), generator=generator)
        timestep = torch.randint(1000, (UNET_BATCH,), generator=generator)
        noise = torch.randn(latents[row].shape, generator=generator)
        dropped = torch.rand(UNET_BATCH, generator=generator) < 0.1
        set_rate(optimizer, UNET_RATE, step % UNET_CYCLE, UNET_CYCLE)
        noisy = scheduler.add_noise(latents[row], noise, timestep)
        context = text_encoder(torch.where(dropped[:, None], empty, tokens[row])).last_hidden_state
        loss = F.mse_loss(unet(noisy, timestep, context).sample, noise)
        optimizer_step(loss, both, optimizer)
        average.step(both.parameters())
        if step % 50 == 0:
            log(options.work, stage="unet", step=step, loss=loss.item())
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == options.unet_steps:
            save_state(state, step + 1, both, optimizer, average)
    average.copy_to(both.parameters())
    return text_encoder.eval(), unet.eval()


@torch.no_grad()
def encode_pictures(options: Options, vae: AutoencoderKL) -> tuple[torch.Tensor, list[str]]:
    """Latents [PICTURES, 12, 8, 8] scaled to unit variance (the scale goes into the autoencoder's configuration)."""
    rng = np.random.default_rng([options.seed, 2])
    latents, captions = [], []
    for _ in track(range(PICTURES // 64), "encoding"):
        image, caption = pictures(rng, 64)
        latents.append(vae.encode(image).latent_dist.mean)
        captions += caption
    stacked = torch.cat(latents)
    vae.register_to_config(scaling_factor=round(1 / stacked.std().item(), 5))
    return stacked * vae.config.scaling_factor, captions


if __name__ == "__main__":
    main(tyro.cli(Options))
