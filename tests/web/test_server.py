import os
import re
import stat
import time

import pytest
import sqlalchemy as sa
from data.conftest import encoded
from scipy.stats import binomtest
from web.served import People

from palate.data.database import connect
from palate.data.dataset import PreferenceDataset
from palate.data.queue import open_views
from palate.data.store import live_votes, open_store
from palate.errors import PalateError
from palate.web import tokens
from palate.web.overview import share
from palate.web.server import HEADERS, Buckets
from palate.web.tokens import load_secret, make_token, read_token

ID = "0123456789abcdef" * 2


def vote(number: int = 0, answer: str = "left", vote_id: str = ID, **more) -> dict:
    return {"vote_id": vote_id, "number": number, "answer": answer, "seconds": 1.0, **more}


def test_a_person_sees_pairs_votes_and_takes_back(people):
    client = people.client()
    assert client.get("/api/session").json() == {"rater": "ana", "question": people.settings.question, "last": None}
    told = client.get("/api/views?count=3").json()
    assert [view["number"] for view in told["views"]] == [0, 1, 2]
    assert told["progress"] == {"pairs": 30, "answered": 0, "votes": 0}
    shown = open_views(people.engine, "ana", 1, people.settings)[0]
    assert told["views"][0]["prompt"] == f"prompt {shown.pair_id}"
    assert client.post("/api/votes", json=vote()).json() == {"saved": ID, "new": True}
    assert client.post("/api/votes", json=vote()).json() == {"saved": ID, "new": False}
    assert [v["choice"] for v in live_votes(people.engine)] == [shown.order_shown[0]]
    assert client.get("/api/session").json()["last"] == ID
    assert client.get("/api/views?count=1").json()["progress"] == {"pairs": 30, "answered": 1, "votes": 1}
    assert client.post(f"/api/votes/{ID}/withdraw").json() == {"withdrawn": ID, "last": None}
    assert live_votes(people.engine) == []


def test_left_is_the_image_that_order_shown_says(people):
    client = people.client()
    client.get("/api/views?count=12")
    images = {row["pair_id"]: row for batch in people.dataset.iter_pairs() for row in batch.to_pylist()}
    orders = set()
    for view in open_views(people.engine, "ana", 12, people.settings):
        for side, index in (("left", view.order_shown[0]), ("right", view.order_shown[1])):
            answer = client.get(f"/api/pictures/{view.number}/{side}")
            assert answer.content == images[view.pair_id][f"image_{index}"]["bytes"]
            assert answer.headers["content-type"] == "image/jpeg"
            assert answer.headers["cache-control"] == "no-store"  # two people may share a browser
        orders.add(view.order_shown)
    assert orders == {"01", "10"}


@pytest.mark.parametrize("path", ["/api/session", "/api/views", "/api/pictures/0/left", "/api/overview"])
@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c"])
def test_nothing_is_said_without_a_token(people, path, token):
    people.client().get("/api/views")
    answer = people.client(token=token).get(path)
    assert answer.status_code == 401 and list(answer.json()) == ["error"]


def test_a_changed_token_another_secret_and_another_role_do_not_pass(people):
    token = make_token(people.secret, "ana", "rater")
    changed = token[:-1] + ("A" if token[-1] != "A" else "B")
    assert people.client(token=changed[:-4]).get("/api/session").status_code == 401
    assert people.client(token=make_token("x" * 40, "ana", "rater")).get("/api/session").status_code == 401
    assert people.client("owner", "owner").get("/api/session").status_code == 403
    assert people.client("ana", "rater").get("/api/overview").status_code == 403
    assert people.client("owner", "owner").get("/api/overview").status_code == 200


def test_a_person_who_was_taken_off_the_list_is_told_so(people):
    answer = people.client("chen").get("/api/session")
    assert answer.status_code == 401 and "chen is not among" in answer.json()["error"]


@pytest.mark.parametrize("days", [1, 40, 4_000])
def test_a_clock_that_is_set_back_expires_no_link(people, monkeypatch, days):
    token, now = make_token(people.secret, "ana", "rater"), time.time()
    monkeypatch.setattr(time, "time", lambda: now - days * 86_400)
    assert read_token(people.secret, token, 30) == ("rater", "ana")
    assert people.client(token=token).get("/api/session").status_code == 200


def test_an_expired_link_says_that_it_expired(people, monkeypatch):
    token = make_token(people.secret, "ana", "rater")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 29 * 86_400)
    assert read_token(people.secret, token, 30) == ("rater", "ana")
    monkeypatch.setattr(time, "time", lambda: now + 31 * 86_400)
    with pytest.raises(PalateError, match="expired"):
        read_token(people.secret, token, 30)
    answer = people.client(token=token).get("/api/session")
    assert answer.status_code == 401 and "expired" in answer.json()["error"]


