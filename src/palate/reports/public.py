"""Texts for everybody: without places on somebody's machine, and without secrets."""

import re
import shlex
from pathlib import Path

_HIDDEN = "…"
_SECRET_KEY = re.compile(r"(?i)(token|secret|passw|api[_-]?key|credential|human[_-]annotators)")
_SECRET = re.compile(r"\b(?:hf_|sk-|gh[opusr]_|github_pat_|xox[abp]-|AKIA)[\w-]{8,}|\beyJ[\w-]{10,}\.[\w.-]+")
_USER = re.compile(r"(?<=://)[^/\s@]+@")  # name:password@ of an address
_PLACE = re.compile(r"(?:\bfile:/*|(?<![\w./…])~?/(?!/)|(?<![\w])[A-Za-z]:[\\/](?!/))[^\s'\"`<>|,;()\[\]]+")


def public(text: str, folder: str = "") -> str:
    """`text` without tokens, passwords and keys in known forms, and with absolute paths as they are seen from `folder`
    where they lie in it, else cut to their last part."""
    return _PLACE.sub(lambda found: _seen(found[0], folder), _SECRET.sub(_HIDDEN, _USER.sub("", text)))


def public_command(command: str, folder: str = "") -> str:
    """A command line for everybody, to be run in `folder`, where it was typed: as `public`, and without the values of
    options and settings that name a secret or people."""
    try:
        arguments = shlex.split(command)
    except ValueError:  # not written by a shell's rules
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
    """An argument that is a path, or ends in one after `key=`, without the place on this machine; blanks may be in
    it."""
    name, equals, value = argument.rpartition("=")
    if re.match(r"~?/(?!/)|[A-Za-z]:[\\/](?!/)", value):
        return name + equals + _seen(value, folder)
    return public(argument, folder)


def _seen(path: str, folder: str) -> str:
    """An absolute path as it is seen from a folder that it lies in; its last part where it lies elsewhere."""
    if folder and Path(path).is_absolute() and Path(path).is_relative_to(folder):
        return Path(path).relative_to(folder).as_posix()
    return _last(path)


def _last(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or _HIDDEN
