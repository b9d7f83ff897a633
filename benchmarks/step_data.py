"""What the step-cost benchmark measures on: a model, a small dataset with votes of every kind, its cache."""

import io
import platform
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils.logging import disable_progress_bar

from palate.backbones import load_backbone
from palate.data.dataset import PreferenceDataset
from palate.data.images import encode_image
from palate.demos.pretrain import make_tokenizer
from palate.training.encode import encode

PROMPTS = ("a red circle", "a blue square", "a green star")
JUDGE, SECOND_JUDGE = "lamp", "coin"
LIST = 4  # images of a ranked list, hence 3 pairs with a human vote


@dataclass
class Options:
    """Seconds and peak memory of a training step: floor, palate, the usual recipe, safeguard, adaptive."""

    batch: int = 2
    """Pairs per step; the network sees twice as many images."""
    steps: int = 4
    """Rounds that are measured."""
    warmup: int = 1
    """Rounds before them."""
    resolution: int = 256
    """Pixels along one side, a multiple of 64."""
    width: int = 80
    """Channels of the UNet's first level, a multiple of 40. Stable Diffusion 1.5 has 320; the autoencoder and the text encoder shrink alike."""
    family: Literal["sd", "sdxl", "sd3", "flux", "pixart", "sana"] = "sd"
    """Which networks; width counts for sd and sdxl, the others have some 50 M parameters."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Type of the arithmetic; frozen weights are held in it."""
    gradient_checkpointing: bool = False
    """For every variant alike."""
    kinds: tuple[Literal["lora", "full"], ...] = ("lora", "full")
    """What is trained."""
    methods: tuple[str, ...] = ()
    """Measure presets of `palate methods` against dpo instead: names, or all. With LoRA."""
    json: Path | None = None
    """Where to write every number."""

    @property
    def weight_dtype(self) -> str:
        """The type in which frozen weights are held."""
        return "bf16" if self.mixed_precision == "bf16" else "fp32"


# --- the model and the data ------------------------------------------------------------------------------------------


def make_pipeline(folder: Path, width: int, resolution: int) -> None:
    """Stable Diffusion 1.5 with every width multiplied by width/320, random weights, as a stock pipeline folder."""
    disable_progress_bar()  # transformers draws one for every file
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 77
    # Channels per group and per head stay those of the full size, and with them the share of a step that normalisation
    # and softmax take: with 8 heads of 10 channels the softmax alone would be four times too dear.
    groups, heads, embedding = width // 10, width // 40, width * 768 // 320
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=embedding, intermediate_size=4 * embedding, num_hidden_layers=12, num_attention_heads=12,
            max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=resolution // 8, block_out_channels=(width, 2 * width, 4 * width, 4 * width), layers_per_block=2, attention_head_dim=heads,
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
    if options.family == "sd":
        make_pipeline(folder / "pipeline", options.width, options.resolution)
    else:
        from family_data import make_family  # the tests' miniatures, which the default needs not

        make_family(folder / "pipeline", options.family, options.resolution)
    dataset = PreferenceDataset.create(folder / "data", name="step cost")
    pairs = make_pairs(options)
    dataset.add_pairs(pairs)
    dataset.append_votes(make_votes(pairs))
    backbone = load_backbone(str(folder / "pipeline"))
    keys = {
        "pretrained_model_name_or_path": str(folder / "pipeline"),
        "dataset": str(folder / "data"),
        "output_dir": str(folder / "run"),
    }
    keys |= {
        "train_batch_size": options.batch,
        "mixed_precision": options.mixed_precision,
        "weight_dtype": options.weight_dtype,
    }
    with redirect_stdout(io.StringIO()):
        encode(keys, reference_draws=1)  # the cache of pairs, and the errors for the precomputed variant
    return sum(parameter.numel() for parameter in backbone.network.parameters())


def make_pairs(options: Options) -> list[dict]:
    """Neighbours in ranked lists of LIST pictures, the better one now first, now second; then as many pairs by themselves."""
    rng = np.random.default_rng(0)

    def picture() -> dict:
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        return encode_image(small.resize((options.resolution, options.resolution), Image.Resampling.BICUBIC))

    listed = []
    for k in range(
        max(4, options.batch) if options.methods else options.batch
    ):  # 4 make 12 human votes, enough to correct a judge
        best_first = [picture() for _ in range(LIST)]
        for better, worse in pairwise(best_first):
            sides = (better, worse) if len(listed) % 2 == 0 else (worse, better)
            listed.append({"group_id": f"list {k}", "prompt": PROMPTS[k % 3], "image_0": sides[0], "image_1": sides[1]})
    alone = [
        {"group_id": None, "prompt": PROMPTS[i % 3], "image_0": picture(), "image_1": picture()}
        for i in range(len(listed))
    ]
    return [{"pair_id": f"p{i}", "propensity": 0.5, **pair} for i, pair in enumerate(listed + alone)]


def make_votes(pairs: list[dict]) -> list[dict]:
    """One human's on the pairs of the lists, and those of two judges, one mostly right and one nearly indifferent, on all."""
    votes = []
    for i, pair in enumerate(pairs):
        if pair["group_id"]:
            votes.append((pair["pair_id"], "ana", "human", str(i % 2), None))
        right = 0.2 if i % 5 == 0 else 0.8  # of the side that the human chose, or would have chosen
        for judge, sure in ((JUDGE, right), (SECOND_JUDGE, 0.55)):
            probability = sure if i % 2 == 0 else 1 - sure
            votes.append((pair["pair_id"], judge, "judge", str(int(probability < 0.5)), probability))
    names = ("vote_id", "pair_id", "annotator_id", "source", "choice", "probability")
    return [dict(zip(names, (f"v{k}", *vote), strict=True)) for k, vote in enumerate(votes)]


def describe(options: Options, parameters: int) -> str:
    """What was measured on what, in one line."""
    return (
        f"{options.family}: network of {parameters / 1e6:.1f} M parameters, {options.batch} pairs of {options.resolution} px, {options.mixed_precision if options.mixed_precision != 'no' else 'fp32'}"
        f"{', gradient checkpointing' if options.gradient_checkpointing else ''}, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, {platform.system()} {platform.machine()}; n = {options.steps} rounds"
    )
