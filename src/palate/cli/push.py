"""`palate push`"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from palate.cli.options import parse

DESCRIPTION = """\
Send a finished run's model and its card to the hub, as `palate export` writes them. You must be logged in there
(`hf auth login`, or HF_TOKEN in the environment).

Examples:
  palate report runs/dedpo --card             first, so that the card holds the evidence
  palate push runs/dedpo owner/name --dry-run
  palate push runs/dedpo owner/name
  palate push runs/dedpo owner/name --no-private"""


@dataclass
class Options:
    run: Annotated[Path, tyro.conf.Positional]
    """A finished run."""
    repository: Annotated[str, tyro.conf.Positional]
    """Where on the hub: owner/name; made when it does not exist."""
    private: bool = True
    """Only for you and those you let in."""
    dry_run: bool = False
    """Show what would be sent, and send nothing."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "push", DESCRIPTION)
    from palate.sharing.push import is_private, plan, push

    sending = plan(options.run, options.repository)
    who = "private" if options.private else "for everybody to see"
    if not options.private and not options.dry_run and is_private(options.repository):
        who = "private, as it is there already (make it public in its settings)"
    print(
        f"push: {options.repository}, {who}: " + ", ".join(f"{name} ({size})" for name, size in sending.sizes.items())
    )
    if sending.remark:
        print(f"push: {sending.remark}")
    if options.dry_run:
        print(f"\n{sending.card}\npush: a dry run, nothing was sent.")
        return
    print(f"push: {push(options.run, options.repository, options.private, sending)}")
