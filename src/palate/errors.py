"""The one exception that reaches a user: a single line that says what is wrong, where, and what to do."""


class PalateError(Exception):
    """Bad input or a refused request. The command line prints it as one line and exits with 1; no stack trace."""


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line for a message of ours; its class where it says nothing."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
