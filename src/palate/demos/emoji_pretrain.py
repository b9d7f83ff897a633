"""Train the emoji world's base pipeline: `python -m palate.demos.emoji_pretrain --pictures FILE --out FOLDER`.

The pictures come from `palate.demos.emoji_collect`. Three stages, each seeded and resumable (run the same command again
after an interruption):

1. an autoencoder, 64x64x3 pictures to 8x8x16 latents, learned on the names that are not of the world too, a tenth of
   those held out to measure it;
2. every picture of the world in `VARIANTS` sizes, places and saturations, encoded once; then the decoder alone learns
   more, mostly of the pictures of the world and with some noise on the latents, so that what is sampled is sharp;
3. the denoiser and its text encoder together, v-prediction weighted by the signal-to-noise ratio (min-SNR, arXiv
   2303.09556); half of the captions with the word for the style, a tenth empty, for guidance. The learning rate stays
   constant until the last fifth, so that more steps can be asked for later.

The result is a stock diffusers `StableDiffusionPipeline` folder, autoencoder and denoiser in fp16; beside it lies, as
`OUT-early`, what the denoiser was at step `EARLY`: a worse generator for pairs.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from rich.progress import track
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from palate.demos.steps import log, optimizer_step, psnr, resume, save_state, set_rate
from palate.files import atomic_path
from palate.world.emoji_pictures import GROUPS, NAMES, SIZE, STYLES, TAUGHT, Pictures, caption, load_pictures

VAE_STEPS, VAE_RATE = 3200, 1.5e-3
VAE_CROPS, VAE_CROP = 32, 32  # crops a batch and their pixels; a crop has more drawn and less white than a picture
VAE_WHOLE = 8  # whole pictures a batch, in the last quarter
SAVE_EVERY = 250  # steps between resumable states
DECODER_STEPS, DECODER_RATE = 3000, 1e-3
UNET_STEPS, UNET_BATCH, UNET_RATE = 12_000, 48, 1e-3
EARLY = 1000  # the step of the denoiser that is kept, too
DECAY = 0.2  # the last share of the steps, in which the rate falls to nothing
SNR_CAP = 5.0  # min-SNR's gamma
VARIANTS = 3  # of every picture; with more, the same steps draw less sharply
HELD_OUT = 10  # of the names outside the world, one in so many only measures the autoencoder
LATENT = 16  # channels


@dataclass
class Options:
    """Train the emoji world's base pipeline from nothing."""

    pictures: Path
    """The file of pictures that `python -m palate.demos.emoji_collect` wrote."""
    out: Path
    """The pipeline folder to write."""
    work: Path = Path("pretrain-emoji")
    """Where resumable states are kept."""
    seed: int = 0
    vae_steps: int = VAE_STEPS
    decoder_steps: int = DECODER_STEPS
    unet_steps: int = UNET_STEPS
    taught: int = TAUGHT
    """How many names of each group, the first ones, the denoiser learns."""


def main(options: Options) -> None:
    torch.set_flush_denormal(True)  # denormals slow small networks down several times
    pictures = load_pictures(options.pictures)
    vae = train_vae(options, pictures)
    latents = encode_pictures(options, vae, pictures)
    train_decoder(options, vae, pictures)
    text_encoder, unet = train_unet(options, latents)
    save_pipeline(options.out, vae, text_encoder, unet)
    early = options.work / "early.pt"
    if early.exists():
        torch.nn.ModuleList([text_encoder, unet.float()]).load_state_dict(torch.load(early, weights_only=True))
        save_pipeline(options.out.with_name(f"{options.out.name}-early"), vae, text_encoder, unet)


