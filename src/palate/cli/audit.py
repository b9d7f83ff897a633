"""`palate audit`"""

import json as json_module
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from palate.cli.options import parse

DESCRIPTION = """How far each source of votes can be trusted, what more votes would buy, and what to train on.

Examples:
  palate audit prefs
  palate audit prefs --out audit.html --run runs/adaptive
  palate audit prefs --human-annotators ana ben --human-votes 192
  palate audit prefs --propensity estimated       labelled pairs that were picked by hand
  palate audit prefs --config train.yaml          the configuration that it recommends, as a file
  palate audit prefs --json | jq .recommendation"""


@dataclass
class Options:
    dataset: Annotated[Path, tyro.conf.Positional]
    """Folder of the dataset."""
    out: Path | None = None
    """The page to write; DATASET/audit.html when absent, none with --json."""
    run: Path | None = None
    """A run of an adaptive method; its minority metric ranks the suspect votes."""
    config: Path | None = None
    """A new file for the recommended configuration, ready for `palate train`."""
    json: bool = False
    """Print JSON instead of tables."""
    human_annotators: tuple[str, ...] | None = None
    """Use only these people's votes, like the configuration key of this name."""
    human_votes: int | None = None
    """Use only the human votes on so many pairs, like the key of this name."""
    contexts: Literal["words", "group_id"] = "words"
    """Where the kinds of prompts come from, like the key of this name."""
    propensity: Literal["given", "estimated"] = "given"
    """estimated: pairs without a stored propensity count by the estimate, like the key of this name."""
    question: str | None = None
    """Audit the votes on this question; when absent the overall ones, with a table of all questions."""
    seed: int = 0


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "audit", DESCRIPTION)
    from rich.console import Console

    from palate.audits.terminal import print_findings
    from palate.command import said_as
    from palate.verbs.data import audit

    page = options.out or (None if options.json else options.dataset / "audit.html")
    with said_as(["palate", "audit", *argv]):
        findings = audit(
            options.dataset,
            out=page,
            run=options.run,
            config=options.config,
            human_annotators=options.human_annotators,
            human_votes=options.human_votes,
            contexts=options.contexts,
            propensity=options.propensity,
            seed=options.seed,
            question=options.question,
        )
    if options.json:
        print(json_module.dumps(findings.record(), ensure_ascii=False))
    else:
        print_findings(findings, Console())
        print(f"\naudit: {page}")
    if options.config:
        print(f"audit: {options.config}. Next: palate train {options.config} --dry-run", file=sys.stderr)
