"""Text that others wrote, made fit for a terminal, a log and a database: no control characters, no secrets.

A server, a file or a person may have put anything into it: sequences that recolour a terminal or turn text around,
the key that it was sent, a password in an address.
"""

import base64
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

HIDDEN = "***"
JOINERS = "\u200c\u200d"  # needed in emoji, Persian and the like; they do not move the cursor
# name:password@ of an address; the password of one that nobody encoded may hold a slash
_USER = re.compile(r"(?<=://)(?:[^/\s?#]*@|[^/\s?#@:]+:(?!\d+[/?#])[^\s@]*@)")
_ASKED = re.compile(  # a value after ? or & that is a password, a token or a signature by its name
    r"(?i)(?<=[?&])((?:[\w.-]*(?:passw|pwd|secret|token|signature|credential|api[_-]?key)[\w.-]*|sig|key)=)[^&\s#'\"]+"
)
_MOVES = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]")  # a terminal's control sequence
_TELLING = 6  # this many characters of a secret in a row count as a part of it


def printable(text: str) -> str:
    """`text` with control, direction and unassigned characters written as escapes; lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def one_line(text: str, most: int = 200) -> str:
    """`text` on one printable line of at most `most` characters."""
    flat = printable(" ".join(text[: 10 * most].split()))
    return flat if len(flat) <= most else flat[: most - 3] + "..."


def without_passwords(text: str) -> str:
    """`text` with name and password of every address in it hidden, and what is secret by its name in a query."""
    return _ASKED.sub(rf"\g<1>{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))


def record_without_passwords(value: Any) -> Any:
    """A value for JSON with `without_passwords` for every text in it."""
    if isinstance(value, str):
        return without_passwords(value)
    if isinstance(value, Mapping):
        return {name: record_without_passwords(inner) for name, inner in value.items()}
    return [record_without_passwords(inner) for inner in value] if isinstance(value, list | tuple) else value


def storable(address: str) -> str:
    """An address as it may stand in a file: without its password, and without the name too where that can be a token
    (http, https); with secrets of a query hidden. Text that is no address stays as it is."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    user = _USER.match(address, len(scheme) + 3)
    name = user[0][:-1].partition(":")[0] if user and not scheme.lower().endswith(("http", "https")) else ""
    rest = address[user.end() :] if user else rest
    return _ASKED.sub(rf"\g<1>{HIDDEN}", f"{scheme}://{name}{'@' if name else ''}{rest}")


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """`text` with every part of a secret hidden: also a secret that was cut, encoded, or broken up by spaces."""
    moves = {i for found in _MOVES.finditer(text) for i in range(*found.span())}
    seen = [i for i, c in enumerate(text) if c.isprintable() and not c.isspace() and i not in moves]
    flat = "".join(text[i] for i in seen).lower()
    hide: set[int] = set()
    for form in {form for secret in secrets for form in _forms(secret)}:
        length = min(_TELLING, len(form))
        for start in range(len(form) - length + 1):
            part, at = form[start : start + length], -1
            while (at := flat.find(part, at + 1)) >= 0:
                hide.update(range(seen[at], seen[at + length - 1] + 1))
    return "".join(HIDDEN * (i - 1 not in hide) if i in hide else character for i, character in enumerate(text))


def secrets_of(address: str) -> list[str]:
    """The secrets in an address: its password, and "name:password" as a client sends it."""
    user, _, _ = urlsplit(address).netloc.rpartition("@")
    name, _, password = user.partition(":")
    if not password:
        return []
    return [password, unquote(password), base64.b64encode(unquote(f"{name}:{password}").encode()).decode()]


def _escaped(character: str) -> str:
    if character.isprintable() or character in "\n\t" or character in JOINERS:
        return character
    if unicodedata.category(character) == "Zs":  # spaces of other widths
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()


def _forms(secret: str) -> set[str]:
    """A secret as it may stand in an answer: as it is, in JSON, in an address, in base64."""
    base = base64.b64encode(secret.encode(errors="surrogatepass")).decode().rstrip("=")
    forms = {secret, json.dumps(secret)[1:-1], quote(secret, safe="", errors="surrogatepass"), base}
    return {"".join(form.split()).lower() for form in forms} - {""}
