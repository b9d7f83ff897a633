"""What the verbs share: options from arguments, with examples in the help, and one line for what is wrong with them."""

import contextlib
import io
import re
from dataclasses import fields
from typing import Any, TypeVar

import tyro

from palate.errors import PalateError, did_you_mean

T = TypeVar("T")


def parse(kind: type[T], argv: list[str], verb: str, description: str) -> T:
    """The options of a verb from its arguments; `--help` prints the description with its examples, and every option.

    Raises PalateError, in one line, for an option that there is none of, a value that is not one of those that it
    takes, and what is missing.
    """
    _refuse_unknown(kind, argv, verb)
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(
                kind,
                args=argv,
                prog=f"palate {verb}",
                description=description,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise PalateError(f"{verb}: {_one_line(told.getvalue())} `palate {verb} --help` shows an example.") from None


def _refuse_unknown(kind: type[Any], argv: list[str], verb: str) -> None:
    names = [f"--{field.name.replace('_', '-')}" for field in fields(kind)]
    known = {"--help", *names, *(f"--no-{name.removeprefix('--')}" for name in names)}
    for argument in argv[: argv.index("--") if "--" in argv else None]:
        option = argument.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option not in known and not option.startswith("--tyro-"):
            raise PalateError(f"{verb}: there is no option {option!r}{did_you_mean(option, sorted(known))}")


def _one_line(box: str) -> str:
    """What a parser says in a box of several lines, without its frame, its title and what it says of its help."""
    rows = [re.sub(r"\x1b\[[0-9;]*m", "", row).strip().strip("│|╭╮╰╯").strip() for row in box.splitlines()]
    text = " ".join(row for row in rows if not re.fullmatch(r"[─+\s-]*", row))
    text = re.split(r"(?:For full helptext|Argument helptext)", text)[0].strip()
    text = re.sub(r"Missing from [^:]*: ", "missing: ", text).replace("(required)", "").strip().rstrip(".")
    if choice := re.search(r"invalid choice '(.*?)' for argument '(.*?)'\. Expected one of \((.*?),?\)", text):
        given, name, allowed = choice[1], choice[2], [one for one in re.findall(r"'(.*?)'", choice[3]) if one != "None"]
        return f"{name}: {given!r} is not one of {', '.join(allowed)}{did_you_mean(given, allowed)}"
    if wrong := re.search(r"Error parsing (\S+): .* from \[(.*?)\]", text):
        return f"{wrong[1]}: {wrong[2]} is not a value that it takes."
    return " ".join(text.split()) + "."
