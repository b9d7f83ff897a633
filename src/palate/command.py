"""The command that is stored beside what it made: the command line's, or this process's own; without passwords."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from palate.foreign import without_passwords

_GIVEN: ContextVar[str | None] = ContextVar("command", default=None)


@contextmanager
def said_as(command: str | Sequence[str]) -> Iterator[None]:
    """Inside the block, store this command (a line, or its words)."""
    line = command if isinstance(command, str) else shlex.join(command)
    token = _GIVEN.set(without_passwords(line))
    try:
        yield
    finally:
        _GIVEN.reset(token)


def given_command() -> str | None:
    """The command of the block that this runs in; None outside of any, as in a notebook."""
    return _GIVEN.get()


def command_line() -> str:
    """The command to store: the block's, else how this process was started."""
    return given_command() or without_passwords(shlex.join(sys.argv))
