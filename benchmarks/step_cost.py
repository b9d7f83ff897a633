"""What one training step costs: palate's, today's usual recipe, and the floor that neither can go below.

    python benchmarks/step_cost.py                    the table of docs/speed.md
    python benchmarks/step_cost.py --json cost.json   and every number behind it

One model of Stable Diffusion 1.5's architecture with random weights, one batch, one set of trained parameters, fp32;
once with LoRA (rank 16), once with full fine-tuning. The variants of a step take turns, in a new random order every
round; seconds are medians over rounds, ratios are medians of the ratios within a round. Every variant's step ends with
the same clipping and AdamW, timed separately, because they dilute ratios. Memory is measured one process per variant.
"""

import gc
import io
import json
import multiprocessing
import platform
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import tyro
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch.nn.functional import logsigmoid, mse_loss
from transformers import CLIPTextConfig, CLIPTextModel

from palate.backbones import load_backbone
from palate.data.dataset import PreferenceDataset, open_dataset
from palate.data.images import encode_image
from palate.errors import PalateError
from palate.files import write_text
from palate.training.batches import Batches
from palate.training.cache import encode_pairs
from palate.training.config import LoraOptions, TrainConfig
from palate.training.labels import prepare_labels
from palate.training.metrics import MetricsLog, join, summarise
from palate.training.model import make_policy
from palate.training.reference import make_reference
from palate.training.step import Snapshots, Stepper
from palate.world.pretrain import make_tokenizer

PROMPTS = ("a red circle", "a blue square", "a green star")
MEMORY_STEPS = 2  # the second one has the optimiser's moments and the gradients of a first
KINDS = {"LoRA": True, "full fine-tuning": False}
TARGETS = (
    ("LoRA", "palate", "floor", 1.6, "one forward of the reference makes 1.5"),
    ("LoRA", "palate", "usual recipe", 0.8, ""),
    ("full fine-tuning", "palate", "floor", 1.45, "one forward of the reference makes 1.33"),
    ("full fine-tuning", "palate", "usual recipe", 0.8, ""),
)


@dataclass
class Options:
    """Seconds and peak memory of a training step: floor, palate, the usual recipe, safeguard, adaptive."""

    batch: int = 2
    """Pairs per step; the network sees twice as many images."""
    steps: int = 5
    """Rounds that are measured."""
    warmup: int = 1
    """Rounds before them."""
    resolution: int = 256
    """Pixels along one side, a multiple of 64."""
    width: int = 80
    """Channels of the UNet's first level, a multiple of 40. Stable Diffusion 1.5 has 320; the autoencoder and the text encoder shrink alike."""
    json: Path | None = None
    """Where to write every number."""


@dataclass
class Cost:
    """What one variant cost: one entry per round, and one peak."""

    seconds: list[float]  # a whole step
    update: list[float]  # of which clipping and AdamW
    peak_mb: float = float("nan")


# --- the model and the data ------------------------------------------------------------------------------------------


