import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from judges.chat_server import brightness
from judges.faulty_proxy import FAULTS, FaultyProxy
from PIL import Image
from tiny import refusal

import palate
from palate.cli.annotate import main
from palate.data.dataset import open_dataset
from palate.data.questions import questions_of, read_rubric
from palate.judges.annotate import annotate
from palate.judges.base import Pair
from palate.judges.chat import Chat, Unanswered
from palate.judges.load import load_judge
from palate.judges.vlm import VisionLanguageJudge, data_url, load_template

pytest.importorskip("httpx")
PROMPT = "a red circle"


def start(mode: str):
    script = Path(__file__).with_name("chat_server.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, str(script), mode], stdout=subprocess.PIPE, text=True, env=environment)
    return process, int(process.stdout.readline())


def server_fixture(mode: str):
    @pytest.fixture(scope="module")
    def port():
        process, number = start(mode)
        yield number
        process.kill()
        process.wait()

    return port


bright, mute, llava = server_fixture("bright"), server_fixture("mute"), server_fixture("llava")


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def judge(port: int, **settings) -> VisionLanguageJudge:
    made = VisionLanguageJudge(f"http://127.0.0.1:{port}/v1", **settings)
    made.chat._wait = lambda seconds: None  # the tests do not sit out the back-off
    return made


def pair(first: float, second: float, prompt: str = PROMPT, name: str = "p") -> Pair:
    images = [Image.new("RGB", (40, 30), (round(255 * level),) * 3) for level in (first, second)]
    return Pair(name, prompt, *images)


def expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_probability_is_read_off_the_answer_token_in_both_orders(bright):
    (answer,) = judge(bright).vote([pair(0.7, 0.4)])
    levels = [round(255 * level) / 255 for level in (0.7, 0.4)]
    first = expit(6 * (levels[0] - levels[1]) + 1)  # image 0 shown first
    second = expit(6 * (levels[1] - levels[0]) + 1)  # image 1 shown first
    assert (answer.score_0, answer.score_1) == pytest.approx((first, second), abs=0.01)
    assert answer.probability == pytest.approx((first + 1 - second) / 2, abs=0.01)
    assert answer.usage == {"requests": 2, "prompt_tokens": 200, "completion_tokens": 2}


def test_swapping_the_pictures_mirrors_the_vote_though_the_model_favours_the_first_place(bright):
    pairs = [pair(a, b) for a, b in ((0.7, 0.4), (0.2, 0.3), (0.5, 0.5))]
    voter = judge(bright)
    for one, other in zip(voter.vote(pairs), voter.vote([p.swapped() for p in pairs]), strict=True):
        assert one.probability == pytest.approx(1 - other.probability, abs=1e-9)
        assert (one.score_0, one.score_1) == (other.score_1, other.score_0)
    assert voter.vote([pair(0.5, 0.5)])[0].probability == pytest.approx(0.5)


def test_without_log_probabilities_samples_are_counted_and_the_server_is_asked_for_them_only_once(mute):
    voter = judge(mute, model="bright", samples=20, concurrency=1)
    close, clear = answers = voter.vote([pair(0.6, 0.5), pair(0.9, 0.1)])
    assert [answer.usage["requests"] for answer in answers] == [1 + 2 * 20, 2 * 20]
    assert close.score_0 == pytest.approx(expit(1.6), abs=0.3) and close.score_1 == pytest.approx(expit(0.4), abs=0.35)
    assert clear.score_0 > 0.9 and clear.score_1 < 0.25 and clear.probability > 0.85
    counts = np.array([close.score_0, close.score_1, clear.score_0, clear.score_1]) * 21 - 0.5
    np.testing.assert_allclose(counts, counts.round(), atol=1e-9)  # (count of A + 1/2) / (n + 1)
    assert 0 < clear.score_0 < 1


@pytest.mark.slow
def test_a_real_architecture_behind_the_protocol_votes_on_every_pair(llava, dataset):
    report = annotate(dataset, "vlm", settings={"server": f"http://127.0.0.1:{llava}/v1", "concurrency": 2})
    votes = [v for v in dataset.votes().to_pylist() if v["annotator_id"] == "vlm:llava"]
    assert report.votes == len(votes) == 24 and report.usage["requests"] == 48
    probabilities = np.array([vote["probability"] for vote in votes])
    assert np.ptp(probabilities) > 1e-4 and (probabilities > 0).all() and (probabilities < 1).all()
    again = annotate(dataset, "vlm", settings={"server": f"http://127.0.0.1:{llava}/v1"})
    assert again.votes == 0 and not again.usage


def test_through_every_kind_of_fault_all_pairs_end_with_the_votes_of_a_faultless_run(bright):
    pairs = [pair(a, b, name=f"{a}{b}") for a in (0.1, 0.4, 0.8) for b in (0.2, 0.5, 0.6, 0.9)]
    expected = judge(bright).vote(pairs)
    proxy = FaultyProxy(bright, ("none", *FAULTS), seed=3, hang=5.0)
    answers = judge(proxy.port, model="bright", timeout=0.7, attempts=40, concurrency=6).vote(pairs)
    proxy.close()
    assert set(proxy.seen) == set(FAULTS)
    assert [a.failure for a in answers] == [None] * len(pairs)
    assert [a.probability for a in answers] == pytest.approx([a.probability for a in expected], abs=1e-12)
    broken = sum(count for fault, count in proxy.seen.items() if fault != "none")
    assert sum(a.usage.get("retries", 0) for a in answers) >= broken  # a busy machine may time out once more


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "none"])
def test_where_nothing_helps_the_failure_is_recorded_with_its_reason(bright, fault):
    proxy = FaultyProxy(bright, (fault,), hang=1.0)
    (answer,) = judge(proxy.port, model="bright", timeout=0.3, attempts=2).vote([pair(0.7, 0.4)])
    proxy.close()
    assert answer.probability is None and answer.failure.startswith("no answer in 2 attempts (the last: ")
    assert answer.usage["requests"] == 4 and answer.usage["retries"] == 2


