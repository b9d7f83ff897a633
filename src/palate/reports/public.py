"""Texts for everybody: without places on somebody's machine, and without secrets."""

import re
import shlex

_HIDDEN = "…"
_SECRET_KEY = re.compile(r"(?i)(token|secret|passw|api[_-]?key|credential|human[_-]annotators)")
_SECRET = re.compile(r"\b(?:hf_|sk-|gh[opusr]_|github_pat_|xox[abp]-|AKIA)[\w-]{8,}|\beyJ[\w-]{10,}\.[\w.-]+")
_USER = re.compile(r"(?<=://)[^/\s@]+@")  # name:password@ of an address
_PLACE = re.compile(r"(?:\bfile:/*|(?<![\w./…])~?/(?!/)|(?<![\w])[A-Za-z]:[\\/](?!/))[^\s'\"`<>|,;()\[\]]+")


def public(text: str) -> str:
    """`text` with absolute paths cut to their last part, and without tokens, passwords and keys in known forms."""
    return _PLACE.sub(lambda found: _last(found[0]), _SECRET.sub(_HIDDEN, _USER.sub("", text)))


def public_command(command: str) -> str:
    """A command line for everybody: as `public`, and without the values of options and settings that name a secret or
    people."""
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
            out.append(_place(argument))
        hide = hide or (secret and not equals and argument.startswith("-"))
    return " ".join(argument if _HIDDEN in argument else shlex.quote(argument) for argument in out)


def _place(argument: str) -> str:
    """An argument that is a path, or ends in one after `key=`, with the path's last part; blanks may be in it."""
    name, equals, value = argument.rpartition("=")
    if re.match(r"~?/(?!/)|[A-Za-z]:[\\/](?!/)", value):
        return name + equals + _last(value)
    return public(argument)


def _last(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or _HIDDEN