def make_pipeline(folder: Path, width: int, resolution: int) -> None:
    """Stable Diffusion 1.5 with every width multiplied by width/320, random weights, as a stock pipeline folder."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 77
    groups, embedding = width // 10, width * 768 // 320
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=embedding, intermediate_size=4 * embedding, num_hidden_layers=12, num_attention_heads=12,
            max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=resolution // 8, block_out_channels=(width, 2 * width, 4 * width, 4 * width), layers_per_block=2, attention_head_dim=8,
        cross_attention_dim=embedding, norm_num_groups=groups,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )  # fmt: skip
    first = width * 128 // 320
    vae = AutoencoderKL(
        sample_size=resolution, block_out_channels=(first, 2 * first, 4 * first, 4 * first), layers_per_block=2, latent_channels=4,
        norm_num_groups=groups, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def prepare(folder: Path, options: Options) -> int:
    """Make pipeline, dataset and cache in `folder`; returns the number of the UNet's parameters."""
    make_pipeline(folder / "pipeline", options.width, options.resolution)
    rng = np.random.default_rng(0)
    dataset = PreferenceDataset.create(folder / "data", name="step cost")
    pairs = max(8, 2 * options.batch)

    def picture() -> dict:
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        return encode_image(small.resize((options.resolution, options.resolution), Image.Resampling.BICUBIC))

    dataset.add_pairs(
        {"pair_id": f"p{i}", "prompt": PROMPTS[i % 3], "image_0": picture(), "image_1": picture()} for i in range(pairs)
    )
    dataset.append_votes(
        {"vote_id": f"v{i}", "pair_id": f"p{i}", "annotator_id": "ana", "source": "human", "choice": str(i % 2)}
        for i in range(pairs)
    )
    backbone = load_backbone(str(folder / "pipeline"))
    encode_pairs(dataset, backbone)
    return sum(parameter.numel() for parameter in backbone.unet.parameters())


# --- the variants of a step ------------------------------------------------------------------------------------------
# Each gives a function of the step's number that accumulates the gradient and returns the book-keeping left to do after
# the update. They share one policy and one optimiser, and nothing is built that no measured variant asks for.

Step = Callable[[int], Callable[[], object]]


class Parts:
    """What the variants of a step are made of, each built when it is first asked for."""

    def __init__(self, folder: Path, options: Options, is_lora: bool):
        self.folder, self.options, self.is_lora = folder, options, is_lora
        self.config = TrainConfig(
            pretrained_model_name_or_path=str(folder / "pipeline"), dataset=str(folder / "data"), output_dir=str(folder / "run"),
            lora=LoraOptions() if is_lora else None, train_batch_size=options.batch, learning_rate=1e-6, report_to="none",
        )  # fmt: skip
        self.backbone = load_backbone(self.config.pretrained_model_name_or_path)

    @cached_property
    def policy(self):
        return make_policy(self.backbone.unet, self.config)

    @cached_property
    def reference(self):
        return make_reference(self.policy.unet, self.is_lora)

    @cached_property
    def optimizer(self) -> torch.optim.AdamW:
        config = self.config
        return torch.optim.AdamW(self.policy.parameters, lr=config.learning_rate, weight_decay=config.adam_weight_decay)


def floor(parts: Parts) -> Step:
    """Forward and backward of the policy on the batch's images, from tensors that lie ready."""
    images, side = 2 * parts.options.batch, parts.options.resolution // 8
    noisy, noise = torch.randn(2, images, 4, side, side)
    timestep = torch.randint(parts.backbone.num_timesteps, (images,))
    unet = parts.policy.unet
    embeddings = torch.randn(images, 77, unet.config.cross_attention_dim)

    def gradient(step: int) -> Callable[[], object]:
        loss = mse_loss(unet(noisy, timestep, embeddings, return_dict=False)[0], noise)
        loss.backward()
        return lambda: None

    return gradient


def palate_step(parts: Parts, **changes) -> Step:
    """palate's own step on a full cache, with its checks, its book-keeping and its metrics file; as `palate train` takes it."""
    config = replace(parts.config, **changes)
    dataset, policy = open_dataset(config.dataset), parts.policy
    with redirect_stdout(io.StringIO()):  # counts of the labels
        labels = prepare_labels(dataset, config)
    batches = Batches(labels.labelled, config.train_batch_size, labels.labelled_per_batch, config.seed)
    encoded = encode_pairs(dataset, parts.backbone)
    snapshots = Snapshots(policy.parameters) if config.adaptive else None
    stepper = Stepper(
        config, parts.backbone, policy, parts.reference, encoded, labels, batches, snapshots, None, Accelerator()
    )
    log = MetricsLog(Path(tempfile.mkdtemp(dir=parts.folder)), 0, tensorboard=False)

    def gradient(step: int) -> Callable[[], object]:
        readings = join([stepper.accumulate(step)])

        def book_keeping() -> None:
            if snapshots:
                snapshots.update(policy.parameters)
            log.write(
                step,
                {"loss": stepper.take_loss()}
                | summarise(readings, config.beta, parts.backbone.num_timesteps, config.judge),
            )

        return book_keeping

    return gradient


