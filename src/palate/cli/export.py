"""`palate export`"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from palate.cli.options import parse

DESCRIPTION = """What a run trained, in the formats that other tools load.

Examples:
  palate export runs/dedpo                                     a folder for diffusers, with a model card
  palate export runs/dedpo --format comfyui --to ~/ComfyUI/models/loras
  palate export runs/dedpo --format kohya --dtype fp16         one file for A1111
  palate export runs/dedpo --format fused --whole-pipeline     the base model's folder around the trained denoiser
  palate export runs/full --format single-file --to models/checkpoints/full.safetensors"""


@dataclass
class Options:
    run: Annotated[Path, tyro.conf.Positional]
    """A finished run."""
    format: Literal["diffusers", "kohya", "comfyui", "fused", "single-file"] = "diffusers"
    """diffusers: adapters or denoiser as they are, and a card. kohya, comfyui: a file of adapters. fused: the denoiser
    with its adapters merged. single-file: the whole model by Stable Diffusion's original names."""
    to: Path | None = None
    """The folder, or the file (.safetensors); RUN/exports/FORMAT when absent."""
    dtype: Literal["fp16", "bf16", "fp32"] | None = None
    """Type of the weights; as they were trained when absent."""
    whole_pipeline: bool = False
    """With fused: a copy of the whole base model around the denoiser, not the denoiser alone."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "export", DESCRIPTION)
    from palate.sharing.export import how_to_load, size_of
    from palate.verbs.models import export

    path = export(options.run, options.format, options.to, dtype=options.dtype, whole_pipeline=options.whole_pipeline)
    print(f"export: {path} ({size_of(path)})")
    print(f"export: {how_to_load(path, options.format, options.whole_pipeline)}")
