"""A vision-language model as a judge, behind any server that speaks OpenAI's chat protocol.

Each pair is asked in both orders. The probability that the picture shown first is preferred is read off the answer
token's log-probabilities, P(A) / (P(A) + P(B)), where the server gives them, and off repeated samples otherwise; with
first_01 and first_10 for the two orders the vote is (first_01 + 1 - first_10) / 2, which swapping the pictures mirrors
(derived; the published annotator's read-out is not known).
"""

import base64
import hashlib
import io
import math
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from palate.errors import PalateError
from palate.foreign import read_text
from palate.judges.base import Answer, Pair
from palate.judges.chat import Chat, Refused, Unanswered

READS = ("auto", "logprobs", "samples")
MARKS = ("{prompt}", "{first}", "{second}")
# a letter, and all that may stand around it
_SAID = re.compile(r"\W*(?:(?:the )?(?:answer|picture|image)(?: is)?)?\W*([AB])\W*", re.I)

# the probability that the picture shown first is preferred, or why it is not known; and what asking cost
_Said = tuple[float | None, str | None, dict[str, float]]


class VisionLanguageJudge:
    """`server` is the address up to and including /v1; `model` its name there (asked for, if it has just one).

    `template` is a text file with {prompt}, {first} and {second}, answered by A (first) or B; `read` says where the
    probability comes from; `samples` are asked for in each order where it comes from samples; pictures are sent as
    JPEG, the longer side at most `side` pixels. The key is read from the environment variable `key_from` and kept
    nowhere.
    """

    version = "1"

    def __init__(
        self, server: str = "http://127.0.0.1:8000/v1", model: str | None = None, template: str | None = None,
        read: str = "auto", samples: int = 8, side: int = 1024, concurrency: int = 8, timeout: float = 120.0,
        attempts: int = 6, patience: float = 60.0, key_from: str = "OPENAI_API_KEY", seed: int = 0,
    ):  # fmt: skip
        if read not in READS:
            raise PalateError(f"read: {read!r} is none of {', '.join(READS)}.")
        for name, value in (("samples", samples), ("side", side), ("concurrency", concurrency), ("attempts", attempts)):
            if value < 1:
                raise PalateError(f"{name}: {value}, but it must be at least 1.")
        self.template = load_template(template)
        self.chat = Chat(server, os.environ.get(key_from), concurrency, timeout, attempts, patience, key_from)
        self.model = model or self.chat.only_model()
        self.read, self.samples, self.side, self.seed, self.concurrency = read, samples, side, seed, concurrency
        self.batch_size = max(4 * concurrency, 16)
        self.annotator = f"vlm:{self.model}"
        self._by_logprobs = read != "samples"

    @cached_property
    def settings(self) -> dict:
        """All that the answers depend on. The server's address is not: the same model may move."""
        text = hashlib.sha256(self.template.encode()).hexdigest()[:16]
        return {"model": self.model, "template": text, "read": self.read, "samples": self.samples, "side": self.side,
                "seed": self.seed}  # fmt: skip

    def vote(self, pairs: list[Pair]) -> list[Answer]:
        """N Answers; one that could not be had carries the reason. score_0 is P(image 0) when it is shown first,
        score_1 that of image 1. Raises PalateError where no answer can be hoped for: a refused key, an unknown
        model."""
        self.chat.stopped.clear()
        with ThreadPoolExecutor(self.concurrency) as pool:
            jobs = [(pool.submit(self._first, pair), pool.submit(self._first, pair.swapped())) for pair in pairs]
            try:
                return [_answer(straight.result(), swapped.result()) for straight, swapped in jobs]
            except BaseException:  # a refused key, Ctrl-C: nothing more is asked
                self.chat.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _first(self, pair: Pair) -> _Said:
        usage: dict[str, float] = {}
        messages = [{"role": "user", "content": self._content(pair)}]
        try:
            if self._by_logprobs:
                first = self._ask_logprobs(messages, usage)
                if first is not None:
                    return first, None, usage
            return self._ask_samples(messages, usage), None, usage
        except Unanswered as error:
            return None, str(error), usage

    def _ask_logprobs(self, messages: list[dict], usage: dict[str, float]) -> float | None:
        """From one answer; None where this server gives no log-probabilities, which is then remembered."""
        body = {"model": self.model, "messages": messages, "max_tokens": 8, "temperature": 0, "logprobs": True,
                "top_logprobs": 20}  # fmt: skip
        try:
            choice = self.chat.complete(body, usage)
        except Refused as error:
            if self.read == "auto" and "logprob" in str(error).lower():
                self._by_logprobs = False
                return None
            raise
        tokens = ((choice.get("logprobs") or {}).get("content")) or []
        if not tokens:
            if self.read == "logprobs":
                raise Unanswered("the server gives no log-probabilities; use --set read=samples")
            self._by_logprobs = False
            return None
        first = first_of_logprobs(tokens)
        if first is None:
            raise Unanswered(f"answered {_shortened(text_of(choice))}, which is neither A nor B")
        return first

    def _ask_samples(self, messages: list[dict], usage: dict[str, float]) -> float:
        """(count of A + 1/2) / (count of A and B + 1): with few samples, never quite sure."""
        letters, other = [], ""
        for k in range(self.samples):
            body = {
                "model": self.model,
                "messages": messages,
                "max_tokens": 16,
                "temperature": 1,
                "seed": self.seed + k,
            }
            text = text_of(self.chat.complete(body, usage))
            if letter := letter_of(text):
                letters.append(letter)
            else:
                other = text
        if not letters:
            raise Unanswered(f"answered {_shortened(other)}, which is neither A nor B")
        return (letters.count("A") + 0.5) / (len(letters) + 1)

    def _content(self, pair: Pair) -> list[dict[str, Any]]:
        """The template with the prompt in its place, cut at the pictures."""
        parts = re.split(r"(\{first\}|\{second\})", self.template)
        shown = {"{first}": pair.image_0, "{second}": pair.image_1}
        content: list[dict[str, Any]] = []
        for part in parts:
            if part in shown:
                content.append({"type": "image_url", "image_url": {"url": data_url(shown[part], self.side)}})
            elif text := part.replace("{prompt}", pair.prompt).strip():
                content.append({"type": "text", "text": text})
        return content

    def __getstate__(self) -> dict:
        raise TypeError("a judge with a key is not sent anywhere; each worker makes its own")


