"""Servers that send anything, slowly, for ever: each costs its own pair, and nothing of the key comes back."""

import base64
import gzip
import json
import sqlite3
import threading

import pytest
from judges.raw_server import RawServer, chat_answer, http, token
from PIL import Image
from tiny import refusal

from palate.cli.annotate import main
from palate.judges import chat
from palate.judges.annotate import annotate
from palate.judges.base import Pair
from palate.judges.vlm import VisionLanguageJudge

pytest.importorskip("httpx")
KEY = "sk-very-secret-0123456789"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def pair(first: float, second: float, prompt: str = "a red circle") -> Pair:
    images = [Image.new("RGB", (40, 30), (round(255 * level),) * 3) for level in (first, second)]
    return Pair("p", prompt, *images)


def judge(server: RawServer, **settings) -> VisionLanguageJudge:
    made = VisionLanguageJudge(server.address, **{"model": "m", "attempts": 1, "timeout": 20.0} | settings)
    made.chat._wait = lambda seconds: None
    return made


def dripping(*parts: bytes):
    """Sends the parts and then a byte now and then: no single wait is long, the whole never ends."""

    def answer(_):
        yield from parts
        while True:
            yield b"x"
            yield 0.05

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        dripping(b"HTTP/1.1 200 OK\r\nX-Odd: "),
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
        dripping(b"HTTP/1.1 429 Later\r\nContent-Length: 1000000\r\n\r\n"),
        dripping(b"HTTP/1.1 401 No\r\nContent-Length: 1000000\r\n\r\n"),
        lambda _: iter([60.0]),
    ],
    ids=["headers", "body", "429", "401", "silence"],
)
def test_an_answer_has_a_time_from_its_first_byte_to_its_last(answer):
    with RawServer(answer) as server:
        (said,) = judge(server, timeout=0.3).vote([pair(0.7, 0.4)])
    assert said.failure == "no answer in 1 attempts (the last: no whole answer in 0.3 s)"


def endless(_):
    yield CHUNKED
    while True:
        yield b"10000\r\n" + b" " * 65536 + b"\r\n"


def test_an_answer_has_a_size(monkeypatch):
    monkeypatch.setattr(chat, "LARGEST", 2**20)
    with RawServer(endless) as server:
        (said,) = judge(server).vote([pair(0.7, 0.4)])
    assert "an answer of more than 1 MiB" in said.failure


def test_a_compressed_answer_is_not_unpacked():
    bomb = gzip.compress(bytes(2**24))
    with RawServer(lambda _: [http(bomb, headers="Content-Encoding: gzip\r\n")]) as server:
        (said,) = judge(server).vote([pair(0.7, 0.4)])
        assert b"accept-encoding: identity" in server.requests[0].lower()
    assert "an answer that is compressed" in said.failure


@pytest.mark.parametrize(
    "odd",
    [
        http(b"[" * 10**5), http(b'{"choices": [{"message": {"content": 5}}]}'), http(b"\xff\xfe"), http(b"1" * 10**4), b"nothing like it\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 40_000 + b"\r\n", b"HTTP/1.1 999999999 Odd\r\n\r\n",
        CHUNKED + b"zz\r\n", b"HTTP/1.1 200 OK\r\nX\xff: \xff\r\nContent-Length: 2\r\n\r\n{}",
        http(b"{}", "429 Later", "Retry-After: \xc2\xb2\r\n"), http(b"", "429 Later", "Retry-After: " + "9" * 400 + "\r\n"),
        http(b"", "429 Later", "Retry-After: -1e5\r\n"), http(b"x", "302 There", "Location: http://127.0.0.1:1/v1\r\n"), http(b"", "204 None"),
        http(chat_answer("A", [{"token": "A", "logprob": None}])),
    ],
)  # fmt: skip
def test_whatever_a_server_sends_costs_its_own_pair_alone(odd):
    good = http(chat_answer("A", [token("A", A=0.8, B=0.2)]))
    with RawServer(lambda request: [odd] if b"strange" in request else [good]) as server:
        strange, well = judge(server, attempts=2).vote([pair(0.7, 0.4, "strange"), pair(0.7, 0.4)])
    assert strange.failure and strange.probability is None
    assert well.failure is None and well.score_0 == pytest.approx(0.8)