def usual_recipe(parts: Parts) -> Step:
    """Diffusion-DPO as its training scripts arrange it: encoders inside the step, a second UNet as the reference.

    Reading and decoding pictures is left out (scripts do it in other processes): pixels and tokens lie ready.
    """
    encoders = load_backbone(str(parts.folder / "pipeline"))
    vae, text_encoder, batch, beta = encoders.vae, encoders.text_encoder, parts.options.batch, parts.config.beta
    schedule = DDPMScheduler.from_pretrained(parts.folder / "pipeline", subfolder="scheduler")
    policy, reference = parts.policy.unet, encoders.unet.requires_grad_(False)
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


VARIANTS: dict[str, Callable[[Parts], Step]] = {
    "floor": floor,
    "palate": palate_step,
    "palate, safeguard": partial(palate_step, safeguard=0.9),
    "palate, adaptive": partial(palate_step, adaptive=True),
    "usual recipe": usual_recipe,
}


# --- measuring -------------------------------------------------------------------------------------------------------


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


def measure_time(folder: Path, options: Options, is_lora: bool, tick: Callable[[], None]) -> dict[str, Cost]:
    """Seconds of every variant, taking turns within rounds; `tick` is called after every step."""
    parts = Parts(folder, options, is_lora)
    steps = {name: make(parts) for name, make in VARIANTS.items()}
    costs = {name: Cost([], []) for name in steps}
    for number in range(options.warmup + options.steps):
        names = list(steps)
        random.Random(number).shuffle(names)
        for name in names:
            gc.collect()
            seconds, update = take_step(parts, steps[name], number)
            if number >= options.warmup:
                costs[name].seconds.append(seconds)
                costs[name].update.append(update)
            tick()
    return costs


def measure_peak(folder: Path, options: Options, is_lora: bool, name: str) -> float:
    """Megabytes by which this fresh process's peak grew from before anything was built to after MEMORY_STEPS steps."""
    torch.set_flush_denormal(True)
    before = _peak_mb()
    parts = Parts(folder, options, is_lora)
    gradient = VARIANTS[name](parts)
    for number in range(MEMORY_STEPS):
        take_step(parts, gradient, number)
    return _peak_mb() - before


def _peak_mb() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(options: Options) -> tuple[dict[str, dict[str, Cost]], int]:
    """The cost of every variant, by kind of training and name, and the number of the UNet's parameters."""
    rounds = options.warmup + options.steps
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    context = multiprocessing.get_context("forkserver")  # libraries are imported once; every process starts from there
    context.set_forkserver_preload(["step_cost"])
    with (
        tempfile.TemporaryDirectory() as temporary,
        ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes,
        Progress(*columns, transient=True, console=Console(stderr=True)) as progress,
    ):
        folder = Path(temporary)
        task = progress.add_task("preparing a model and a cache", total=1 + len(KINDS) * len(VARIANTS) * (rounds + 1))
        parameters = processes.submit(prepare, folder, options).result()
        progress.advance(task)
        costs = {}
        for kind, is_lora in KINDS.items():
            progress.update(task, description=f"timing, {kind}")
            costs[kind] = measure_time(folder, options, is_lora, lambda: progress.advance(task))
            for name in VARIANTS:
                progress.update(task, description=f"memory, {kind}, {name}")
                costs[kind][name].peak_mb = processes.submit(measure_peak, folder, options, is_lora, name).result()
                progress.advance(task)
    return costs, parameters


# --- telling ---------------------------------------------------------------------------------------------------------


