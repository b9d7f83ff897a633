"""Connections that end: a request that is not sent whole in time, an answer that nobody reads, and one too many."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

RESERVE = 256  # descriptors for the database, pictures, and connections that are just being refused
MOST = 1024
BACKLOG = 64  # connections accepted at once
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\nconnection: close\r\n"
    b'content-length: 60\r\n\r\n{"error": "too many people at once. Wait, and reload page."}'
)


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol for one connection, with limits that it lacks; all of them together are at most `most`."""

    most = MOST
    seconds = 20.0  # for a request, from the first moment that it may come to its last byte
    reading_seconds = 60.0  # for a client that takes no more of an answer

    def __init__(self, *arguments: Any, **more: Any):
        super().__init__(*arguments, **more)
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(FULL)
            transport.close()
        else:
            self._watch()

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._late, self._unread = _end(self._late), _end(self._unread)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(self.reading_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread = _end(self._unread)

    def _watch(self) -> None:
        """Time runs while a request is awaited or half sent, however often a byte comes."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY) or self.transport.is_closing():
            self._late = _end(self._late)
        elif self._late is None:
            self._late = self.loop.call_later(self.seconds, self.transport.abort)


def most_connections() -> int:
    """How many connections are served at once: fewer than this process may hold files open."""
    try:
        import resource
    except ImportError:  # Windows, where the limit is another one
        return MOST // 2
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(16, min(MOST, soft - RESERVE))


def _end(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Stop a timer; gives what stands in its place, which is none."""
    if timer is not None:
        timer.cancel()
    return None
