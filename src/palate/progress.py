"""The progress of all long work, on stderr: a bar on a terminal, removed when done; elsewhere (a batch system's log,
CI, nohup) lines, every 30 seconds or 5 %."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY, SHARE = 30.0, 0.05  # seconds, and share of the whole, after which there is another line
SOONEST = 10.0  # seconds between two lines, so that quick work prints none


class Advance(Protocol):
    """Advances the progress by `count`; `told` is shown beside it, such as "loss 0.693"."""

    def __call__(self, count: int, told: str = "", /) -> None: ...


@contextmanager
def progress_bar(
    description: str, total: int, done: int = 0, unit: str = "", counted: bool = True
) -> Iterator[Advance]:
    """Show the progress of the block while it runs; gives a function that advances it by a count.

    `unit` is the name of one item where the time for one should be shown ("step"). Where items are not `counted`,
    because nobody knows how many there are, `total` stands for the whole and a percentage is shown. With several
    processes one prints.
    """
    console = Console(stderr=True)
    if os.environ.get("RANK", "0") != "0":
        yield lambda count, told="", /: None
    elif not console.is_terminal:
        lines = _Lines(description, total, done, unit, counted)
        yield lines.advance
        lines.finish()
    else:
        how_many = MofNCompleteColumn() if counted else TextColumn("{task.fields[told]}")
        columns = (TextColumn("{task.description}"), BarColumn(), how_many, TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(description, total=total, completed=done, told="")
            yield lambda count, told="", /: progress.update(task, advance=count, told=told)


class _Lines:
    """Progress as lines in a log, to be read later."""

    def __init__(self, description: str, total: int, done: int, unit: str, counted: bool):
        self.description, self.total, self.unit, self.counted = description, total, unit, counted
        self.first = self.done = self.last_done = done
        self.began = self.last = time.monotonic()

    def advance(self, count: int, told: str = "", /) -> None:
        self.done += count
        now = time.monotonic()
        apart = now - self.last
        due = apart >= EVERY or self.done - self.last_done >= SHARE * self.total
        if due and apart >= SOONEST and self.done < self.total:
            self._say(now, told)

    def finish(self) -> None:
        """A last line, where there was one before."""
        if self.last > self.began:
            of = f"{self.done:,} of {self.total:,}" if self.counted else "done"
            took = duration(time.monotonic() - self.began)
            print(f"{self.description}: {of}, in {took}", file=sys.stderr, flush=True)

    def _say(self, now: float, told: str) -> None:
        each = (now - self.began) / max(1, self.done - self.first)
        percent = f"{100 * self.done / max(1, self.total):.0f} %"
        share = f"{self.done:,} of {self.total:,} ({percent})" if self.counted else percent
        pace = f"{each:.3g} s a {self.unit}" if self.unit else ""
        left = f"{duration(each * (self.total - self.done))} left"
        parts = ", ".join(part for part in (share, told, pace, left) if part)
        print(f"{self.description}: {parts}", file=sys.stderr, flush=True)
        self.last, self.last_done = now, self.done


def duration(seconds: float) -> str:
    """For example "2.5 hours"; whole seconds below two minutes."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
