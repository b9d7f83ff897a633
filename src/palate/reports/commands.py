"""The exact commands that made a page's content, from the folders that store them."""

import json
from pathlib import Path
from typing import Any

from palate.evaluation.results import Comparison
from palate.evaluation.scores import score_commands
from palate.reports.parts import Page, Row, Typed
from palate.reports.public import public_command


def evaluation_commands(comparison: Comparison) -> list[Typed]:
    """The commands that sampled, scored and compared, in this order, each once. Older versions of palate stored
    none."""
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
    """All commands of a page in publishable form, from training to the page itself; with `row`, those of that model's
    training only. Paths are relative to the folder in which the command was typed; only that folder's name is given."""
    trained = [Typed(one.command, one.folder) for one in ([row] if row else page.rows)]
    everything = (*trained, *page.commands, Typed(page.command, page.folder))
    return _each_once([
        Typed(public_command(one.command, one.folder), Path(one.folder).name if one.folder else "")
        for one in everything
    ])  # fmt: skip


def _compared(path: Path) -> Typed:
    try:
        return _typed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):  # missing or damaged: the page works without it
        return Typed("")


def _typed(told: Any) -> Typed:
    told = told if isinstance(told, dict) else {}
    return Typed(str(told.get("command", "")), str(told.get("folder", "")))


def _each_once(commands: list[Typed]) -> list[Typed]:
    first = {one.command: one for one in reversed(commands) if one.command}
    return [first[command] for command in dict.fromkeys(one.command for one in commands if one.command)]
