"""`palate sample`"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from palate.cli.options import parse

DESCRIPTION = """\
Make pictures from prompts. The initial noise is a function of seed, prompt and repetition, so that every model
sampled with the same settings starts from the same noise. Interrupted? The same command resumes.

Examples:
  palate sample runs/dedpo --prompts parti.json --base --mixed-precision bf16
  palate sample runs/dedpo --prompts hpsv2/ --part photo --limit 100
  palate sample world --prompts world --to pictures --repetitions 4 --guidance 2
  palate sample runs/dpo --prompts parti.json --to pictures --negative runs/npo"""


@dataclass
class Options:
    model: Annotated[str, tyro.conf.Positional]
    """A run, a diffusers pipeline folder, or "world" or "emoji"."""
    prompts: str
    """A file of prompts (.txt, .json, .jsonl, .csv, .tsv, .parquet), a folder of such files, or "world" or "emoji"."""
    part: str | None = None
    """Only one category, style or challenge of the prompts, or rows like 2400:3200."""
    limit: int | None = None
    """Only so many prompts, drawn evenly; a larger limit contains the prompts of a smaller one."""
    column: str | None = None
    """The column of the prompts' file that holds them; prompt, caption or text when absent."""
    to: Path | None = None
    """Folder for the pictures; MODEL/samples for a run when absent."""
    base: bool = False
    """Also sample the model that the run started from, into MODEL/base-samples."""
    steps: int | None = None
    """Denoising steps; the family's when absent, 25 for Stable Diffusion 1.x and 2.x."""
    guidance: float | None = None
    """Guidance scale of diffusers: 1 is no guidance; the family's when absent, 7.5 for Stable Diffusion 1.x and 2.x."""
    sampler: str = "default"
    """dpm++, ddim or euler; by default euler for models of flow matching, and dpm++ for all others."""
    seed: int = 0
    repetitions: int = 1
    """Pictures per prompt."""
    negative: str | None = None
    """A run of the same base model, trained to prefer the other image; its network replaces the unconditional one."""
    negative_mix: float = 0.0
    """Where the negative network stands: 0 around the sampled model, 1 around the base, or between."""
    classifier_scale: float = 1.0
    """For a run that trained a preference classifier: the strength of its guidance; 0 is the base model."""
    mixed_precision: str = "no"
    """Precision of the denoiser: no (fp32), bf16, or on a GPU fp16. Encoders, sampler and VAE stay in fp32."""
    batch_size: int | None = None
    """Pictures made at once; when absent 32 of up to 256 pixels, 8 of 512, 2 of 1024."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "sample", DESCRIPTION)
    from palate.command import said_as
    from palate.data.samples import Sampling, open_samples
    from palate.verbs.models import sample

    sampling = Sampling(
        options.steps, options.guidance, options.sampler, options.seed, options.repetitions,
        options.negative, options.negative_mix, options.classifier_scale, options.mixed_precision,
    )  # fmt: skip
    with said_as(["palate", "sample", *argv]):
        made = sample(
            options.model, Path(options.prompts), options.to, sampling, part=options.part, limit=options.limit,
            column=options.column, base=options.base, batch_size=options.batch_size,
        )  # fmt: skip
    for samples in [made, *([open_samples(Path(options.model) / "base-samples")] if options.base else [])]:
        print(f"sample: {len(samples.prompts)} pictures in {samples.folder}")
