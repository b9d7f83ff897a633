"""The one exception that reaches a user: a single line that says what is wrong, where, and what to do."""


class PalateError(Exception):
    """Bad input or a refused request. The command line prints it as one line and exits with 1; no stack trace."""
