"""One question to a chat server: bounded connections, time and size, retries with back-off, an account of requests.

A server may send anything, as slowly as it likes, for ever: whatever it does costs one attempt of one question.
"""

import asyncio
import json
import math
import os
import random
import re
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from palate.errors import PalateError
from palate.foreign import one_line, secrets_of, without_secrets
from palate.judges.replies import Malformed, Reply, read_models, read_reply

HOPELESS = {401: "the key is refused", 403: "access is refused", 404: "there is no such model or address"}
LATER = (408, 409, 425, 429)  # and every 5xx: worth another try
LARGEST = 16 * 2**20  # bytes of an answer: log-probabilities of some ten thousand tokens of reasoning
LARGEST_NAME = 200  # characters of a model's name


class Unanswered(Exception):
    """No answer to this question; the next one may be answered."""


class Refused(Unanswered):
    """The server does not take this question as it is, so asking again is of no use."""


class Chat:
    """A server at `address` (up to and including /v1). Safe to use from several threads.

    `key_from` names the environment variable with the key; `timeout` bounds an attempt from its first byte to its last,
    in seconds. Raises PalateError for an address, or a key, that cannot be used.
    """

    def __init__(
        self, address: str, connections: int, timeout: float, attempts: int, patience: float,
        key_from: str = "OPENAI_API_KEY", wait: Callable[[float], object] | None = None,
    ):  # fmt: skip
        _require_address(address)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key_from):
            raise PalateError("key_from: not the name of an environment variable. Give its name, not the key itself.")
        self.address, self._key, self.key_from = address.rstrip("/"), os.environ.get(key_from), key_from
        if self._key and not (self._key.isascii() and self._key.isprintable() and self._key == self._key.strip()):
            raise PalateError(
                f"{key_from}: the key holds a character that no header can carry (a line break, a space at an end, "
                "a letter beyond ASCII). Set the environment variable anew."
            )
        self.connections, self.timeout, self.attempts, self.patience = connections, timeout, attempts, patience
        self.stopped = threading.Event()  # set: ask nothing more, neither a question nor again
        self._wait = wait or self.stopped.wait
        self._lock = threading.Lock()
        self._running: set[Future[Any]] = set()

    def complete(self, body: dict[str, Any], usage: dict[str, float]) -> Reply:
        """The reply to `body`; adds what it cost to `usage`.

        Time-outs, broken connections, 408, 409, 425, 429, 5xx and answers that are not of the protocol, or too large,
        are tried again, `attempts` times in all. Raises Unanswered then, Refused for any other status, and PalateError
        where every other question would fare the same (401, 403, 404).
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
                status, asked, answer = self._exchange("POST", "/chat/completions", json.dumps(body).encode())
                if status == 200:
                    reply = read_reply(answer)
                    for name, amount in reply.usage.items():
                        usage[name] = usage.get(name, 0) + amount
                    return reply
            except Unanswered as error:
                problem = str(error)
                continue
            except Malformed as error:
                problem = str(error)
                continue
            if status not in LATER and status < 500:
                self._refuse(status, answer)
            problem = f"HTTP {status}"
        raise Unanswered(f"no answer in {self.attempts} attempts (the last: {problem})")

    def only_model(self) -> str:
        """The one model of this server. Raises PalateError where there are several, or no answer."""
        try:
            _, _, answer = self._exchange("GET", "/models", None)
            names = read_models(answer)
        except (Unanswered, Malformed) as error:
            raise PalateError(
                f"{self.address}: no list of models ({error}). Is the server running? "
                "Give its address with --server, or the model's name with --model."
            ) from error
        if len(names) != 1:
            known = one_line(self.harmless(", ".join(names[:10])))
            raise PalateError(f"{self.address}: serves {known or 'no model'}. Choose one with --model.")
        name = names[0]
        if not name.strip() or len(name) > LARGEST_NAME or not name.isprintable() or name != self.harmless(name):
            raise PalateError(f"{self.address}: its model has no usable name. Give one with --model.")
        return name

    def harmless(self, text: str) -> str:
        """`text` of the server without anything of the key and of the address's password."""
        return without_secrets(text, [*([self._key] if self._key else []), *secrets_of(self.address)])

    def stop(self) -> None:
        """Ask nothing more, and wait for no answer that is on its way."""
        self.stopped.set()
        for running in list(self._running):
            running.cancel()

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, str, bytes]:
        """Status, retry-after and body of an answer. Raises Unanswered, with the kind of what went wrong."""
        with self._lock:  # made once, though several threads may ask for it first
            loop, client = self._loop, self._client
        running = asyncio.run_coroutine_threadsafe(self._asked(client, method, path, body), loop)
        self._running.add(running)
        try:
            return running.result()
        except TimeoutError as error:
            raise Unanswered(f"no whole answer in {self.timeout:g} s") from error
        except Exception as error:  # whatever bytes a server sends, and whoever trips over them
            raise Unanswered(str(error) if isinstance(error, _Unwanted) else type(error).__name__) from error
        finally:
            self._running.discard(running)

    async def _asked(self, client: Any, method: str, path: str, body: bytes | None) -> tuple[int, str, bytes]:
        data = bytearray()
        async with asyncio.timeout(self.timeout), client.stream(method, path, content=body) as response:
            encoding = response.headers.get("content-encoding", "identity")
            if encoding.lower() != "identity":  # a few bytes may become gigabytes
                raise _Unwanted("an answer that is compressed, though none was asked for")
            async for part in response.aiter_raw():
                data += part
                if len(data) > LARGEST:
                    raise _Unwanted(f"an answer of more than {LARGEST // 2**20} MiB")
            return response.status_code, response.headers.get("retry-after", ""), bytes(data)

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True, name="palate chat").start()
        weakref.finalize(self, loop.call_soon_threadsafe, loop.stop)
        return loop

    @cached_property
    def _client(self) -> Any:
        try:
            import httpx
        except ImportError as error:
            raise PalateError("judge vlm: httpx is not installed. pip install 'palate[judges]'.") from error
        limits = httpx.Limits(max_connections=self.connections, max_keepalive_connections=self.connections)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        headers |= {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        return httpx.AsyncClient(base_url=self.address, headers=headers, limits=limits, timeout=None)

    def _refuse(self, status: int, body: bytes) -> None:
        said = one_line(self.harmless(body[: 2**14].decode(errors="replace")))
        if status in HOPELESS:
            hint = f" Set the environment variable {self.key_from}." if status in (401, 403) else ""
            raise PalateError(f"{self.address}: {HOPELESS[status]} (HTTP {status}: {said}).{hint}")
        raise Refused(f"refused (HTTP {status}: {said})")

    def _pause(self, attempt: int, asked: str) -> float:
        """Seconds: what the server asks for, else 1, 2, 4, ..., at most `patience`, with half of it drawn."""
        try:
            seconds = float(asked)
        except ValueError:  # nothing, a date, anything
            seconds = math.nan
        if 0 <= seconds:
            return min(seconds, self.patience)
        return min(2.0 ** (attempt - 1), self.patience) * (0.5 + random.random() / 2)


class _Unwanted(Exception):
    """An answer that is not read to its end."""


def _require_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        usable = usable and not parts.query and not parts.fragment and address.isprintable() and " " not in address
    except ValueError:
        usable = False
    if not usable:
        raise PalateError(f"server: {address!r} is no address. Give one such as http://127.0.0.1:8000/v1.")
