"""One question to a chat server: bounded connections, retries with back-off, and an account of requests and tokens."""

import random
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

from palate.errors import PalateError

HOPELESS = {401: "the key is refused", 403: "access is refused", 404: "there is no such model or address"}
LATER = (408, 409, 425, 429)  # and every 5xx: worth another try


class Unanswered(Exception):
    """No answer to this question; the next one may be answered."""


class Refused(Unanswered):
    """The server does not take this question as it is, so asking again is of no use."""


class Chat:
    """A server at `address` (up to and including /v1). Safe to use from several threads."""

    def __init__(
        self, address: str, key: str | None, connections: int, timeout: float, attempts: int, patience: float,
        key_from: str = "OPENAI_API_KEY", wait: Callable[[float], object] | None = None,
    ):  # fmt: skip
        if not address.startswith(("http://", "https://")):
            raise PalateError(f"server: {address!r} is no address. Give one such as http://127.0.0.1:8000/v1.")
        self.address, self._key, self.key_from = address.rstrip("/"), key, key_from
        self.connections, self.timeout, self.attempts, self.patience = connections, timeout, attempts, patience
        self.stopped = threading.Event()  # set: ask nothing more, neither a question nor again
        self._wait = wait or self.stopped.wait

    def complete(self, body: dict[str, Any], usage: dict[str, float]) -> dict[str, Any]:
        """The first choice of the answer to `body`; adds what it cost to `usage`.

        Time-outs, broken connections, 408, 409, 425, 429, 5xx and answers that are not of the protocol are tried again,
        `attempts` times in all. Raises Unanswered then, Refused for any other 4xx, and PalateError where every other
        question would fare the same (401, 403, 404).
        """
        problem, asked = "", ""  # what went wrong the last time, and for how long the server asked to wait
        for attempt in range(self.attempts):
            if attempt:
                self._wait(self._pause(attempt, asked))
                usage["retries"] = usage.get("retries", 0) + 1
            if self.stopped.is_set():
                raise Unanswered("stopped")
            usage["requests"], asked = usage.get("requests", 0) + 1, ""
            try:
                response = self._client.post("/chat/completions", json=body)
            except self._httpx.TransportError as error:  # time-outs, refused and broken connections, half an answer
                problem = type(error).__name__
                continue
            if response.status_code in LATER or response.status_code >= 500:
                problem, asked = f"HTTP {response.status_code}", response.headers.get("retry-after", "")
                continue
            if response.status_code != 200:
                self._refuse(response.status_code, response.text)
            try:
                answer = response.json()
                choice = answer["choices"][0]
                _ = choice["message"]["content"]
            except (ValueError, LookupError, TypeError):
                problem = "an answer that is not of the protocol"
                continue
            for name in ("prompt_tokens", "completion_tokens"):
                usage[name] = usage.get(name, 0) + int((answer.get("usage") or {}).get(name) or 0)
            return choice
        raise Unanswered(f"no answer in {self.attempts} attempts (the last: {problem})")

    def only_model(self) -> str:
        """The one model of this server. Raises PalateError where there are several, or no answer."""
        try:
            response = self._client.get("/models")
            names = [model["id"] for model in response.json()["data"]]
        except (self._httpx.TransportError, ValueError, LookupError, TypeError) as error:
            raise PalateError(
                f"{self.address}: no list of models ({type(error).__name__}). Is the server running? "
                "Give its address with --server, or the model's name with --model."
            ) from error
        if len(names) != 1:
            raise PalateError(f"{self.address}: serves {', '.join(names) or 'no model'}. Choose one with --model.")
        return names[0]

    @cached_property
    def _httpx(self):
        try:
            import httpx
        except ImportError as error:
            raise PalateError("judge vlm: httpx is not installed. pip install 'palate[judges]'.") from error
        return httpx

    @cached_property
    def _client(self):
        limits = self._httpx.Limits(max_connections=self.connections, max_keepalive_connections=self.connections)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = self._httpx.Timeout(self.timeout, connect=min(self.timeout, 20.0), pool=None)
        return self._httpx.Client(base_url=self.address, headers=headers, limits=limits, timeout=timeout)

    def _refuse(self, status: int, text: str) -> None:
        said = " ".join(text.split())[:200]
        if status in HOPELESS:
            hint = f" Set the environment variable {self.key_from}." if status in (401, 403) else ""
            raise PalateError(f"{self.address}: {HOPELESS[status]} (HTTP {status}: {said}).{hint}")
        raise Refused(f"refused (HTTP {status}: {said})")

    def _pause(self, attempt: int, asked: str) -> float:
        """Seconds: what the server asks for, else 1, 2, 4, ..., at most `patience`, with half of it drawn."""
        if asked.replace(".", "", 1).isdigit():
            return min(float(asked), self.patience)
        return min(2.0 ** (attempt - 1), self.patience) * (0.5 + random.random() / 2)
