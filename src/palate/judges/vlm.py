"""A vision-language model as a judge, behind any server that speaks OpenAI's chat protocol.

Each pair is asked in both orders. The probability that the picture shown first is preferred comes from the answer
token's log-probabilities, P(A) / (P(A) + P(B)), if the server gives them, else from repeated samples. With first_01 and
first_10 for the two orders the vote is (first_01 + 1 - first_10) / 2, so swapping the pictures mirrors it (derived; how
the published annotator computes it is not known).
"""

import base64
import hashlib
import io
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from palate.errors import PalateError, did_you_mean
from palate.judges.base import Answer, Pair
from palate.judges.chat import Chat, Refused, Unanswered
from palate.judges.replies import Reply, answer_of, first_of_logprobs, why_none
from palate.reading import read_text

READS = ("auto", "logprobs", "samples")
QUESTION = "{question}"
MARKS = ("{prompt}", "{first}", "{second}")

# P(the picture shown first is preferred) or None, the reason if None, and what asking cost
_Said = tuple[float | None, str | None, dict[str, float]]


class VisionLanguageJudge:
    """`server` is the address up to and including /v1. `model` is the model's name there; when absent, the server's
    only model.

    `template` is a text file with {prompt}, {first} and {second}; the answer is A (first) or B. `question` is the
    sentence that stands for {question} in it; without a template, palate's own for one question alone. `read` says
    where the probability comes from; `samples` is the number of samples per order, if it comes from samples. Pictures
    are sent as JPEG, the longer side at most `side` pixels. A reply has at most `max_tokens` tokens, ends before the
    text `stop`, and is drawn at `sampling_temperature` (when absent, 0 for log-probabilities and 1 for samples). A
    reply that is not an answer (see `palate.judges.replies`) is a failure. An attempt takes at most `timeout` seconds.
    The key is read from the environment variable `key_from` and stored nowhere.
    """

    version = "2"

    def __init__(
        self, server: str = "http://127.0.0.1:8000/v1", model: str | None = None, template: str | None = None,
        read: str = "auto", samples: int = 8, side: int = 1024, concurrency: int = 8, timeout: float = 120.0,
        attempts: int = 6, patience: float = 60.0, key_from: str = "OPENAI_API_KEY", seed: int = 0,
        max_tokens: int = 16, sampling_temperature: float | None = None, stop: str | None = None,
        question: str | None = None,
    ):  # fmt: skip
        if read not in READS:
            raise PalateError(f"read: {read!r} is none of {', '.join(READS)}{did_you_mean(read, READS)}")
        for name, value in (("samples", samples), ("side", side), ("concurrency", concurrency), ("attempts", attempts)):
            if value < 1:
                raise PalateError(f"{name}: {value}, but it must be at least 1.")
        _require(max_tokens, sampling_temperature, stop, timeout)
        self.max_tokens, self.sampling_temperature, self.stop = max_tokens, sampling_temperature, stop
        self.template = load_template(template, question)
        self.chat = Chat(server, concurrency, timeout, attempts, patience, key_from)
        self.model = model or self.chat.only_model()
        self.read, self.samples, self.side, self.seed, self.concurrency = read, samples, side, seed, concurrency
        self.batch_size = max(4 * concurrency, 16)
        self.annotator = f"vlm:{self.model}"
        self._by_logprobs = read != "samples"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything the answers depend on. Not the server's address: the same model may move."""
        text = hashlib.sha256(self.template.encode()).hexdigest()[:16]
        return {"model": self.model, "template": text, "read": self.read, "samples": self.samples, "side": self.side,
                "seed": self.seed, "max_tokens": self.max_tokens, "sampling_temperature": self.sampling_temperature,
                "stop": self.stop}  # fmt: skip

    def vote(self, pairs: list[Pair]) -> list[Answer]:
        """N Answers; a failed one carries the reason. score_0 is P(image 0) when it is shown first, score_1 P(image 1)
        when it is. Raises PalateError if no question can succeed: a refused key, an unknown model."""
        self.chat.stopped.clear()
        with ThreadPoolExecutor(self.concurrency) as pool:
            jobs = [(pool.submit(self._first, pair), pool.submit(self._first, pair.swapped())) for pair in pairs]
            try:
                return [_answer(straight.result(), swapped.result()) for straight, swapped in jobs]
            except BaseException:  # a refused key, Ctrl-C: nothing more is asked
                self.chat.stop()
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

    def _ask_logprobs(self, messages: list[dict[str, Any]], usage: dict[str, float]) -> float | None:
        """From one reply; None if this server gives no log-probabilities, which is remembered."""
        asked = self._body(messages, 0) | {"logprobs": True, "top_logprobs": 20}
        try:
            reply = self.chat.complete(asked, usage)
        except Refused as error:
            if self.read == "auto" and "logprob" in str(error).lower():
                self._by_logprobs = False
                return None
            raise
        if not reply.tokens and reply.text:
            if self.read == "logprobs":
                raise Unanswered("the server gives no log-probabilities; use --set read=samples")
            self._by_logprobs = False
            return None
        first = first_of_logprobs(reply)
        if first is None:
            raise self._none(reply)
        return first

    def _ask_samples(self, messages: list[dict[str, Any]], usage: dict[str, float]) -> float:
        """(count of A + 1/2) / (count of A and B + 1): never 0 or 1, however few the samples."""
        letters: list[str] = []
        other = Reply("")
        for k in range(self.samples):
            reply = self.chat.complete(self._body(messages, 1) | {"seed": self.seed + k}, usage)
            if letter := answer_of(reply):
                letters.append(letter)
            else:
                other = reply
                usage["no_answer"] = usage.get("no_answer", 0) + 1
        if not letters:
            raise self._none(other)
        return (letters.count("A") + 0.5) / (len(letters) + 1)

    def _body(self, messages: list[dict[str, Any]], temperature: float) -> dict[str, Any]:
        if self.sampling_temperature is not None:
            temperature = self.sampling_temperature
        body = {"model": self.model, "messages": messages, "max_tokens": self.max_tokens, "temperature": temperature}
        return body if self.stop is None else body | {"stop": [self.stop]}

    def _none(self, reply: Reply) -> Unanswered:
        return Unanswered(why_none(reply, self.chat.harmless(reply.refusal or reply.text[:1000]), self.max_tokens))

    def _content(self, pair: Pair) -> list[dict[str, Any]]:
        """The template with the prompt filled in, split at the pictures."""
        parts = re.split(r"(\{first\}|\{second\})", self.template)
        shown = {"{first}": pair.image_0, "{second}": pair.image_1}
        content: list[dict[str, Any]] = []
        for part in parts:
            if part in shown:
                content.append({"type": "image_url", "image_url": {"url": data_url(shown[part], self.side)}})
            elif text := part.replace("{prompt}", pair.prompt).strip():
                content.append({"type": "text", "text": text})
        return content

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a judge with a key is not sent anywhere; each worker makes its own")


