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
from accelerate.state import AcceleratorState
from step_data import PROMPTS, Options
from torch.nn.functional import logsigmoid, mse_loss

from palate.backbones import Backbone, load_backbone
from palate.backbones.conditioning import Conditioning, expand, move, repeat
from palate.data.dataset import open_dataset
from palate.encoding.cache import encode_pairs
from palate.labels.votes import prepare_rows
from palate.network.precision import DTYPES, hold_frozen
from palate.run.config import LoraOptions, TrainConfig
from palate.run.load import load_config
from palate.run.metrics import MetricsLog
from palate.training import assemble
from palate.training.assemble import make_any_policy
from palate.training.readings import join, summarise
from palate.training.reference import make_reference

Step = Callable[[int], Callable[[], object]]


class Parts:
    """What the variants of a step are made of, each built when it is first asked for."""

    def __init__(self, folder: Path, options: Options, is_lora: bool, **changes):
        self.folder, self.options, self.is_lora = folder, options, is_lora
        self.config = TrainConfig(
            pretrained_model_name_or_path=str(folder / "pipeline"), dataset=str(folder / "data"), output_dir=str(folder / "run"),
            lora=LoraOptions() if is_lora else None, train_batch_size=options.batch, learning_rate=1e-6, report_to="none",
            **precision(options), gradient_checkpointing=options.gradient_checkpointing, **changes,
        )  # fmt: skip
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(mixed_precision=options.mixed_precision)
        self.device = self.accelerator.device
        self.backbone = load_backbone(self.config.pretrained_model_name_or_path)
        self.backbone.device = self.device

    @cached_property
    def policy(self):
        return make_any_policy(self.backbone, self.config)

    @cached_property
    def reference(self):
        return make_reference(self.policy, config=self.config)

    @cached_property
    def optimizer(self) -> torch.optim.AdamW:
        config = self.config
        return torch.optim.AdamW(self.policy.parameters, lr=config.learning_rate, weight_decay=config.adam_weight_decay)


def precision(options: Options) -> dict:
    """The keys of a configuration for the arithmetic, and frozen weights in the same type."""
    return {"mixed_precision": options.mixed_precision, "weight_dtype": options.weight_dtype}


def floor(parts: Parts) -> Step:
    """Forward and backward of the policy on the batch's images, from tensors that lie ready."""
    backbone, images, accelerator = parts.backbone, 2 * parts.options.batch, parts.accelerator
    latents, noise = torch.randn(2, images, *backbone.latent_shape(parts.options.resolution), device=parts.device)
    timestep = backbone.timestep(torch.randint(backbone.num_timesteps, (images,))).to(parts.device)
    noisy, target = (make(latents, noise, timestep) for make in (backbone.add_noise, backbone.regression_target))
    encoded = encode_pairs(open_dataset(parts.config.dataset), backbone)  # they are there, so that no encoder is loaded
    prompts = encoded.prompt_conditioning([PROMPTS[i % 3] for i in range(parts.options.batch)])
    sizes = expand(backbone.image_conditioning(*[parts.options.resolution] * 3), parts.options.batch)
    conditioning = move(repeat({**prompts, **sizes}, 2), parts.device)
    network = parts.policy.network

    def gradient(step: int) -> Callable[[], object]:
        with accelerator.autocast():
            prediction = backbone.predict(network, noisy, timestep, conditioning)
        mse_loss(prediction.float(), target).backward()
        return lambda: None

    return gradient


def told(backbone: Backbone, options: Options) -> Conditioning:
    """What the network is told of both images of a batch."""
    prompts = backbone.encode_prompts([PROMPTS[i % 3] for i in range(options.batch)])
    size = expand(backbone.image_conditioning(*[options.resolution] * 3), options.batch)
    return move(repeat({**prompts, **size}, 2), backbone.device)


def palate_step(parts: Parts, **changes) -> Step:
    """palate's own step on a full cache, as `palate train` takes it; `changes` to the keys of a configuration."""
    keys = {
        "pretrained_model_name_or_path": parts.config.pretrained_model_name_or_path,
        "dataset": parts.config.dataset,
    }
    keys |= {"output_dir": parts.config.output_dir, "train_batch_size": parts.options.batch, **precision(parts.options)}
    return run_step(parts, put_together(parts, load_config(keys | changes)))


def put_together(parts: Parts, config: TrainConfig, self_votes: np.ndarray | None = None) -> assemble.Parts:
    """What `palate train` makes of a configuration, around the policy of all variants, so that they train the same parameters."""
    dataset = open_dataset(config.dataset)
    with redirect_stdout(io.StringIO()):  # counts of the labels
        rows = prepare_rows(dataset, config, self_votes)
    return assemble.assemble(
        config, dataset, parts.backbone, rows, parts.accelerator, Path(config.output_dir), parts.policy,
        None if config.reference == "precomputed" else parts.reference,
    )  # fmt: skip


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
    """Diffusion-DPO as its training scripts arrange it: encoders inside the step, a second network as the reference.

    Reading and decoding pictures is left out (scripts do it in other processes): pixels lie ready. Everything that is
    frozen is held in the type of the arithmetic, as the scripts do.
    """
    encoders, batch, beta = load_backbone(str(parts.folder / "pipeline")), parts.options.batch, parts.config.beta
    encoders.device = parts.device
    policy, reference = parts.policy.network, encoders.network.requires_grad_(False)
    hold_frozen(reference, parts.options.weight_dtype)
    encode_in(encoders.vae, DTYPES[parts.options.weight_dtype])
    side = parts.options.resolution
    pixels = (torch.rand(2 * batch, 3, side, side) * 2 - 1).to(parts.device)  # winners, then losers

    def errors(network, noisy, timestep, conditioning, target) -> tuple[torch.Tensor, torch.Tensor]:
        prediction = encoders.predict(network, noisy, timestep, conditioning).float()
        return (prediction - target).square().mean(dim=(1, 2, 3)).chunk(2)

    def gradient(step: int) -> Callable[[], object]:
        with parts.accelerator.autocast():
            with torch.no_grad():
                latents = encoders.encode_images(pixels).float()
                conditioning = told(encoders, parts.options)
            noise = torch.randn_like(latents[:batch]).repeat(2, 1, 1, 1)
            timestep = encoders.timestep(torch.randint(encoders.num_timesteps, (batch,))).repeat(2).to(parts.device)
            noisy, target = (
                make(latents, noise, timestep) for make in (encoders.add_noise, encoders.regression_target)
            )
            winner, loser = errors(policy, noisy, timestep, conditioning, target)
            with torch.no_grad():
                reference_winner, reference_loser = errors(reference, noisy, timestep, conditioning, target)
        z = -(beta / 2) * ((winner - loser) - (reference_winner - reference_loser))  # [B], seen from the winner
        loss = -logsigmoid(z).mean()
        loss.backward()
        return lambda: (loss.item(), (z > 0).float().mean().item())

    return gradient


def encode_in(vae: torch.nn.Module, dtype: torch.dtype) -> None:
    """Hold and run an autoencoder in this type. palate's own is in fp32, but in no step."""
    encode = vae.to(dtype).encode
    vae.encode = lambda images, **options: encode(images.to(dtype), **options)


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
    "palate, precomputed": partial(palate_step, reference="precomputed", reference_draws=1),
    "palate + safeguard": partial(palate_step, safeguard=0.9),
    "palate + adaptive": partial(palate_step, adaptive=True),
    "usual recipe": usual_recipe,
}
