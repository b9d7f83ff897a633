"""The server is killed in the middle of its work, again and again: what it said was saved is there, once."""

import os
import random
import re
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import httpx2
import pytest
import sqlalchemy as sa
from data.conftest import encoded
from web.served import Server, free_port, new_id, start

from palate.data.dataset import PreferenceDataset
from palate.data.store import live_votes, open_store

RATERS = [f"r{i}" for i in range(8)]


class Rater(threading.Thread):
    """Somebody who votes as the page does: a vote is sent again until the server says that it is saved."""

    def __init__(self, name: str, address: str, token: str):
        super().__init__(daemon=True)
        self.rater, self.address, self.token = name, address, token
        self.acknowledged: dict[str, tuple[int, str]] = {}
        self.sent_again = 0
        self.refused: list[str] = []
        self.stop = threading.Event()

    def run(self) -> None:
        rng = random.Random(self.rater)
        with httpx2.Client(base_url=self.address, timeout=20) as client:  # one for all deaths: making it is slow
            client.headers["authorization"] = f"Bearer {self.token}"
            while not self.stop.is_set():
                try:
                    self.vote_on(client, rng)
                except httpx2.HTTPError:
                    time.sleep(0.1)

    def vote_on(self, client: httpx2.Client, rng: random.Random) -> None:
        while not self.stop.is_set():
            told = client.get("/api/views?count=3")
            if told.status_code != 200:
                time.sleep(0.05)
                continue
            for view in told.json()["views"]:
                given = {
                    "vote_id": new_id(),
                    "number": view["number"],
                    "answer": rng.choice(["left", "right", "tie", "skip"]),
                }
                if not self.send(client, given):
                    return
            if not told.json()["views"]:
                time.sleep(0.05)

    def send(self, client: httpx2.Client, given: dict) -> bool:
        """Send one vote until it is answered, through as many deaths of the server as it takes."""
        while True:
            try:
                answer = client.post("/api/votes", json=given)
                if answer.status_code == 200:
                    self.acknowledged[given["vote_id"]] = (given["number"], given["answer"])
                    return True
                if answer.status_code == 409:
                    self.refused.append(answer.text)
                    return True
            except httpx2.HTTPError:
                self.sent_again += 1
            if self.stop.is_set():
                return False  # never answered: may be stored or not
            time.sleep(0.05)


def killed_under_load(dataset: Path, store: str | None, kills: int, log: Path) -> None:
    port = free_port()
    options = ["--port", str(port), "--raters", ",".join(RATERS), "--repeats", "0.1", "--shared", "0.1"]
    options += ["--store", store] if store else []
    server: Server = start(dataset, *options, log=log)
    raters = [Rater(name, server.address, server.token(name)) for name in RATERS]
    for rater in raters:
        rater.start()
    rng, began = random.Random(0), time.monotonic()
    for _ in range(kills):
        before = sum(len(rater.acknowledged) for rater in raters)
        deadline = time.monotonic() + 60
        while sum(len(rater.acknowledged) for rater in raters) < before + 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))  # so that it dies at any place
        server.kill()
        server = start(dataset, *options, log=log)
    took = time.monotonic() - began
    time.sleep(0.3)
    for rater in raters:
        rater.stop.set()
    for rater in raters:
        rater.join(30)
        assert not rater.is_alive()
    server.kill()

    engine = open_store(store or f"sqlite:///{dataset / 'votes.sqlite'}")
    stored = live_votes(engine)
    engine.dispose()
    by_id = {vote["vote_id"]: vote for vote in stored}
    assert len(by_id) == len(stored)
    acknowledged = {vote_id: given for rater in raters for vote_id, given in rater.acknowledged.items()}
    again = sum(rater.sent_again for rater in raters)
    print(
        f"{kills} kills in {took:.0f} s: {len(acknowledged):,} votes acknowledged, sent again {again:,} times"
    )  # pytest -s
    assert len(acknowledged) >= 20 * kills
    assert acknowledged.keys() <= by_id.keys()  # none lost
    for vote_id, (number, answer) in acknowledged.items():
        vote = by_id[vote_id]
        meant = {"left": vote["order_shown"][0], "right": vote["order_shown"][1]}.get(answer, answer)
        assert (vote["number"], vote["choice"]) == (number, meant)
    assert len({(vote["rater"], vote["number"]) for vote in stored}) == len(stored)  # none doubled
    assert len(stored) - len(acknowledged) <= len(RATERS)  # at most the one that each was sending at the end
    once = [vote["pair_id"] for vote in stored if vote["slot"] == "first"]
    assert len(once) == len(set(once))
    assert not [line for rater in raters for line in rater.refused]
    assert again > 0  # the load was there when it died
    assert "Traceback" not in log.read_text()
    assert not re.search(re.escape(server.token("r0")), re.sub(r"^  .*$", "", log.read_text(), flags=re.M))


@pytest.fixture
def many(tmp_path: Path) -> Path:
    dataset = PreferenceDataset.create(tmp_path / "many", name="many")
    pictures = [encoded(i, (2, 2), "PNG") for i in range(2)]
    dataset.add_pairs(
        {"pair_id": f"p{i}", "prompt": "x", "image_0": pictures[0], "image_1": pictures[1]} for i in range(4_000)
    )
    return dataset.path


@pytest.fixture(scope="module")
def postgres():
    """The URL of a PostgreSQL server of its own, in a folder of its own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) if Path("/usr/lib/postgresql").is_dir() else []
    initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
    if initdb is None:
        pytest.skip("no PostgreSQL server here (Debian: apt-get install postgresql)")
    programs = Path(initdb).resolve().parent
    folder = Path(tempfile.mkdtemp(prefix="palate-pg-"))  # pytest's own folders are closed to the user postgres
    data, port, user = folder / "data", free_port(), None
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        user = "postgres"
        try:
            shutil.chown(folder, user)
        except LookupError:
            pytest.skip("running as root, and there is no user postgres to run PostgreSQL as")
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "user": user, "cwd": folder}
    try:
        subprocess.run([programs / "initdb", "-D", data, "-A", "trust", "-U", "palate", "--no-sync"], **quiet)
        where = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        subprocess.run(
            [programs / "pg_ctl", "-D", data, "-w", "-t", "60", "-l", folder / "log", "-o", where, "start"], **quiet
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"PostgreSQL did not start: {error}")
    yield f"postgresql://palate@127.0.0.1:{port}/postgres"
    subprocess.run([programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **quiet)
    shutil.rmtree(folder)


@pytest.fixture
def fresh(postgres):
    """PostgreSQL without the tables of another test."""
    engine = sa.create_engine(postgres.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        for table in ("meta", "plan", "views", "votes"):
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS palate_{table}")
    engine.dispose()
    return postgres


def test_no_vote_is_lost_or_doubled_when_the_server_is_killed_five_times(many, tmp_path):
    killed_under_load(many, None, 5, tmp_path / "log")


def test_no_vote_is_lost_or_doubled_with_postgresql_when_the_server_is_killed_five_times(many, fresh, tmp_path):
    killed_under_load(many, fresh, 5, tmp_path / "log")


@pytest.mark.slow
def test_no_vote_is_lost_or_doubled_when_the_server_is_killed_fifty_times(many, tmp_path):
    killed_under_load(many, None, 50, tmp_path / "log")


@pytest.mark.slow
def test_no_vote_is_lost_or_doubled_with_postgresql_when_the_server_is_killed_fifty_times(many, fresh, tmp_path):
    killed_under_load(many, fresh, 50, tmp_path / "log")