def test_nobody_reads_the_pictures_of_another_or_votes_for_them(people):
    people.client("ana").get("/api/views?count=5")
    assert people.client("bo").get("/api/pictures/0/left").status_code == 404
    answer = people.client("bo").post("/api/votes", json=vote())
    assert answer.status_code == 409 and live_votes(people.engine) == []


@pytest.mark.parametrize(
    "path",
    [
        "/../dataset.json", "/..%2f..%2fdataset.json", "/static/../label.secret", "/label.secret", "/votes.sqlite",
        "/api/pictures/0/..%2f..%2flabel.secret", "/api/pictures/../../left", "/%2e%2e/label.secret", "//etc/passwd",
        "/label.js/../../server.py", "/docs", "/openapi.json", "/api/pictures/-1/left", "/api/pictures/99999999999/left",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(people, path):
    answer = people.client().get(path)
    assert answer.status_code in (404, 422)
    assert people.secret not in answer.text and "root:" not in answer.text


def test_a_pair_whose_path_is_no_picture_shows_nothing_of_the_file(unlabelled, pair, tmp_path):
    (tmp_path / "private.txt").write_text("hush hush")
    dataset = PreferenceDataset.create(tmp_path / "other", name="other")
    dataset.add_pairs([pair("a", image_0={"path": str(tmp_path / "private.txt")}, image_1={"path": "gone.png"})])
    client = People(dataset).client()
    client.get("/api/views?count=1")
    for side in ("left", "right"):
        answer = client.get(f"/api/pictures/0/{side}")
        assert answer.status_code == 404 and "hush" not in answer.text and str(tmp_path) not in answer.text


def test_a_format_that_browsers_do_not_read_comes_as_png(pair, tmp_path):
    dataset = PreferenceDataset.create(tmp_path / "tiff", name="tiff")
    dataset.add_pairs([pair("a", image_0=encoded(1, format="TIFF"), image_1=encoded(2, format="WEBP"))])
    client = People(dataset).client()
    client.get("/api/views?count=1")
    got = {client.get(f"/api/pictures/0/{side}").headers["content-type"] for side in ("left", "right")}
    assert got == {"image/png", "image/webp"}


def test_every_answer_carries_the_strict_headers(people):
    client = people.client()
    for path in (
        "/",
        "/overview",
        "/label.js",
        "/label.css",
        "/icon.svg",
        "/nothing",
        "/api/session",
        "/api/views?count=x",
    ):
        answer = client.get(path)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, path
    assert "unsafe" not in HEADERS["content-security-policy"]
    assert people.client(token="").get("/api/session").headers["content-security-policy"]


def test_the_page_asks_nobody_else_and_has_no_script_or_style_in_it(people):
    client = people.client()
    for path in ("/", "/overview", "/label.js", "/overview.js", "/label.css"):
        assert not re.search(r"(https?:)?//[a-z]", client.get(path).text.replace("http://www.w3.org", "")), path
    for path in ("/", "/overview"):
        page = client.get(path).text
        assert not re.search(r"<script>|<style|\son\w+=|\sstyle=", page)
    for path in ("/label.js", "/overview.js"):
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", client.get(path).text)


@pytest.mark.parametrize(
    "body",
    [
        {}, vote(answer="0"), vote(vote_id="../../etc/passwd"), vote(vote_id="A" * 32), vote(number=-1), vote(number=2**40),
        vote(seconds="long"), vote(number="first"), [], "text", None,
    ],
)  # fmt: skip
def test_votes_of_another_form_are_refused_and_nothing_is_stored(people, body):
    client = people.client()
    client.get("/api/views")
    answer = client.post("/api/votes", json=body)
    assert answer.status_code == 422 and answer.json() == {"error": "not a vote as this page sends it."}
    assert client.post("/api/votes", content=b"{", headers={"content-type": "application/json"}).status_code == 422
    assert live_votes(people.engine) == []


def test_a_body_larger_than_any_vote_is_refused_also_in_pieces(people):
    client = people.client()
    client.get("/api/views")
    assert client.post("/api/votes", json=vote(more="x" * 5000)).status_code == 413
    assert client.post("/api/votes", content=(b"x" * 1000 for _ in range(50))).status_code == 413
    assert client.post("/api/votes", json=vote()).status_code == 200


def test_who_calls_too_often_waits_and_others_do_not(unlabelled):
    people = People(unlabelled, rate=1.0)  # ten at once
    ana, bo = people.client("ana"), people.client("bo")
    codes = [ana.get("/api/session").status_code for _ in range(15)]
    assert codes[:10] == [200] * 10 and 429 in codes[10:]
    assert bo.get("/api/session").status_code == 200


def test_many_wrong_links_are_slowed_down_and_a_right_one_still_works(people):
    codes = [people.client(token="wrong").get("/api/session").status_code for _ in range(30)]
    assert codes[0] == 401 and codes[-1] == 429
    assert people.client().get("/api/session").status_code == 200


def test_a_bucket_fills_again(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bucket = Buckets(rate=2.0, burst=3.0)
    assert [bucket.take("a") for _ in range(4)] == [True, True, True, False]
    now[0] = 1.0
    assert [bucket.take("a") for _ in range(3)] == [True, True, False]


def test_the_secret_is_readable_by_its_owner_alone_and_stays(tmp_path):
    secret = load_secret(tmp_path)
    assert len(secret) >= 32 and load_secret(tmp_path) == secret
    assert stat.S_IMODE(os.stat(tmp_path / tokens.SECRET).st_mode) == 0o600
    assert read_token(secret, make_token(secret, "\u00e5sa", "rater"), 1) == ("rater", "\u00e5sa")
    (tmp_path / tokens.SECRET).write_text("")
    with pytest.raises(PalateError, match="Delete it"):
        load_secret(tmp_path)


def test_a_database_that_fails_in_the_middle_is_told_to_the_owner_and_not_to_raters(people, capsys):
    client = people.client()
    client.get("/api/views")
    with people.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE palate_votes RENAME TO gone")
    answer = client.post("/api/votes", json=vote())
    assert answer.status_code == 503
    assert "palate_votes" not in answer.text and "They wait in this page" in answer.json()["error"]
    said = capsys.readouterr().err
    assert said.startswith("palate: ") and said.count("\n") == 1 and "palate_votes" in said
    with people.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE gone RENAME TO palate_votes")
    assert client.post("/api/votes", json=vote()).json()["new"] is True


def test_the_overview_counts_pace_and_agreement(unlabelled):
    people = People(unlabelled, shared=0.5, repeats=0.3)
    for name in ("ana", "bo"):
        client, n = people.client(name), 0
        while views := open_views(people.engine, name, 1, people.settings):
            side = ("left", "right")[views[0].order_shown != "01"]  # both always prefer image 0
            if name == "bo" and n == 0:
                side = "tie"
            client.post("/api/votes", json=vote(views[0].number, side, f"{n:031x}{name[0]}".replace("o", "b")))
            n += 1
    told = people.client("owner", "owner").get("/api/overview").json()
    assert told["pairs"] == told["answered"] == 30
    assert told["people"]["ana"]["with_self"]["share"] == 1.0 and told["people"]["ana"]["with_self"]["n"] > 2
    assert told["people"]["bo"]["ties"] == 1
    for name in ("ana", "bo"):
        mine = people.client(name).get("/api/views").json()["with_self"]
        assert mine == told["people"][name]["with_self"]
    both = told["between_people"]
    assert both["n"] > 8 and both["low"] < both["share"] <= 1.0
    assert told["votes"] == len(live_votes(people.engine)) and told["a_minute"] > 0
    left = told["people"]["ana"]["left"]
    assert 0.2 < left["share"] < 0.8  # sides are shuffled, so who prefers image 0 chooses left half the time


def test_intervals_are_those_of_wilson():
    for true, count in ((0, 3), (3, 3), (7, 10), (180, 400)):
        told, expected = (
            share([True] * true + [False] * (count - true)),
            binomtest(true, count).proportion_ci(method="wilson"),
        )
        assert (told["n"], told["share"]) == (count, true / count)
        assert (told["low"], told["high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert share([]) is None


def test_a_vote_is_only_said_to_be_saved_when_its_commit_went_well(people):
    client = people.client()
    client.get("/api/views")

    def fail(connection):
        raise sa.exc.OperationalError("COMMIT", {}, Exception("disk I/O error"))

    sa.event.listen(people.engine, "commit", fail)
    assert client.post("/api/votes", json=vote()).status_code == 503
    sa.event.remove(people.engine, "commit", fail)
    assert live_votes(people.engine) == []
    assert client.post("/api/votes", json=vote()).json()["new"] is True


def test_the_votes_can_be_read_by_their_owner_alone(people):
    people.client().get("/api/views")
    for file in people.dataset.path.glob("votes.sqlite*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    file = people.dataset.path / "votes.sqlite"
    file.chmod(0o644)
    open_store(f"sqlite:///{file}")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_password_of_a_store_is_told_whatever_the_database_says():
    from palate.data.database import _why, name_of

    engine = connect("postgresql://ana:pass-word-1@127.0.0.1:1/votes?sslpassword=pass-word-2")
    assert name_of(engine) == "postgresql+psycopg://ana:***@127.0.0.1:1/votes"
    told = _why(engine, OSError("no\x1b[2J pass-word-1 pass-word-2 and\nmore"))
    assert "pass-w" not in told and "word-" not in told and "\x1b" not in told and "does not answer" in told
