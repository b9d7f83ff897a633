"""`palate score`"""

import json
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from palate.cli.options import parse
from palate.cli.settings import settings
from palate.files import plain
from palate.foreign import printable

DESCRIPTION = """\
One number per picture, kept beside the pictures (scores.parquet) for `palate compare` and `palate report`.
Interrupted? The same command goes on; a second run costs nothing. What cannot be scored is said at the end, with exit
code 1, and the rest is scored.

Scorers:
  clip, pickscore, hpsv2.1, aesthetic, imagereward   reward models; --model is a local folder, or a hub name
  world                                              the small world's truth
  drift                                              brightness, contrast, saturation, warmth, sharpness, off_centre
  diversity, diversity:clip                          how far pictures of a prompt are apart (--repetitions 2 or more)
  NAME                                               a plug-in: a function of yours (docs/compare.md)

Examples:
  palate score runs/sdxl --scorer hpsv2.1 --scorer drift
  palate score runs/sdxl --scorer pickscore --model weights/pickscore --dtype bf16
  palate score runs/sdxl --scorer clip --set clip.model=weights/clip-l"""


@dataclass
class Options:
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Runs (their samples and base-samples), or folders of samples; one at least."""
    scorer: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """Who scores, one at least; can be given several times."""
    model: str | None = None
    """Weights of the reward model: a local folder or file, or a hub name; its published hub name when absent. With
    several: --set NAME.model=PATH."""
    device: str | None = None
    """cuda, cuda:1, cpu; a GPU where there is one when absent."""
    dtype: Literal["fp32", "fp16", "bf16"] | None = None
    """fp16 on a GPU and fp32 elsewhere when absent."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Further settings, as key=value, or NAME.key=value for one of several scorers."""
    batch_size: int | None = None
    """Pictures at a time."""
    json: bool = False
    """Print the results as JSON."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "score", DESCRIPTION)
    from palate.command import said_as
    from palate.evaluation.score import score_lines
    from palate.verbs.models import score

    wrong: list[str] = []
    given = settings(options.set, "key=value, or NAME.key=value")
    with said_as(["palate", "score", *argv]):
        scored = score(
            options.models, options.scorer, model=options.model, device=options.device, dtype=options.dtype,
            settings=given, batch_size=options.batch_size, tell=wrong.append,
        )  # fmt: skip
    if options.json:
        print(json.dumps([plain(one.as_dict()) for one in scored]))
    else:
        print(printable("\n".join(line for one in scored for line in score_lines(one))))
    if wrong:  # after what could be scored, so that it is the last thing that is read
        sys.exit("\n".join(wrong))