@pytest.mark.parametrize("key", ["sk-a\nX-Evil: 1", "sk-ü", " sk-a", "sk-a\n", "sk\x00a"])
def test_a_key_that_no_header_can_carry_is_one_line_at_once(key, monkeypatch):
    monkeypatch.setattr("os.environ", {"MY_KEY": key})
    line = refusal(lambda: VisionLanguageJudge("http://127.0.0.1:1/v1", model="m", key_from="MY_KEY"))
    assert line.startswith("MY_KEY: the key holds a character") and "sk" not in line


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8000",
        "http://",
        "http://[::1",
        "http://h:99999/v1",
        "http://h:x/v1",
        "http://h/v1?key=1",
        "http://a b/v1",
        "ftp://h/v1",
    ],
)
def test_an_address_that_is_none_is_one_line(address):
    assert "is no address" in refusal(lambda: VisionLanguageJudge(address, model="m"))


def test_the_key_itself_in_place_of_its_name_is_not_repeated():
    line = refusal(lambda: VisionLanguageJudge("http://127.0.0.1:1/v1", model="m", key_from=KEY))
    assert "not the name of an environment variable" in line and "secret" not in line


ECHOES = {
    "as it is": KEY, "upper": KEY.upper(), "a half": KEY[:14], "spaced": " ".join(KEY), "with controls": "\x1b[2J".join(KEY), "base64":
    base64.b64encode(KEY.encode()).decode(), "the password": "pass/word-77", "quoted": "pass%2Fword-77",
    "basic": base64.b64encode(b"ana:pass/word-77").decode(), "longer than a line": "y" * 195 + KEY,
}  # fmt: skip


def letters_in(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum() or c in "-/%")


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("how", ["400", "401", "200", "refusal"])
def test_no_part_of_key_or_password_comes_back_whatever_a_server_echoes(how, echo, dataset, capsys):
    bodies = {
        "400": http(f"bad {echo}".encode(), "400 Bad"), "401": http(json.dumps({"error": f"bad {echo}"}).encode(), "401 No"),
        "200": http(chat_answer(f"I got {echo}", [token("I")])),
        "refusal": http(chat_answer(None, message={"content": None, "refusal": f"not {echo}"})),
    }  # fmt: skip
    with RawServer(lambda _: [bodies[how]]) as server:
        address = server.address.replace("://", "://ana:pass%2Fword-77@")
        line = refusal(
            lambda: main(
                [str(dataset.path), "--judge", "vlm", "--server", address, "--model", "m", "--set", "attempts=1"]
            )
        )
        assert server.requests
    out = capsys.readouterr()
    told = line + out.out + out.err
    database = dataset.path / "judges" / "answers.sqlite"
    with sqlite3.connect(database) as opened:
        told += "".join(row[0] for row in opened.execute("SELECT answer FROM answers"))
    for secret in (KEY, KEY[:14], "pass/word", "pass%2Fword", base64.b64encode(KEY.encode()).decode(), ECHOES["basic"]):
        assert secret[:8].lower() not in letters_in(told)
    assert "\x1b" not in told and ("***" in told or len(echo) > 200)
    for file in dataset.path.rglob("*"):
        assert file.is_dir() or (KEY.encode() not in file.read_bytes() and b"word-77" not in file.read_bytes())


@pytest.mark.parametrize("name", [KEY, "", "\x1b[2Jm", "m" * 10_000, "a\nb", 5, None])
def test_a_model_gets_no_name_that_is_none(name):
    with RawServer(lambda _: [http(json.dumps({"data": [{"id": name}]}).encode())]) as server:
        line = refusal(lambda: VisionLanguageJudge(server.address, attempts=1))
    assert "--model" in line and "secret" not in line and len(line) < 300 and line.isprintable()


def test_ctrl_c_waits_for_no_answer(dataset):
    asked = threading.Event()

    def silent(_):
        asked.set()
        yield 60.0

    with RawServer(silent) as server:
        voter = judge(server, timeout=60.0, concurrency=1)
        threading.Thread(target=lambda: (asked.wait(60), voter.chat.stop()), daemon=True).start()
        (said,) = voter.vote([pair(0.7, 0.4)])
    assert "no answer" in said.failure or said.failure == "stopped"


