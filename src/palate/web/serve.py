"""`palate label`: serves a page on which people vote on a dataset's pairs."""

import errno
import ipaddress
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa
import uvicorn

from palate.data.database import Unreachable, name_of
from palate.data.dataset import PreferenceDataset, open_dataset
from palate.data.known import save_known
from palate.data.questions import named_wording
from palate.data.schema import OVERALL, content_id
from palate.data.store import Settings, default_store, open_store, plan_rows, progress
from palate.errors import PalateError
from palate.foreign import printable
from palate.web.connections import BACKLOG, BoundedProtocol, most_connections
from palate.web.pictures import Pictures
from palate.web.plan import dataset_key, prepare_known, prepare_plan
from palate.web.server import Labelling, make_app
from palate.web.tokens import load_secret, make_token

OWNER = "owner"
LOOKED_AT = 8  # pairs whose pictures are read as a check before the page is served


@dataclass(frozen=True)
class Links:
    """The links that the owner hands out; each contains a token."""

    raters: dict[str, str]
    owner: str


def label(
    dataset: str | Path,
    *,
    budget: int = 0,
    raters: tuple[str, ...] = (),
    host: str = "127.0.0.1",
    port: int = 8484,
    store: str | None = None,
    select: str = "uniform",
    judges: tuple[str, ...] = (),
    repeats: float = 0.05,
    shared: float = 0.1,
    known: str | Path | None = None,
    known_share: float = 0.1,
    question: str | Sequence[str] = Settings.question,
    seed: int = 0,
    days: float = 30.0,
    rate: float = 20.0,
    public_url: str | None = None,
    browse: bool = True,
    until_done: bool = False,
) -> None:
    """Serve the labelling page of a dataset until interrupted, or with `until_done` until every pair that is to be
    shown has an answer. Each vote is stored in the live store at once.

    Raises PalateError, before anything is served, for an interface other than loopback without named raters, a port
    that is taken, a database that cannot be written, or a dataset with nothing to show.
    """
    _require_names(raters)
    if not raters and not _loopback(host):
        raise PalateError(
            f"--host {host}: others could reach the page, so say who may vote: --raters ana,bo prints a personal link"
            " each."
        )
    for name, value in (("repeats", repeats), ("shared", shared), ("known-share", known_share)):
        if not 0 <= value <= 0.5:
            raise PalateError(f"--{name} {value:g}: a share of the views, from 0 to 0.5.")
    data = open_dataset(dataset)
    people = raters or (_own_name(),)
    engine = open_store(store or default_store(dataset))
    wanted = _asking(question, Settings(
        dataset_key(data), (budget,), select, seed, repeats, shared, known_share if known else 0.0,
    ))  # fmt: skip
    settings, counts = prepare_plan(engine, data, wanted, judges)
    drawn = [row["pair_id"] for row in plan_rows(engine) if row["kind"] == "drawn"]
    pictures = _pictures(data, drawn)
    secret = load_secret(data.path)
    listening = _listen(host, port)
    controls = _controls(
        engine, data, known, settings
    )  # after the port is taken: another server of this store may have its own
    port = listening.getsockname()[1]
    links = make_links(secret, people, public_url or f"http://{_reachable(host)}:{port}")
    app = make_app(Labelling(engine, settings, pictures, secret, people, OWNER, controls, days, rate))
    _tell(engine, settings, counts, links, days)
    if browse and not raters:
        threading.Timer(1.0, webbrowser.open, [links.raters[people[0]]]).start()
    BoundedProtocol.most = most_connections()
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        backlog=BACKLOG,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    if until_done:
        threading.Thread(target=_end_when_done, args=(server, engine), daemon=True).start()
    with suppress(KeyboardInterrupt):  # uvicorn shuts down cleanly and then raises it again
        server.run(sockets=[listening])
    _farewell(engine, data)


def _end_when_done(server: uvicorn.Server, engine: sa.Engine) -> None:
    """Stop the server a moment after the last pair was answered, so that the page still hears that it was."""
    while not server.should_exit:
        time.sleep(1)
        with suppress(Unreachable):
            done = progress(engine)
            if done["answered"] >= done["pairs"]:
                time.sleep(3)
                server.should_exit = True


def make_links(secret: str, raters: tuple[str, ...], address: str) -> Links:
    """A personal link for each rater, and the overview's for the owner; the token comes after the #."""
    address = address.rstrip("/")
    return Links(
        {name: f"{address}/#{make_token(secret, name, 'rater')}" for name in raters},
        f"{address}/overview#{make_token(secret, OWNER, 'owner')}",
    )


