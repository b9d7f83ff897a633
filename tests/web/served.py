"""A labelling server, in a process of its own as a user starts it or in this one, and clients that vote."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import httpx2
from fastapi.testclient import TestClient

from palate.data.dataset import PreferenceDataset
from palate.data.store import Settings, open_store
from palate.web.pictures import Pictures
from palate.web.plan import dataset_key, prepare_known, prepare_plan
from palate.web.server import Labelling, make_app
from palate.web.tokens import load_secret, make_token

VERB = [sys.executable, "-c", "from palate.cli import main; main()"]


@dataclass
class Server:
    """A running `palate label`."""

    process: subprocess.Popen
    address: str
    links: dict[str, str]
    log: Path

    def token(self, name: str) -> str:
        return self.links[name].partition("#")[2]

    def client(self, name: str) -> httpx2.Client:
        return httpx2.Client(base_url=self.address, headers={"authorization": f"Bearer {self.token(name)}"}, timeout=20)

    def kill(self, sign: int = signal.SIGKILL) -> None:
        self.process.send_signal(sign)
        self.process.wait(30)


def start(dataset: Path, *options: str, log: Path, seconds: float = 180) -> Server:
    """Start `palate label DATASET` and wait until it has printed its links."""
    with open(log, "a") as out:
        process = subprocess.Popen(
            [*VERB, "label", str(dataset), "--no-browser", "--rate", "100000", *options],
            stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    begin = log.stat().st_size
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        said = log.read_text()[-4000:]
        told = said[said.rfind("label: votes in") :]
        links = dict(re.findall(r"^  (\S+)\s+(http\S+)$", told, re.M))
        if "every vote is already stored" in told and log.stat().st_size > begin:
            return Server(process, links["overview"].partition("/overview")[0], links, log)
        if process.poll() is not None:
            raise AssertionError(f"palate label ended: {said}")
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"palate label did not start: {log.read_text()[-2000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def new_id() -> str:
    return uuid.uuid4().hex


class People:
    """The application in this process, and a client for each person."""

    def __init__(self, dataset: PreferenceDataset, store: str | None = None, **settings):
        self.dataset = dataset
        self.engine = open_store(store or f"sqlite:///{dataset.path / 'votes.sqlite'}")
        rate, controls = settings.pop("rate", 1e6), settings.pop("controls", None)
        wanted = Settings(dataset_key(dataset), **{"budgets": (0,), "repeats": 0.0, "shared": 0.0} | settings)
        self.settings, self.counts = prepare_plan(self.engine, dataset, wanted)
        self.secret = load_secret(dataset.path)
        pictures = Pictures(dataset, set(dataset.pair_ids()))
        known = Pictures(controls, set(prepare_known(self.engine, dataset, controls)[0])) if controls else None
        labelling = Labelling(
            self.engine, self.settings, pictures, self.secret, ("ana", "bo"), "owner", known, rate=rate
        )
        self.app = make_app(labelling)

    def client(self, name: str = "ana", role: str = "rater", token: str | None = None) -> TestClient:
        token = make_token(self.secret, name, role) if token is None else token
        return TestClient(self.app, headers={"authorization": f"Bearer {token}"}, raise_server_exceptions=False)
