"""Text that others wrote, made fit for a terminal, a log and a database: no control characters, no secrets.

A server, a file or a person may have put anything into it: sequences that recolour a terminal or turn text around,
the key that it was sent, a password in an address.
"""

import base64
import json
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit

HIDDEN = "***"
JOINERS = "\u200c\u200d"  # in emoji, Persian and the like: they move nothing
_USER = re.compile(r"(?<=://)[^/\s?#]*@")  # name:password@ of an address
_MOVES = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]")  # what a terminal takes for an order
_TELLING = 6  # so many characters of a secret in a row are taken for a part of it


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
    """`text` with name and password of every address in it hidden."""
    return _USER.sub(f"{HIDDEN}@", text)


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """`text` with every part of a secret hidden: also one that was cut, encoded, or has spaces and the like in it."""
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
    """The secrets in an address: its password, and name and password as they are sent."""
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