def test_a_pair_that_the_server_refuses_fails_at_once_and_the_others_are_judged(bright):
    answers = judge(bright).vote([pair(0.7, 0.4, "forbidden"), pair(0.7, 0.4, "undecided"), pair(0.7, 0.4)])
    assert "content policy" in answers[0].failure and answers[0].usage["requests"] == 2
    assert "'I cannot choose.', which is neither A nor B" in answers[1].failure
    assert answers[2].failure is None


def test_what_would_fail_for_every_pair_ends_the_run_in_one_line(bright, mute, dataset, monkeypatch):
    server = f"http://127.0.0.1:{bright}/v1"
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    line = refusal(lambda: annotate(dataset, "vlm", settings={"server": server, "model": "bright"}))
    assert "the key is refused" in line and "OPENAI_API_KEY" in line and "wrong" not in line
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "no such model" in refusal(lambda: annotate(dataset, "vlm", settings={"server": server, "model": "nobody"}))
    assert "bright, other" in refusal(lambda: judge(mute))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    assert "no list of models" in refusal(lambda: judge(closed))
    line = refusal(lambda: annotate(dataset, "vlm", settings={"server": f"http://127.0.0.1:{closed}/v1", "model": "x", "attempts": 1}))  # fmt: skip
    assert "answers no more" in line and "ConnectError" in line
    assert "is not an address" in refusal(lambda: load_judge("vlm", server="localhost:8000", model="x"))


