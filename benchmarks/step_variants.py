"""The variants of a training step that the step-cost benchmark measures.

Each variant gives a function of the step's number that accumulates the gradient and returns the book-keeping left to do
after the update. They share one policy and one optimiser, and nothing is built that no measured variant asks for.
"""

import io
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from step_data import PROMPTS, Options
from torch.nn.functional import logsigmoid, mse_loss

from palate.backbones import load_backbone
from palate.data.dataset import open_dataset
from palate.training import assemble
from palate.training.assemble import make_any_policy
from palate.training.config import LoraOptions, TrainConfig, load_config
from palate.training.labels import prepare_rows
from palate.training.metrics import MetricsLog, join, summarise
from palate.training.reference import make_reference

Step = Callable[[int], Callable[[], object]]


class Parts:
    """What the variants of a step are made of, each built when it is first asked for."""

    def __init__(self, folder: Path, options: Options, is_lora: bool, **changes):
        self.folder, self.options, self.is_lora = folder, options, is_lora
        self.config = TrainConfig(
            pretrained_model_name_or_path=str(folder / "pipeline"), dataset=str(folder / "data"), output_dir=str(folder / "run"),
            lora=LoraOptions() if is_lora else None, train_batch_size=options.batch, learning_rate=1e-6, report_to="none",
            **changes,
        )  # fmt: skip
        self.backbone = load_backbone(self.config.pretrained_model_name_or_path)

    @cached_property
    def policy(self):
        return make_any_policy(self.backbone, self.config)

    @cached_property
    def reference(self):
        return make_reference(self.policy)

    @cached_property
    def optimizer(self) -> torch.optim.AdamW:
        config = self.config
        return torch.optim.AdamW(self.policy.parameters, lr=config.learning_rate, weight_decay=config.adam_weight_decay)


def floor(parts: Parts) -> Step:
    """Forward and backward of the policy on the batch's images, from tensors that lie ready."""
    images, side = 2 * parts.options.batch, parts.options.resolution // 8
    noisy, noise = torch.randn(2, images, 4, side, side)
    timestep = torch.randint(parts.backbone.num_timesteps, (images,))
    unet = parts.policy.network
    embeddings = torch.randn(images, 77, unet.config.cross_attention_dim)

    def gradient(step: int) -> Callable[[], object]:
        loss = mse_loss(unet(noisy, timestep, embeddings, return_dict=False)[0], noise)
        loss.backward()
        return lambda: None

    return gradient


def palate_step(parts: Parts, **changes) -> Step:
    """palate's own step on a full cache, as `palate train` takes it; `changes` to the keys of a configuration."""
    keys = {
        "pretrained_model_name_or_path": parts.config.pretrained_model_name_or_path,
        "dataset": parts.config.dataset,
    }
    keys |= {"output_dir": parts.config.output_dir, "train_batch_size": parts.options.batch}
    return run_step(parts, put_together(parts, load_config(keys | changes)))


def put_together(parts: Parts, config: TrainConfig, self_votes: np.ndarray | None = None) -> assemble.Parts:
    """What `palate train` makes of a configuration, around the policy of all variants, so that they train the same parameters."""
    dataset = open_dataset(config.dataset)
    with redirect_stdout(io.StringIO()):  # counts of the labels
        rows = prepare_rows(dataset, config, self_votes)
    return assemble.assemble(
        config, dataset, parts.backbone, rows, Accelerator(), Path(config.output_dir), parts.policy, parts.reference
    )


def run_step(parts: Parts, made: assemble.Parts) -> Step:
    """The step with its checks, its book-keeping and its metrics file."""
    stepper, snapshots, config = made.stepper, made.snapshots, made.stepper.config
    log = MetricsLog(Path(tempfile.mkdtemp(dir=parts.folder)), 0, tensorboard=False)

    def gradient(step: int) -> Callable[[], object]:
        readings = join([stepper.accumulate(step)])
        finished = stepper.finish()

        def book_keeping() -> None:
            if snapshots:
                snapshots.update(made.policy.parameters)
            found = summarise(readings, config.beta, parts.backbone.num_timesteps, config.judge)
            log.write(step, {"loss": stepper.take_loss()} | finished | found)

        return book_keeping

    return gradient


def usual_recipe(parts: Parts) -> Step:
    """Diffusion-DPO as its training scripts arrange it: encoders inside the step, a second UNet as the reference.

    Reading and decoding pictures is left out (scripts do it in other processes): pixels and tokens lie ready.
    """
    encoders = load_backbone(str(parts.folder / "pipeline"))
    vae, text_encoder, batch, beta = encoders.vae, encoders.text_encoder, parts.options.batch, parts.config.beta
    schedule = DDPMScheduler.from_pretrained(parts.folder / "pipeline", subfolder="scheduler")
    policy, reference = parts.policy.network, encoders.network.requires_grad_(False)
    pixels = (
        torch.rand(2 * batch, 3, parts.options.resolution, parts.options.resolution) * 2 - 1
    )  # winners, then losers
    prompts = [PROMPTS[i % 3] for i in range(batch)]
    tokens = encoders.tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids

    def gradient(step: int) -> Callable[[], object]:
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            embeddings = text_encoder(tokens).last_hidden_state.repeat(2, 1, 1)
        noise = torch.randn_like(latents[:batch]).repeat(2, 1, 1, 1)
        timestep = torch.randint(schedule.config.num_train_timesteps, (batch,)).repeat(2)
        noisy = schedule.add_noise(latents, noise, timestep)
        winner, loser = _errors(policy, noisy, timestep, embeddings, noise)
        with torch.no_grad():
            reference_winner, reference_loser = _errors(reference, noisy, timestep, embeddings, noise)
        z = -(beta / 2) * ((winner - loser) - (reference_winner - reference_loser))  # [B], seen from the winner
        loss = -logsigmoid(z).mean()
        loss.backward()
        return lambda: (loss.item(), (z > 0).float().mean().item())

    return gradient


def _errors(unet: torch.nn.Module, noisy, timestep, embeddings, noise) -> tuple[torch.Tensor, torch.Tensor]:
    prediction = unet(noisy, timestep, embeddings, return_dict=False)[0]
    return (prediction - noise).square().mean(dim=(1, 2, 3)).chunk(2)


def take_step(parts: Parts, gradient: Step, number: int) -> tuple[float, float]:
    """One whole optimiser step; seconds of all of it, and of clipping and AdamW alone."""
    start = time.perf_counter()
    parts.optimizer.zero_grad(set_to_none=True)
    book_keeping = gradient(number)
    before = time.perf_counter()
    torch.nn.utils.clip_grad_norm_(parts.policy.parameters, parts.config.max_grad_norm)
    parts.optimizer.step()
    after = time.perf_counter()
    book_keeping()
    return time.perf_counter() - start, after - before


VARIANTS: dict[str, Callable[[Parts], Step]] = {
    "floor": floor,
    "palate": palate_step,
    "palate + safeguard": partial(palate_step, safeguard=0.9),
    "palate + adaptive": partial(palate_step, adaptive=True),
    "usual recipe": usual_recipe,
}
