"""Connections that somebody holds open end by themselves, and those who vote are served."""

import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import httpx2
import pytest
import uvicorn

from palate.web import connections
from palate.web.connections import BoundedProtocol, most_connections
from palate.web.serve import _listen

WAIT = 30  # seconds: a limit for slow machines, not a measurement


@contextmanager
def served(app, **limits):
    kind = type("Limited", (BoundedProtocol,), limits)
    listening = _listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, http=kind, ws="none", backlog=8, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield listening.getsockname()
    finally:
        server.should_exit = server.force_exit = True
        thread.join(WAIT)


def opened(address, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(address, timeout=WAIT)
    connection.sendall(sent)
    return connection


def answer(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    data = b""
    try:
        while more := connection.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data


@pytest.mark.parametrize(
    "half",
    [
        b"", b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST /api/votes HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n{",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT",
    ],
)  # fmt: skip
def test_a_request_that_is_half_sent_ends(people, half):
    with served(people.app, seconds=0.3) as address, opened(address, half) as connection:
        said = answer(connection)
        assert (b"200 OK" in said) == (b"\r\n\r\nGET" in half)


def test_a_request_that_is_sent_byte_by_byte_ends_too(people):
    with served(people.app, seconds=0.5) as address, opened(address) as connection:
        with pytest.raises(OSError):
            for byte in b"GET / HTTP/1.1\r\nX: " + b"y" * 10_000:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)


def test_an_answer_that_nobody_takes_ends(people):
    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
        done.set()

    done = threading.Event()
    with served(app, reading_seconds=0.3) as address, opened(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        assert done.wait(WAIT)  # what is sent into a connection that ended goes nowhere


def test_one_connection_too_many_is_told_so_and_there_is_room_again_when_others_end(people):
    with served(people.app, most=5, seconds=WAIT) as address:
        with ExitStack() as held:
            for _ in range(5):
                held.enter_context(opened(address))
            with opened(address) as connection:
                assert answer(connection).startswith(b"HTTP/1.1 503 ")
        deadline = time.monotonic() + WAIT
        while httpx2.get(f"http://127.0.0.1:{address[1]}/").status_code != 200:
            assert time.monotonic() < deadline


def test_those_who_take_their_time_between_requests_and_vote_are_served(people):
    with served(people.app, seconds=2.0) as address, httpx2.Client(base_url=f"http://127.0.0.1:{address[1]}") as client:
        client.headers["authorization"] = people.client().headers["authorization"]
        for _ in range(4):
            assert client.get("/api/session").status_code == 200
            time.sleep(0.6)


@pytest.mark.parametrize(("soft", "most"), [(1024, 768), (256, 16), (10**6, 1024), (-1, 1024)])
def test_there_are_fewer_connections_than_files_may_be_open(monkeypatch, soft, most):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert most_connections() == most and connections.BACKLOG * 3 < connections.RESERVE
