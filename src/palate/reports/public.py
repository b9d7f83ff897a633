"""Makes texts publishable: no paths of this machine, no secrets."""

import re
import shlex
from pathlib import Path

from palate.foreign import HIDDEN, without_passwords

_HIDDEN = "…"
_SECRET_KEY = re.compile(r"(?i)(token|secret|passw|api[_-]?key|credential|human[_-]annotators)")
_SECRET = re.compile(r"\b(?:hf_|sk-|gh[opusr]_|github_pat_|xox[abp]-|AKIA)[\w-]{8,}|\beyJ[\w-]{10,}\.[\w.-]+")
_PLACE = re.compile(r"(?:\bfile:/*|(?<![\w./…])~?/(?!/)|(?<![\w])[A-Za-z]:[\\/](?!/))[^\s'\"`<>|,;()\[\]]+")


def public(text: str, folder: str = "") -> str:
    """`text` without tokens, passwords and keys in known forms. Absolute paths inside `folder` become relative to it;
    of all others only the last part stays."""
    return _PLACE.sub(
        lambda found: _seen(found[0], folder),
        _SECRET.sub(_HIDDEN, without_passwords(text).replace(f"://{HIDDEN}@", "://")),
    )


def public_command(command: str, folder: str = "") -> str:
    """A publishable command line, to be run in `folder`, where it was typed: as `public`, and without the values of
    options and settings that name a secret or people."""
    try:
        arguments = shlex.split(command)
    except ValueError:  # not valid shell syntax
        arguments = command.split()
    out, hide = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        secret = bool(_SECRET_KEY.search(name))
        hide = hide and not argument.startswith("-")
        if hide:
            out.append(_HIDDEN)
        elif equals and secret:
            out.append(f"{name}={_HIDDEN}")
        else:
            out.append(_place(argument, folder))
        hide = hide or (secret and not equals and argument.startswith("-"))
    return " ".join(argument if _HIDDEN in argument else shlex.quote(argument) for argument in out)


def _place(argument: str, folder: str) -> str:
    """An argument that is a path, or `key=` and a path, made publishable. The path may contain blanks."""
    name, equals, value = argument.rpartition("=")
    if re.match(r"~?/(?!/)|[A-Za-z]:[\\/](?!/)", value):
        return name + equals + _seen(value, folder)
    return public(argument, folder)


def _seen(path: str, folder: str) -> str:
    """An absolute path relative to `folder` if it is inside; otherwise its last part."""
    if folder and Path(path).is_absolute() and Path(path).is_relative_to(folder):
        return Path(path).relative_to(folder).as_posix()
    return _last(path)


def _last(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or _HIDDEN
