"""What a chat server answers, read strictly: the protocol's fields, and whether the reply is an answer A or B.

One parser for both routes. Only a reply that *is* an answer counts: the letter alone, in markdown, in JSON, in a short
sentence ("The better picture is B"), or on a last line "Answer: B"; before it may stand reasoning that ends in
</think>. A letter that is a word of a sentence, such as the article "a", is none.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from palate.foreign import one_line

LONGEST = 300  # characters of a line that may be an answer
LARGEST_COUNT = 2**53  # of tokens: beyond it no server counts

_MARKS = "*_`\"'“”‘’()[]{}#:.,!$\\|>=–—-"  # what may stand around a letter, beside spaces, and changes nothing
_AROUND = rf"[\s{re.escape(_MARKS)}]*"
_PICTURE = r"(?:picture|image|photo|option|candidate)"
_NAMED = (
    rf"(?:(?:so|thus|hence|therefore|my|the|final|correct|best|better|preferred|winning){_AROUND}\s)*"
    rf"(?:answer|choice|verdict|preference|decision|selection|winner|{_PICTURE})"
    rf"(?:\s+(?:is|would\s+be))?(?:{_AROUND}\s(?:the\s+)?{_PICTURE})?"
)
_CHOSEN = rf"i\s+(?:would\s+)?(?:prefer|choose|pick|select)(?:\s+(?:the\s+)?{_PICTURE})?"
_BETTER = rf"{_AROUND}\s(?:is|looks)\s+(?:the\s+)?(?:better|best|preferred|winner)(?:\s+(?:one|choice|{_PICTURE}))?"
_BOXED = r"boxed\s*\{?\s*(?:\\?text\s*\{?)?"
# forms of a whole reply, without the marks around it
_ALONE = re.compile(rf"(?:json\s{_AROUND})?(?i:{_NAMED}|{_CHOSEN}|{_BOXED})?{_AROUND}([AB])(?i:{_BETTER})?")
_SMALL = re.compile(rf"(?:(?i:(?:final\s+)?answer){_AROUND}[:=]{_AROUND})?([ab])")
_TAGGED = re.compile(rf"<(?i:answer|verdict|choice)>{_AROUND}([ABab]){_AROUND}</(?i:answer|verdict|choice)")
# forms of a last line
_LAST = re.compile(
    rf"(?i:(?:(?:so|thus|therefore|my|the|final|correct){_AROUND}\s)*(?:answer|verdict|choice)(?:{_AROUND}[:=]|\s+is\b)"
    rf"{_AROUND}(?:{_BOXED}|{_PICTURE}\s)?|{_BOXED}){_AROUND}([AB])"
)
_THOUGHT = re.compile(r".*(?:</(?:think|thinking|thought|reasoning)>|◁/think▷)", re.S | re.I)
_THINKS = re.compile(r"\s*(?:<(?:think|thinking|thought|reasoning)>|◁think▷)", re.I)


class Malformed(ValueError):
    """Not an answer of the protocol."""


@dataclass(frozen=True)
class Token:
    """A token of a reply, and how likely it and others were at its place: text -> log-probability."""

    text: str
    ways: Mapping[str, float]


@dataclass(frozen=True)
class Reply:
    """The first choice of an answer."""

    text: str
    tokens: tuple[Token, ...] = ()  # empty: the server gives no log-probabilities
    cut: bool = False  # it ended because of the limit of tokens
    refusal: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)


def read_reply(body: bytes) -> Reply:
    """The reply in the body of an answer. Raises Malformed for anything that is not of the protocol."""
    try:
        answer = json.loads(body)
        choice = answer["choices"][0]
        message = choice["message"]
        text = _text(message["content"])
        tokens = _tokens(choice.get("logprobs"))
        refusal = message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Malformed("an answer that is not of the protocol") from error
    cut = choice.get("finish_reason") == "length"
    return Reply(text, tokens, cut, refusal if isinstance(refusal, str) else "", _usage(answer.get("usage")))


def read_models(body: bytes) -> list[str]:
    """The names in a list of models. Raises Malformed for anything else."""
    try:
        names = [model["id"] for model in json.loads(body)["data"]]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Malformed("an answer that is not of the protocol") from error
    if not all(isinstance(name, str) for name in names):
        raise Malformed("an answer that is not of the protocol")
    return names


def letter_of(text: str) -> str | None:
    """The answer that a reply is, "A" or "B"; None for a reply that says more, or something else."""
    found = _found(text)
    return found[0].upper() if found else None


def answer_of(reply: Reply) -> str | None:
    """The answer that a reply is; None too where it was cut, so that nobody knows what it would have been."""
    return None if reply.cut or reply.refusal else letter_of(reply.text)


def first_of_logprobs(reply: Reply) -> float | None:
    """P(A) / (P(A) + P(B)) at the token that is the answer; None where the reply is none, or its letter no token.

    Spellings of a letter ("A", " A", "**A") are added up; small letters count only where the answer is one.
    """
    found = None if answer_of(reply) is None else _found(reply.text)
    token = _token_at(reply, found[1]) if found else None
    if found is None or token is None or _bare(token.text) != found[0]:
        return None
    pair = ("A", "B") if found[0].isupper() else ("a", "b")
    ways = [(pair.index(_bare(text)), logprob) for text, logprob in token.ways.items() if _bare(text) in pair]
    highest = max(logprob for _, logprob in ways)
    if highest == -math.inf:
        return None
    mass = [0.0, 0.0]
    for which, logprob in ways:
        mass[which] += math.exp(logprob - highest)
    return mass[0] / (mass[0] + mass[1])


def why_none(reply: Reply, text: str, limit: int) -> str:
    """Why a reply is no answer; `text` is what of it may be told."""
    if reply.refusal:
        return f"the model refused: {one_line(text, 100)!r}"
    if reply.cut:
        return f"cut at max_tokens={limit}, after {one_line(text, 60)!r}; --set max_tokens={8 * limit} allows more"
    if answer_of(reply):
        return f"answered {one_line(text, 60)!r}, but the letter is no token of its own; use --set read=samples"
    return f"answered {one_line(text, 60)!r}, which is neither A nor B"


def _found(text: str) -> tuple[str, int] | None:
    """The letter that a reply is, as it is spelled, and its place in the text."""
    thought = _THOUGHT.match(text)
    begin = thought.end() if thought else 0
    if thought is None and _THINKS.match(text):
        return None  # reasoning that did not end
    if found := _as(text[begin:], begin, _ALONE, _SMALL, _TAGGED):
        return found
    said, at = [], begin
    lines = text[begin:].rstrip().splitlines(keepends=True)
    for number, line in enumerate(lines):
        if found := _as(line, at, _LAST, _TAGGED):
            said.append((*found, number))
        at += len(line)
    agree = len({letter.upper() for letter, _, _ in said}) == 1
    return said[-1][:2] if agree and said[-1][2] == len(lines) - 1 else None


def _as(text: str, begin: int, *forms: re.Pattern[str]) -> tuple[str, int] | None:
    """The letter and its place where the text, but for marks around it, has one of the forms; it begins at `begin`."""
    bare = text.strip(_MARKS + " \t\r\n")
    if not bare or len(bare) > LONGEST:
        return None
    begin += text.index(bare)
    for form in forms:
        if found := form.fullmatch(bare):
            return found[1], begin + found.start(1)
    return None


def _token_at(reply: Reply, place: int) -> Token | None:
    """The token that holds the character at `place` of the text; None where the tokens do not end in the text.

    Spaces are not compared, and tokens may begin earlier (reasoning) and end later (an end mark).
    """
    flat = "".join(reply.text.split())
    after = len("".join(reply.text[place:].split()))  # characters from the letter to the end
    said = [
        (character, token) for token in reply.tokens for character in _spelled(token.text) if not character.isspace()
    ]
    ends = len(said)
    for token in [*reversed(reply.tokens), None]:
        if ends >= len(flat) and "".join(character for character, _ in said[ends - len(flat) : ends]) == flat:
            return said[ends - after][1]
        if token is None or not re.fullmatch(r"\s*(<.*>|\[.*\])?\s*", token.text, re.S):
            return None
        ends -= len("".join(_spelled(token.text).split()))
    return None


def _spelled(token: str) -> str:
    """A token as text: byte-pair tokens write a space as Ġ and a line as Ċ, SentencePiece a space as ▁."""
    return token.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n")


def _bare(token: str) -> str:
    return re.sub(r"[^A-Za-z]", "", token)


def _text(content: Any) -> str:
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if content is not None and not isinstance(content, str):
        raise Malformed
    return content or ""


def _tokens(logprobs: Any) -> tuple[Token, ...]:
    return tuple(_token(one) for one in (logprobs or {}).get("content") or [])


def _token(one: Any) -> Token:
    ways = {way["token"]: float(way["logprob"]) for way in [*(one.get("top_logprobs") or []), one]}
    if not all(isinstance(text, str) and logprob < math.inf for text, logprob in ways.items()):  # NaN is not below
        raise Malformed
    return Token(one["token"], ways)


def _usage(usage: Any) -> dict[str, int]:
    """What the server says that it cost; numbers that cannot be are left out."""
    given = (
        {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")} if isinstance(usage, dict) else {}
    )
    return {name: count for name, count in given.items() if type(count) is int and 0 <= count < LARGEST_COUNT}