def _require_names(raters: tuple[str, ...]) -> None:
    for name in raters:
        if not name.strip() or len(name) > 64 or not name.isprintable():
            raise PalateError(
                f"--raters: {name!r} is not a name. Write names of at most 64 letters, as in ana,bo,chen."
            )
        if name == OWNER:
            raise PalateError(f"--raters: {OWNER!r} is the name of the overview's link. Choose another.")
        if raters.count(name) > 1:
            raise PalateError(f"--raters: {name!r} is there twice. Everyone needs a name of their own.")


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _own_name() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user: a container
        return "me"


def _asking(given: str | Sequence[str], settings: Settings) -> Settings:
    """The settings with the questions that are asked. Raises PalateError for one that is empty, or named twice."""
    asked = [named_wording(one) for one in ([given] if isinstance(given, str) else given)]
    named = dict(asked)
    if len(named) < len(asked):
        raise PalateError(f"--question: {', '.join(name for name, _ in asked)} names one question twice.")
    if not named:
        raise PalateError("--question: give at least one, or leave it out.")
    if set(named) == {OVERALL}:
        wording = named[OVERALL]
        return replace(settings, question=wording, instruction_version=content_id("question", wording)[:12])
    return replace(settings, question=next(iter(named.values())), questions=named)


def _controls(
    engine: sa.Engine, data: PreferenceDataset, known: str | Path | None, settings: Settings
) -> Pictures | None:
    """The pictures of the pairs with a known answer; without `known`, no such pair is shown from now on."""
    if known is None:
        save_known(engine, [])
        return None
    controls = open_dataset(known)
    ids, left_out = prepare_known(engine, data, controls, settings.names[0])
    more = f"; {left_out:,} more are among the pairs to label" if left_out else ""
    print(f"label: {len(ids):,} pairs with a known answer from {known}{more}")
    return _pictures(controls, ids)


def _pictures(data: PreferenceDataset, pair_ids: list[str]) -> Pictures:
    """The pictures of these pairs. Raises PalateError, with the first reason, when no pair can be read."""
    pictures = Pictures(data, set(pair_ids))
    first: PalateError | None = None
    for pair_id in pair_ids[:LOOKED_AT]:
        try:
            pictures.picture(pair_id, "0"), pictures.picture(pair_id, "1")
            return pictures
        except PalateError as error:
            first = first or error
    raise PalateError(f"{data.path}: no pictures to show. {first} `palate info` counts what is lacking.")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise PalateError(f"--host {host}: not an address of this machine ({error.strerror}).") from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise PalateError(
                f"--port {port}: something runs there already, maybe another `palate label`. Give another."
            ) from error
        if error.errno == errno.EACCES:
            raise PalateError(f"--port {port}: not allowed. Give one above 1023.") from error
        raise PalateError(f"--host {host}: not an address of this machine ({error.strerror}).") from error
    return listening


def _reachable(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _tell(engine: sa.Engine, settings: Settings, counts: dict[str, int], links: Links, days: float) -> None:
    done = progress(engine)
    left_out = [
        f"{counts[name]:,} {what}"
        for name, what in (
            ("had votes", "people voted on before"),
            ("single images", "single images"),
            ("without pictures", "pairs without pictures"),
        )
        if counts[name]
    ]
    print(
        f"label: {counts['drawn']:,} of {counts['pairs']:,} pairs to show, {settings.select}, {done['answered']:,}"
        " answered" + (f"; left out: {', '.join(left_out)}" if left_out else "")
    )
    if counts["added since"] > 0:
        print(
            f"label: {counts['added since']:,} pairs were added since the plan was made and are not in it; "
            "give another --store to label them"
        )
    print(f"label: votes in {name_of(engine)}")
    for name, link in links.raters.items():
        print(printable(f"  {name:<12}{link}"))
    print(f"  {'overview':<12}{links.owner}")
    print(f"Links are personal, and work for {days:g} days. Ctrl-C stops; every vote is already stored.", flush=True)


def _farewell(engine: sa.Engine, data: PreferenceDataset) -> None:
    try:
        done = progress(engine)
    except Unreachable as error:
        print(f"palate: {error}", file=sys.stderr)
        return
    print(
        f"\nlabel: {done['answered']:,} of {done['pairs']:,} pairs are answered. Next: palate votes export {data.path}",
        flush=True,
    )