# replies that are no answers ------------------------------------------------------------------------------------------


def by_checksum(text_of, tokens=True):
    """A server that answers by what it is shown: `text_of(better letter)`."""
    import re
    import zlib

    def answer(request: bytes):
        content = json.loads(request.partition(b"\r\n\r\n")[2])["messages"][0]["content"]
        a, b = (zlib.crc32(part["image_url"]["url"].encode()) for part in content if part["type"] == "image_url")
        text = text_of("B" if a < b else "A", (a ^ b) % 2)
        parts = [token(part) for part in re.findall(r" ?[A-Za-z']+|\s+|[^A-Za-z\s]", text)]
        return [http(chat_answer(text, parts if tokens else None))]

    return answer


@pytest.mark.parametrize("tokens", [True, False])
def test_a_critic_that_names_the_worse_picture_first_is_never_read_as_its_reverse(tokens, dataset):
    with RawServer(
        by_checksum(lambda better, _: f"Picture {'AB'.replace(better, '')} is too dark. {better}", tokens)
    ) as server:
        line = refusal(
            lambda: annotate(dataset, "vlm", settings={"server": server.address, "model": "m", "samples": 1})
        )
    assert "which is neither A nor B" in line
    assert not any(vote["annotator_id"] == "vlm:m" for vote in dataset.votes().to_pylist())


@pytest.mark.parametrize("tokens", [True, False])
def test_refusals_are_counted_and_are_no_ties(tokens, dataset):
    sorry = "I'm sorry, I can't judge a picture of people"
    with RawServer(by_checksum(lambda better, odd: sorry if odd else better, tokens)) as server:
        report = annotate(dataset, "vlm", settings={"server": server.address, "model": "m", "samples": 1})
    assert report.failed + report.votes == 24 and report.failed > 3 and report.votes > 3
    assert report.choices["tie"] == 0 and sorry in report.first_failure


def test_a_server_that_was_repaired_is_asked_anew(dataset):
    settings = {"model": "m"}
    with RawServer(lambda _: [http(chat_answer("A", [token("A", A=0.7, B=0.3)]))]) as server:
        line = refusal(lambda: annotate(dataset, "vlm", settings=settings | {"server": server.address}))
        assert "gives all 24 pairs the same probability" in line and "asks anew" in line
    with RawServer(by_checksum(lambda better, _: better)) as server:
        report = annotate(dataset, "vlm", settings=settings | {"server": server.address})
        assert (report.judged, report.from_answers, report.votes, len(server.requests)) == (24, 0, 24, 48)


def test_again_asks_about_what_was_answered_and_not_about_what_was_voted_on(dataset):
    def command(server, *more):
        main([str(dataset.path), "--judge", "vlm", "--server", server.address, "--model", "m", "--limit", "12", *more])

    with RawServer(by_checksum(lambda better, _: better)) as server:
        command(server)
        assert len(server.requests) == 24
        command(server, "--name", "second")
        assert len(server.requests) == 24  # kept answers
        command(server, "--name", "third", "--again")
        assert len(server.requests) == 48
        before = dataset.votes().num_rows
        command(server, "--name", "third", "--again")
        assert len(server.requests) == 72 and dataset.votes().num_rows == before + 12  # the other 12 pairs


def test_limit_of_tokens_temperature_and_stop_are_sent_and_make_another_judge():
    with RawServer(lambda _: [http(chat_answer("A", [token("A")]))]) as server:
        plain = judge(server)
        voter = judge(server, max_tokens=4096, sampling_temperature=0.6, stop="\n")
        voter.vote([pair(0.7, 0.4)])
        body = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])
        assert (body["max_tokens"], body["temperature"], body["stop"]) == (4096, 0.6, ["\n"])
        assert plain.settings != voter.settings
        plain.vote([pair(0.7, 0.4)])
        body = json.loads(server.requests[-1].partition(b"\r\n\r\n")[2])
        assert (body["max_tokens"], body["temperature"]) == (16, 0) and "stop" not in body
        for wrong in ({"max_tokens": 1}, {"sampling_temperature": -1}, {"stop": ""}, {"timeout": 0}):
            assert next(iter(wrong)) in refusal(lambda wrong=wrong: judge(server, **wrong))
