"""The one exception that reaches a user: a single line that says what is wrong, where, and what to do."""

from palate.foreign import printable, without_passwords


class PalateError(Exception):
    """Bad input or a refused request. The command line prints it as one line and exits with 1; no stack trace.

    What it quotes of files and servers cannot move a terminal's cursor, and no address in it shows its password.
    """

    def __init__(self, line: str = ""):
        super().__init__(without_passwords(printable(line)))