def load_template(path: str | None, question: str | None = None) -> str:
    """The text of a template, palate's own if `path` is None, with the sentence of a question in the place of
    {question}. Raises PalateError unless it has each of MARKS exactly once, and for a {question} that nobody named."""
    if path is None:
        name = "compare-1.txt" if question is None else "question-1.txt"
        text = (files("palate.judges") / "templates" / name).read_text(encoding="utf-8")
        return text.replace(QUESTION, question or "")
    try:
        text = read_text(Path(path).expanduser())
    except PalateError as error:
        raise PalateError(f"{path}: the template cannot be read ({error}) Give a text file.") from error
    wrong = [mark for mark in MARKS if text.count(mark) != 1]
    if wrong:
        raise PalateError(f"{path}: {wrong[0]} is there {text.count(wrong[0])} times; a template has each of "
                          f"{', '.join(MARKS)} once.")  # fmt: skip
    if question is None and QUESTION in text:
        raise PalateError(f"{path}: {QUESTION} stands for a question, and none is named. Give one with --question.")
    return text.replace(QUESTION, question or "")


def data_url(image: Image.Image, side: int) -> str:
    """The picture as a JPEG in a URL, the longer side at most `side` pixels."""
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _require(max_tokens: int, temperature: float | None, stop: str | None, timeout: float) -> None:
    if max_tokens < 2:
        raise PalateError(f"max_tokens: {max_tokens}, but at least 2 are needed: a reply that is cut is no answer.")
    if temperature is not None and not 0 <= temperature <= 2:
        raise PalateError(f"sampling_temperature: {temperature:g} is outside [0, 2].")
    if stop is not None and (not isinstance(stop, str) or not stop):
        raise PalateError(f"stop: {stop!r} is not text. Give what ends a reply, as in --set 'stop=\"\\n\"'.")
    if not 0 < timeout < float("inf"):
        raise PalateError(f"timeout: {timeout:g}, but it must be a positive number of seconds.")


def _answer(straight: _Said, swapped: _Said) -> Answer:
    """One answer from the replies in both orders."""
    (first_01, failure_01, usage_01), (first_10, failure_10, usage_10) = straight, swapped
    usage = {name: usage_01.get(name, 0) + usage_10.get(name, 0) for name in usage_01 | usage_10}
    if first_01 is None or first_10 is None:
        return Answer(failure=failure_01 or failure_10, usage=usage)
    return Answer((first_01 + 1 - first_10) / 2, first_01, first_10, usage=usage)