def save_pipeline(out: Path, vae: AutoencoderKL, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
    """Write the stock pipeline folder; the two large networks become fp16 in place."""
    pipeline = StableDiffusionPipeline(
        vae=vae.half(), text_encoder=text_encoder, tokenizer=make_tokenizer(), unet=unet.half(),
        scheduler=make_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    with atomic_path(out) as folder:
        pipeline.save_pretrained(folder)  # the text encoder stays fp32: a pipeline folder is loaded in its precision


def as_tensor(images: Tensor) -> Tensor:
    """uint8 [..., H, W, 3] to float [B, 3, H, W] in [-1, 1]."""
    return images.reshape(-1, SIZE, SIZE, 3).permute(0, 3, 1, 2).float() / 127.5 - 1


def vary(image: Tensor, generator: torch.Generator, smallest: float, shift: float, flip: bool = False) -> Tensor:
    """Pictures [B, 3, H, W] in another size, place and saturation, on white.

    A thing becomes `smallest` to 1 of its size and moves by at most `shift` of half a picture; its saturation becomes
    .7 to 1.15 of what it was.
    """
    count = len(image)
    size = smallest + (1 - smallest) * torch.rand(count, generator=generator)
    place = (2 * torch.rand(count, 2, generator=generator) - 1) * (shift + 0.5 * (1 - size))[:, None].clamp(min=0)
    turn = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0) if flip else torch.ones(count)
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = turn / size, 1 / size
    affine[:, :, 2] = -place / size[:, None]
    grid = F.affine_grid(affine, list(image.shape), align_corners=False)
    moved = F.grid_sample(image - 1, grid, align_corners=False) + 1  # what comes in from outside is white
    grey = (moved * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    saturation = 0.7 + 0.45 * torch.rand(count, 1, 1, 1, generator=generator)
    return (grey + saturation * (moved - grey)).clamp(-1, 1)


# --- stage 1 ---------------------------------------------------------------------------------------------------------


def make_vae() -> AutoencoderKL:
    levels = (32, 64, 64, 96)
    return AutoencoderKL(
        block_out_channels=levels, layers_per_block=1, latent_channels=LATENT, norm_num_groups=8, sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * len(levels), up_block_types=("UpDecoderBlock2D",) * len(levels),
        mid_block_add_attention=False,
    )  # fmt: skip


def split_of_vae(pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Pictures that the autoencoder learns and pictures that only measure it, [B, 3, H, W] each."""
    outside = [name for name in pictures.names if name not in set(NAMES)]
    held_out = tuple(outside[::HELD_OUT])
    learned = tuple(name for name in pictures.names if name not in set(held_out))
    return as_tensor(torch.from_numpy(pictures.of(learned))), as_tensor(torch.from_numpy(pictures.of(held_out)))


def train_vae(options: Options, pictures: Pictures) -> AutoencoderKL:
    """Errors of pixels and of their differences, a light KL; crops first, whole pictures at the end."""
    torch.manual_seed(options.seed)
    vae = make_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=VAE_RATE, weight_decay=1e-4, fused=True)
    state = options.work / "vae.pt"
    start = resume(state, vae, optimizer)
    learned, held_out = split_of_vae(pictures)
    for step in track(range(start, options.vae_steps), "autoencoder"):
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        whole = step >= 0.75 * options.vae_steps
        row = torch.randint(len(learned), (VAE_WHOLE if whole else VAE_CROPS,), generator=generator)
        image = vary(learned[row], generator, smallest=0.7, shift=0.1, flip=True)
        if not whole:
            image = crop(image, generator)
        set_rate(optimizer, VAE_RATE, step, options.vae_steps)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(image).latent_dist
            decoded = vae.decode(posterior.sample(generator)).sample.float()
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        loss = F.l1_loss(decoded, image) + 4 * F.mse_loss(decoded, image) + edges(decoded - image) + 3e-4 * kl
        optimizer_step(loss, vae, optimizer)
        if step % 50 == 0:
            log(options.work, stage="vae", step=step, loss=loss.item(), kl=kl.item())
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == options.vae_steps:
            save_state(state, step + 1, vae, optimizer)
            log(options.work, stage="vae", step=step, held_out_psnr=reconstruction(vae, held_out))
    return vae.eval()


def crop(image: Tensor, generator: torch.Generator) -> Tensor:
    """One place per picture, [B, 3, VAE_CROP, VAE_CROP], not at the edge."""
    corner = torch.randint(4, SIZE - VAE_CROP - 3, (len(image), 2), generator=generator).tolist()
    return torch.stack([i[:, y : y + VAE_CROP, x : x + VAE_CROP] for i, (y, x) in zip(image, corner, strict=True)])


def edges(error: Tensor) -> Tensor:
    """Mean size of the error's differences between neighbours: a blurred edge costs more than a paler plane."""
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


@torch.no_grad()
def reconstruction(vae: AutoencoderKL, held_out: Tensor) -> float:
    """PSNR in dB of held-out pictures [B, 3, H, W] through the autoencoder."""
    parts = [vae.decode(vae.encode(part).latent_dist.mean).sample for part in held_out.split(32)]
    return psnr(torch.cat(parts), held_out)


# --- stage 2 ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def encode_pictures(options: Options, vae: AutoencoderKL, pictures: Pictures) -> Tensor:
    """Latents [VARIANTS, names, styles, LATENT, 8, 8]; each channel has mean 0 and deviation 1 over all of them.

    That normalization goes into the 1x1 convolutions around the latents, so that any program which loads the
    autoencoder gets it.
    """
    state = options.work / "latents.pt"
    if not state.exists():
        image = as_tensor(torch.from_numpy(pictures.of(NAMES)))
        generator = torch.Generator().manual_seed(options.seed + 2)
        encoded = []
        for _ in track(range(VARIANTS), "encoding"):
            varied = vary(image, generator, smallest=0.85, shift=0.0)
            encoded += [vae.encode(part).latent_dist.mean for part in varied.split(48)]
        raw = torch.cat(encoded)
        mean, deviation = raw.mean(dim=(0, 2, 3)), raw.std(dim=(0, 2, 3))
        stacked = (raw - mean[:, None, None]) / deviation[:, None, None]
        with atomic_path(state) as temporary:
            torch.save({"latents": stacked, "mean": mean, "deviation": deviation}, temporary)
    loaded = torch.load(state, weights_only=True)
    normalize(vae, loaded["mean"], loaded["deviation"])
    latents: Tensor = loaded["latents"]
    return latents.reshape(-1, len(NAMES), len(STYLES), LATENT, SIZE // 8, SIZE // 8)


def normalize(vae: AutoencoderKL, mean: Tensor, deviation: Tensor) -> None:
    """Change the 1x1 convolutions so that latents come out, and are taken, as (latent - mean) / deviation.

    Both are [LATENT].
    """
    before, after = vae.quant_conv, vae.post_quant_conv
    before.bias[:LATENT] = (before.bias[:LATENT] - mean) / deviation
    before.weight[:LATENT] /= deviation[:, None, None, None]
    before.bias[LATENT:] -= 2 * deviation.log()  # the other half are logarithms of variances
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= deviation[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)


def train_decoder(options: Options, vae: AutoencoderKL, pictures: Pictures) -> None:
    """Train the decoder of `vae` in place: the latents stay what they are, so that a denoiser of them stays right."""
    vae.requires_grad_(False)
    decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=DECODER_RATE, weight_decay=1e-4, fused=True)
    state = options.work / "decoder.pt"
    start = resume(state, decoder, optimizer)
    own = as_tensor(torch.from_numpy(pictures.of(taught_names(options))))
    learned, held_out = split_of_vae(pictures)
    for step in track(range(start, options.decoder_steps), "decoder"):
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        parts = [
            source[torch.randint(len(source), (count,), generator=generator)]
            for source, count in ((own, 6), (learned, 2))
        ]
        image = vary(torch.cat(parts), generator, smallest=0.85, shift=0.0)  # [8, 3, H, W]
        set_rate(optimizer, DECODER_RATE, step, options.decoder_steps)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latent = vae.encode(image).latent_dist.mean.float()
            size = 0.2 * torch.rand(len(image), 1, 1, 1, generator=generator)
            decoded = vae.decode(latent + size * torch.randn(latent.shape, generator=generator)).sample.float()
        loss = F.l1_loss(decoded, image) + 4 * F.mse_loss(decoded, image) + edges(decoded - image)
        optimizer_step(loss, decoder, optimizer)
        if step % 50 == 0:
            log(options.work, stage="decoder", step=step, loss=loss.item())
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == options.decoder_steps:
            save_state(state, step + 1, decoder, optimizer)
            measured = {"held_out_psnr": reconstruction(vae, held_out), "own_psnr": reconstruction(vae, own)}
            log(options.work, stage="decoder", step=step, **measured)


def taught_names(options: Options) -> tuple[str, ...]:
    return tuple(name for group in GROUPS.values() for name in group[: options.taught])


# --- stage 3 ---------------------------------------------------------------------------------------------------------


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 8, in_channels=LATENT, out_channels=LATENT, block_out_channels=(96, 128, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3, up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=96, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer with merges for the words of the world; any other text falls back to letters."""
    letters = [chr(c) for c in range(33, 127)]
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(" ".join([*STYLES, *NAMES]).lower().replace("-", " ").split()):
        characters = [*word[:-1], word[-1] + "</w>"]
        while len(parts := split_by_merges(characters, merges)) > 1:
            merges.append((parts[0], parts[1]))  # the last in rank, so that no word before breaks up differently
            vocabulary.append(parts[0] + parts[1])
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    index = {token: i for i, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=index, merges=merges, model_max_length=10)


def split_by_merges(parts: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """What byte-pair merging makes of a word's letters: always the earliest of the merges that apply."""
    rank = {pair: i for i, pair in enumerate(merges)}
    while applicable := [i for i in range(len(parts) - 1) if (parts[i], parts[i + 1]) in rank]:
        first = min(applicable, key=lambda i: rank[parts[i], parts[i + 1]])
        parts = [*parts[:first], parts[first] + parts[first + 1], *parts[first + 2 :]]
    return parts


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, timestep_spacing="trailing", prediction_type="v_prediction",
    )  # fmt: skip


def train_unet(options: Options, latents: Tensor) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """v-prediction on latents encoded once; averaged weights are what is kept."""
    torch.manual_seed(options.seed + 1)
    tokenizer, unet, scheduler = make_tokenizer(), make_unet(), make_scheduler()
    text_encoder = make_text_encoder(tokenizer)
    captions = [caption(name, style) for name in NAMES for style in (*STYLES, None)] + [""]
    tokens = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids  # [names * 5 + 1, L]
    signal = scheduler.alphas_cumprod
    ratio = signal / (1 - signal)  # [1000]
    weight = (1 + ratio).clamp(max=SNR_CAP) / (1 + ratio)  # of v's error: high noise counts fully, low noise is capped

    both = torch.nn.ModuleList([text_encoder, unet])
    optimizer = torch.optim.AdamW(both.parameters(), lr=UNET_RATE, weight_decay=1e-3, betas=(0.9, 0.99), fused=True)
    average = EMAModel(both.parameters(), decay=0.9993, use_ema_warmup=True, power=0.75)
    state = options.work / "unet.pt"
    start = resume(state, both, optimizer, average)
    known = torch.tensor([NAMES.index(name) for name in taught_names(options)])
    for step in track(range(start, options.unet_steps), "denoiser"):
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        numbers = (len(latents), len(known), len(STYLES), len(signal))
        variant, name, style, timestep = (torch.randint(n, (UNET_BATCH,), generator=generator) for n in numbers)
        name = known[name]
        clean = latents[variant, name, style]  # [B, LATENT, 8, 8]
        noise = torch.randn(clean.shape, generator=generator)
        chance = torch.rand(UNET_BATCH, generator=generator)
        row = 5 * name + torch.where(chance < 0.45, style, 4)
        row = torch.where(chance > 0.9, len(captions) - 1, row)
        set_constant_rate(optimizer, UNET_RATE, step, options.unet_steps)
        noisy, velocity = scheduler.add_noise(clean, noise, timestep), scheduler.get_velocity(clean, noise, timestep)
        with torch.autocast("cpu", torch.bfloat16):
            context = text_encoder(tokens[row]).last_hidden_state
            predicted = unet(noisy, timestep, context).sample.float()
        loss = (weight[timestep] * (predicted - velocity).pow(2).mean(dim=(1, 2, 3))).mean()
        optimizer_step(loss, both, optimizer)
        average.step(both.parameters())
        if step % 50 == 0:
            log(options.work, stage="unet", step=step, loss=loss.item())
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == options.unet_steps:
            save_state(state, step + 1, both, optimizer, average)
        if step + 1 == EARLY:
            with atomic_path(options.work / "early.pt") as temporary:
                torch.save(averaged(both, average), temporary)
    average.copy_to(both.parameters())
    return text_encoder.eval(), unet.eval()


def averaged(module: torch.nn.Module, average: EMAModel) -> dict[str, Tensor]:
    """The module's state with the averaged parameters in the place of its own."""
    average.store(module.parameters())
    average.copy_to(module.parameters())
    state = {name: value.clone() for name, value in module.state_dict().items()}
    average.restore(module.parameters())
    return state


def set_constant_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int) -> None:
    """Warm-up over 200 steps, the peak, and a straight fall to nothing in the last `DECAY` of the steps."""
    for group in optimizer.param_groups:
        group["lr"] = peak * min(1, (step + 1) / 200, (steps - step) / (DECAY * steps))


if __name__ == "__main__":
    main(tyro.cli(Options))