def load_template(path: str | None) -> str:
    """The text of a template, palate's own where `path` is None. Raises PalateError where a mark is not there just
    once."""
    if path is None:
        return (files("palate.judges") / "templates" / "compare-1.txt").read_text(encoding="utf-8")
    try:
        text = read_text(Path(path).expanduser())
    except PalateError as error:
        raise PalateError(f"{path}: the template cannot be read ({error}) Give a text file.") from error
    wrong = [mark for mark in MARKS if text.count(mark) != 1]
    if wrong:
        raise PalateError(f"{path}: {wrong[0]} stands there {text.count(wrong[0])} times; a template has each of "
                          f"{', '.join(MARKS)} once.")  # fmt: skip
    return text


def first_of_logprobs(tokens: Iterable[dict]) -> float | None:
    """P(A) / (P(A) + P(B)) at the first token that answers; None where none does.

    `tokens` are the protocol's choices[].logprobs.content. Spellings of a letter ("A", " A", "a") are added up.
    """
    for token in tokens:
        if _letter(token.get("token")) is None:
            continue
        ways = {way["token"]: way["logprob"] for way in [*(token.get("top_logprobs") or []), token]}
        mass = {"A": 0.0, "B": 0.0}
        highest = max(logprob for way, logprob in ways.items() if _letter(way))
        for way, logprob in ways.items():
            if letter := _letter(way):
                mass[letter] += math.exp(logprob - highest)
        return mass["A"] / (mass["A"] + mass["B"])
    return None


def letter_of(text: str) -> str | None:
    """The letter that a reply consists of, "A" or "B"; None for a reply that says more, or something else."""
    found = _SAID.fullmatch(text.strip())
    return found[1].upper() if found else None


def text_of(choice: dict) -> str:
    """The text of a choice; some servers send null."""
    return str((choice.get("message") or {}).get("content") or "")


def data_url(image: Image.Image, side: int) -> str:
    """The picture as a JPEG in a URL, the longer side at most `side` pixels."""
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _letter(token: Any) -> str | None:
    # without spaces, which byte-pair tokens write as Ġ and SentencePiece as ▁
    bare = re.sub(r"[^A-Za-z]", "", str(token or ""))
    return bare.upper() if bare.upper() in ("A", "B") else None


def _answer(straight: _Said, swapped: _Said) -> Answer:
    """One answer of what was said in both orders."""
    (first_01, failure_01, usage_01), (first_10, failure_10, usage_10) = straight, swapped
    usage = {name: usage_01.get(name, 0) + usage_10.get(name, 0) for name in usage_01 | usage_10}
    if failure := failure_01 or failure_10:
        return Answer(failure=failure, usage=usage)
    return Answer((first_01 + 1 - first_10) / 2, first_01, first_10, usage=usage)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