def test_a_refused_key_stops_the_questions_that_wait(bright, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    proxy = FaultyProxy(bright, ("none",))
    voter = judge(proxy.port, model="bright", concurrency=2)
    assert "the key is refused" in refusal(lambda: voter.vote([pair(0.5, i / 60, name=str(i)) for i in range(60)]))
    proxy.close()
    assert 1 <= proxy.seen["none"] <= 60  # of 120


def test_the_key_is_sent_and_stands_nowhere(bright, dataset, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    server = f"http://127.0.0.1:{bright}/v1"
    annotate(dataset, "vlm", settings={"server": server, "key_from": "MY_KEY"}, limit=3)
    voter = judge(bright, key_from="MY_KEY")
    assert voter.chat._client.headers["authorization"] == "Bearer sk-very-secret"
    assert "sk-very-secret" not in str(voter.settings)
    for file in dataset.path.rglob("*"):
        assert file.is_dir() or b"sk-very-secret" not in file.read_bytes()


def test_a_second_run_costs_nothing_and_the_account_is_printed(bright, dataset, capsys):
    command = [str(dataset.path), "--judge", "vlm", "--server", f"http://127.0.0.1:{bright}/v1", "--prompt-price", "2"]
    main(command)
    out = capsys.readouterr().out
    assert (
        "24 votes of vlm:bright" in out
        and "48 requests · 4,800 prompt tokens · 48 completion tokens · 0.01 at these prices" in out
    )
    assert "shown first gets" in out
    main(command)
    out = capsys.readouterr().out
    assert "24 voted before" in out and "requests" not in out


def test_a_template_of_ones_own_replaces_the_words_and_makes_another_judge(bright, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Second: {second}\nFirst: {first}\nFor {prompt} choose A (first) or B.")
    voter = judge(bright, template=str(path))
    assert voter.settings != judge(bright).settings
    content = voter._content(pair(0.9, 0.1, "braces {first} in a prompt"))
    assert [part["type"] for part in content] == ["text", "image_url", "text", "image_url", "text"]
    assert content[4]["text"] == "For braces {first} in a prompt choose A (first) or B."
    assert content[1]["image_url"]["url"] == data_url(pair(0.9, 0.1).image_1, 1024)
    (answer,) = voter.vote([pair(0.9, 0.1)])
    assert answer.probability < 0.2  # the server takes the picture that comes first in the message for A
    path.write_text("{prompt} {first}")
    assert "{second} is there 0 times" in refusal(lambda: load_template(str(path)))
    assert "cannot be read" in refusal(lambda: load_template(str(tmp_path / "none.txt")))


def test_pictures_are_sent_no_larger_than_asked_for():
    from judges.chat_server import pictures_and_text

    big = Image.new("RGB", (3000, 1500), (200, 10, 10))
    message = [{"content": [{"type": "image_url", "image_url": {"url": data_url(big, 512)}}]}]
    (sent,), _ = pictures_and_text(message)
    assert sent.size == (512, 256) and big.size == (3000, 1500)
    assert brightness(sent) == pytest.approx(brightness(big), abs=0.02)


def test_the_back_off_doubles_up_to_its_limit_and_obeys_the_server(bright):
    waited = []
    proxy = FaultyProxy(bright, ("500",))
    chat = Chat(f"http://127.0.0.1:{proxy.port}/v1", 1, 5.0, 6, 4.0, wait=waited.append)
    with pytest.raises(Unanswered):
        chat.complete({"model": "bright", "messages": []}, {})
    proxy.close()
    assert all(half <= wait <= 2 * half for wait, half in zip(waited, (0.5, 1, 2, 2, 2), strict=True))
    assert chat._pause(3, "2.5") == 2.5 and chat._pause(3, "3600") == chat._pause(3, "inf") == 4.0
    for odd in ("Wed, 21 Oct 2026", "²", "-5", "nan", "1e", "\x00"):
        assert 1 <= chat._pause(2, odd) <= 2


def test_a_named_question_is_in_the_instructions_and_the_overall_template_is_what_it_was():
    assert "all things considered" in load_template(None) and "{question}" not in load_template(None)
    asked = load_template(None, "Which picture has the better hands?")
    assert "Which picture has the better hands? Judge this alone" in asked and "all things considered" not in asked


def test_a_template_of_ones_own_says_where_the_question_stands(tmp_path):
    (tmp_path / "t.txt").write_text("{prompt} {first} {second} {question}")
    assert load_template(str(tmp_path / "t.txt"), "Which?") == "{prompt} {first} {second} Which?"
    assert "--question" in refusal(lambda: load_template(str(tmp_path / "t.txt")))


def test_a_vlm_answers_questions_and_a_rubric_and_a_second_call_asks_nothing(bright, dataset, tmp_path, capsys):
    (tmp_path / "rubric.yaml").write_text("hands: Which picture has the better hands?\ntext: Which text is legible?\n")
    server = ["--judge", "vlm", "--server", f"http://127.0.0.1:{bright}/v1"]
    main([str(dataset.path), *server, "--question", "alignment"])
    first = capsys.readouterr().out
    main([str(dataset.path), *server, "--rubric", str(tmp_path / "rubric.yaml")])
    told = capsys.readouterr().out
    assert "annotate: rubric hands: 24 pairs" in told and "annotate: rubric text: 24 votes" in told
    assert "24 votes of vlm:bright" in first
    again = open_dataset(dataset.path)
    for question in ("alignment", "overall", "rubric/hands", "rubric/text"):
        assert sum(v["annotator_id"] == "vlm:bright" for v in again.votes(question=question).to_pylist()) == 24
    assert set(questions_of(again)) == {"overall", "alignment"}  # a rubric is no question of people
    mine = [v for v in again.votes(question=None).to_pylist() if v["annotator_id"] == "vlm:bright"]
    assert len({v["instruction_version"] for v in mine}) == 4
    main([str(dataset.path), *server, "--rubric", str(tmp_path / "rubric.yaml"), "--json"])
    assert "requests" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[]", "not a rubric"), ("a: [", "not YAML"), ("a b: Which?", "no name"), ("hands:", "no question")],
)
def test_a_rubric_that_is_none_is_one_line(tmp_path, text, reason):
    (tmp_path / "r.yaml").write_text(text)
    assert reason in refusal(lambda: read_rubric(tmp_path / "r.yaml"))


def test_only_a_vlm_reads_questions(dataset, tmp_path):
    assert "reads no questions" in refusal(
        lambda: palate.annotate(dataset, "brightness", question="fun: Which is fun?")
    )
    done = palate.annotate(dataset, "brightness", question="aesthetics")
    assert done.report.votes == len(dataset.votes(question="aesthetics")) == 24
