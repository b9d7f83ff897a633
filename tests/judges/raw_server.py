"""A server on loopback that sends whatever bytes it is told to, as slowly as it is told to."""

import json
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import closing, suppress

from judges.faulty_proxy import _read_message


class RawServer:
    """Answers every request with the parts that `answer(request)` gives; a number is a pause in seconds."""

    def __init__(self, answer: Callable[[bytes], Iterable[bytes | float]]):
        self.answer, self.requests, self.ended = answer, [], threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "RawServer":
        return self

    def __exit__(self, *_) -> None:
        self.ended.set()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with closing(client), suppress(OSError):
            while request := _read_message(client):
                self.requests.append(request)
                for part in self.answer(request):
                    if self.ended.is_set():
                        return
                    if isinstance(part, float):
                        self.ended.wait(part)
                    else:
                        client.sendall(part)


def http(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def chat_answer(text, tokens: list[dict] | None = None, **choice) -> bytes:
    """The body of a chat completion."""
    said = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}} | choice
    if tokens is not None:
        said["logprobs"] = {"content": tokens}
    return json.dumps({"choices": [said], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}).encode()


def token(text: str, **ways: float) -> dict:
    """A token with log-probabilities: its own, and those of other ways to go on, `_` for a space."""
    import math

    given = {way.replace("_", " "): math.log(p) for way, p in ways.items()} or {text: -0.02}
    top = [{"token": way, "logprob": logprob} for way, logprob in given.items()]
    return {"token": text, "logprob": given.get(text, -0.02), "top_logprobs": top}
