"""`palate info`: what a dataset holds."""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from palate.cli.options import parse
from palate.data.summary import print_summary
from palate.verbs.data import info

HELP = """Count a dataset's pairs and votes by source and annotator, with ties, skips, image sizes and what is lacking.

Examples:
  palate info prefs
  palate info prefs --json | jq .votes
"""


@dataclass
class Options:
    """What `palate info` takes."""

    dataset: tyro.conf.Positional[Path]
    """Folder of the dataset."""
    json: bool = False
    """Print JSON instead of tables."""


def main(argv: list[str]) -> None:
    """Run `palate info` with the arguments `argv`; raises PalateError when there is no readable dataset."""
    options = parse(Options, argv, "info", HELP)
    summary = info(options.dataset)
    if options.json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        print_summary(summary, Console())
