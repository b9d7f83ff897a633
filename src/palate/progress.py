"""The progress of everything that takes long, on stderr: a bar on a terminal, gone when done; elsewhere (a batch
system's log, CI, nohup) lines, every 30 seconds or 5 %."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY, SHARE = 30.0, 0.05  # seconds, and share of the whole, after which there is another line
SOONEST = 10.0  # seconds between two lines: what is quick says nothing


class Advance(Protocol):
    """Moves the progress on by `count`; `told` is what a line says beside it, such as "loss 0.693"."""

    def __call__(self, count: int, told: str = "", /) -> None: ...


@contextmanager
def progress_bar(description: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
    """Show how far the block is while it runs; gives a function that advances it by so many.

    `unit` is what one of them is called where its time is worth saying ("step"). One of several processes tells.
    """
    console = Console(stderr=True)
    if os.environ.get("RANK", "0") != "0":
        yield lambda count, told="", /: None
    elif not console.is_terminal:
        lines = _Lines(description, total, done, unit)
        yield lines.advance
        lines.finish()
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(description, total=total, completed=done)
            yield lambda count, told="", /: progress.advance(task, count)


class _Lines:
    """Progress where nobody watches, but somebody reads later."""

    def __init__(self, description: str, total: int, done: int, unit: str):
        self.description, self.total, self.unit = description, total, unit
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
            print(
                f"{self.description}: {self.done:,} of {self.total:,}, in {duration(time.monotonic() - self.began)}",
                file=sys.stderr,
                flush=True,
            )

    def _say(self, now: float, told: str) -> None:
        each = (now - self.began) / max(1, self.done - self.first)
        share = f"{self.done:,} of {self.total:,} ({100 * self.done / max(1, self.total):.0f} %)"
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
