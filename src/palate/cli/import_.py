"""`palate import`: other formats into pairs and votes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from palate.cli.options import parse
from palate.data.importing import Format, summary_lines
from palate.foreign import printable
from palate.verbs.data import import_pairs

HELP = """Add pairs and votes from other formats to a dataset. Running again adds only what is missing.

Formats:
  pickapic   Pick-a-Pic parquet files (jpg_0, jpg_1, label_0, label_1, caption, ...)
  folders    a folder with win/ and lose/ (or w/ and l/), captions in NAME.txt or captions.jsonl;
             or with single images in liked/ and disliked/
  jsonl      lines of {"prompt", "image_0", "image_1", "choice"}, paths relative to the file;
             or of {"prompt", "image", "label"}, a single image that was liked (true) or not
  rankings   HPDv2, HPDv3 and ImageRewardDB JSON: ranked lists become all their pairs
  samples    samples of two or more models (runs, or folders of palate sample): pairs to vote on, a contest
  trl        parquet or JSONL with prompt, chosen, rejected; or with prompt, completion (an image), label
             (trl and pickapic also read Arrow files, folders of datasets.save_to_disk, and hf:owner/name)
  world      no source: pairs of pictures that palate's own small model makes, to try things on

Examples:
  palate import pickapic /data/pickapic_v2/*.parquet --to prefs
  palate import folders my-pictures --to prefs --annotator ana
  palate import rankings imagereward/test.json --to prefs
  palate import world --pairs 384 --voters biased-judge --to prefs
  palate import world --world emoji --voters majority context-judge --to prefs
  palate import trl hf:owner/name --split train --to prefs
  palate import samples runs/dedpo runs/dpo --to contest
"""


@dataclass
class Options:
    """What `palate import` takes."""

    format: tyro.conf.Positional[Literal[Format, "world"]]
    """The format of the sources."""
    sources: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="SOURCES")]]
    """Files, or for `folders` folders; for `trl` and `pickapic` also hf:owner/name and folders of save_to_disk."""
    to: Path
    """Folder of the dataset; created if it does not exist."""
    name: str | None = None
    """Name of a new dataset; the folder's name if not given."""
    annotator: str = "unknown"
    """Who voted, if the sources do not say."""
    source: Literal["human", "judge"] = "human"
    """Whether those votes come from a human or a judge."""
    question: str | None = None
    """What the votes answer, if the sources do not say: alignment, aesthetics, any name; the overall preference if
    absent."""
    pairs: int = 384
    """With `world`: how many pairs to make."""
    world: Literal["shapes", "emoji"] = "shapes"
    """With `world`: which of the two small worlds."""
    voters: tuple[str, ...] = ()
    """With `world`: simulated people and judges who vote on every pair."""
    split: str | None = None
    """The split to read of a dataset with several (hf:, or a folder of save_to_disk)."""
    config: str | None = None
    """The configuration to read of a dataset hf:owner/name with several."""
    allow_outside: bool = False
    """Allow paths in the sources that lead outside the source's folder."""
    json: bool = False
    """Print the counts as JSON."""


def main(argv: list[str]) -> None:
    """Run `palate import` with the arguments `argv`; raises PalateError when not everything could be read."""
    options = parse(Options, argv, "import", HELP)
    report = import_pairs(**{name: value for name, value in vars(options).items() if name != "json"})
    print(json.dumps(vars(report)) if options.json else printable("\n".join(summary_lines(report))))
