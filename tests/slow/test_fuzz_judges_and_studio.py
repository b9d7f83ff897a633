"""Two thousand mutated answers of judge servers and files of Label Studio: each is a vote, a counted failure or one line."""

import copy
import json
import math
import random
import shutil
import socketserver
import threading
from collections import Counter

import pytest
from judges.raw_server import chat_answer, http, token
from PIL import Image
from tiny import make_labelled_dataset

from palate.data.dataset import open_dataset
from palate.errors import PalateError
from palate.judges.base import Pair
from palate.judges.replies import Malformed, answer_of, first_of_logprobs, read_reply
from palate.judges.vlm import VisionLanguageJudge
from palate.web.labelstudio import export_tasks, import_annotations

pytestmark = pytest.mark.slow
INPUTS = 2_000
ODD = [
    None, True, False, 0, -1, 1e308, -0.0, 10**400, math.nan, math.inf, "", "A", "a", " B", "Picture A is too dark. B", "\x1b[2J", "\ud800", "A" * 10_000,
    [], {}, [[]], [None], {"": None}, {"token": "A"}, "2026-13-45T00:00:00Z", "9999-12-31T23:59:59-14:00", "1e400", "<think>", "Answer: A",
]  # fmt: skip


def mutated(rng: random.Random, value):
    """`value` with one to three of its parts replaced, removed, doubled or moved."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return rng.choice(ODD)
        holder, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.6:
            holder[key] = copy.deepcopy(rng.choice(ODD))
        elif kind < 0.75:
            del holder[key]
        elif kind < 0.9 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            other, at = rng.choice(places)
            holder[key] = copy.deepcopy(other[at])
    return value


def _places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def as_bytes(rng: random.Random, value) -> bytes:
    data = bytearray(json.dumps(value).encode())
    if rng.random() < 0.25:  # cut, flipped, doubled
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            data[at : at + rng.randint(0, 8)] = rng.choice(
                [b"", b"\x00", b"\xff\xfe", b'"', b"[" * 2_000, b"{", bytes(data[:at][-20:])]
            )
    return bytes(data)


def answers(rng: random.Random):
    """Bodies of answers, half of them of a good one that was mutated, and what a strict reader may make of them."""
    ways = token("A", A=0.6, _A=0.1, B=0.2, _B=0.1)
    good = [
        json.loads(chat_answer("A", [ways, token("<|im_end|>")])), json.loads(chat_answer("Answer: B", [token("Answer"), token(":"), token(" B")])),
        json.loads(chat_answer("<think>a</think>\n\n**A**", None)), json.loads(chat_answer("I'm sorry, I can't judge a picture", [token("I")])),
    ]  # fmt: skip
    return lambda: as_bytes(rng, mutated(rng, rng.choice(good)))


def test_whatever_stands_in_a_body_is_a_probability_or_a_reason():
    rng = random.Random(14)
    body, seen = answers(rng), Counter()
    for _ in range(INPUTS):
        data = body()
        try:
            reply = read_reply(data)
        except Malformed:
            seen["malformed"] += 1
            continue
        letter, first = answer_of(reply), first_of_logprobs(reply)
        assert letter in ("A", "B", None) and (first is None or (letter and 0 <= first <= 1))
        assert all(type(n) is int and n >= 0 for n in reply.usage.values())
        seen["answer" if letter else "none"] += 1
    print(seen)
    assert min(seen[kind] for kind in ("malformed", "answer", "none")) > INPUTS / 50


def test_whatever_a_server_sends_every_pair_ends_and_no_trace_is_seen():
    """Bodies, heads and bytes, 500 of them, through the judge itself."""
    rng = random.Random(15)
    body, lock = answers(rng), threading.Lock()
    heads = [
        "X: y\r\n",
        "Retry-After: ²\r\n",
        "Retry-After: -1\r\n",
        "Content-Encoding: gzip\r\n",
        "Content-Type: text/html; charset=none\r\n",
        "",
    ]

    def one() -> bytes:
        with lock:
            sent = http(
                body(),
                rng.choice(["200 OK"] * 6 + ["429 Later", "500 Oh", "400 No", "302 There", "204 None"]),
                rng.choice(heads),
            )
            if rng.random() < 0.2:
                at = rng.randrange(len(sent))
                sent = sent[:at] + rng.choice([b"\x00", b"\r\n", b"\xff", b""]) + sent[at + rng.randint(0, 3) :]
            return sent

    class Handler(socketserver.StreamRequestHandler):
        timeout = 30

        def handle(self):
            length = 0
            while (line := self.rfile.readline(65536)) not in (b"\r\n", b""):
                length = int(line.split(b":")[1]) if line.lower().startswith(b"content-length") else length
            self.rfile.read(length)
            self.wfile.write(one())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address = True, True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        judge = VisionLanguageJudge(
            f"http://127.0.0.1:{server.server_address[1]}/v1",
            model="m",
            attempts=1,
            timeout=20.0,
            concurrency=4,
            samples=2,
        )
        image = Image.new("RGB", (8, 8))
        said = [a for _ in range(5) for a in judge.vote([Pair(f"p{i}", "x", image, image) for i in range(50)])]
        server.shutdown()
    assert len(said) == 250 and all((a.probability is None) != (a.failure is None) for a in said)
    assert all(0 <= a.probability <= 1 for a in said if a.failure is None)
    assert sum(a.failure is not None for a in said) > 50


def test_whatever_stands_in_a_file_of_label_studio_the_dataset_stays_whole(tmp_path):
    dataset = make_labelled_dataset(tmp_path / "data", pairs=6, labelled=6)
    file = tmp_path / "tasks.json"
    export_tasks(dataset, file)
    good, rng, seen = json.loads(file.read_text()), random.Random(16), Counter()
    for task in good:
        for annotation in task["annotations"]:
            annotation |= {"import_id": annotation["id"], "unique_id": None, "completed_by": 3}
    for n in range(INPUTS):
        if n % 50 == 0:  # votes are never removed: a new copy keeps it small
            dataset.validate()
            shutil.copytree(tmp_path / "data", tmp_path / f"copy{n}")
            dataset = open_dataset(tmp_path / f"copy{n}")
        tasks = mutated(rng, good[: rng.randint(1, 6)])
        file.write_bytes(as_bytes(rng, tasks))
        before = dataset.votes().num_rows
        try:
            done = import_annotations(dataset, file)
        except PalateError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            assert dataset.votes().num_rows == before
            seen["refused"] += 1
            continue
        assert dataset.votes().num_rows == before + done["added"]
        seen["read"] += 1
        seen["left out"] += bool(done["left out"])
    print(seen)
    dataset.validate()
    assert min(seen[kind] for kind in ("refused", "read", "left out")) > INPUTS / 50
