"""The server of the labelling page: static files, a few JSON calls, pictures. Every call but the files needs a token.

A vote is answered with `saved` only after its commit. A request's path is never used as a path on the disk: static
files are read at the start and known by name, and pictures are requested by the number of a person's own view.
"""

import re
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Annotated, Any, Literal, TypeAlias

import sqlalchemy as sa
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from palate.data.database import Unreachable
from palate.data.queue import open_views
from palate.data.store import Refused, Settings, View, latest_vote, progress, record_vote, view_of, withdraw_vote
from palate.errors import PalateError
from palate.web.overview import overview, self_agreement
from palate.web.pictures import Pictures
from palate.web.tokens import read_token

STATIC = {
    "/": ("label.html", "text/html; charset=utf-8"),
    "/overview": ("overview.html", "text/html; charset=utf-8"),
    "/label.js": ("label.js", "text/javascript; charset=utf-8"),
    "/overview.js": ("overview.js", "text/javascript; charset=utf-8"),
    "/label.css": ("label.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
LARGEST_BODY = 4096
WRONG_TOKENS_A_MINUTE = 20  # from one address
VOTE_ID = r"^[0-9a-f]{32}$"


@dataclass(frozen=True)
class Labelling:
    """What the server serves."""

    engine: sa.Engine
    settings: Settings
    pictures: Pictures
    secret: str
    raters: tuple[str, ...]
    owner: str
    controls: Pictures | None = None  # of the pairs with a known answer
    days: float = 30.0  # how long a link works
    rate: float = 20.0  # calls a second for each person, averaged over time; pictures count, bursts are allowed

    def pictures_of(self, view: View) -> Pictures:
        """The source of a view's prompt and pictures."""
        return self.controls if view.known and self.controls else self.pictures


@dataclass
class Buckets:
    """Token buckets: each name may call `rate` times a second, and `burst` times at once."""

    rate: float
    burst: float
    levels: dict[str, tuple[float, float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, who: str) -> bool:
        """True when `who` may call now."""
        now = time.monotonic()
        with self.lock:
            if len(self.levels) > 10_000:
                self.levels = {w: v for w, v in self.levels.items() if now - v[1] < self.burst / self.rate}
            level, since = self.levels.get(who, (self.burst, now))
            level = min(self.burst, level + (now - since) * self.rate)
            allowed = level >= 1
            self.levels[who] = (level - 1 if allowed else level, now)
            return allowed


class VoteIn(BaseModel):
    """A vote as the page sends it."""

    vote_id: str = Field(pattern=VOTE_ID)
    number: int = Field(ge=0, lt=2**31)
    answer: Literal["left", "right", "tie", "skip"]
    seconds: float | None = None


class Stop(Exception):
    """An answer other than 200: status and one line."""

    def __init__(self, status: int, line: str):
        super().__init__(line)
        self.status, self.line = status, line


def make_app(labelling: Labelling) -> FastAPI:
    """The application, ready for a server."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    engine, settings = labelling.engine, labelling.settings
    calls = Buckets(labelling.rate, 10 * labelling.rate)
    wrong = Buckets(WRONG_TOKENS_A_MINUTE / 60, WRONG_TOKENS_A_MINUTE)

    def who(request: Request) -> tuple[str, str]:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        address = request.client.host if request.client else "?"
        try:
            role, name = read_token(labelling.secret, token if kind.lower() == "bearer" else "", labelling.days)
        except PalateError as error:
            if not wrong.take(address):
                raise Stop(429, "too many wrong links from this address. Wait a minute.") from error
            raise Stop(401, str(error)) from error
        if name not in (*labelling.raters, labelling.owner):
            raise Stop(401, f"{name} is not among the people of this labelling any more. Ask for a new link.")
        if not calls.take(name):
            raise Stop(429, "too many calls at once. Wait a second.")
        return role, name

    def rater(person: Annotated[tuple[str, str], Depends(who)]) -> str:
        if person[0] != "rater":
            raise Stop(403, "this link is for the overview; votes need a rater's link.")
        return person[1]

    def owner(person: Annotated[tuple[str, str], Depends(who)]) -> str:
        if person[0] != "owner":
            raise Stop(403, "the overview needs the owner's link.")
        return person[1]

    Rater: TypeAlias = Annotated[str, Depends(rater)]
    Owner: TypeAlias = Annotated[str, Depends(owner)]

    @app.get("/api/session")
    def session(name: Rater) -> dict[str, Any]:
        return {"rater": name, "question": settings.question, "last": latest_vote(engine, name)}

    @app.get("/api/views")
    def views(name: Rater, count: int = 6) -> dict[str, Any]:
        found = open_views(engine, name, max(1, min(count, 50)), settings)
        shown = [
            {"number": view.number, "prompt": labelling.pictures_of(view).prompts.get(view.pair_id, "")}
            | ({"question": settings.wording(view.question)} if settings.questions else {})
            for view in found
        ]
        return {"views": shown, "progress": progress(engine, name), "with_self": self_agreement(engine, name)}

    @app.get("/api/pictures/{number}/{side}")
    def picture(name: Rater, number: int, side: Literal["left", "right"]) -> Response:
        view = view_of(engine, name, number) if 0 <= number < 2**31 else None
        if view is None:
            raise Stop(404, "this pair was not shown to you.")
        try:
            data, kind = labelling.pictures_of(view).picture(view.pair_id, view.order_shown[side == "right"])
        except PalateError as error:
            raise Stop(404, "this picture cannot be read. Skip the pair, and tell the owner.") from error
        return Response(data, media_type=kind, headers={"cache-control": "no-store"})

    @app.post("/api/votes")
    def vote(name: Rater, given: VoteIn) -> dict[str, Any]:
        new = record_vote(engine, given.vote_id, name, given.number, given.answer, given.seconds, settings)
        return {"saved": given.vote_id, "new": new}

    @app.post("/api/votes/{vote_id}/withdraw")
    def withdraw(name: Rater, vote_id: str) -> dict[str, Any]:
        if not re.fullmatch(VOTE_ID, vote_id):
            raise Stop(422, "not a vote_id.")
        withdraw_vote(engine, vote_id, name)
        return {"withdrawn": vote_id, "last": latest_vote(engine, name)}

    @app.get("/api/overview")
    def live(_: Owner) -> dict[str, Any]:
        return overview(engine, list(labelling.raters))

    for path, (name, kind) in STATIC.items():
        _serve_static(app, path, files("palate.web").joinpath("static", name).read_bytes(), kind)

    for error, answer in _ANSWERS.items():
        app.add_exception_handler(error, answer)
    app.add_middleware(Guarded)
    return app


def _serve_static(app: FastAPI, path: str, data: bytes, kind: str) -> None:
    def serve() -> Response:
        return Response(data, media_type=kind, headers={"cache-control": "no-cache"})

    app.get(path)(serve)


def _line(status: int, line: str) -> JSONResponse:
    return JSONResponse({"error": line}, status_code=status)


def _stopped(_: Request, stop: Exception) -> JSONResponse:
    assert isinstance(stop, Stop)
    return _line(stop.status, stop.line)


def _waiting(error: Exception) -> JSONResponse:
    """The database's error goes to the owner's terminal; a rater can only wait."""
    if _told.take(str(error)):
        print(f"palate: {error}", file=sys.stderr, flush=True)
    return _line(503, "the votes cannot be stored just now. They wait in this page.")


_told = Buckets(rate=1 / 60, burst=1)  # prints the same line at most once a minute
_ANSWERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response] | Response]] = {
    Stop: _stopped,
    Refused: lambda _, error: _line(409, str(error)),
    Unreachable: lambda _, error: _waiting(error),
    RequestValidationError: lambda _, error: _line(422, "not a vote as this page sends it."),
}


class Guarded:
    """Adds the security headers to every answer, and refuses bodies larger than any vote (pure ASGI)."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        body, more = b"", scope["method"] in ("POST", "PUT", "PATCH")
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > LARGEST_BODY:
                return await _line(413, "larger than any vote.")(scope, receive, sending)
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receiving() -> Message:
            return next(given, None) or await receive()

        return await self.app(scope, receiving, sending)