def ratios(cost: Cost, base: Cost, with_update: bool = True) -> np.ndarray:
    """One ratio per round, [n]: the whole step, or all of it but clipping and AdamW."""
    part = [np.array(c.seconds) - (0 if with_update else np.array(c.update)) for c in (cost, base)]
    return part[0] / part[1]


def check_targets(costs: dict[str, dict[str, Cost]]) -> list[dict]:
    """Each target with what was measured: the larger of the median ratios with and without the update."""
    checked = []
    for kind, name, base, limit, why in TARGETS:
        medians = [
            float(np.median(ratios(costs[kind][name], costs[kind][base], with_update))) for with_update in (True, False)
        ]
        checked.append(
            {"kind": kind, "of": name, "to": base, "limit": limit, "why": why, "whole step": medians[0], "without the update": medians[1],
             "holds": max(medians) <= limit}
        )  # fmt: skip
    return checked


def print_tables(costs: dict[str, dict[str, Cost]], checked: list[dict], title: str) -> None:
    """One table per kind of training, then the targets."""
    console = Console()
    console.print(title)
    for kind, rows in costs.items():
        table = Table(title=kind, title_justify="left", title_style="bold")
        table.add_column("step")
        for column in (
            "seconds",
            "of which update",
            "× floor",
            "lowest to highest",
            "× floor, no update",
            "× palate",
            "peak MB",
            "× floor",
        ):
            table.add_column(column, justify="right")
        for name, cost in rows.items():
            to_floor = ratios(cost, rows["floor"])
            table.add_row(
                name, f"{np.median(cost.seconds):.2f}", f"{np.median(cost.update):.2f}", f"{np.median(to_floor):.2f}",
                f"{to_floor.min():.2f} to {to_floor.max():.2f}", f"{np.median(ratios(cost, rows['floor'], False)):.2f}",
                f"{np.median(ratios(cost, rows['palate'])):.2f}", f"{cost.peak_mb:.0f}", f"{cost.peak_mb / rows['floor'].peak_mb:.2f}",
            )  # fmt: skip
        console.print(table)
    for target in checked:
        mark = "[green]holds[/]" if target["holds"] else "[red]missed[/]"
        reason = f" ({target['why']})" if target["why"] else ""
        console.print(
            f"{mark}: {target['kind']}, {target['of']} at most {target['limit']} × {target['to']}{reason}: "
            f"{target['whole step']:.2f} whole step, {target['without the update']:.2f} without the update"
        )


def describe(options: Options, parameters: int) -> str:
    """What was measured on what, in one line."""
    return (
        f"UNet of {parameters / 1e6:.1f} M parameters, {options.batch} pairs of {options.resolution} px, fp32, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, {platform.system()} {platform.machine()}; n = {options.steps} rounds"
    )


def main(options: Options) -> None:
    """Measure, print, and write the numbers where asked. Raises PalateError for a size that the architecture cannot have."""
    if options.width % 40 or options.width < 40:
        raise PalateError(f"width: {options.width} is not a multiple of 40. Use 40, 80 or 160.")
    if options.resolution % 64 or options.resolution < 64:
        raise PalateError(f"resolution: {options.resolution} is not a multiple of 64 pixels. Use 128, 256 or 512.")
    if min(options.batch, options.steps) < 1 or options.warmup < 0:
        raise PalateError("batch and steps must be at least 1, warmup at least 0.")
    torch.set_flush_denormal(True)  # as `palate train` does
    costs, parameters = measure(options)
    checked = check_targets(costs)
    title = describe(options, parameters)
    print_tables(costs, checked, title)
    if options.json:
        rows = {kind: {name: asdict(cost) for name, cost in by_name.items()} for kind, by_name in costs.items()}
        write_text(options.json, json.dumps({"measured": title, "costs": rows, "targets": checked}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except PalateError as error:
        sys.exit(f"step_cost: {error}")
