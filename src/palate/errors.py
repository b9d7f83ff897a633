"""The one exception that reaches a user: a single line that says what is wrong, where, and what to do."""

import difflib
from collections.abc import Iterable

from palate.foreign import printable, without_passwords


class PalateError(Exception):
    """Bad input or a refused request. The command line prints it as one line and exits with 1; no stack trace.

    What it quotes of files and servers cannot move a terminal's cursor, and no address in it shows its password.
    """

    def __init__(self, line: str = ""):
        super().__init__(without_passwords(printable(line)))


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line for a message of ours; its class where it says nothing."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def did_you_mean(given: object, known: Iterable[object], otherwise: str = "", cutoff: float = 0.6) -> str:
    """The end of a sentence about a name that is not in a closed set: "; did you mean 'NAME'?" with the nearest one.

    Where none is near: "; `otherwise`", or nothing but a full stop without it.
    """
    names = {str(name).lower(): str(name) for name in known}
    near = difflib.get_close_matches(str(given).lower(), names, n=1, cutoff=cutoff)
    if near:
        return f"; did you mean {names[near[0]]!r}?"
    return f"; {otherwise}" if otherwise else "."
