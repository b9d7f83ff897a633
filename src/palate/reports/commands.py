"""The exact commands that made what a page shows, from the folders in which they are kept."""

import json
from pathlib import Path
from typing import Any

from palate.evaluation.results import Comparison
from palate.evaluation.scores import score_commands
from palate.reports.parts import Page, Row, Typed
from palate.reports.public import public_command


def evaluation_commands(comparison: Comparison) -> list[Typed]:
    """What sampled, scored and compared, in this order, each command once; none of folders of an older palate."""
    everyone = [model.samples for model in comparison.models]
    sampled = [_typed(samples.origin) for samples in (*everyone[1:], everyone[0])]
    scored = [
        _typed(one) for samples in (*everyone[1:], everyone[0]) for one in score_commands(samples.folder).values()
    ]
    stored = [
        _compared(model.path / name) for model in comparison.rows for name in ("compare.json", "compare-votes.json")
    ]
    return _each_once([*sampled, *scored, *stored])


def commands_of(page: Page, row: Row | None = None) -> list[Typed]:
    """All commands of a page for everybody, from training to the page itself; of one model's training alone with
    `row`. Each is as it was typed in its folder, of which the name alone is told: paths in it are seen from there."""
    trained = [Typed(one.command, one.folder) for one in ([row] if row else page.rows)]
    everything = (*trained, *page.commands, Typed(page.command, page.folder))
    return _each_once([
        Typed(public_command(one.command, one.folder), Path(one.folder).name if one.folder else "")
        for one in everything
    ])  # fmt: skip


def _compared(path: Path) -> Typed:
    try:
        return _typed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):  # none yet, or not what palate wrote: the page can do without
        return Typed("")


def _typed(told: Any) -> Typed:
    told = told if isinstance(told, dict) else {}
    return Typed(str(told.get("command", "")), str(told.get("folder", "")))


def _each_once(commands: list[Typed]) -> list[Typed]:
    first = {one.command: one for one in reversed(commands) if one.command}
    return [first[command] for command in dict.fromkeys(one.command for one in commands if one.command)]
