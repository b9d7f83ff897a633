"""The exact commands that made what a page shows, from the folders in which they are kept."""

import json
from pathlib import Path

from palate.data.samples import Samples
from palate.evaluation.results import Comparison
from palate.evaluation.scores import score_commands
from palate.reports.parts import Page, Row
from palate.reports.public import public_command


def evaluation_commands(comparison: Comparison) -> list[str]:
    """What sampled, scored and compared, in this order, each command once; none of folders of an older palate."""
    everyone = [model.samples for model in comparison.models]
    sampled = [samples.origin.get("command", "") for samples in (*everyone[1:], everyone[0])]
    scored = [command for samples in (*everyone[1:], everyone[0]) for command in _scored(samples)]
    stored = [
        _compared(model.path / name) for model in comparison.rows for name in ("compare.json", "compare-votes.json")
    ]
    return _each_once([*sampled, *scored, *stored])


def commands_of(page: Page, row: Row | None = None) -> list[str]:
    """All commands of a page for everybody, from training to the page itself; of one model's training alone with
    `row`."""
    trained = [one.command for one in ([row] if row else page.rows)]
    return _each_once([public_command(command) for command in (*trained, *page.commands, page.command)])


def _scored(samples: Samples) -> list[str]:
    return [one.get("command", "") for one in score_commands(samples.folder).values()]


def _compared(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("command", ""))
    except (OSError, ValueError, AttributeError):  # none yet, or not what palate wrote: the page can do without
        return ""


def _each_once(commands: list[str]) -> list[str]:
    return list(dict.fromkeys(command for command in commands if command))
