"""`palate encode`"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from palate.cli.options import parse

DESCRIPTION = """\
Compute before training what training would compute: latents and embeddings of all pairs, and the reference's
errors at addressed draws, which every run of a sweep over methods, beta and seeds then shares. Interrupted? The same
command goes on.

Examples:
  palate encode dpo.yaml
  palate encode dpo.yaml --reference-draws 8
  palate train dpo.yaml --reference precomputed --reference-draws 8
  palate encode dpo.yaml --reference-draws 8 --dry-run      count what is there and what is not, compute nothing"""


@dataclass(frozen=True)
class Options:
    config: Annotated[Path, tyro.conf.Positional]
    """The YAML file of a training: its model, dataset, resolution and precision count."""
    reference_draws: int | None = None
    """Draws of each pair at which the reference's errors are computed; the file's reference_draws when absent."""
    dry_run: bool = False
    """Count only."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "encode", DESCRIPTION)
    from palate.training.encode import encode, plan

    if options.dry_run:
        todo = plan(options.config, options.reference_draws)
        print(f"dry run: {todo['to encode']:,} of {todo['pairs']:,} pairs would be encoded")
        if todo["draws"]:
            print(
                f"dry run: {todo['to compute']:,} errors of the reference would be computed, at {todo['draws']} draws"
                " of each pair"
            )
        return
    done = encode(options.config, options.reference_draws)
    print(f"encode: {done['pairs']} pairs are encoded")
    if done["draws"]:
        print(
            f"encode: the reference's errors at {done['draws']} draws of each pair are there, {done['computed']} of"
            f" them computed now. Next: palate train {options.config} --reference precomputed --reference-draws"
            f" {done['draws']}"
        )
