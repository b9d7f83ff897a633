"""What aligning Stable Diffusion XL needs: the estimate of `palate train --dry-run`, from the network's published sizes
alone, and the operations of a step, counted. Nothing is downloaded, loaded or computed.

    python -m benchmarks.sdxl_needs
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from palate.backbones.stable_diffusion_xl import StableDiffusionXL
from palate.network.model import meta_network
from palate.run.config import TrainConfig
from palate.run.load import load_config
from palate.training.estimate import estimate_memory

UNET = {  # of stabilityai/stable-diffusion-xl-base-1.0
    "_class_name": "UNet2DConditionModel", "sample_size": 128, "in_channels": 4, "out_channels": 4,
    "block_out_channels": [320, 640, 1280], "layers_per_block": 2, "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10], "cross_attention_dim": 2048, "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
VAE = {
    "_class_name": "AutoencoderKL",
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "scaling_factor": 0.13025,
}
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
TOLD = {"embeddings": torch.zeros(1, 77, 2048), "pooled": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
CONFIGURATION = Path(__file__).parent / "sdxl.yaml"


def make_folder(folder: Path) -> StableDiffusionXL:
    """A pipeline folder with configurations and no weights."""
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    for name, file, config in (("unet", "config.json", UNET), ("vae", "config.json", VAE), ("scheduler", "scheduler_config.json", SCHEDULER)):  # fmt: skip
        (folder / name).mkdir()
        (folder / name / file).write_text(json.dumps(config))
    return StableDiffusionXL(folder, "cpu")


def operations_of_an_image(backbone: StableDiffusionXL) -> float:
    """Floating point operations of the network's forward pass for one image of 1024 x 1024 (a multiplication and an
    addition are two)."""
    network = meta_network(backbone)
    noisy, timestep = torch.zeros(1, 4, 128, 128, device="meta"), torch.zeros(1, device="meta")
    told = {name: one.to("meta") for name, one in TOLD.items()}
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        backbone.predict(network, noisy, timestep, told)
    return float(counted.get_total_flops())


def passes(config: TrainConfig) -> int:
    """Forward passes that the work of a step amounts to, for each image: the reference's, the policy's, its gradient by
    the activations (as much again), by trained weights (as much again, but for adapters), and what is computed twice."""
    return 3 + (config.lora is None) + config.gradient_checkpointing


def main() -> None:
    config = load_config(CONFIGURATION)
    with tempfile.TemporaryDirectory() as folder:
        backbone = make_folder(Path(folder))
        forward = operations_of_an_image(backbone)
        pairs = config.train_batch_size * config.gradient_accumulation_steps
        print(
            f"{CONFIGURATION.name}: {config.max_train_steps} steps of {pairs} pairs; a forward pass of one image {forward / 1e12:.1f} TFLOP"
        )
        for name, changed in {"as it is": config, "all weights": replace(config, lora=None)}.items():
            memory = estimate_memory(backbone, changed, TOLD)
            print(
                f"{name}: memory for tensors {memory.line()}; {memory.trained / 1e6:,.0f} of {memory.parameters / 1e6:,.0f} million parameters trained"
            )
            step = 2 * pairs * passes(changed) * forward
            hours = ", ".join(
                f"{step * config.max_train_steps / rate / 1e12 / 3600:.1f} hours at {rate} TFLOP/s"
                for rate in (300, 100)
            )
            print(f"  a step {step / 1e15:.1f} PFLOP; {config.max_train_steps} steps: {hours}")


if __name__ == "__main__":
    main()
